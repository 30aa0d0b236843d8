"""An inference engine without a GPU: its memory, its scheduling, its API.

``scheduler`` and ``kv_pool`` are the model: pure, deterministic, seeded. ``startup`` asks the
node's driver for HBM as an engine asks CUDA. ``server`` is vLLM's HTTP surface.
"""
