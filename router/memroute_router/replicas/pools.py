"""The pools: one for each served model, and which of them has the name that a client asks for.

``Pools`` owns every pool, and through it every ledger, every replica's health, every queue.
"""

import time
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from random import Random

from memroute.traffic.dispatch import RetryRule
from memroute.traffic.peers import PeerGroup
from memroute.traffic.replica import ReplicaReading
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.pool_settings import CommonSettings, PoolSettings
from memroute_router.replicas.replica import Replica, ReplicaInfo

_Claim = tuple[str, str, str, str]
"""Of a pool on an adapter's name: creation, namespace and name of its ModelDeployment, model."""


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
