"""List, then watch, for ever: the informer loop, as one async generator.

Every event is level-triggered: a consumer that only keeps the newest object per key and
recomputes is right. A watch that ends is opened again where it ended; after an expired one the
list is taken again and objects that went away meanwhile are reported as deleted. So nothing is
ever missed, only late.

```text
            ┌── 410 Gone, or the list failed ──┐
list ──► SYNCED ──► watch ── ended, cut off ──► wait ──► watch, from the last version seen
```
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from memroute_kube.client import GONE, ApiError, KubernetesClient
from memroute_kube.resources import KubeObject, Resource, object_key
from memroute_kube.shapes import mapping

LOGGER = logging.getLogger(__name__)
# The wait after the first failure and at the most, in seconds: an API server that restarts is
# back within some ten seconds, and thousands of clients wait for it.
MIN_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 5.0
# A watch that ended sooner than this, in seconds, was no success: client-go's reflector calls
# a watch shorter than 1 s "very short" and backs off as well.
SHORT_WATCH_SECONDS = 1.0
# After these a watch goes on where it ended (no connection, too many requests); after any other
# error the list is taken again, as client-go does.
STILL_WATCHABLE = frozenset({0, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One change, or the mark that a whole list has been delivered."""

    type: Literal["UPSERT", "DELETE", "SYNCED"]
    key: str = ""
    object: KubeObject | None = None
    """The newest object; on DELETE the last one known; None on SYNCED."""
    is_listed: bool = False
    """Whether it is part of a list: ``SYNCED`` follows without a wait."""


class _Pause:
    """How long to wait before the next try: doubled by each failure, up to a half shortened."""

    def __init__(self, random_: Callable[[], float]) -> None:
        self._seconds = MIN_BACKOFF_SECONDS
        self._random = random_

    def reset(self) -> None:
        self._seconds = MIN_BACKOFF_SECONDS

    def next_seconds(self, retry_after_seconds: float | None) -> float:
        jittered = self._seconds * (0.5 + self._random() / 2)
        self._seconds = min(MAX_BACKOFF_SECONDS, self._seconds * 2)
        return max(jittered, retry_after_seconds or 0.0)


async def watch_forever(
    client: KubernetesClient,
    resource: Resource,
    namespace: str | None = None,
    *,
    label_selector: str | None = None,
    keeps_objects: bool = True,
    on_failure: Callable[[ApiError], None] | None = None,
    random_: Callable[[], float] = random.random,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[WatchEvent]:
    """Changes of all matching objects, from the first list on, until cancelled.

    ``SYNCED`` follows each full list: before the first one the picture is incomplete.
    ``keeps_objects``: False where nobody looks at the objects of deletions that a list has shown:
    they then say only who they were. Anybody may write large objects, and each one is kept.
    ``on_failure``: told of each failure, which is logged here without it.
    ``random_`` and ``sleep``: chance and time, for whoever has others.
    """
    informer = _Informer(
        client, resource, namespace, label_selector, keep=_whole if keeps_objects else _identity
    )
    pause = _Pause(random_)
    loop = asyncio.get_running_loop()
    while True:
        opened = loop.time()
        error = None
        try:
            if informer.version is None:
                for event in await informer.list():
                    yield event
            async for event in informer.watch():
                yield event
        except ApiError as failed:
            error = failed
            if error.status not in STILL_WATCHABLE:  # 410: the version has expired
                informer.version = None
        if loop.time() - opened >= SHORT_WATCH_SECONDS:
            pause.reset()
            if error is None:
                continue  # the server ends each watch after some minutes
        seconds = pause.next_seconds(None if error is None else error.retry_after_seconds)
        if error is not None and error.status != GONE:
            (on_failure or _say_lost(resource, seconds))(error)
        await sleep(seconds)


def _say_lost(resource: Resource, seconds: float) -> Callable[[ApiError], None]:
    def say(error: ApiError) -> None:
        LOGGER.warning(
            "watch lost resource=%s error=%s retry_seconds=%.1f", resource.plural, error, seconds
        )

    return say


class _Informer:
    """One list and one watch at a time. Owns the objects known and the version seen."""

    def __init__(
        self,
        client: KubernetesClient,
        resource: Resource,
        namespace: str | None,
        label_selector: str | None,
        keep: Callable[[KubeObject], KubeObject],
    ) -> None:
        """``keep``: what is remembered of an object, for when it is gone."""
        self._keep = keep
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._label_selector = label_selector
        self._known: dict[str, KubeObject] = {}
        self.version: str | None = None
        """Where to watch from; None when a list has to be taken first."""

    async def list(self) -> Sequence[WatchEvent]:
        """A full list, as events: what is gone, what is there, and that this is all."""
        items, version = await self._client.list(
            self._resource, self._namespace, label_selector=self._label_selector
        )
        listed = dict(_keyed(items, self._resource))
        gone = {key: obj for key, obj in self._known.items() if key not in listed}
        self._known = {key: self._keep(obj) for key, obj in listed.items()}
        self.version = version
        return [
            *(
                WatchEvent(type="DELETE", key=key, object=obj, is_listed=True)
                for key, obj in gone.items()
            ),
            *(
                WatchEvent(type="UPSERT", key=key, object=obj, is_listed=True)
                for key, obj in listed.items()
            ),
            WatchEvent(type="SYNCED"),
        ]

    async def watch(self) -> AsyncIterator[WatchEvent]:
        """What changes, until the stream ends."""
        async for event in self._client.watch(
            self._resource,
            self._namespace,
            resource_version=self.version or "",
            label_selector=self._label_selector,
        ):
            item = event["object"]
            version = mapping(mapping(item).get("metadata")).get("resourceVersion")
            if isinstance(version, str):
                self.version = version
            if event["type"] == "BOOKMARK":
                continue
            for key, obj in _keyed([item], self._resource):
                if event["type"] == "DELETED":
                    self._known.pop(key, None)
                    yield WatchEvent(type="DELETE", key=key, object=obj)
                else:
                    self._known[key] = self._keep(obj)
                    yield WatchEvent(type="UPSERT", key=key, object=obj)


def _whole(obj: KubeObject) -> KubeObject:
    return obj


def _identity(obj: KubeObject) -> KubeObject:
    """Who an object is."""
    metadata = mapping(obj.get("metadata"))
    names = ("namespace", "name", "uid", "resourceVersion")
    return {"metadata": {name: metadata[name] for name in names if name in metadata}}


def _keyed(items: Iterable[KubeObject], resource: Resource) -> Iterator[tuple[str, KubeObject]]:
    """Objects with their keys; one that has no name is left out, and said."""
    for item in items:
        try:
            key = object_key(item)
        except (KeyError, TypeError, AttributeError):
            LOGGER.warning("object without a name left out resource=%s", resource.plural)
            continue
        yield key, item
