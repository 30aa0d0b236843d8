"""SGLang's ``/v1/loads`` to a reading: a snapshot that costs it less than its metrics page.

One object per data-parallel rank, under ``loads`` or as the whole list. It has what decisions need
most, fresher than the page; what it does not have (retractions, tokens computed) comes from the
page, which is read every few times.
"""

from dataclasses import replace
from typing import Any, Final

import orjson

from memroute.traffic.replica import ReplicaReading
from memroute_router.engines.vllm import known, ratios

LOADS_TARGET: Final = b"/v1/loads"
LOADS_PER_PAGE: Final = 4
"""Readings of the snapshot for each of the page."""


def parse_loads(
    body: bytes, *, taken_at_seconds: float, page: ReplicaReading | None = None
) -> ReplicaReading:
    """The reading. ``page``: the last one of the metrics page, for what the snapshot lacks.

    Raises ``ValueError`` on what is not such a snapshot.
    """
    document: Any = orjson.loads(body)
    ranks = document.get("loads") if isinstance(document, dict) else document
    if not isinstance(ranks, list) or not ranks or not all(isinstance(r, dict) for r in ranks):
        msg = "no list of loads"
        raise ValueError(msg)
    capacities = _numbers(ranks, "max_total_num_tokens")
    usages = ratios(_numbers(ranks, "token_usage"))
    reading = page or ReplicaReading(taken_at_seconds=taken_at_seconds)
    return replace(
        reading,
        taken_at_seconds=taken_at_seconds,
        kv_cache_utilization_ratio=max(usages, default=None),
        kv_cache_mean_ratio=_mean(usages, capacities),
        kv_capacity_tokens=_sum(capacities) or reading.kv_capacity_tokens,
        num_requests_running=_sum(_numbers(ranks, "num_running_reqs")),
        num_requests_waiting=_sum(_numbers(ranks, "num_waiting_reqs")),
        max_running=_sum(_numbers(ranks, "max_running_requests")),
        num_ranks=len(ranks),
    )


def _mean(usages: list[float], capacities: list[float]) -> float | None:
    """What all ranks hold together, 0 to 1; None where there is one, or one does not say it."""
    if len(usages) < 2 or len(usages) != len(capacities):  # noqa: PLR2004
        return None
    held, total = 0.0, 0.0
    for usage, capacity in zip(usages, capacities, strict=True):
        held += usage * capacity
        total += capacity
    return held / total if total else None


def _numbers(ranks: list[dict[str, Any]], name: str) -> list[float]:
    """Of each rank; empty when one does not say it, or says something else."""
    values = [rank.get(name) for rank in ranks]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and v >= 0 for v in values):
        return []
    return known([float(value) for value in values if value is not None])


def _sum(values: list[float]) -> int | None:
    return int(sum(values, start=0.0)) if values else None
