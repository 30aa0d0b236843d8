"""The pools: for each served model, its settings and its replicas' addresses.

A ``Pool`` is a ``RequestPool`` (``memroute.traffic.dispatch``): that decides, chooses and reserves
in one step, holds what does not fit now, and says when its turn has come. What is added here is
what discovery says: which replicas there are, where, and by which settings they are routed to.
``Pools`` owns every pool, and through it every ledger, every replica's health, every queue.
"""

import logging
import math
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final
from zlib import crc32

from memroute.traffic.admission import AdmissionSettings, OverloadObjective, QueueLimits
from memroute.traffic.dispatch import (
    AdmissionMode,
    Backend,
    Dispatcher,
    DispatchSettings,
    RequestPool,
    RetryRule,
)
from memroute.traffic.lengths import PromptLengths
from memroute.traffic.peers import PeerGroup
from memroute.traffic.replica import (
    HostCache,
    ReplicaHealth,
    ReplicaLedger,
    ReplicaReading,
    SleepPhase,
)
from memroute.traffic.replica.reading import MAX_AGE_SECONDS
from memroute.traffic.routing.published import LLM_D_TOKENS_PER_SECOND
from memroute_router.http.client import Endpoint, Upstream
from memroute_router.replicas.targets import TargetWatch

LOGGER = logging.getLogger(__name__)
DEFAULT_WATERMARK_RATIO = 0.95
DEFAULT_ASSUMED_OUTPUT_TOKENS: Final = 256
DEFAULT_TTFT_TARGET_SECONDS = 1.0
DEFAULT_TPOT_TARGET_SECONDS = 0.05
DEFAULT_MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaInfo:
    """A replica as discovery sees it."""

    namespace: str
    pod: str
    deployment: str
    """The name of its ModelDeployment; where it has none, what else is told instead of that."""
    served_model: str
    endpoint: Endpoint
    promised_capacity_tokens: int | None
    max_context_tokens: int | None
    is_routable: bool
    """Ready by its kubelet's last word, awake, not draining, not terminating."""
    version: str = ""
    """Of the model: what shares of the traffic are given to."""
    weight_ratio: float = 1.0
    """Of its share, relative to other replicas, beside what is measured of them."""
    uid: str = ""
    """Of its pod: another is another engine, whatever its name and address; empty: none."""
    adapters: frozenset[str] | None = None
    """The LoRA adapters that it has loaded; None: nobody knows, so it may have any."""
    host: HostCache | None = None
    """KV cache on its host; None: there is none, or nobody says."""
    sleep: SleepPhase | None = None
    """Of one that would be routable if it were awake; None: it is, or would not be."""
    wake_seconds: float | None = None
    """How long it takes to wake, as predicted; None: unknown."""

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
    policy: str = "memroute"
    prefill_tokens_per_second: float = LLM_D_TOKENS_PER_SECOND
    """Of one replica, as measured: for policies that have to be told (llm-d)."""
    admission: AdmissionMode = AdmissionMode.ENFORCE
    ttft_target_seconds: float = DEFAULT_TTFT_TARGET_SECONDS
    tpot_target_seconds: float = DEFAULT_TPOT_TARGET_SECONDS
    overload_objective: OverloadObjective = OverloadObjective.REQUESTS
    """Who is late when not all can be in time."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of the traffic, by version; empty: memory alone decides."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters that the replicas serve beside the model, by the names that clients send."""
    tokenizer_folder: str | None = None
    """Where its tokenizer is, if somewhere of its own."""
    unready_reason: str | None = None
    """Why its ModelDeployment is not ready, as its condition says in one word."""
    created_at: str = ""
    """Of its ModelDeployment, RFC 3339: the oldest has an adapter's name that several ask for."""
    served_by: frozenset[str] = frozenset()
    """All ModelDeployments that may serve the model, with replicas or without, as
    ``namespace/name``; empty where there are none (a file says what is served)."""

    def dispatch(self, common: "CommonSettings") -> DispatchSettings:
        """The same, as decisions read it."""
        return DispatchSettings(
            waits_for_replicas=common.waits_for_replicas,
            max_age_seconds=common.max_age_seconds,
            policy=self.policy,
            prefill_tokens_per_second=self.prefill_tokens_per_second,
            admission=self.admission,
            shares=self.shares,
            limits=AdmissionSettings(
                watermark_ratio=self.watermark_ratio,
                ttft_target_seconds=self.ttft_target_seconds,
                tpot_target_seconds=self.tpot_target_seconds,
                objective=self.overload_objective,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonSettings:
    """What is the same for every pool of a router."""

    queue_limits: QueueLimits
    waits_for_replicas: bool = False
    """Whether requests are held while no replica is ready."""
    max_age_seconds: float = MAX_AGE_SECONDS
    """Of a replica's readings: an older one is not trusted."""
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    """Replicas that one request may be sent to."""


_NEARLY_AWAKE: Final = (SleepPhase.ASLEEP, SleepPhase.FALLING_ASLEEP, SleepPhase.WAKING)
"""The phases of replicas that sleep, that which serves soonest last."""
_Claim = tuple[str, str, str, str]
"""Of a pool on an adapter's name: creation, namespace and name of its ModelDeployment, model."""


class Replica:
    """A replica, and what decisions know of it."""

    def __init__(self, info: ReplicaInfo, ledger: ReplicaLedger) -> None:
        self.info = info
        self.backend = Backend(ledger, is_routable=info.is_routable, version=info.version)
        self.upstream = Upstream(info.endpoint)
        """The connections to it: no other replica's, whatever its address."""
        self.missing_metrics: set[str] = set()
        """Families that its metrics page should have and has not: their values are unknown."""
        self.num_failed_readings = 0
        self.num_event_gaps = 0
        """Times when KV events of it were lost on the way."""
        self.awake_since_seconds = -math.inf
        """When it woke: its readings are as old as its sleep until it is read anew."""

    @property
    def ledger(self) -> ReplicaLedger:
        """What it holds, and how fast it is."""
        return self.backend.ledger

    @property
    def health(self) -> ReplicaHealth:
        """Whether it may be tried."""
        return self.backend.health


class Pool(RequestPool[Replica]):
    """All replicas that serve one model, and the requests that wait for them."""

    def __init__(
        self,
        model: str,
        rng: Random,
        common: CommonSettings,
        retries: RetryRule,
        call_soon: Callable[..., object],
        call_later: Callable[..., object],
        on_error: Callable[[Exception], None],
        peers: PeerGroup,
        tenant_weights: Mapping[str, float],
    ) -> None:
        """``call_soon``, ``call_later``: the event loop's; the queue moves on from there alone.

        ``peers``: the other routers, the same for all pools. ``tenant_weights``: of the tenants'
        shares, likewise.
        """
        super().__init__(
            Dispatcher(
                DispatchSettings(
                    waits_for_replicas=common.waits_for_replicas,
                    max_age_seconds=common.max_age_seconds,
                ),
                common.queue_limits,
                rng=rng,
                peers=peers,
                tenant_weights=tenant_weights,
            ),
            retries=retries,
            clock=time.monotonic,
            call_soon=call_soon,
            call_later=call_later,
            on_error=on_error,
        )
        self._common = common
        self.model = model
        self.settings: PoolSettings | None = None
        self.labels: tuple[str, str] = "", ""
        """Namespace and ModelDeployment: what its series are labelled with."""
        self.prompts = PromptLengths()
        self.targets = TargetWatch()
        self._rng = rng

    def changed(self) -> None:
        """Settings or replicas are other than before."""
        for replica in self.replicas.values():
            info, backend = replica.info, replica.backend
            backend.is_routable = info.is_routable
            backend.adapters = info.adapters
            if info.sleep is not None or backend.sleep is not None:
                self._sleeps(replica)
        if self.settings is not None:
            self.labels = self.settings.namespace, self.settings.deployment
            self.dispatcher.configure(self.settings.dispatch(self._common))
        elif self.replicas:
            info = next(iter(self.replicas.values())).info
            self.labels = info.namespace, info.deployment
        self.advance_soon()

    def _sleeps(self, replica: Replica) -> None:
        """A replica sleeps, or has slept until now."""
        info, now = replica.info, self.now_seconds()
        self.dispatcher.set_sleep(
            info.key, info.sleep, wake_seconds=info.wake_seconds, now_seconds=now
        )
        if info.sleep is None:
            replica.awake_since_seconds = now

    @property
    def sleep(self) -> SleepPhase | None:
        """What the model does that sleeps: no replica is awake; None: one is, or none sleeps."""
        phases = [one.info.sleep for one in self.replicas.values() if one.info.sleep is not None]
        if not phases or any(one.info.is_routable for one in self.replicas.values()):
            return None
        return max(phases, key=_NEARLY_AWAKE.index)

    @property
    def tokenizer_folder(self) -> str | None:
        """Where its tokenizer is, if somewhere of its own."""
        return None if self.settings is None else self.settings.tokenizer_folder

    @property
    def assumed_output_tokens(self) -> int:
        """How long an answer without a limit is taken to be while nothing is learned."""
        if self.settings is None:
            return DEFAULT_ASSUMED_OUTPUT_TOKENS
        return self.settings.assumed_output_tokens

    def add(self, info: ReplicaInfo) -> Replica:
        """A new engine: a new ledger."""
        ledger = self.dispatcher.ledger(
            info.key,
            promised_capacity_tokens=info.promised_capacity_tokens,
            max_context_tokens=info.max_context_tokens,
            weight_ratio=info.weight_ratio,
        )
        ledger.host = info.host
        replica = Replica(info, ledger)
        self.join(replica.backend, replica)
        return replica

    def draw(self, session: str) -> float:
        """Which of several versions a request goes to, 0 to 1: a session stays with one."""
        return (crc32(session.encode()) / 2**32) if session else self._rng.random()

    def num_stale(self, *, now_seconds: float) -> int:
        """Routable replicas that were never read, or not for too long."""
        max_age = self._common.max_age_seconds
        return sum(
            replica.info.is_routable
            and now_seconds - replica.awake_since_seconds > max_age
            and not replica.ledger.is_fresh(max_age_seconds=max_age, now_seconds=now_seconds)
            for replica in self.replicas.values()
        )

    def tick(self) -> None:
        """Time passes: whole answers begin, replicas that hang are left, targets are judged."""
        predictions = self.dispatcher.predictions
        before = predictions.distrusted
        super().tick()
        if predictions.distrusted is not before:
            if before is None:
                LOGGER.warning("safe mode model=%s reason=%r", self.model, predictions.message)
            else:
                LOGGER.info("safe mode ends model=%s: predictions are right again", self.model)
        self.targets.look(
            self.model,
            [replica.ledger for replica in self.replicas.values()],
            self.dispatcher.settings.limits,
            now_seconds=self.now_seconds(),
        )


class Pools:
    """All pools, by served model name."""

    def __init__(
        self,
        rng: Random,
        *,
        common: CommonSettings,
        call_soon: Callable[..., object],
        call_later: Callable[..., object],
        on_error: Callable[[Exception], None],
    ) -> None:
        """``on_error``: logs and counts an exception that is a bug of ours."""
        self._on_error = on_error
        self._rng = rng
        self._common = common
        self._retries = RetryRule(common.max_attempts)
        self._call_soon = call_soon
        self._call_later = call_later
        self.peers = PeerGroup()
        self.tenant_weights: dict[str, float] = {}
        """Of the shares of tenants whose weight is not 1; whoever knows the tenants keeps it."""
        self.by_model: dict[str, Pool] = {}
        self._by_adapter: dict[str, Pool] = {}
        """A model's own name goes before an adapter's."""
        self.default_model = ""
        """Whose pool serves what nobody else does; empty: there is none."""
        self.any_name: set[str] = set()
        """Models whose pools serve under any name: engines that memroute has not deployed know the
        names that they serve. Nobody can ask for such a pool by the name that it has here."""
        self._claims: dict[str, list[_Claim]] = {}
        """Adapter → who asks for it, the oldest first."""
        self._model_of: dict[str, str] = {}

    @staticmethod
    def now_seconds() -> float:
        """The clock that readings and leases are timed by."""
        return time.monotonic()

    def get(self, model: str) -> Pool | None:
        """The pool that serves a model or an adapter; None when nobody does or should."""
        if model in self.any_name and model != self.default_model:
            return None
        found = self.by_model.get(model) or self._by_adapter.get(model)
        if found is None and self.default_model:
            return self.by_model.get(self.default_model)
        return found

    def names(self) -> list[str]:
        """What clients can ask for: models and adapters."""
        unnamed = self.any_name - {self.default_model}
        return sorted({*self.by_model, *self._by_adapter} - unnamed)

    def upsert_replica(self, info: ReplicaInfo) -> Replica:
        """A replica is there, or has changed.

        A new address or a new pod is a new engine: a new ledger. What runs on the old one goes on.
        """
        before = self._model_of.get(info.key)
        if before is not None and before != info.served_model:
            self.retire_replica(info.key)
        pool = self._pool(info.served_model)
        self._model_of[info.key] = info.served_model
        replica = pool.replicas.get(info.key)
        if replica is not None and (replica.info.endpoint, replica.info.uid) != (
            info.endpoint,
            info.uid,
        ):
            pool.leave(info.key)
            replica.upstream.retire()
            replica = None
        if replica is None:
            replica = pool.add(info)
        elif replica.info != info:
            replica.info = info
            replica.backend.version = info.version
            replica.ledger.weight_ratio = info.weight_ratio
            replica.ledger.host = info.host
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
        replica = pool.leave(key)
        pool.changed()
        self._drop_if_unused(pool)
        return replica

    def retire_replica(self, key: str) -> Replica | None:
        """Nothing more is sent to a replica; what runs there goes on to its end."""
        replica = self.remove_replica(key)
        if replica is not None:
            replica.upstream.retire()
        return replica

    def configure(self, settings_by_model: Mapping[str, PoolSettings]) -> None:
        """The models that ModelDeployments ask for, with their settings."""
        for model in {**self.by_model, **settings_by_model}:
            self.configure_model(model, settings_by_model.get(model))

    def configure_model(self, model: str, settings: PoolSettings | None) -> None:
        """One model, with its settings; None: no ModelDeployment asks for it. Others stay."""
        pool = self.by_model.get(model) if settings is None else self._pool(model)
        if pool is None:
            return
        before, after = _claimed(model, pool.settings), _claimed(model, settings)
        if before != after:
            for adapter, claim in before.items():
                claims = self._claims[adapter]
                del claims[bisect_left(claims, claim)]
            for adapter, claim in after.items():
                insort(self._claims.setdefault(adapter, []), claim)
            for adapter in {**before, **after}:
                self._find_adapter(adapter)
        pool.settings = settings
        pool.changed()
        self._drop_if_unused(pool)

    def _find_adapter(self, adapter: str) -> None:
        """Of several that ask for an adapter's name, the oldest ModelDeployment's pool has it.

        So every router says the same, in whatever order it has learned of them.
        """
        claims = self._claims[adapter]
        if claims:
            self._by_adapter[adapter] = self.by_model[claims[0][-1]]
        else:
            del self._claims[adapter]
            self._by_adapter.pop(adapter, None)

    def apply_reading(self, replica: Replica, reading: ReplicaReading) -> None:
        """A replica was read: what it holds is known anew."""
        model = self._model_of.get(replica.info.key)
        if model is not None:
            self.by_model[model].apply_reading(replica.ledger, reading)

    def tick(self) -> None:
        """Time passes."""
        for pool in list(self.by_model.values()):
            try:
                pool.tick()
                self._drop_if_unused(pool)
            except Exception as error:  # noqa: BLE001 - a bug in one pool is not the others'
                self._on_error(error)

    def _pool(self, model: str) -> Pool:
        if model not in self.by_model:
            self.by_model[model] = Pool(
                model,
                self._rng,
                self._common,
                self._retries,
                self._call_soon,
                self._call_later,
                self._on_error,
                self.peers,
                self.tenant_weights,
            )
        return self.by_model[model]

    def _drop_if_unused(self, pool: Pool) -> None:
        if (
            not pool.replicas
            and pool.settings is None
            and not pool.num_held
            and not pool.dispatcher.num_apart
            and not pool.num_leaving
        ):
            self.by_model.pop(pool.model, None)
            self.any_name.discard(pool.model)


def _claimed(model: str, settings: PoolSettings | None) -> dict[str, _Claim]:
    """What a pool claims by its settings: adapter → its claim."""
    if settings is None:
        return {}
    claim = settings.created_at, settings.namespace, settings.deployment, model
    return dict.fromkeys(settings.adapters, claim)
