"""The cheapest replica for one request, and the cheapest that is open to it, of all in a pool."""

import math
from collections.abc import Sequence
from typing import Final

from memroute.traffic.admission import AdmissionSettings, ClosedReason, reason_closed
from memroute.traffic.replica import ReplicaLedger
from memroute.traffic.replica.backend import Backend
from memroute.traffic.request import Hits, RequestProfile
from memroute.traffic.routing.cost import STALE_SECONDS, RandomSource, cost_seconds

_ADAPTERS: Final = ClosedReason.ADAPTERS


class Shortlist:
    """The outcome of looking at every backend: the cheapest, and the cheapest that is open."""

    __slots__ = (
        "_limits", "_num_best", "_num_open", "backends", "best", "best_closed", "best_cost",
        "best_work", "closed", "num_open", "open", "open_cost", "open_work",
    )  # fmt: skip

    def __init__(self, backends: Sequence[Backend], limits: AdmissionSettings) -> None:
        self._limits = limits
        self.backends = backends
        """All backends that were considered."""
        self.best: Backend | None = None
        """The cheapest backend, with ``closed_seconds`` added where it is closed; None: there is
        none, or the policy considers only open ones."""
        self.best_cost = math.inf
        self.best_work = 0
        """Tokens of the prompt that ``best`` would have to compute."""
        self.best_closed: ClosedReason | None = None
        """Why ``best`` is closed; None when it is open."""
        self.open: Backend | None = None
        """The cheapest open backend; None: none is open."""
        self.open_cost = math.inf
        self.open_work = 0
        self.num_open: int | None = None
        """Number of open backends, where all were examined; None: not all were."""
        self.closed: dict[ClosedReason, int] = {}
        """Closed backends by reason. Backends dearer than the cheapest open one seen so far are not
        examined, so the counts are complete only where none is open."""
        self._num_best = 0
        self._num_open = 0

    @property
    def is_best_open(self) -> bool:
        """Whether the cheapest backend takes the request now."""
        return self.best is not None and self.best_closed is None

    @property
    def waits_for_adapter(self) -> bool:
        """Whether the only thing missing is a slot for the request's LoRA adapter."""
        return self.open is None and len(self.closed) == 1 and _ADAPTERS in self.closed

    def offer(
        self,
        backend: Backend,
        work: int,
        cost: float,
        closed: ClosedReason | None,
        rng: RandomSource,
    ) -> None:
        """Consider one more backend. Of several at the same cost, each wins with the same chance.

        (The k-th of them takes the place with a chance of 1/k. Of three, the first is kept with
        1/2 x 2/3 = 1/3, the second with 1/2 x 2/3, the third with 1/3.)
        """
        if closed is None:
            if cost < self.open_cost:
                self._num_open = 0
            if cost <= self.open_cost:
                self._num_open += 1
                if self._num_open == 1 or rng.random() * self._num_open < 1.0:
                    self.open, self.open_cost, self.open_work = backend, cost, work
        else:
            self.shut(closed)
            cost += self._limits.closed_seconds
        if cost < self.best_cost:
            self._num_best = 0
        if cost <= self.best_cost:
            self._num_best += 1
            if self._num_best == 1 or rng.random() * self._num_best < 1.0:
                self.best, self.best_cost, self.best_work = backend, cost, work
                self.best_closed = closed

    def shut(self, closed: ClosedReason) -> None:
        """Count one more closed backend."""
        self.closed[closed] = self.closed.get(closed, 0) + 1

    def pick(self, backend: Backend, work: int, *, num_open: int | None) -> None:
        """Take a published policy's choice as both the best and the open backend."""
        self.best = self.open = backend
        self.best_work = self.open_work = work
        self.best_closed = None
        self.num_open = num_open

    def is_second_best_due(self, *, deadline_seconds: float, now_seconds: float) -> bool:
        """Whether there is no time left to wait for the cheapest backend, which is closed.

        Then the request goes to the cheapest open one, if that costs little enough more.
        """
        if self.open is None or self.best is None:
            return False
        closed, miss = self._limits.closed_seconds, self._limits.miss_seconds
        own = self.best.ledger.speed.prefill_seconds(1, self.best_work)
        if deadline_seconds - now_seconds - own > closed:
            return False
        open_cost = self.open_cost
        if open_cost >= STALE_SECONDS > self.best_cost:
            # A replica with an old reading is better than a late answer.
            open_cost -= STALE_SECONDS
        return open_cost <= self.best_cost - closed + miss


def closed_to(
    ledger: ReplicaLedger,
    profile: RequestProfile,
    *,
    work_tokens: int,
    output_tokens: int,
    limits: AdmissionSettings,
    now_seconds: float,
) -> ClosedReason | None:
    """The reason for which the replica is closed to the request; None when it is open."""
    adapter = profile.adapter
    if adapter and not ledger.has_adapter(adapter) and not ledger.has_adapter_slot():
        return _ADAPTERS
    return reason_closed(
        ledger,
        prompt_tokens=profile.num_prompt_tokens,
        work_tokens=work_tokens,
        output_tokens=output_tokens,
        num_sequences=profile.num_choices,
        settings=limits,
        now_seconds=now_seconds,
    )


def shortlist(
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
    """Consider every backend: what the request costs there, and whether it is open.

    ``hits``: tokens of the prompt that each backend has cached. ``output_tokens``: expected length
    of the answer. ``max_age_seconds``: greatest age of a trusted reading. Linear in the backends:
    the one loop over all replicas of a pool.
    """
    prompt = profile.num_prompt_tokens
    found = Shortlist(backends, limits)
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
            max_age_seconds=max_age_seconds,
            now_seconds=now_seconds,
        )
        if cost > found.open_cost:
            # Neither the cheapest nor the cheapest open one, whether it is open or not.
            continue
        closed = closed_to(
            ledger,
            profile,
            work_tokens=work,
            output_tokens=output_tokens,
            limits=limits,
            now_seconds=now_seconds,
        )
        found.offer(backend, work, cost, closed, rng)
    return found
