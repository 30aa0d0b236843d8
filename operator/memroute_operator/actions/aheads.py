"""Pods that go ahead of a rollout: made and deleted. Every answer goes into the store."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from memroute_kube import PODS, ApiError, KubeObject, KubernetesClient
from memroute_kube.client import CONFLICT, NOT_FOUND
from memroute_kube.shapes import listed, mapping
from memroute_operator.actions.deleting import delete_pod
from memroute_operator.ahead.facts import ANNOTATION_AHEAD
from memroute_operator.ahead.pod import nominal
from memroute_operator.plan import EndFetch, FetchAhead
from memroute_operator.pod.templates import Templates
from memroute_operator.replicas.pods import is_controlled
from memroute_operator.store.store import Store
from memroute_operator.weights.pod import with_live_pods

LOGGER = logging.getLogger(__name__)


class AheadApplier:
    """Carries out one action at a time for whoever asks."""

    def __init__(
        self,
        client: KubernetesClient,
        store: Store,
        templates: Templates,
        take: Callable[[KubeObject], None],
    ) -> None:
        """``take``: counts an answer before its event comes."""
        self._client = client
        self._store = store
        self._templates = templates
        self._take = take

    async def apply(self, action: FetchAhead | EndFetch) -> bool:
        """Carry out one action; False when the cluster has moved on. Raises ``ApiError``."""
        if isinstance(action, FetchAhead):
            return await self._begin(action)
        try:
            await self._end(action)
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise
            if error.status == NOT_FOUND:
                self._store.pods.forget(action.ahead.key, action.ahead.uid)
            return False
        return True

    async def _begin(self, action: FetchAhead) -> bool:
        deployment, node = action.deployment, action.node
        pod = with_live_pods(
            self._templates.ahead(deployment, action.goal, nominal(deployment, node)),
            self._store.pods.values(),
            datetime.now(UTC).timestamp(),
        )
        try:
            created = await self._client.create(PODS, deployment.namespace, pod)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            await self._take_holder(pod, action.pod_key)
            return False
        self._take(created)
        LOGGER.info("fetching ahead pod=%s for=%s", action.pod_key, action.replica.key)
        return True

    async def _take_holder(self, wanted: KubeObject, key: str) -> None:
        """The pod that has its name, when it is the one that is wanted: its event is on its way.

        Raises ``ApiError`` (409) for any other: nobody waits for somebody else's pod. It is looked
        for in a list, because the operator may list pods, and get none. Where it has gone
        meanwhile, the next step makes it.
        """
        metadata = wanted["metadata"]
        query = {"fieldSelector": f"metadata.name={metadata['name']}"}
        answer = await self._client.request("GET", PODS.path(metadata["namespace"]), query=query)
        for holder in listed(answer.get("items")):
            if not is_controlled(holder) or _purpose(holder) != _purpose(wanted):
                message = f"pods {key!r} is not memroute's, or goes ahead of something else"
                raise ApiError(CONFLICT, "AlreadyExists", message)
            self._take(holder)

    async def _end(self, action: EndFetch) -> None:
        ahead = action.ahead
        await delete_pod(
            self._client, self._store, ahead,
            force=action.force, only_as_seen=action.only_as_seen, take=self._take,
        )  # fmt: skip
        LOGGER.info("fetching ahead ended pod=%s why=%r", ahead.key, action.why)


def _purpose(pod: KubeObject) -> object:
    """What a pod goes ahead for; None where it says nothing of it."""
    return mapping(mapping(pod.get("metadata")).get("annotations")).get(ANNOTATION_AHEAD)
