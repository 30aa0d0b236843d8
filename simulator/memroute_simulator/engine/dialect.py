"""Whose names the engine's metrics have: what flags name, apart from what prints the page."""

from enum import StrEnum


class MetricsDialect(StrEnum):
    """Whose names ``/metrics`` has."""

    VLLM = "vllm"
    """0.32."""
    VLLM_0_10 = "vllm-0.10"
    """Both KV gauges; no waiting by reason, no capacity in tokens."""
    VLLM_0_8 = "vllm-0.8"
    """V1 with the first names."""
    VLLM_0_6 = "vllm-0.6"
    """V0: no engine label, swapped requests, CPU cache."""
    SGLANG = "sglang"
    LLAMA_CPP = "llama-cpp"
    TGI = "tgi"
