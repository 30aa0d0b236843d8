"""Which blocks replicas have cached, as their KV events say (vLLM, SGLang; ZMQ).

```text
/kv_event_sources ── which ranks publish where
connect, then ask for a replay from the first event on ── what the cache holds already
live events, by sequence number ─┬─ the next one: applied
                                 ├─ a gap: replayed from there; not to be had: forget, go on
                                 └─ an older one, told later: the engine is a new one: forget
```

Three frames: topic, sequence (8 bytes, big-endian), a batch. ``event_sources.py`` reads where the
ranks publish, ``block_events.py`` what a batch says.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import zmq
import zmq.asyncio

from memroute.traffic.prefixes import BlockIndex
from memroute_router.http.engine_pool import EnginePool
from memroute_router.http.faults import OnFault, log_fault
from memroute_router.prompts.block_events import apply_events, forget_rank, unpacked
from memroute_router.prompts.event_sources import EventSource, read_sources
from memroute_router.replicas.engine_page import fetch
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica

LOGGER = logging.getLogger(__name__)
SOURCES_TARGET = b"/kv_event_sources"
# Of one event of a replay. Unit: seconds. Source: chosen by hand.
TIMEOUT_SECONDS = 5.0
# Between attempts to learn where a replica publishes; it may be starting. Unit: seconds.
AGAIN_SECONDS = 30.0


class KVEventFollower:
    """Follows the events of all replicas. Owns its sockets and tasks; close it."""

    def __init__(
        self,
        engines: EnginePool,
        pools: Pools,
        *,
        on_gap: Callable[[Replica], None],
        on_fault: OnFault = log_fault,
    ) -> None:
        self._on_fault = on_fault
        self._engines = engines
        self._pools = pools
        self._on_gap = on_gap
        self._context = zmq.asyncio.Context()
        self._tasks: dict[str, tuple[Replica, asyncio.Task[None]]] = {}

    def follow(self, replica: Replica) -> None:
        """Hear a replica's events, once it publishes any."""
        key = replica.info.key
        known = self._tasks.get(key)
        if known is not None and known[0] is replica:
            return
        self.forget(key)
        task = asyncio.create_task(self._follow(replica), name=f"kv-events {key}")
        self._tasks[key] = replica, task

    def forget(self, key: str) -> None:
        """It is gone."""
        known = self._tasks.pop(key, None)
        if known is not None:
            known[1].cancel()

    async def close(self) -> None:
        """Hear nobody any more."""
        tasks = [task for _, task in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    async def _follow(self, replica: Replica) -> None:
        told = ""
        while True:
            try:
                if replica.info.is_routable:
                    body = await fetch(self._engines, replica, SOURCES_TARGET)
                    sources = read_sources(body, replica.info.endpoint.host)
                    if sources:
                        await self._hear(replica, sources)
            except (OSError, ValueError, LookupError, TypeError, zmq.ZMQError) as error:
                if str(error) != told:
                    told = str(error)
                    LOGGER.warning(
                        "KV events cannot be heard, prefixes are guessed replica=%s error=%s",
                        replica.info.key, told,
                    )  # fmt: skip
            except Exception as error:  # noqa: BLE001 - a bug in one replica's events
                self._on_fault("kv-events", error)
            await asyncio.sleep(AGAIN_SECONDS if replica.info.is_routable else TIMEOUT_SECONDS / 5)

    async def _hear(self, replica: Replica, sources: Sequence[EventSource]) -> None:
        """Until the replica goes, or an event cannot be read."""
        pool = self._pools.by_model.get(replica.info.served_model)
        if pool is None:
            return
        index, key = pool.dispatcher.cached.blocks, replica.info.key
        index.follow(key)
        LOGGER.info("hearing KV events replica=%s ranks=%d", key, len(sources))
        try:
            async with asyncio.TaskGroup() as group:
                for source in sources:
                    group.create_task(
                        _RankReader(
                            self._context, source, index, key, lambda: self._on_gap(replica)
                        ).read()
                    )
        except* (ValueError, TypeError, LookupError, zmq.ZMQError) as errors:
            raise ValueError(str(errors.exceptions[0])) from errors
        finally:
            index.forget(key)


class _RankReader:
    """Reads one rank's events in order. Owns its place in their sequence."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        source: EventSource,
        index: BlockIndex,
        replica: str,
        on_gap: Callable[[], None],
    ) -> None:
        self._context = context
        self._source = source
        self._index = index
        self._replica = replica
        self._on_gap = on_gap
        self._last = -1
        self._last_time = 0.0

    async def read(self) -> None:
        """For ever."""
        socket = self._context.socket(zmq.SUB)
        try:
            socket.subscribe(self._source.topic.encode())
            socket.connect(self._source.endpoint)
            await self._replay(0)
            while True:
                frames = await socket.recv_multipart()
                await self._take(int.from_bytes(frames[1], "big"), frames[2])
        finally:
            socket.close(linger=0)

    async def _take(self, sequence: int, payload: bytes) -> None:
        batch = unpacked(payload)
        if sequence <= self._last and batch[0] > self._last_time:
            # Counted from the start again: a new engine, with an empty cache.
            forget_rank(self._index, self._replica, self._source.rank)
            self._index.began(self._replica, self._source.rank)
            self._last = -1
        if sequence <= self._last:
            return  # replayed already
        if sequence > self._last + 1 and self._last >= 0:
            self._on_gap()
            await self._replay(self._last + 1, before=sequence)
            if sequence > self._last + 1:
                # What was lost cannot be had again: only what comes from here on is known.
                forget_rank(self._index, self._replica, self._source.rank)
                self._index.missed(self._replica, self._source.rank)
        self._apply(sequence, batch)

    async def _replay(self, first: int, *, before: int | None = None) -> None:
        """Events from ``first`` on that the engine still remembers."""
        endpoint = self._source.replay_endpoint
        if endpoint is None:
            return
        socket = self._context.socket(zmq.DEALER)
        try:
            socket.connect(endpoint)
            await socket.send_multipart((b"", first.to_bytes(8, "big")))
            while True:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    frames = await socket.recv_multipart()
                sequence = int.from_bytes(frames[-2], "big", signed=True)
                if sequence < 0:
                    return
                if sequence > self._last and (before is None or sequence < before):
                    self._apply(sequence, unpacked(frames[-1]))
        except TimeoutError:
            LOGGER.warning("no replay of KV events replica=%s", self._replica)
        finally:
            socket.close(linger=0)

    def _apply(self, sequence: int, batch: list[Any]) -> None:
        if sequence > 0 and self._last < 0:
            self._index.missed(self._replica, self._source.rank)
        self._last, self._last_time = sequence, batch[0]
        apply_events(self._index, self._replica, batch[1], rank=self._source.rank)
