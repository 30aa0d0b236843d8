"""The pools: for each served model, its replicas, their ledgers, and the one place that reserves.

``Pool.admit`` decides, chooses and reserves without an ``await`` in between: two requests can
never be given the same room. The lease it returns is released exactly once, on every path.
Owns every ledger.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

from memroute.admission import Admit, Reject, decide
from memroute.footprint import RequestProfile
from memroute.pressure import RateMeter, ReplicaLedger, ReplicaReading, ReplicaSnapshot
from memroute.routing import Choice, choose

SUSPECT_SECONDS = 5.0
# A living engine is read within a second; one too busy to be read must not be out for ever.
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
    address: str
    port: int
    promised_capacity_tokens: int | None
    max_context_tokens: int | None
    is_routable: bool
    """Ready, not draining, not terminating."""

    @property
    def key(self) -> str:
        """``namespace/pod``."""
        return f"{self.namespace}/{self.pod}"

    @property
    def endpoint(self) -> tuple[str, int]:
        """Where its engine listens."""
        return self.address, self.port


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
    """A replica and its ledger."""

    def __init__(self, info: ReplicaInfo) -> None:
        self.info = info
        self._suspect_until_seconds = 0.0
        self.ledger = ReplicaLedger(
            info.key,
            promised_capacity_tokens=info.promised_capacity_tokens,
            max_context_tokens=info.max_context_tokens,
        )

    @property
    def is_suspect(self) -> bool:
        """Whether it has just broken a connection and has not been read since."""
        return time.monotonic() < self._suspect_until_seconds

    def suspect(self) -> None:
        """It broke a connection: send it nothing until it has been read, or for a while."""
        self._suspect_until_seconds = time.monotonic() + SUSPECT_SECONDS

    def trust(self) -> None:
        """It was read: it is alive."""
        self._suspect_until_seconds = 0.0


class Lease:
    """Tokens reserved on one replica for one request. Release it exactly once."""

    def __init__(
        self, pool: "Pool", replica: Replica, profile: RequestProfile, choice: Choice
    ) -> None:
        self._pool = pool
        self.replica = replica
        self.profile = profile
        self.choice = choice
        self._id = replica.ledger.reserve(profile)
        self._is_released = False

    def progress(self, generated_tokens: int) -> None:
        """The answer has so many tokens by now."""
        self.replica.ledger.progress(self._id, generated_tokens=generated_tokens)

    def release(self) -> None:
        """Give the tokens back. Raises ``RuntimeError`` the second time: that is a bug."""
        if self._is_released:
            msg = "lease released twice"
            raise RuntimeError(msg)
        self._is_released = True
        held = self.replica.ledger.release(self._id)
        self._pool.freed.add(held, now_seconds=time.monotonic())


class Pool:
    """All replicas that serve one model."""

    def __init__(self, model: str, rng: Random) -> None:
        self.model = model
        self.settings: PoolSettings | None = None
        self.replicas: dict[str, Replica] = {}
        self.freed = RateMeter()
        self._rng = rng

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

    def admit(self, profile: RequestProfile, *, excluding: Iterable[str] = ()) -> Lease | Reject:
        """Reserve on the best replica, or say why none may take it.

        ``excluding``: replicas that this request has already failed on.
        """
        now = time.monotonic()
        tried = set(excluding)
        snapshots = [
            replica.ledger.snapshot(now_seconds=now)
            for key, replica in self.replicas.items()
            if replica.info.is_routable and not replica.is_suspect and key not in tried
        ]
        verdict = decide(
            profile,
            snapshots,
            watermark_ratio=self.watermark_ratio,
            freed_tokens_per_second=self.freed.per_second(now_seconds=now),
        )
        match verdict:
            case Admit(candidates=candidates):
                choice = choose(profile, candidates, rng=self._rng)
                return Lease(self, self.replicas[choice.replica], profile, choice)
            case Reject():
                return verdict

    def snapshots(self) -> list[tuple[Replica, ReplicaSnapshot]]:
        """All replicas as a decision would see them, for metrics and debugging."""
        now = time.monotonic()
        return [(r, r.ledger.snapshot(now_seconds=now)) for r in self.replicas.values()]


class Pools:
    """All pools, by served model name."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.by_model: dict[str, Pool] = {}
        self._model_of: dict[str, str] = {}

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
        else:
            replica.info = info
        return replica

    def remove_replica(self, key: str) -> Replica | None:
        """A replica is gone. Leases on it stay valid until they are released."""
        model = self._model_of.pop(key, None)
        if model is None:
            return None
        pool = self.by_model[model]
        replica = pool.replicas.pop(key, None)
        self._drop_if_unused(pool)
        return replica

    def configure(self, settings_by_model: Mapping[str, PoolSettings]) -> None:
        """The models that ModelDeployments ask for, with their settings."""
        for model, settings in settings_by_model.items():
            self._pool(model).settings = settings
        for pool in list(self.by_model.values()):
            if pool.model not in settings_by_model:
                pool.settings = None
                self._drop_if_unused(pool)

    def apply_reading(self, replica: Replica, reading: ReplicaReading) -> None:
        """A replica was read: it is alive."""
        replica.ledger.apply_reading(reading)
        replica.trust()

    def _pool(self, model: str) -> Pool:
        if model not in self.by_model:
            self.by_model[model] = Pool(model, self._rng)
        return self.by_model[model]

    def _drop_if_unused(self, pool: Pool) -> None:
        if not pool.replicas and pool.settings is None:
            self.by_model.pop(pool.model, None)
