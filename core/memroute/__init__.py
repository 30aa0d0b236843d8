"""The decisions of memroute: how many bytes, on which accelerator, on which replica.

Everything below this package is pure: facts come in, values with their reasons go out.
No I/O, no clock, no randomness of its own; time and chance are arguments.

Read ``footprint`` (how many bytes?), ``placement`` (which accelerators?), ``pressure``
(what do we know of a replica?), ``admission`` (now or never?), ``routing`` (which replica?),
``dispatch`` (what becomes of the requests of a pool, over time?).
"""

__version__ = "0.1.0"
