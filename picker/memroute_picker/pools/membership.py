"""Follows InferencePools: those that were named, or all that ask for memroute's picker.

What the API server does not know, or does not let this account read, is told once, and looked for
again: ModelDeployments are served all the same.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from memroute_kube import KubeObject, KubernetesClient
from memroute_kube.following import Followed
from memroute_kube.gateway import (
    INFERENCE_OBJECTIVES,
    INFERENCE_POOLS,
    asks_for_picker,
    deployment_of_pool,
    picker_service_of,
)
from memroute_kube.shapes import OddObjectError
from memroute_picker.pools.book import PoolBook, PoolTarget, kept_as
from memroute_picker.pools.objectives import Objectives
from memroute_picker.pools.objects import PoolFacts, read_pool
from memroute_picker.pools.pods import PoolPods
from memroute_router.discovery.membership import Membership
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica

LOGGER = logging.getLogger(__name__)


class PoolMembership:
    """A ``Membership``. Owns which pools are followed."""

    def __init__(
        self,
        client: KubernetesClient,
        pools: Pools,
        *,
        named: Sequence[tuple[str, str]] = (),
        namespaces: Sequence[str] = (),
        fleet: Membership | None = None,
        book: PoolBook,
        objectives: Objectives,
        on_upsert: Callable[[Replica], None],
        on_gone: Callable[[Replica], None],
    ) -> None:
        """``named``: namespace and name of the pools; none: all that ask for it.

        ``namespaces``: where those are looked for; none for all. ``fleet``: follows
        ModelDeployments beside; None: there are none. ``book`` and ``objectives`` are kept true.
        """
        self._client = client
        self._pools = pools
        self._named: Final = frozenset(f"{namespace}/{name}" for namespace, name in named)
        self._fleet = fleet
        self._book, self._objectives = book, objectives
        self._on_upsert, self._on_gone = on_upsert, on_gone
        self._had_lists = False
        """Whether all lists were complete once."""
        self._by_key: dict[str, PoolPods] = {}
        self._facts: dict[str, PoolFacts] = {}
        where = sorted({namespace for namespace, _ in named}) or namespaces
        self._inference_pools = Followed(
            client, INFERENCE_POOLS, where, on_change=self._pools_changed
        )
        self._kinds_of_objectives = [
            Followed(client, kind, where, on_change=self._objectives_changed)
            for kind in INFERENCE_OBJECTIVES
        ]
        for key in self._named:
            self._pods_of(key)
        if len(self._named) == 1:
            # Whatever a gateway calls the picker: there is no other pool that it could mean.
            pools.default_model = self._model_of(next(iter(self._named)))

    @property
    def is_synced(self) -> bool:
        """Whether the first lists are complete.

        A pool that comes or changes later keeps nobody else waiting: anybody may write one.
        """
        self._had_lists = self._had_lists or self._have_lists()
        return self._had_lists and (self._fleet is None or self._fleet.is_synced)

    def _have_lists(self) -> bool:
        # Pools that cannot be listed are no reason to serve no ModelDeployment.
        is_excused = self._fleet is not None and self._inference_pools.trouble is not None
        return (self._inference_pools.is_listed or is_excused) and all(
            pods.is_synced for pods in self._by_key.values()
        )

    async def follow(self) -> None:
        """Follow pools, their pods and objectives until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for one in (self._inference_pools, *self._kinds_of_objectives):
                    group.create_task(one.run(), name=one.resource.plural)
                if self._fleet is not None:
                    group.create_task(self._fleet.follow(), name="fleet")
        finally:
            for pods in self._by_key.values():
                pods.follow(None)

    def _objectives_changed(self) -> None:
        known: dict[str, KubeObject] = {}
        for kind in reversed(self._kinds_of_objectives):  # the newer group's word counts
            known |= kind.objects
        self._objectives.replace(known)

    def _pools_changed(self) -> None:
        found = self._inference_pools.objects
        targets: list[tuple[tuple[str, str], PoolTarget]] = []
        followed = set()
        for key, pool in found.items():
            target = self._target_of(key, pool)
            if target is None:
                continue
            service = picker_service_of(pool)
            if service is not None:
                targets.append(((service.namespace, service.name), target))
            if target.deployment is None:
                followed.add(key)
        self._book.replace(targets)
        for key in followed | self._by_key.keys():
            pods = self._pods_of(key)
            pods.follow(self._read(key, found[key]) if key in followed else None)
            if key not in followed:
                self._facts.pop(key, None)  # a later one of its name is another pool
                if key not in self._named:
                    pods.end()
                    del self._by_key[key]

    def _target_of(self, key: str, pool: KubeObject) -> PoolTarget | None:
        """What the pool's requests may go to; None: it is none of ours."""
        namespace = key.partition("/")[0]
        if self._named:
            if key not in self._named:
                return None
        elif self._fleet is not None and (name := deployment_of_pool(pool)) is not None:
            return PoolTarget(namespace=namespace, deployment=name)
        elif not asks_for_picker(pool):
            return None
        return PoolTarget(namespace=namespace, model=self._model_of(key))

    def _read(self, key: str, pool: KubeObject) -> PoolFacts | None:
        """What it says; what it said before where it cannot be read."""
        try:
            self._facts[key] = read_pool(pool)
        except OddObjectError as error:
            LOGGER.warning("pool cannot be read pool=%s reason=%s", key, error)
        return self._facts.get(key)

    def _model_of(self, key: str) -> str:
        return key.partition("/")[2] if len(self._named) == 1 else kept_as(key)

    def _pods_of(self, key: str) -> PoolPods:
        pods = self._by_key.get(key)
        if pods is None:
            model = self._model_of(key)
            self._pools.any_name.add(model)
            pods = self._by_key[key] = PoolPods(
                self._client,
                self._pools,
                key,
                model,
                is_alone=len(self._named) == 1,
                leaves_replicas=self._fleet is not None,
                on_upsert=self._on_upsert,
                on_gone=self._on_gone,
            )
        return pods
