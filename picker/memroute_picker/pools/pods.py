"""Keeps the pods of one InferencePool as replicas: watched at the API server, never asked for."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from memroute_kube import PODS, ApiError, KubeObject, KubernetesClient, watch_forever
from memroute_kube.resources import LABEL_DEPLOYMENT, object_key
from memroute_kube.shapes import OddObjectError, mapping
from memroute_picker.pools.book import labelled_as
from memroute_picker.pools.objects import PoolFacts, endpoints_of_pod
from memroute_router.replicas.pool_settings import PoolSettings
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica

LOGGER = logging.getLogger(__name__)
# Before a watch that a bug has ended is begun again. Unit: seconds. Source: chosen by hand.
RESTART_SECONDS: Final = 1.0
# By which the API server says that it will not list them, whenever it is asked: the selector is
# none, the account may not, the namespace is going. Source: the Kubernetes API.
_REFUSALS: Final = frozenset({400, 403, 404, 422})


class PoolPods:
    """The pods of one pool. Owns which there are, and the watch of them."""

    def __init__(
        self,
        client: KubernetesClient,
        pools: Pools,
        key: str,
        model: str,
        *,
        is_alone: bool,
        leaves_replicas: bool,
        on_upsert: Callable[[Replica], None],
        on_gone: Callable[[Replica], None],
    ) -> None:
        """``key``: ``namespace/name`` of the pool. ``model``: by which ``pools`` know it.

        ``is_alone``: whether no other pool is followed: one pod may be in several.
        ``leaves_replicas``: whether pods of ModelDeployments are somebody else's to follow.
        """
        self._client = client
        self._pools = pools
        self._namespace, _, self._name = key.partition("/")
        self._model = model
        self._is_alone = is_alone
        self._leaves_replicas = leaves_replicas
        self._on_upsert, self._on_gone = on_upsert, on_gone
        self._facts: PoolFacts | None = None
        self._watch: asyncio.Task[None] | None = None
        self._keys: dict[str, set[str]] = {}
        """The replicas of each pod."""
        self._is_known = False
        """Whether its pods were listed once, or may not be."""
        self._refused: int | None = None
        """The status by which the API server says that they may not be; None: it does not."""
        self._left: set[str] = set()
        """Pods that were said to be left to others."""
        settings = PoolSettings(namespace=self._namespace, deployment=labelled_as(self._name))
        pools.configure_model(model, settings)

    @property
    def is_synced(self) -> bool:
        """Whether the first list is complete; a pool that is not there has no pods.

        Nor has one whose pods the API server does not list: it may be asked in a way that it does
        not take, by whoever wrote the pool.
        """
        return self._facts is None or self._is_known

    def follow(self, facts: PoolFacts | None) -> None:
        """Follow the pods of this selector: others are gone. None: all are."""
        if facts == self._facts:
            return
        LOGGER.info("pool=%s/%s facts=%s", self._namespace, self._name, facts)
        self._facts, self._refused = facts, None
        self._left.clear()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if facts is None:
            self._leave(set(self._keys))
        else:
            self._watch = asyncio.create_task(self._watch_forever(facts), name="pods")

    def end(self) -> None:
        """The pool is gone: nobody is served by it any more."""
        self.follow(None)
        self._pools.configure_model(self._model, None)

    async def _watch_forever(self, facts: PoolFacts) -> None:
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
            on_failure=self._failed,
        ):
            if event.type == "SYNCED" or event.object is None:
                if listed is not None:
                    self._leave(set(self._keys) - listed)
                    listed = None
                self._is_known, self._refused = True, None
            elif event.type == "DELETE":
                self._leave({event.key})
                self._left.discard(event.key)
            else:
                if listed is not None:
                    listed.add(event.key)
                self.pod_seen(event.object, facts)

    def _failed(self, error: ApiError) -> None:
        """Say it, what stays so once. Nothing is known before a list, unless there will be none."""
        if error.status not in _REFUSALS:
            LOGGER.warning("pods not read pool=%s/%s error=%s", self._namespace, self._name, error)
        elif error.status != self._refused:
            self._is_known, self._refused = True, error.status
            LOGGER.warning(
                "pods not read, tried again pool=%s/%s error=%s",
                self._namespace, self._name, error,
            )  # fmt: skip

    def pod_seen(self, pod: KubeObject, facts: PoolFacts) -> None:
        """A pod is there, or has changed."""
        key = object_key(pod)
        if self._leaves_replicas and self._is_replica(key, pod):
            self._leave({key})
            return
        try:
            infos = endpoints_of_pod(
                pod, facts, self._name, model=self._model, is_alone=self._is_alone
            )
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

    def _is_replica(self, key: str, pod: KubeObject) -> bool:
        """Whether a ModelDeployment's pool serves it already: two ledgers would count it half."""
        labels = mapping(mapping(pod.get("metadata")).get("labels"))
        if LABEL_DEPLOYMENT not in labels:
            return False
        if key not in self._left:
            self._left.add(key)
            LOGGER.warning(
                "pod left out of pool=%s/%s pod=%s: it is a replica of a ModelDeployment, which "
                "has its own pool (spec.routing.gateway)",
                self._namespace, self._name, key,
            )  # fmt: skip
        return True

    def _leave(self, pods: set[str]) -> None:
        for pod in pods:
            for key in self._keys.pop(pod, set()):
                self._remove(key)

    def _remove(self, key: str) -> None:
        replica = self._pools.remove_replica(key)
        if replica is not None:
            self._on_gone(replica)
