"""Keeps the pods of one InferencePool as replicas: watched at the API server, never asked for."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from memroute_kube import PODS, KubeObject, KubernetesClient, watch_forever
from memroute_kube.resources import object_key
from memroute_kube.shapes import OddObjectError
from memroute_picker.pools.objects import (
    INFERENCE_POOLS,
    PoolFacts,
    endpoints_of_pod,
    read_pool,
)
from memroute_router.replicas.pools import Pools, PoolSettings, Replica

LOGGER = logging.getLogger(__name__)
# Before a watch that a bug has ended is begun again. Unit: seconds. Source: chosen by hand.
RESTART_SECONDS: Final = 1.0


class PoolMembership:
    """A ``Membership``. Owns which pods are there, and the watch of them."""

    def __init__(
        self,
        client: KubernetesClient,
        pools: Pools,
        namespace: str,
        name: str,
        *,
        on_upsert: Callable[[Replica], None],
        on_gone: Callable[[Replica], None],
    ) -> None:
        self._client = client
        self._pools = pools
        self._namespace, self._name = namespace, name
        self._on_upsert, self._on_gone = on_upsert, on_gone
        self._facts: PoolFacts | None = None
        self._pods: asyncio.Task[None] | None = None
        self._keys: dict[str, set[str]] = {}
        """The replicas of each pod."""
        self._has_pool = False
        self._has_pods = False
        pools.default_model = name
        pools.configure_model(name, PoolSettings(namespace=namespace, deployment=name))

    @property
    def is_synced(self) -> bool:
        """Whether the first lists are complete; a pool that is not there has no pods."""
        return self._has_pool and (self._facts is None or self._has_pods)

    async def follow(self) -> None:
        """Follow the pool and its pods until cancelled."""
        try:
            async for event in watch_forever(
                self._client, INFERENCE_POOLS, self._namespace, keeps_objects=False
            ):
                if event.type == "SYNCED":
                    self._has_pool = True
                elif event.key == f"{self._namespace}/{self._name}":
                    self.pool_seen(None if event.type == "DELETE" else event.object)
        finally:
            self._follow_pods(None)

    def pool_seen(self, obj: KubeObject | None) -> None:
        """The pool is there, or has changed; None: it is gone."""
        facts: PoolFacts | None = None
        if obj is not None:
            try:
                facts = read_pool(obj)
            except OddObjectError as error:
                LOGGER.warning("pool cannot be read pool=%s reason=%s", self._name, error)
                return  # what it said before holds
        if facts == self._facts:
            return
        LOGGER.info("pool=%s facts=%s", self._name, facts)
        self._follow_pods(facts)

    def _follow_pods(self, facts: PoolFacts | None) -> None:
        """Follow the pods of another selector: those that it does not name are gone."""
        self._facts, self._has_pods = facts, False
        if self._pods is not None:
            self._pods.cancel()
            self._pods = None
        if facts is None:
            self._leave(set(self._keys))
        else:
            self._pods = asyncio.create_task(self._watch_pods(facts), name="pods")

    async def _watch_pods(self, facts: PoolFacts) -> None:
        while True:
            try:
                await self._watch_once(facts)
            except Exception:  # a named boundary: a watch is begun again
                LOGGER.exception("watch ended retry_seconds=%.0f", RESTART_SECONDS)
            await asyncio.sleep(RESTART_SECONDS)

    async def _watch_once(self, facts: PoolFacts) -> None:
        listed: set[str] | None = set()
        async for event in watch_forever(
            self._client,
            PODS,
            self._namespace,
            label_selector=facts.selector,
            keeps_objects=False,
        ):
            if event.type == "SYNCED" or event.object is None:
                if listed is not None:
                    self._leave(set(self._keys) - listed)
                    listed = None
                self._has_pods = True
            elif event.type == "DELETE":
                self._leave({event.key})
            else:
                if listed is not None:
                    listed.add(event.key)
                self.pod_seen(event.object, facts)

    def pod_seen(self, pod: KubeObject, facts: PoolFacts) -> None:
        """A pod is there, or has changed."""
        key = object_key(pod)
        try:
            infos = endpoints_of_pod(pod, facts, self._name)
        except OddObjectError as error:
            LOGGER.warning("pod cannot be read pod=%s reason=%s", key, error)
            infos = []
        before = self._keys.get(key, set())
        now = {info.key for info in infos}
        for gone in before - now:
            self._remove(gone)
        for info in infos:
            self._on_upsert(self._pools.upsert_replica(info))
        self._keys[key] = now

    def _leave(self, pods: set[str]) -> None:
        for pod in pods:
            for key in self._keys.pop(pod, set()):
                self._remove(key)

    def _remove(self, key: str) -> None:
        replica = self._pools.remove_replica(key)
        if replica is not None:
            self._on_gone(replica)
