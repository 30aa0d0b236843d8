"""An inference engine without a GPU: its memory, its scheduling, its API.

``model`` is the engine itself: pure, deterministic, seeded. ``spec`` says which engine;
``startup`` asks the node's driver for HBM as an engine asks CUDA; ``pacing`` runs the model in
real time; ``http`` is vLLM's surface over it, ``metrics`` and ``kv_events`` what it reports,
``faults`` what can be made to go wrong.
"""
