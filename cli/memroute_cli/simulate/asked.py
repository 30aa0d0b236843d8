"""What was typed after ``memroute simulate``."""

from dataclasses import dataclass
from pathlib import Path

from memroute_cli.terminal.output import Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options, read but not checked against each other."""

    model: str | None
    file: Path | None
    accelerators: tuple[str, ...]
    replicas: int
    tensor_parallel: int
    link: str | None
    replicas_per_card: int
    sharing: str
    quantization: str
    kv_cache_dtype: str
    context_tokens: int | None
    engine: str
    workload: str
    num_requests: int
    rate_per_second: float | None
    policies: tuple[str, ...]
    num_routers: int
    scrape_seconds: float
    ttft_seconds: float
    tpot_seconds: float
    objective: str
    seed: int
    output: Output
    is_wide: bool
    plot: Path | None
    host_memory: str | None = None
    host_link: str | None = None
    weights_offload: str | None = None
