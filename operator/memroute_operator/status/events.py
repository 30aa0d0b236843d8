"""Events on ModelDeployments: what happened, once each, for ``kubectl describe``."""

import logging
from datetime import UTC, datetime

from memroute_kube import EVENTS, MODEL_DEPLOYMENTS, ApiError, KubernetesClient
from memroute_operator.spec.deployment import Deployment

LOGGER = logging.getLogger(__name__)
# What the API server takes at the most, in characters.
MAX_EVENT_MESSAGE = 1024
COMPONENT = "memroute-operator"


class EventWriter:
    """Writes Events. One that cannot be written is logged and forgotten: nothing depends on it."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def write(
        self, deployment: Deployment, *, reason: str, message: str, is_normal: bool = False
    ) -> None:
        """An Event on the deployment. ``reason``: one word, as conditions have."""
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
            "reason": reason,
            "message": message[:MAX_EVENT_MESSAGE],
            "source": {"component": COMPONENT},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            await self._client.create(EVENTS, deployment.namespace, event)
        except ApiError as error:
            LOGGER.warning("event not written deployment=%s error=%s", deployment.key, error)
