"""Writes a status when it has changed, and an Event when ``Ready`` has. Owns when it last wrote."""

import logging
import time
from datetime import UTC, datetime
from typing import Any

from memroute_kube import EVENTS, MODEL_DEPLOYMENTS, ApiError, KubernetesClient
from memroute_kube.client import NOT_FOUND
from memroute_operator.deployment import Deployment
from memroute_operator.store import Store

LOGGER = logging.getLogger(__name__)
PRESSURE_SECONDS = 15.0
# Status is not telemetry: the pressure's word, or a time in a message, is written no more often
# than this where nothing else has changed.
MEASURED_CONDITIONS = frozenset({"TargetsMet"})
# Their messages have a learned time in them, which moves by itself.
EXPECTED_REASONS = frozenset({"ReplicasNotServing", "Placing", "RolloutInProgress"})
# Not ready because something is under way: nothing to warn of.
MAX_EVENT_MESSAGE = 1024
# What the API server takes at the most.


class StatusWriter:
    """The status subresource and the Events of ModelDeployments."""

    def __init__(self, client: KubernetesClient, store: Store) -> None:
        self._client = client
        self._store = store
        self._written_at: dict[str, float] = {}

    async def write(self, deployment: Deployment, status: dict[str, Any]) -> None:
        """Write ``status`` if it differs from what is there. Raises ``ApiError``."""
        before = deployment.obj.get("status") or {}
        after = {key: value for key, value in status.items() if value is not None}
        if before == after or self._is_too_soon(deployment, before, after):
            return
        try:
            patched = await self._client.patch(
                MODEL_DEPLOYMENTS,
                deployment.namespace,
                deployment.name,
                {"status": status},
                sub="status",
            )
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            self._written_at.pop(deployment.uid, None)  # it was deleted meanwhile
            return
        self._store.model_deployments.upsert(patched)
        self._written_at[deployment.uid] = time.monotonic()
        await self._tell(deployment, before, status)

    def _is_too_soon(
        self, deployment: Deployment, before: dict[str, Any], after: dict[str, Any]
    ) -> bool:
        """Whether only what is measured has moved, and it was written a moment ago."""
        if _lasting(before) != _lasting(after):
            return False
        written_at = self._written_at.get(deployment.uid)
        return written_at is not None and time.monotonic() - written_at < PRESSURE_SECONDS

    async def _tell(
        self, deployment: Deployment, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        """An Event when Ready flips or its reason changes."""
        was = next((c for c in before.get("conditions") or () if c["type"] == "Ready"), None)
        ready = next(c for c in after["conditions"] if c["type"] == "Ready")
        if was is not None and (was["status"], was["reason"]) == (ready["status"], ready["reason"]):
            return
        is_normal = ready["status"] == "True" or ready["reason"] in EXPECTED_REASONS
        now = datetime.now(UTC)
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{deployment.name}.{int(now.timestamp() * 1e6):x}",
                "namespace": deployment.namespace,
            },
            "involvedObject": {
                "apiVersion": MODEL_DEPLOYMENTS.api_version,
                "kind": MODEL_DEPLOYMENTS.kind,
                "namespace": deployment.namespace,
                "name": deployment.name,
                "uid": deployment.uid,
            },
            "type": "Normal" if is_normal else "Warning",
            "reason": ready["reason"],
            "message": ready["message"][:MAX_EVENT_MESSAGE],
            "source": {"component": "memroute-operator"},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            await self._client.create(EVENTS, deployment.namespace, event)
        except ApiError as error:
            LOGGER.warning("event not written deployment=%s error=%s", deployment.key, error)


def _lasting(status: dict[str, Any]) -> dict[str, Any]:
    """The status without what moves by itself."""
    conditions = [
        {**condition, "message": ""} if condition["type"] in MEASURED_CONDITIONS else condition
        for condition in status.get("conditions") or ()
    ]
    return status | {"kvPressure": "", "conditions": conditions}
