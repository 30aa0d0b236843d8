"""Requests that would fit, not now: held in order, bounded in requests, in tokens and in time."""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How much may wait, and for how long."""

    max_requests: int = 1024
    # Each holds a connection and its body: some 10 MB at usual sizes.
    max_tokens: int = 1_000_000
    # About what two replicas of 80 GB hold: more than that waits for minutes.
    max_seconds: float = 10.0
    # Interactive clients give up soon after; batch clients come back when they are told to.


class QueueRefusal(StrEnum):
    """Why a request may not wait; part of its refusal's message."""

    REQUESTS = "too many requests wait"
    TOKENS = "too many tokens wait"
    TIME = "it would wait for too long"


class HoldingQueue(Generic[T]):
    """First come, first served. Owns the order; the caller brings the clock."""

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self._held: OrderedDict[T, tuple[int, float]] = OrderedDict()
        self._held_tokens = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def held_tokens(self) -> int:
        """Tokens that the held requests are expected to need."""
        return self._held_tokens

    def refusal(
        self, num_tokens: int, *, expected_wait_seconds: float | None
    ) -> QueueRefusal | None:
        """Why one more of ``num_tokens`` may not wait; None when it may.

        ``expected_wait_seconds``: None when nobody knows, which is no reason to refuse.
        """
        if len(self._held) >= self.limits.max_requests:
            return QueueRefusal.REQUESTS
        if self._held_tokens + num_tokens > self.limits.max_tokens and self._held:
            return QueueRefusal.TOKENS
        if expected_wait_seconds is not None and expected_wait_seconds > self.limits.max_seconds:
            return QueueRefusal.TIME
        return None

    def hold(self, item: T, num_tokens: int, *, now_seconds: float) -> None:
        """Let it wait, as the last."""
        self._held[item] = (num_tokens, now_seconds + self.limits.max_seconds)
        self._held_tokens += num_tokens

    def first(self) -> T | None:
        """Whose turn it is; it stays until it is removed."""
        return next(iter(self._held), None)

    def remove(self, item: T) -> bool:
        """It waits no more; False when it did not wait."""
        held = self._held.pop(item, None)
        if held is None:
            return False
        self._held_tokens -= held[0]
        return True

    def expired(self, *, now_seconds: float) -> list[T]:
        """Those that have waited for their time, the longest first; they stay until removed."""
        late = []
        for item, (_, deadline) in self._held.items():
            if deadline > now_seconds:
                break
            late.append(item)
        return late
