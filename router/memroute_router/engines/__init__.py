"""One adapter per engine: its ``/metrics`` to a reading. What is missing is None, said once."""

from memroute_router.engines.vllm import parse_vllm_metrics

__all__ = ["parse_vllm_metrics"]
