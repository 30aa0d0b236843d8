"""Published routing policies, by their published formulas, and memroute's own.

A policy is asked for one replica, of those that are listed, for one request. What it may look
at: the last scrape of each, and what this router itself has sent there. Ties are broken at
random.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from memroute.admission import Admit, Hold, Reject, RejectReason, decide
from memroute.footprint import RequestProfile
from memroute.pressure import RateMeter, ReplicaLedger, ReplicaReading, Reservation
from memroute.routing import choose
from memroute_simulator.engine.model import EngineRequest
from memroute_simulator.virtual.replica import VirtualReplica

WATERMARK_RATIO = 0.9
ASSUMED_OUTPUT_TOKENS = 256
# The defaults of a ModelDeployment's routing.


@dataclass(slots=True, kw_only=True, eq=False)
class ReplicaView:
    """What one router knows of one replica."""

    replica: VirtualReplica
    capacity_tokens: int
    num_running: int = 0
    num_waiting: int = 0
    kv_ratio: float = 0.0
    read_at_seconds: float | None = None
    num_in_flight: int = 0
    """Requests of this router's that are there."""
    pending_tokens: int = 0
    """Uncached prompt tokens of those that have not answered yet."""
    ledger: ReplicaLedger | None = None
    leases: dict[EngineRequest, Reservation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shed:
    """No replica may take it now."""

    reason: str
    retry_after_seconds: float | None


class Policy(ABC):
    """Chooses. One instance per router."""

    sees_prefixes = False
    """Whether it looks into the replicas' prefix caches."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    @abstractmethod
    def choose(
        self, request: EngineRequest, views: Sequence[ReplicaView], now_seconds: float
    ) -> ReplicaView | Shed:
        """One of ``views``, which is not empty."""

    def on_scrape(self, view: ReplicaView, now_seconds: float) -> None:  # noqa: B027 - a hook
        """A reading has come in."""

    def on_sent(self, request: EngineRequest, view: ReplicaView, now_seconds: float) -> None:  # noqa: B027
        """The request is on its way."""

    def on_first_token(self, request: EngineRequest, view: ReplicaView) -> None:  # noqa: B027
        """The replica has begun to answer."""

    def on_end(self, request: EngineRequest, view: ReplicaView, now_seconds: float) -> None:  # noqa: B027
        """The request has left the replica, one way or another."""


class ScorePolicy(Policy):
    """The least score wins."""

    def __init__(
        self, rng: random.Random, score: Callable[..., float], *, sees_prefixes: bool = False
    ) -> None:
        super().__init__(rng)
        self._score = score
        self.sees_prefixes = sees_prefixes

    def choose(
        self, request: EngineRequest, views: Sequence[ReplicaView], now_seconds: float
    ) -> ReplicaView | Shed:
        """The view of the least score."""
        score, chance = self._score, self.rng.random
        best, best_score, best_chance = views[0], float("inf"), 0.0
        for view in views:
            value = score(request, view)
            if value < best_score:
                best, best_score, best_chance = view, value, chance()
            elif value == best_score:
                drawn = chance()
                if drawn < best_chance:
                    best, best_chance = view, drawn
        return best


class Random(Policy):
    """Any."""

    def choose(
        self, request: EngineRequest, views: Sequence[ReplicaView], now_seconds: float
    ) -> ReplicaView | Shed:
        """A view at random."""
        return self.rng.choice(views)


class RoundRobin(Policy):
    """One after another."""

    _next = 0

    def choose(
        self, request: EngineRequest, views: Sequence[ReplicaView], now_seconds: float
    ) -> ReplicaView | Shed:
        """The next view."""
        self._next += 1
        return views[self._next % len(views)]


class PowerOfTwo(Policy):
    """Two at random, the one with fewer of our requests."""

    def choose(
        self, request: EngineRequest, views: Sequence[ReplicaView], now_seconds: float
    ) -> ReplicaView | Shed:
        """The better of two."""
        first, second = self.rng.choice(views), self.rng.choice(views)
        return first if first.num_in_flight <= second.num_in_flight else second


class QueueScored(Policy):
    """GIE's scorers: weights on (1 - KV), on min-max-normalised queues, on the prefix hit."""

    def __init__(self, rng: random.Random, *, prefix: float, kv: float, queue: float) -> None:
        super().__init__(rng)
        self._weights = (prefix, kv, queue)
        self.sees_prefixes = prefix > 0

    def choose(
        self, request: EngineRequest, views: Sequence[ReplicaView], now_seconds: float
    ) -> ReplicaView | Shed:
        """The view of the greatest weighted sum."""
        prefix, kv, queue = self._weights
        least = min(view.num_waiting for view in views)
        spread = max(view.num_waiting for view in views) - least
        total = max(1, request.num_tokens)

        def score(view: ReplicaView) -> tuple[float, float]:
            value = kv * (1 - view.kv_ratio)
            value += queue * (1 - (view.num_waiting - least) / spread if spread else 1.0)
            if prefix:
                value += prefix * view.replica.hit_tokens(request) / total
            return value, self.rng.random()

        return max(views, key=score)


class Memroute(Policy):
    """Our own: the ledger of ``memroute.pressure``, ``decide`` and ``choose``."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._freed = RateMeter()

    def choose(
        self, request: EngineRequest, views: Sequence[ReplicaView], now_seconds: float
    ) -> ReplicaView | Shed:
        """Admit and choose, or shed with the reason and the time to come back."""
        profile = _profile(request)
        by_name = {}
        snapshots = []
        for view in views:
            ledger = view.ledger or self._ledger(view)
            by_name[ledger.replica] = view
            snapshots.append(ledger.snapshot())
        verdict = decide(
            profile,
            snapshots,
            watermark_ratio=WATERMARK_RATIO,
            freed=self._freed,
            now_seconds=now_seconds,
        )
        if isinstance(verdict, Hold):
            verdict = verdict.reject(because="it may not wait here")
        match verdict:
            case Admit():
                return by_name[choose(profile, verdict.candidates, rng=self.rng).replica]
            case Reject(reason=reason, retry_after_seconds=seconds):
                return Shed(reason=RejectReason(reason).value, retry_after_seconds=seconds)

    def on_scrape(self, view: ReplicaView, now_seconds: float) -> None:
        """Streams have told how far they are; then the reading counts."""
        ledger = view.ledger or self._ledger(view)
        for request, lease in view.leases.items():
            generated = view.replica.num_generated(request)
            if generated:
                ledger.progress(lease, generated_tokens=generated)
        ledger.apply_reading(
            ReplicaReading(
                taken_at_seconds=view.read_at_seconds or now_seconds,
                kv_cache_utilization_ratio=view.kv_ratio,
                kv_capacity_tokens=view.capacity_tokens,
                num_requests_running=view.num_running,
                num_requests_waiting=view.num_waiting,
            )
        )

    def on_sent(self, request: EngineRequest, view: ReplicaView, now_seconds: float) -> None:
        """Reserve, in the same step as the choice."""
        ledger = view.ledger or self._ledger(view)
        view.leases[request] = ledger.reserve(_profile(request))

    def on_first_token(self, request: EngineRequest, view: ReplicaView) -> None:
        """The lease is seen by the next scrape."""
        if view.ledger is not None:
            view.ledger.progress(view.leases[request], generated_tokens=1)

    def on_end(self, request: EngineRequest, view: ReplicaView, now_seconds: float) -> None:
        """Release, exactly once."""
        if view.ledger is not None:
            held = view.ledger.release(view.leases.pop(request))
            self._freed.add(held, now_seconds=now_seconds)

    @staticmethod
    def _ledger(view: ReplicaView) -> ReplicaLedger:
        view.ledger = ReplicaLedger(
            view.replica.name, promised_capacity_tokens=view.capacity_tokens
        )
        return view.ledger


def _profile(request: EngineRequest) -> RequestProfile:
    allowed = request.max_output_tokens
    assumed = ASSUMED_OUTPUT_TOKENS if allowed is None else min(allowed, ASSUMED_OUTPUT_TOKENS)
    return RequestProfile(
        num_prompt_tokens=request.num_prompt_tokens,
        min_prompt_tokens=request.num_prompt_tokens,
        max_output_tokens=allowed,
        assumed_output_tokens=assumed,
    )


def _uncached(request: EngineRequest, view: ReplicaView) -> int:
    return request.num_tokens - view.replica.hit_tokens(request)


def _scored(
    score: Callable[[EngineRequest, ReplicaView], float], *, sees_prefixes: bool = False
) -> Callable[[random.Random], Policy]:
    return lambda rng: ScorePolicy(rng, score, sees_prefixes=sees_prefixes)


POLICIES: Mapping[str, Callable[[random.Random], Policy]] = MappingProxyType(
    {
        "memroute": Memroute,
        "random": Random,
        "round-robin": RoundRobin,
        "least-request": _scored(lambda _, view: view.num_in_flight),
        "power-of-two": PowerOfTwo,
        "least-kv": _scored(lambda _, view: view.kv_ratio),
        "gie-kv-queue": lambda rng: QueueScored(rng, prefix=0.0, kv=1.0, queue=1.0),
        "gie-prefix-kv-queue": lambda rng: QueueScored(rng, prefix=3.0, kv=2.0, queue=2.0),
        "kv-in-flight": _scored(
            lambda _, view: view.kv_ratio + view.pending_tokens / view.capacity_tokens
        ),
        "headroom": _scored(
            lambda request, view: (
                view.kv_ratio
                + (view.pending_tokens + _uncached(request, view)) / view.capacity_tokens
            ),
            sees_prefixes=True,
        ),
        "lmetric": _scored(
            lambda request, view: (
                (view.pending_tokens + _uncached(request, view)) * (view.num_in_flight + 1)
            ),
            sees_prefixes=True,
        ),
        "vllm-dp": _scored(lambda _, view: 4 * view.num_waiting + view.num_running),
    }
)
NEEDS_PREFIX_ORACLE = frozenset({"gie-prefix-kv-queue", "headroom", "lmetric"})
"""Policies that see what each cache holds, exactly and at once: better than any real index."""
