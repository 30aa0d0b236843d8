"""Every replica looked at for one request: the cheapest, and the cheapest that takes it now."""

import math
from collections.abc import Sequence
from typing import Final

from memroute.traffic.admission import AdmissionSettings, ClosedReason, reason_closed
from memroute.traffic.replica.backend import Backend
from memroute.traffic.request import Hits, RequestProfile
from memroute.traffic.routing.cost import (
    ADAPTER_SECONDS,
    STALE_SECONDS,
    RandomSource,
    cost_seconds,
)

_OPEN: Final = ClosedReason.NOT
_ADAPTERS: Final = ClosedReason.ADAPTERS
SAME_SECONDS: Final = 0.002
# What nobody would notice is the same: learned speeds differ by as much from noise alone.


class Shortlist:
    """The outcome of looking at every backend: the cheapest, and the cheapest that is open."""

    __slots__ = (
        "_limits", "_num_best", "_num_open", "best", "best_cost", "best_work", "closed",
        "is_best_open", "num_candidates", "open", "open_cost", "open_work", "output_tokens",
    )  # fmt: skip

    def __init__(self, num_candidates: int, output_tokens: int, limits: AdmissionSettings) -> None:
        self._limits = limits
        self.num_candidates = num_candidates
        self.output_tokens = output_tokens
        """How long the answer is expected to be."""
        self.best: Backend | None = None
        self.best_cost = math.inf
        self.best_work = 0
        self.is_best_open = False
        self.open: Backend | None = None
        self.open_cost = math.inf
        self.open_work = 0
        self.closed: dict[ClosedReason, int] = {}
        """Of those that cost no more than the cheapest open one found before them, how many are
        closed, by why: all that are, where none is open."""
        self._num_best = 0
        self._num_open = 0

    def offer(
        self, backend: Backend, work: int, cost: float, closed: ClosedReason, rng: RandomSource
    ) -> None:
        """One more backend. Of several that cost the same, each is kept with the same chance."""
        if closed is _OPEN:
            if cost < self.open_cost:
                self._num_open = 0
            if cost <= self.open_cost:
                self._num_open += 1
                if self._num_open == 1 or rng.random() * self._num_open < 1.0:
                    self.open, self.open_cost, self.open_work = backend, cost, work
        else:
            self.closed[closed] = self.closed.get(closed, 0) + 1
            cost += self._limits.closed_seconds
        if cost < self.best_cost:
            self._num_best = 0
        if cost <= self.best_cost:
            self._num_best += 1
            if self._num_best == 1 or rng.random() * self._num_best < 1.0:
                self.best, self.best_cost, self.best_work = backend, cost, work
                self.is_best_open = closed is _OPEN

    def is_second_best_due(self, *, deadline_seconds: float, now_seconds: float) -> bool:
        """Whether there is no time left to wait for the cheapest, which is closed.

        Then the cheapest open one has to do, if it costs little enough more.
        """
        if self.open is None or self.best is None:
            return False
        closed, miss = self._limits.closed_seconds, self._limits.miss_seconds
        own = self.best.ledger.speed.prefill_seconds(1, self.best_work)
        if deadline_seconds - now_seconds - own > closed:
            return False
        return self.open_cost <= self.best_cost - closed + miss


def search(
    backends: Sequence[Backend],
    profile: RequestProfile,
    *,
    hits: Hits,
    output_tokens: int,
    limits: AdmissionSettings,
    max_age_seconds: float,
    rng: RandomSource,
    now_seconds: float,
) -> Shortlist:
    """Look at every backend: what the request costs there, and whether it is taken there now.

    ``hits``: tokens of its prompt that each has cached. ``output_tokens``: how long its answer is
    expected to be. ``max_age_seconds``: of readings
    that are trusted. Linear in the backends: the one loop over all replicas of a pool.
    """
    prompt, adapter = profile.num_prompt_tokens, profile.adapter
    oldest = now_seconds - max_age_seconds
    found = Shortlist(len(backends), output_tokens, limits)
    for backend in backends:
        ledger = backend.ledger
        if ledger.settles_at_seconds <= now_seconds:
            ledger.settle(now_seconds=now_seconds)
        work = prompt
        if hits:
            work = max(1, prompt - hits.get(ledger.replica, 0))
        cost = cost_seconds(
            ledger,
            profile,
            work_tokens=work,
            output_tokens=output_tokens,
            now_seconds=now_seconds,
        )
        if ledger.read_at_seconds < oldest:
            cost += STALE_SECONDS
        has_slot = True
        if adapter and not ledger.has_adapter(adapter):
            cost += ADAPTER_SECONDS
            has_slot = ledger.has_adapter_slot()
        cost = int(cost / SAME_SECONDS) * SAME_SECONDS
        if cost > found.open_cost:
            # Neither the cheapest nor the cheapest open one, whether it is open or not.
            continue
        closed = _ADAPTERS
        if has_slot:
            closed = reason_closed(
                ledger,
                prompt_tokens=prompt,
                work_tokens=work,
                output_tokens=output_tokens,
                num_sequences=profile.num_choices,
                settings=limits,
                now_seconds=now_seconds,
            )
        found.offer(backend, work, cost, closed, rng)
    return found
