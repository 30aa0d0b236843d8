"""Objects of one kind, followed for as long as it takes: they may not be allowed, or not known.

| what the API server says | then |
| --- | --- |
| a list | ``objects``, and ``is_listed`` |
| 404: the kind is not installed | no objects, ``is_missing``; tried again until it is there |
| 403: not allowed, or anything else before the first list | no objects, ``trouble`` says it |
| no answer, after a first list | what was known stays, as with every watch |
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from memroute_kube.client import NOT_FOUND, ApiError, KubernetesClient
from memroute_kube.errors import FORBIDDEN
from memroute_kube.resources import KubeObject, Resource
from memroute_kube.watch import watch_forever

LOGGER = logging.getLogger(__name__)
# Before a watch that a bug has ended is begun again. Unit: seconds. Source: chosen by hand.
RESTART_SECONDS = 1.0


class Followed:
    """The newest objects of one kind. Owns the watches, one for each namespace."""

    def __init__(
        self,
        client: KubernetesClient,
        resource: Resource,
        namespaces: Sequence[str] = (),
        *,
        label_selector: str | None = None,
        on_change: Callable[[], None],
    ) -> None:
        """``namespaces``: none for all. ``on_change``: objects, or what is known of them."""
        self._client = client
        self.resource = resource
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._label_selector = label_selector
        self._on_change = on_change
        self._objects: dict[str, KubeObject] = {}
        self._listed: set[str | None] = set()
        self._troubles: dict[str | None, ApiError] = {}

    @property
    def objects(self) -> Mapping[str, KubeObject]:
        """By ``namespace/name``."""
        return self._objects

    @property
    def is_listed(self) -> bool:
        """Whether they are all known: nothing may be concluded from what is not there before."""
        return self._listed == set(self._namespaces)

    @property
    def is_missing(self) -> bool:
        """Whether the API server does not know this kind."""
        return any(error.status == NOT_FOUND for error in self._troubles.values())

    @property
    def trouble(self) -> str | None:
        """Why they are not known, as a sentence; None while there is no reason."""
        error = next(iter(self._troubles.values()), None)
        return None if error is None else error.message

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            for namespace in self._namespaces:
                group.create_task(self._forever(namespace), name=self.resource.plural)

    async def _forever(self, namespace: str | None) -> None:
        while True:
            try:
                await self._follow(namespace)
            except Exception:  # a named boundary: a watch is begun again
                LOGGER.exception(
                    "watch ended resource=%s retry_seconds=%.0f",
                    self.resource.plural, RESTART_SECONDS,
                )  # fmt: skip
            await asyncio.sleep(RESTART_SECONDS)

    async def _follow(self, namespace: str | None) -> None:
        # A new watch does not know what an earlier one has shown: its list does.
        listed: set[str] | None = set()
        async for event in watch_forever(
            self._client,
            self.resource,
            namespace,
            label_selector=self._label_selector,
            keeps_objects=False,
            on_failure=lambda error: self._failed(namespace, error),
        ):
            if event.type == "SYNCED" or event.object is None:
                if listed is not None:
                    self._keep(namespace, listed)
                    listed = None
                self._succeeded(namespace)
            elif event.type == "DELETE":
                self._objects.pop(event.key, None)
            else:
                if listed is not None:
                    listed.add(event.key)
                self._objects[event.key] = event.object
            if not event.is_listed:
                self._on_change()  # of a list once, when it is there: whoever looks looks at all

    def _keep(self, namespace: str | None, keys: set[str]) -> None:
        """Forget those of a namespace that are not among ``keys``."""
        self._objects = {
            key: obj
            for key, obj in self._objects.items()
            if key in keys or not (namespace is None or key.startswith(f"{namespace}/"))
        }

    def _succeeded(self, namespace: str | None) -> None:
        if self._troubles.pop(namespace, None) is not None:
            LOGGER.info("resource=%s namespace=%s is listed", self.resource.plural, namespace)
        self._listed.add(namespace)

    def _failed(self, namespace: str | None, error: ApiError) -> None:
        """Say it once. What may not be read any more, or is no kind any more, is not known."""
        before = self._troubles.get(namespace)
        is_lost = error.status in (NOT_FOUND, FORBIDDEN)
        if namespace in self._listed and not is_lost:
            LOGGER.warning("watch lost resource=%s error=%s", self.resource.plural, error)
            return
        self._troubles[namespace] = error
        if before is None or before.status != error.status:
            is_missing = error.status == NOT_FOUND
            LOGGER.log(
                logging.INFO if is_missing else logging.WARNING,
                "not listed, tried again resource=%s group=%s namespace=%s why=%s",
                self.resource.plural, self.resource.group, namespace,
                "the kind is not installed" if is_missing else error,
            )  # fmt: skip
            self._listed.discard(namespace)
            self._keep(namespace, set())
            self._on_change()
