"""The pools: for each served model, its replicas, their ledgers, and the one place that reserves.

``Pool.submit`` decides, chooses and reserves in one step: two requests can never be given the same
room. What does not fit now waits in the pool's queue, and is told when its turn has come. The lease
is released exactly once, on every path. Owns every ledger, every replica's health, every queue.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Protocol

from memroute.admission import (
    Admit,
    Hold,
    HoldingQueue,
    QueueLimits,
    Reject,
    RejectReason,
    decide,
)
from memroute.footprint.request import RequestProfile
from memroute.pressure import (
    RateMeter,
    ReplicaHealth,
    ReplicaLedger,
    ReplicaReading,
    ReplicaSnapshot,
)
from memroute.routing import Choice, choose
from memroute_router.http.client import Endpoint

DEFAULT_WATERMARK_RATIO = 0.95
DEFAULT_ASSUMED_OUTPUT_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaInfo:
    """A replica as discovery sees it."""

    namespace: str
    pod: str
    deployment: str
    """The name of its ModelDeployment."""
    served_model: str
    endpoint: Endpoint
    promised_capacity_tokens: int | None
    max_context_tokens: int | None
    is_routable: bool
    """Ready, not draining, not terminating."""

    @property
    def key(self) -> str:
        """``namespace/pod``."""
        return f"{self.namespace}/{self.pod}" if self.namespace else self.pod


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How a pool admits: the ``routing`` of its ModelDeployment."""

    namespace: str
    deployment: str
    watermark_ratio: float = DEFAULT_WATERMARK_RATIO
    assumed_output_tokens: int = DEFAULT_ASSUMED_OUTPUT_TOKENS
    unready_reason: str | None = None
    """Why its ModelDeployment is not ready, as its condition says in one word."""


class Replica:
    """A replica, its ledger and its health."""

    def __init__(self, info: ReplicaInfo) -> None:
        self.info = info
        self.health = ReplicaHealth()
        self.ledger = ReplicaLedger(
            info.key,
            promised_capacity_tokens=info.promised_capacity_tokens,
            max_context_tokens=info.max_context_tokens,
        )


class Waiter(Protocol):
    """Who asked for room; told later when there was none at once."""

    profile: RequestProfile
    tried: list[str]
    """Replicas that it has already failed on."""

    def admitted(self, lease: "Lease") -> None:
        """Its turn has come."""
        ...

    def refused(self, reject: Reject) -> None:
        """It has waited in vain."""
        ...


class Lease:
    """Tokens reserved on one replica for one request. Release it exactly once."""

    __slots__ = ("_is_released", "_pool", "_reservation", "choice", "replica")

    def __init__(
        self, pool: "Pool", replica: Replica, profile: RequestProfile, choice: Choice
    ) -> None:
        self._pool = pool
        self.replica = replica
        self.choice = choice
        self._reservation = replica.ledger.reserve(profile)
        self._is_released = False

    def progress(self, generated_tokens: int) -> None:
        """The answer has so many tokens by now."""
        self.replica.ledger.progress(self._reservation, generated_tokens=generated_tokens)

    def release(self) -> None:
        """Give the tokens back. Raises ``RuntimeError`` the second time: that is a bug."""
        if self._is_released:
            msg = "lease released twice"
            raise RuntimeError(msg)
        self._is_released = True
        self._pool.released(self.replica.ledger.release(self._reservation))


