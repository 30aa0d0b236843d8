"""One scrape of one replica. What the engine did not say is None, never 0."""

from dataclasses import dataclass
from typing import Final

# Age of a reading up to which it is trusted. Five scrapes at 1 s ride out a slow one; a hung
# engine stops attracting requests before its queue fills.
# Unit: seconds. Source: chosen by hand.
MAX_AGE_SECONDS: Final = 5.0
# The same in scrape periods, where those are longer.
# Unit: scrape periods. Source: chosen by hand.
MAX_AGE_PERIODS: Final = 2.5
# Least number of running requests at one of two readings, over that at the other, so that what the
# engine generated in between tells how long a token took each of them.
# Unit: ratio. Source: chosen by hand.
SAME_WORK_RATIO: Final = 0.8


def max_age_seconds(scrape_seconds: float) -> float:
    """The greatest age of a trusted reading, in seconds, for a scrape period."""
    return max(MAX_AGE_SECONDS, MAX_AGE_PERIODS * scrape_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReading:
    """What an engine reported of itself."""

    taken_at_seconds: float
    """When the scrape *started*, on the reader's monotonic clock: requests that were sent or have
    ended after that may or may not be in it."""
    kv_cache_utilization_ratio: float | None = None
    """Pinned KV cache, 0 to 1; cached blocks without a reference count as free. Of the fullest
    rank, because a router cannot choose the rank."""
    kv_cache_mean_ratio: float | None = None
    """What all ranks hold together over their capacity, 0 to 1, where there are several; None: the
    one above says it."""
    kv_capacity_tokens: int | None = None
    num_requests_running: int | None = None
    num_requests_waiting: int | None = None
    num_waiting_for_capacity: int | None = None
    """Waiting requests that wait for KV blocks or a sequence slot."""
    max_running: int | None = None
    """The most requests that the engine runs at once, where it says so."""
    num_preemptions_total: int | None = None
    num_computed_tokens_total: int | None = None
    """Prompt and output tokens since its start: while it grows, the engine lives."""
    num_generated_tokens_total: int | None = None
    """Output tokens since its start: over those that run, how long a token takes."""
    num_ranks: int = 1
    """Data-parallel ranks that share the capacity: one request is on one of them."""
    adapters: frozenset[str] | None = None
    """LoRA adapters that requests use there now."""
    max_adapters: int | None = None
    """How many LoRA adapters the engine can use at once."""


def is_same_work(before: ReplicaReading, now: ReplicaReading) -> bool:
    """Whether as much ran between two readings as at them, and no prompt was computed.

    As far as the engine's counters tell.
    """
    running, ran = now.num_requests_running, before.num_requests_running
    if running is None or ran is None or min(running, ran) < SAME_WORK_RATIO * max(running, ran):
        return False
    if before.num_requests_waiting or now.num_requests_waiting:
        return False
    # Whole answers do not show when their prompts are done, and others' not at all.
    computed, had = now.num_computed_tokens_total, before.num_computed_tokens_total
    generated, first = now.num_generated_tokens_total, before.num_generated_tokens_total
    if computed is None or had is None or generated is None or first is None:
        return True
    return computed - had <= generated - first
