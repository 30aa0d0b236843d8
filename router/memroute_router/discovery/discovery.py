"""Which replicas and models there are: watched at the API server, never asked per request.

What an object means is ``beliefs``'s; here the objects come in. Nothing ends a watch but
cancellation: one that a bug ends is begun again, with a full list.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from memroute_kube import (
    MODEL_DEPLOYMENTS,
    PODS,
    KubeObject,
    KubernetesClient,
    Resource,
    watch_forever,
)
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_router.discovery.beliefs import Beliefs
from memroute_router.discovery.doubts import Doubts
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica

LOGGER = logging.getLogger(__name__)
# Before a watch that a bug has ended is begun again, in seconds: chosen by hand. What it does
# again is a full list, and a bug that comes back at once must not keep the API server busy.
RESTART_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """One kind of object: where it is listed, and who is told of it."""

    resource: Resource
    label_selector: str | None = None
    on_seen: Callable[[str, KubeObject], None]
    on_gone: Callable[[str], None]
    on_listed: Callable[[], None]
    known: Callable[[], set[str]]
    """The keys of those that were seen and are not gone."""


class Discovery:
    """Keeps the pools' membership and settings true."""

    def __init__(
        self,
        client: KubernetesClient,
        pools: Pools,
        *,
        namespaces: Sequence[str] = (),
        on_upsert: Callable[[Replica], None],
        on_gone: Callable[[Replica], None],
        doubts: Doubts | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``namespaces``: those whose replicas are served; none for all.

        ``on_upsert`` and ``on_gone`` are told of every replica that changes or ends.

        ``doubts``: told of what is not gone by. ``sleep``: time, for whoever has another.
        """
        self._client = client
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._not_listed = {
            (resource.plural, namespace)
            for resource in (PODS, MODEL_DEPLOYMENTS)
            for namespace in self._namespaces
        }
        self._sleep = sleep
        self._beliefs = Beliefs(
            pools, on_upsert=on_upsert, on_gone=on_gone, doubts=doubts or Doubts()
        )
        self.has_pods = False
        self.has_deployments = False

    @property
    def is_synced(self) -> bool:
        """Whether the first lists are complete: before that "unknown model" would be a lie."""
        return self.has_pods and self.has_deployments

    async def follow(self) -> None:
        """Follow pods and ModelDeployments until cancelled."""
        beliefs = self._beliefs
        pods = _Kind(
            resource=PODS,
            label_selector=LABEL_DEPLOYMENT,
            on_seen=beliefs.pod_seen,
            on_gone=beliefs.pod_gone,
            on_listed=self._pods_listed,
            known=beliefs.pods,
        )
        deployments = _Kind(
            resource=MODEL_DEPLOYMENTS,
            on_seen=beliefs.deployment_seen,
            on_gone=beliefs.deployment_gone,
            on_listed=self._deployments_listed,
            known=beliefs.deployments,
        )
        async with asyncio.TaskGroup() as group:
            for namespace in self._namespaces:
                for kind in (pods, deployments):
                    group.create_task(
                        self._follow_forever(kind, namespace), name=kind.resource.plural
                    )

    def _listed(self, kind: _Kind, namespace: str | None) -> None:
        """A namespace is complete. What waits for all of them is told when the last one is."""
        self._not_listed.discard((kind.resource.plural, namespace))
        if all(plural != kind.resource.plural for plural, _ in self._not_listed):
            kind.on_listed()

    def _pods_listed(self) -> None:
        self.has_pods = True

    def _deployments_listed(self) -> None:
        self._beliefs.deployments_listed()
        self.has_deployments = True

    async def _follow_forever(self, kind: _Kind, namespace: str | None) -> None:
        while True:
            try:
                await self._follow(kind, namespace)
            except Exception:  # a named boundary: a watch is begun again
                LOGGER.exception(
                    "watch ended resource=%s retry_seconds=%.0f",
                    kind.resource.plural,
                    RESTART_SECONDS,
                )
            await self._sleep(RESTART_SECONDS)

    async def _follow(self, kind: _Kind, namespace: str | None) -> None:
        """One watch. A new one does not know what an earlier one has shown: the list does."""
        listed: set[str] | None = set()
        async for event in watch_forever(
            self._client,
            kind.resource,
            namespace,
            label_selector=kind.label_selector,
            keeps_objects=False,
        ):
            if event.type == "SYNCED" or event.object is None:
                if listed is not None:
                    for key in kind.known() - listed:
                        if namespace is None or key.startswith(f"{namespace}/"):
                            kind.on_gone(key)
                    listed = None
                self._listed(kind, namespace)
            elif event.type == "DELETE":
                kind.on_gone(event.key)
            else:
                if listed is not None:
                    listed.add(event.key)
                kind.on_seen(event.key, event.object)
