"""Actions to API calls. Every answer goes into the store: what was written is counted at once."""

import logging
from datetime import UTC, datetime

from memroute_kube import PODS, ApiError, KubernetesClient
from memroute_kube.client import JSON_PATCH
from memroute_kube.resources import ANNOTATION_DRAINING
from memroute_operator.manifests import replica_pod
from memroute_operator.plan import (
    Action,
    ClaimRoom,
    Create,
    Delete,
    MarkDraining,
    OpenGate,
)
from memroute_operator.promises import encode_claim
from memroute_operator.replica import ANNOTATION_SUCCESSOR
from memroute_operator.settings import OperatorSettings
from memroute_operator.store import Store

LOGGER = logging.getLogger(__name__)


class Applier:
    """Carries out actions, one after the other."""

    def __init__(self, client: KubernetesClient, store: Store, settings: OperatorSettings) -> None:
        self._client = client
        self._store = store
        self._settings = settings

    async def apply(self, action: Action) -> None:
        """Carry out one action. A conflict is not an error: the next step sees why.

        Raises ``ApiError`` when the API server refuses for another reason.
        """
        try:
            match action:
                case Create():
                    await self._create(action)
                case Delete():
                    await self._delete(action)
                case MarkDraining():
                    await self._mark(action)
                case ClaimRoom():
                    await self._claim(action)
                case OpenGate():
                    await self._open_gate(action)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            LOGGER.info("action superseded action=%s error=%s", type(action).__name__, error)
            self._store.mark_dirty()

    async def _create(self, action: Create) -> None:
        pod = replica_pod(
            action.deployment,
            action.placed,
            is_gated=action.is_gated,
            default_image=self._settings.engine_image,
            shared_runtime_class=self._settings.shared_runtime_class,
        )
        created = await self._client.create(PODS, action.deployment.namespace, pod)
        self._store.pods.upsert(created)
        LOGGER.info(
            "replica placed pod=%s/%s node=%s devices=%s hbm_bytes=%d why=%r",
            action.deployment.namespace, action.placed.key.pod_name, action.placed.node,
            ",".join(action.placed.device_uuids) or action.placed.num_devices,
            action.placed.bytes_per_device, action.placed.why,
        )  # fmt: skip

    async def _delete(self, action: Delete) -> None:
        replica = action.replica
        await self._client.delete(
            PODS,
            replica.namespace,
            replica.pod_name,
            grace_period_seconds=0 if action.force else None,
            uid=replica.uid,
        )
        LOGGER.info("replica deleted pod=%s force=%s why=%r", replica.key, action.force, action.why)

    async def _mark(self, action: MarkDraining) -> None:
        replica = action.replica
        since = datetime.now(UTC).isoformat(timespec="milliseconds") if action.draining else None
        patched = await self._client.patch(
            PODS,
            replica.namespace,
            replica.pod_name,
            {"metadata": {"uid": replica.uid, "annotations": {ANNOTATION_DRAINING: since}}},
        )
        self._store.pods.upsert(patched)
        LOGGER.info("replica draining=%s pod=%s", action.draining, replica.key)

    async def _claim(self, action: ClaimRoom) -> None:
        replica = action.replica
        claim = action.placed and encode_claim(action.placed, revision=action.revision)
        patched = await self._client.patch(
            PODS,
            replica.namespace,
            replica.pod_name,
            {"metadata": {"uid": replica.uid, "annotations": {ANNOTATION_SUCCESSOR: claim}}},
        )
        self._store.pods.upsert(patched)
        LOGGER.info("room claimed for the successor pod=%s claim=%s", replica.key, claim)

    async def _open_gate(self, action: OpenGate) -> None:
        replica = action.replica
        patched = await self._client.patch(
            PODS,
            replica.namespace,
            replica.pod_name,
            [
                {"op": "test", "path": "/metadata/uid", "value": replica.uid},
                {"op": "replace", "path": "/spec/schedulingGates", "value": []},
            ],
            content_type=JSON_PATCH,
        )
        self._store.pods.upsert(patched)
        LOGGER.info("replica may start pod=%s", replica.key)
