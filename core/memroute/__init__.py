"""The decisions of memroute: how many bytes, on which accelerator, on which replica.

Everything below this package is pure: facts come in, values with their reasons go out.
No I/O, no clock, no randomness of its own; time and chance are arguments.

There are two wings, which know nothing of each other. Memory: read ``footprint`` (how many bytes
does a model need?), then ``placement`` (on which accelerators?). Traffic: read ``traffic``, which
lists its packages, then ``traffic.dispatch.dispatcher`` (what becomes of the requests of a pool?).
"""

__version__ = "0.1.0"
