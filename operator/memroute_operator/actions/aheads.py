"""Pods that go ahead of a rollout: made and deleted. Every answer goes into the store."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from memroute_kube import PODS, ApiError, KubeObject, KubernetesClient
from memroute_kube.client import CONFLICT, NOT_FOUND
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
            holder = self._store.pods.get(action.pod_key)
            if error.status == CONFLICT and (holder is None or is_controlled(holder)):
                return False  # its event is on its way
            raise
        self._take(created)
        LOGGER.info("fetching ahead pod=%s for=%s", action.pod_key, action.replica.key)
        return True

    async def _end(self, action: EndFetch) -> None:
        ahead = action.ahead
        version = ahead.obj["metadata"]["resourceVersion"] if action.only_as_seen else None
        answer = await self._client.delete(
            PODS,
            ahead.namespace,
            ahead.pod_name,
            grace_period_seconds=0 if action.force else None,
            uid=ahead.uid,
            resource_version=version,
        )
        if answer is None:
            self._store.pods.forget(ahead.key, ahead.uid)
        elif answer.get("kind") == PODS.kind:
            self._take(answer)
        LOGGER.info("fetching ahead ended pod=%s why=%r", ahead.key, action.why)
