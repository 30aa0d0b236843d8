"""List, then watch, for ever: the informer loop, as one async generator.

Every event is level-triggered: a consumer that only keeps the newest object per key and
recomputes is right. After a lost or expired watch the list is taken again and objects that
went away meanwhile are reported as deleted, so nothing is ever missed, only late.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from memroute_kube.client import GONE, ApiError, KubernetesClient
from memroute_kube.resources import KubeObject, Resource, object_key

LOGGER = logging.getLogger(__name__)
MAX_BACKOFF_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One change, or the mark that a whole list has been delivered."""

    type: Literal["UPSERT", "DELETE", "SYNCED"]
    key: str = ""
    object: KubeObject | None = None
    """The newest object; on DELETE the last one known; None on SYNCED."""


async def watch_forever(
    client: KubernetesClient,
    resource: Resource,
    namespace: str | None = None,
    *,
    label_selector: str | None = None,
) -> AsyncIterator[WatchEvent]:
    """Changes of all matching objects, from the first list on, until cancelled.

    ``SYNCED`` follows each full list: before the first one the picture is incomplete.
    """
    known: dict[str, KubeObject] = {}
    backoff_seconds = 0.1
    while True:
        try:
            items, version = await client.list(resource, namespace, label_selector=label_selector)
            listed = {object_key(item): item for item in items}
            for key in [key for key in known if key not in listed]:
                yield WatchEvent(type="DELETE", key=key, object=known.pop(key))
            for key, item in listed.items():
                known[key] = item
                yield WatchEvent(type="UPSERT", key=key, object=item)
            yield WatchEvent(type="SYNCED")
            backoff_seconds = 0.1
            while True:
                async for event in client.watch(
                    resource, namespace, resource_version=version, label_selector=label_selector
                ):
                    item = event["object"]
                    version = item["metadata"]["resourceVersion"]
                    if event["type"] == "BOOKMARK":
                        continue
                    key = object_key(item)
                    if event["type"] == "DELETED":
                        known.pop(key, None)
                        yield WatchEvent(type="DELETE", key=key, object=item)
                    else:
                        known[key] = item
                        yield WatchEvent(type="UPSERT", key=key, object=item)
        except ApiError as error:
            if error.status != GONE:  # that only means that the version expired: list again
                LOGGER.warning(
                    "watch lost resource=%s error=%s retry_seconds=%.1f",
                    resource.plural,
                    error,
                    backoff_seconds,
                )
            await asyncio.sleep(backoff_seconds)
            backoff_seconds = min(MAX_BACKOFF_SECONDS, backoff_seconds * 2)