class Pool:
    """All replicas that serve one model, and the requests that wait for them."""

    def __init__(
        self, model: str, rng: Random, limits: QueueLimits, call_soon: Callable[..., object]
    ) -> None:
        """``call_soon``: the event loop's; the queue moves on from there, never from inside."""
        self.model = model
        self.settings: PoolSettings | None = None
        self.replicas: dict[str, Replica] = {}
        self.labels: tuple[str, str] = "", ""
        """Namespace and ModelDeployment: what its series are labelled with."""
        self._routable: list[Replica] = []
        self.queue: HoldingQueue[Waiter] = HoldingQueue(limits)
        self.freed = RateMeter()
        self._rng = rng
        self._call_soon = call_soon
        self._will_advance = False

    def changed(self) -> None:
        """Settings or replicas are other than before."""
        self._routable = [r for r in self.replicas.values() if r.info.is_routable]
        if self.settings is not None:
            self.labels = self.settings.namespace, self.settings.deployment
        elif self.replicas:
            info = next(iter(self.replicas.values())).info
            self.labels = info.namespace, info.deployment
        self.advance_soon()

    @property
    def watermark_ratio(self) -> float:
        """How full a replica may become by projection, 0 to 1."""
        return self.settings.watermark_ratio if self.settings else DEFAULT_WATERMARK_RATIO

    @property
    def assumed_output_tokens(self) -> int:
        """How long an answer without a limit is taken to be."""
        if self.settings is None:
            return DEFAULT_ASSUMED_OUTPUT_TOKENS
        return self.settings.assumed_output_tokens

    def submit(self, waiter: Waiter) -> Lease | Reject | None:
        """Room on the best replica, a refusal, or None: it waits, and will be told."""
        verdict = self._decide(waiter)
        if isinstance(verdict, Choice):
            if not self.queue:
                return self._reserve(waiter, verdict)
            # Those who came first go first, or nobody large would ever get in.
            verdict = Hold(
                message=f"{len(self.queue)} request(s) wait before it",
                expected_wait_seconds=self._seconds_to_free(self.queue.held_tokens),
            )
        if isinstance(verdict, Reject):
            return verdict
        expected_tokens = waiter.profile.expected_tokens
        refusal = self.queue.refusal(
            expected_tokens, expected_wait_seconds=verdict.expected_wait_seconds
        )
        if refusal is not None:
            return verdict.reject(because=refusal.value)
        self.queue.hold(waiter, expected_tokens, now_seconds=time.monotonic())
        return None

    def withdraw(self, waiter: Waiter) -> None:
        """It waits no more: its client has gone."""
        if self.queue.remove(waiter):
            self.advance_soon()

    def released(self, held_tokens: int) -> None:
        """A lease was given back: whoever waits may have room now."""
        self.freed.add(held_tokens, now_seconds=time.monotonic())
        self.advance_soon()

    def advance_soon(self) -> None:
        """Something has changed: see whose turn it is, once this step is over."""
        if self.queue and not self._will_advance:
            self._will_advance = True
            self._call_soon(self._advance)

    def tick(self) -> None:
        """Let those go that have waited for their time, and look whether others fit."""
        if not self.queue:
            return
        waited = self.queue.limits.max_seconds
        for waiter in self.queue.expired(now_seconds=time.monotonic()):
            verdict = self._decide(waiter)
            self.queue.remove(waiter)
            if isinstance(verdict, Choice):
                waiter.admitted(self._reserve(waiter, verdict))
            elif isinstance(verdict, Hold):
                waiter.refused(
                    verdict.reject(
                        because="it waited for its time",
                        reason=RejectReason.QUEUE_TIMEOUT,
                        waited=waited,
                    )
                )
            else:
                waiter.refused(verdict)
        self.advance_soon()

    def num_stale(self, *, now_seconds: float) -> int:
        """Routable replicas that were never read, or not for too long."""
        return sum(
            replica.info.is_routable
            and not replica.ledger.snapshot().is_fresh(now_seconds=now_seconds)
            for replica in self.replicas.values()
        )

    def snapshots(self) -> list[tuple[Replica, ReplicaSnapshot]]:
        """All replicas as a decision would see them, for metrics and debugging."""
        return [(r, r.ledger.snapshot()) for r in self.replicas.values()]

    def _advance(self) -> None:
        self._will_advance = False
        while (waiter := self.queue.first()) is not None:
            verdict = self._decide(waiter)
            if isinstance(verdict, Hold):
                return
            self.queue.remove(waiter)
            if isinstance(verdict, Choice):
                waiter.admitted(self._reserve(waiter, verdict))
            else:
                waiter.refused(verdict)

    def _decide(self, waiter: Waiter) -> Choice | Hold | Reject:
        now = time.monotonic()
        routable = self._routable
        if waiter.tried:
            routable = [replica for replica in routable if replica.info.key not in waiter.tried]
        usable = [replica for replica in routable if replica.health.may_try(now_seconds=now)]
        # With every replica out, trying one is better than refusing all: they may be back.
        snapshots = [replica.ledger.snapshot() for replica in usable or routable]
        verdict = decide(
            waiter.profile,
            snapshots,
            watermark_ratio=self.watermark_ratio,
            freed=self.freed,
            now_seconds=now,
        )
        if not isinstance(verdict, Admit):
            return verdict
        return choose(waiter.profile, verdict.candidates, rng=self._rng)

    def _reserve(self, waiter: Waiter, choice: Choice) -> Lease:
        """Follows its decision without an ``await`` in between."""
        replica = self.replicas[choice.replica]
        replica.health.trying(now_seconds=time.monotonic())
        return Lease(self, replica, waiter.profile, choice)

    def _seconds_to_free(self, num_tokens: int) -> float | None:
        rate = self.freed.per_second(now_seconds=time.monotonic())
        return num_tokens / rate if rate else None


