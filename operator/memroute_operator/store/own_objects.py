"""ConfigMaps of the operator's own: what it knows outlives it there."""

from collections.abc import Mapping
from typing import Any

from memroute_kube import CONFIG_MAPS, ApiError, KubeObject, KubernetesClient
from memroute_kube.client import NOT_FOUND


async def read_config_map(client: KubernetesClient, namespace: str, name: str) -> KubeObject:
    """The ConfigMap; empty where there is none. Raises ``ApiError``."""
    try:
        return await client.get(CONFIG_MAPS, namespace, name)
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        return {}


async def patch_config_map(
    client: KubernetesClient, namespace: str, name: str, content: Mapping[str, Mapping[str, Any]]
) -> None:
    """Merge ``data`` or ``binaryData`` into the ConfigMap, which is made where there is none.

    An entry that is None is to go. Raises ``ApiError``.
    """
    try:
        await client.patch(CONFIG_MAPS, namespace, name, {k: dict(v) for k, v in content.items()})
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        kept = {
            kind: {key: text for key, text in entries.items() if text is not None}
            for kind, entries in content.items()
        }
        obj = {
            "apiVersion": CONFIG_MAPS.api_version,
            "kind": CONFIG_MAPS.kind,
            "metadata": {"name": name, "namespace": namespace},
        }
        await client.create(CONFIG_MAPS, namespace, obj | kept)
