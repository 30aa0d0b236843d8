"""``/metrics`` as engines print it: vLLM 0.32, older names by version, SGLang, TGI."""

from memroute_simulator.engine.metrics.dialects import only_series, render
from memroute_simulator.engine.metrics.vllm import EngineMetrics, RequestTimes

__all__ = ["EngineMetrics", "RequestTimes", "only_series", "render"]
