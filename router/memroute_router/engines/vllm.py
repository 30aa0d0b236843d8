"""vLLM's ``/metrics`` (0.9 to 0.32) to a reading.

Only the lines that matter are looked at: 95 % of the page are histogram buckets. Under data
parallelism there is one series per rank (label ``engine``): counts add up, capacities add up,
the utilization is the mean of ranks that are equally large.
"""

import re
from collections.abc import Callable

from memroute.pressure import ReplicaReading

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_UTILIZATION = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
# The second is the name up to 0.11. Both are 0 to 1 in spite of their name.
_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_PREEMPTIONS = "vllm:num_preemptions_total"
_CONFIG = "vllm:cache_config_info"
_WANTED = (*_UTILIZATION, _RUNNING, _WAITING, _PREEMPTIONS, _CONFIG)
_PREFIXES = tuple(f"{name}{{" for name in _WANTED)


def parse_vllm_metrics(
    text: str, *, taken_at_seconds: float, report_missing: Callable[[str], None] | None = None
) -> ReplicaReading:
    """The reading. ``report_missing`` is called with each family that the page lacks."""
    samples: dict[str, list[float]] = {}
    configs: list[dict[str, str]] = []
    for line in text.splitlines():
        if not line.startswith(_PREFIXES):
            continue
        name, _, rest = line.partition("{")
        labels, _, value = rest.rpartition("} ")
        if name == _CONFIG:
            configs.append(dict(_LABEL.findall(labels)))
        else:
            samples.setdefault(name, []).append(float(value.split()[0]))
    utilizations = samples.get(_UTILIZATION[0]) or samples.get(_UTILIZATION[1])
    reading = ReplicaReading(
        taken_at_seconds=taken_at_seconds,
        kv_cache_utilization_ratio=(
            sum(utilizations) / len(utilizations) if utilizations else None
        ),
        kv_capacity_tokens=_capacity(configs),
        num_requests_running=_total(samples.get(_RUNNING)),
        num_requests_waiting=_total(samples.get(_WAITING)),
        num_preemptions_total=_total(samples.get(_PREEMPTIONS)),
    )
    if report_missing is not None:
        for family, found in (
            ("/".join(_UTILIZATION), reading.kv_cache_utilization_ratio),
            (_CONFIG, reading.kv_capacity_tokens),
            (_RUNNING, reading.num_requests_running),
            (_WAITING, reading.num_requests_waiting),
        ):
            if found is None:
                report_missing(family)
    return reading


def _total(values: list[float] | None) -> int | None:
    return None if values is None else int(sum(values))


def _capacity(configs: list[dict[str, str]]) -> int | None:
    """Tokens that requests can hold, all ranks together; the null block is not among them."""
    if not configs:
        return None
    total = 0
    for config in configs:
        block_size = _integer(config.get("block_size"))
        size = _integer(config.get("kv_cache_size_tokens"))
        if size is None:
            # Before 0.25. num_gpu_blocks is the sum over all ranks, repeated on each series.
            blocks = _integer(config.get("num_gpu_blocks"))
            if blocks is None or block_size is None:
                return None
            size = blocks // len(configs) * block_size
        total += max(0, size - (block_size or 0))
    return total


def _integer(text: str | None) -> int | None:
    # A value that the engine does not have is the text "None".
    return int(text) if text and text.isdigit() else None
