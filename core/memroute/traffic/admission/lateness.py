"""Who is late, when not all can have their first token in time.

Go through those that wait by their deadlines; whenever one would be late, set one of those so far
aside: of the tenant that asks for most (for its weight), so that a flood makes its own requests
late, and of its requests

```text
requests, tokens   the one that takes longest: that makes the fewest late (Moore, Management
                   Science 1968; here for machines that share the work)
sizes              the newest, whatever its size
```

Those set aside wait until nothing that can be in time is left. (What ``tokens`` and ``sizes`` do
beside that is in ``dispatch``: ``token_yield``, ``size_shares``.)
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from memroute.traffic.admission.settings import OverloadObjective

T = TypeVar("T")
_SIZES: Final = OverloadObjective.SIZES


class QueuedRequest(Generic[T]):
    """One request that waits."""

    __slots__ = (
        "deadline_seconds", "expires_at_seconds", "is_late", "item", "num_tokens", "order",
        "priority", "tenant", "work_tokens",
    )  # fmt: skip

    def __init__(
        self,
        item: T,
        *,
        order: int,
        tenant: str,
        priority: int,
        num_tokens: int,
        work_tokens: int,
        deadline_seconds: float,
        expires_at_seconds: float,
    ) -> None:
        self.item = item
        self.order = order
        """When it came, among others."""
        self.tenant = tenant
        self.priority = priority
        self.num_tokens = num_tokens
        """What it is expected to hold."""
        self.work_tokens = work_tokens
        """Of its prompt, what its best replica would have to compute."""
        self.deadline_seconds = deadline_seconds
        self.expires_at_seconds = expires_at_seconds
        self.is_late = False
        """Whether it is set aside because it will be late, or others would."""

    def __lt__(self, other: "QueuedRequest[T]") -> bool:
        return (self.deadline_seconds, self.order) < (other.deadline_seconds, other.order)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRate:
    """How long a pool's replicas take for prompts: the mean of them, and the fastest."""

    num_replicas: int
    prompt_seconds: float
    """For each prompt, whatever its length."""
    token_seconds: float
    """For each uncached token."""
    least_prompt_seconds: float
    least_token_seconds: float
    backlog_seconds: float = 0.0
    """Of prompts that each has already."""


class _Planned(Generic[T]):
    """One tenant's requests that can be in time, so far."""

    __slots__ = ("by_key", "seconds", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        """Of the tenant's share, relative to the others'."""
        self.seconds = 0.0
        self.by_key: list[tuple[float, int, float, QueuedRequest[T]]] = []

    def add(self, held: QueuedRequest[T], key: float, seconds: float) -> None:
        self.seconds += seconds
        heapq.heappush(self.by_key, (key, held.order, seconds, held))

    def set_first_aside(self) -> float:
        """It will be late; returns the seconds that the others gain."""
        _, _, seconds, held = heapq.heappop(self.by_key)
        held.is_late = True
        self.seconds -= seconds
        return seconds


def mark_late(
    ordered: Sequence[QueuedRequest[T]],
    rate: PrefillRate,
    *,
    objective: OverloadObjective,
    start_seconds: float,
    now_seconds: float,
    tenant_weights: Mapping[str, float] | None = None,
) -> float:
    """Say of each whether it will be late; returns when the prompts of the others are done.

    ``ordered``: by deadline. ``start_seconds``: when the replicas come to them. They share the
    work, so the mean of them says how it moves on; a prompt is not late by itself while the fastest
    of them can have it in time.
    """
    start = start_seconds
    planned: dict[str, _Planned[T]] = {}
    for held in ordered:
        own = rate.prompt_seconds + rate.token_seconds * held.work_tokens
        least = rate.least_prompt_seconds + rate.least_token_seconds * held.work_tokens
        held.is_late = held.deadline_seconds - now_seconds < least
        if held.is_late:
            continue
        tenant = planned.get(held.tenant)
        if tenant is None:
            tenant = planned[held.tenant] = _Planned(
                tenant_weights.get(held.tenant, 1.0) if tenant_weights else 1.0
            )
        tenant.add(held, -float(held.order) if objective is _SIZES else -own, own)
        is_in_time = start + least <= held.deadline_seconds
        start += own / rate.num_replicas
        if not is_in_time:
            greatest = tenant
            if len(planned) > 1:
                greatest = max(planned.values(), key=_seconds_of)
            start -= greatest.set_first_aside() / rate.num_replicas
    return start


def _seconds_of(planned: _Planned[T]) -> float:
    """What it asks for, for its weight."""
    return planned.seconds / planned.weight
