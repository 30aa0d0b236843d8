"""Full lists into the store: at the start, and again in a while for what events have lost."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from memroute_kube import MODEL_DEPLOYMENTS, NODES, PODS, ApiError, KubeObject, KubernetesClient
from memroute_kube.client import GONE
from memroute_operator.loop_lag import Turns
from memroute_operator.store.store import Listing, Store

LOGGER = logging.getLogger(__name__)
# How often a list begins anew whose pages expired half-way (410): etcd keeps five minutes.
MAX_EXPIRED = 3
# Waits of the first list, in seconds; the last one again and again.
FIRST_WAITS_SECONDS = (0.5, 1.0, 2.0, 5.0, 5.0, 10.0)
# Lists out of turn (a pod whose creation had no answer) are at least this far apart, in seconds.
MIN_APART_SECONDS = 2.0


class Lister:
    """Takes full lists, a page at a time. Owns when the next one is due out of turn."""

    def __init__(self, client: KubernetesClient, store: Store, clock: Callable[[], float]) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._wanted = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    def want(self) -> None:
        """Take a list soon."""
        self._wanted.set()

    @property
    def is_wanted(self) -> bool:
        """Whether a list is wanted out of turn."""
        return self._wanted.is_set()

    async def wait_due(self, resync_seconds: float) -> None:
        """Wait until the next list is due."""
        try:
            async with asyncio.timeout(resync_seconds):
                await asyncio.sleep(min(MIN_APART_SECONDS, resync_seconds))
                await self._wanted.wait()
        except TimeoutError:
            pass
        self._wanted.clear()

    async def list_all_patiently(self) -> None:
        """Take the first lists, however long the API server needs to come up."""
        failures = 0
        while True:
            try:
                await self.list_all()
            except ApiError as error:
                wait = FIRST_WAITS_SECONDS[min(failures, len(FIRST_WAITS_SECONDS) - 1)]
                wait = max(wait, error.retry_after_seconds or 0.0)
                LOGGER.warning("first list failed error=%s retry_seconds=%.1f", error, wait)
                failures += 1
                await asyncio.sleep(wait)
            else:
                return

    async def list_all(self) -> float:
        """Take full lists: what events were lost is caught up. When they began.

        One after the other: an older list that ends later would bring back what is gone.
        Raises ``ApiError``.
        """
        async with self._one_at_a_time:
            return await self._list_all()

    async def _list_all(self) -> float:
        self._wanted.clear()
        began = self._clock()
        changed = False
        for resource, collection in (
            (NODES, self._store.nodes),
            (PODS, self._store.pods),
            (MODEL_DEPLOYMENTS, self._store.model_deployments),
        ):
            for attempt in range(MAX_EXPIRED):
                listing: Listing | None = None
                try:
                    async for items, version in self._client.list_pages(resource):
                        if listing is None:
                            listing = Listing(collection, _version(version))
                        await _take(listing, items)
                except ApiError as error:
                    if error.status != GONE or attempt == MAX_EXPIRED - 1:
                        raise
                    continue
                if listing is not None:
                    changed |= listing.end()
                break
        if changed:
            self._store.mark_dirty()
        return began


async def _take(listing: Listing, items: Sequence[KubeObject]) -> None:
    """A page into the list; others have their turn in between."""
    turns = Turns()
    for obj in items:
        await turns.give()
        listing.take((obj,))


def _version(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ApiError(0, "BadAnswer", f"a list of version {text!r}") from error