class Pools:
    """All pools, by served model name."""

    def __init__(
        self,
        rng: Random,
        *,
        queue_limits: QueueLimits,
        call_soon: Callable[..., object],
    ) -> None:
        self._rng = rng
        self._queue_limits = queue_limits
        self._call_soon = call_soon
        self.by_model: dict[str, Pool] = {}
        self._model_of: dict[str, str] = {}

    @staticmethod
    def now_seconds() -> float:
        """The clock that readings and leases are timed by."""
        return time.monotonic()

    def get(self, model: str) -> Pool | None:
        """The pool that serves a model; None when nobody does or should."""
        return self.by_model.get(model)

    def upsert_replica(self, info: ReplicaInfo) -> Replica:
        """A replica is there, or has changed. A new address is a new engine: a new ledger."""
        before = self._model_of.get(info.key)
        if before is not None and before != info.served_model:
            self.remove_replica(info.key)
        pool = self._pool(info.served_model)
        self._model_of[info.key] = info.served_model
        replica = pool.replicas.get(info.key)
        if replica is None or replica.info.endpoint != info.endpoint:
            replica = pool.replicas[info.key] = Replica(info)
        elif replica.info != info:
            replica.info = info
            replica.ledger.promise(
                capacity_tokens=info.promised_capacity_tokens,
                max_context_tokens=info.max_context_tokens,
            )
        pool.changed()
        return replica

    def remove_replica(self, key: str) -> Replica | None:
        """A replica is gone. Leases on it stay valid until they are released."""
        model = self._model_of.pop(key, None)
        if model is None:
            return None
        pool = self.by_model[model]
        replica = pool.replicas.pop(key, None)
        pool.changed()
        self._drop_if_unused(pool)
        return replica

    def configure(self, settings_by_model: Mapping[str, PoolSettings]) -> None:
        """The models that ModelDeployments ask for, with their settings."""
        for model, settings in settings_by_model.items():
            self._pool(model).settings = settings
        for pool in list(self.by_model.values()):
            if pool.model not in settings_by_model:
                pool.settings = None
            pool.changed()
            self._drop_if_unused(pool)

    def apply_reading(self, replica: Replica, reading: ReplicaReading) -> None:
        """A replica was read: what it holds is known anew."""
        replica.ledger.apply_reading(reading)
        model = self._model_of.get(replica.info.key)
        if model is not None:
            self.by_model[model].advance_soon()

    def tick(self) -> None:
        """Time passes: see who has waited for long enough."""
        for pool in list(self.by_model.values()):
            pool.tick()
            self._drop_if_unused(pool)

    def _pool(self, model: str) -> Pool:
        if model not in self.by_model:
            self.by_model[model] = Pool(model, self._rng, self._queue_limits, self._call_soon)
        return self.by_model[model]

    def _drop_if_unused(self, pool: Pool) -> None:
        if not pool.replicas and pool.settings is None and not pool.queue:
            self.by_model.pop(pool.model, None)
