"""vLLM's HTTP surface over the simulated engine.

``app`` wires routes, ``parsing`` reads bodies as vLLM does (and refuses as it does), ``errors``
has the bodies of refusals, ``generation`` runs completions and chats, ``answers`` has their
JSON, ``administration`` is everything else.
"""
