"""Which blocks replicas have cached, as their KV events say (vLLM, SGLang; ZMQ).

```text
/kv_event_sources ── which ranks publish where
connect, then ask for a replay from the first event on ── what the cache holds already
live events, by sequence number ─┬─ the next one: applied
                                 ├─ a gap: replayed from there; not to be had: forget, go on
                                 └─ an older one, told later: the engine is a new one: forget
```

Three frames: topic, sequence (8 bytes, big-endian), msgpack ``[time, [events], rank]``. Events are
arrays up to vLLM 0.22 and maps since 0.25; both are read, what is unknown is passed over.

Events of other media than the device's tell what its host has, and storage (``prefixes.tiers``). A
medium that nobody knows counts as storage. ``AllBlocksCleared`` clears the device; vLLM sends it
with and without ``reset_connector`` and does not say which, so that what the host had is doubted.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgpack
import orjson
import zmq
import zmq.asyncio

from memroute.traffic.prefixes import BlockIndex, Tier, chain_root, tier_of
from memroute_router.http.client import EngineConnection, LossCause
from memroute_router.http.deadlines import monotonic
from memroute_router.http.engine_pool import EnginePool
from memroute_router.http.faults import OnFault, log_fault
from memroute_router.replicas.pools import Pools, Replica

LOGGER = logging.getLogger(__name__)
SOURCES_TARGET = b"/kv_event_sources"
TIMEOUT_SECONDS = 5.0
AGAIN_SECONDS = 30.0
# Between attempts to learn where a replica publishes; it may be starting.
OK = 200
_STORED_FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id",
                  "medium", "lora_name", "extra_keys", "group_idx")  # fmt: skip
_REMOVED_FIELDS = ("block_hashes", "medium", "group_idx")
# How names of blocks begin that are not of the first rank; hashes of 32 bytes do not.
_RANK = b"rank "


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSource:
    """Where one rank publishes."""

    rank: int
    endpoint: str
    replay_endpoint: str | None
    topic: str = ""


def read_sources(body: bytes, host: str) -> list[EventSource]:
    """What ``/kv_event_sources`` says, from here. Raises ``ValueError``, ``TypeError``.

    Endpoints with ``*`` are bound by the engine and reached at ``host``; others it connects to
    itself, so that nobody can hear them by connecting too.
    """
    document: Any = orjson.loads(body)
    if not isinstance(document, dict):
        msg = "no mapping of ranks"
        raise TypeError(msg)
    sources = []
    for rank, told in document.items():
        endpoint = _reachable(told.get("endpoint"), host) if isinstance(told, dict) else None
        if endpoint is None:
            msg = f"rank {rank} publishes where nobody can connect: {told!r:.200}"
            raise ValueError(msg)
        sources.append(
            EventSource(
                rank=int(rank),
                endpoint=endpoint,
                replay_endpoint=_reachable(told.get("replay_endpoint"), host),
                topic=str(told.get("topic") or ""),
            )
        )
    return sources


def apply_events(index: BlockIndex, replica: str, events: Sequence[Any], *, rank: int) -> int:
    """Take one batch of events; how many of them said something."""
    num_applied = 0
    for event in events:
        kind, told = _named(event)
        if told.get("group_idx") not in {None, 0}:
            continue  # of several groups the first is whole
        names = [_name(rank, value) for value in told.get("block_hashes") or ()]
        tier = tier_of(told.get("medium"), told.get("locality"))
        if kind == "BlockStored":
            _stored(index, replica, tier, names, told, rank=rank)
        elif kind == "BlockRemoved":
            index.removed(replica, names, tier)
        elif kind == "AllBlocksCleared":
            names = _names_of(index, replica, rank)
            index.emptied(replica, names, None if told.get("medium") is None else tier)
        else:
            continue
        num_applied += 1
    return num_applied


def _stored(
    index: BlockIndex,
    replica: str,
    tier: Tier,
    names: list[int | bytes],
    told: dict[str, Any],
    *,
    rank: int,
) -> None:
    adapter = told.get("lora_name")
    parent = told.get("parent_block_hash")
    parent_name = None if parent is None else _name(rank, parent)
    token_ids = told.get("token_ids") or ()
    block_tokens = int(told.get("block_size") or 0)
    # An adapter's name stands there too.
    salts = () if adapter else told.get("extra_keys") or ()
    root = chain_root(adapter) if isinstance(adapter, str) else 0
    if tier is Tier.DEVICE:
        index.stored(
            replica, names, parent=parent_name, token_ids=token_ids, block_tokens=block_tokens,
            salts=salts, root=root,
        )  # fmt: skip
    else:
        index.offloaded_to(
            replica, tier, names, parent=parent_name, token_ids=token_ids,
            block_tokens=block_tokens, salts=salts, root=root,
        )  # fmt: skip


def forget_rank(index: BlockIndex, replica: str, rank: int) -> None:
    """The cache of one rank is empty, on its host too; the others' are not."""
    index.dropped(replica, _names_of(index, replica, rank))


def _names_of(index: BlockIndex, replica: str, rank: int) -> list[int | bytes]:
    return [name for name in index.names(replica) if _rank_of(name) == rank]


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
        batch = _unpacked(payload)
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
                    self._apply(sequence, _unpacked(frames[-1]))
        except TimeoutError:
            LOGGER.warning("no replay of KV events replica=%s", self._replica)
        finally:
            socket.close(linger=0)

    def _apply(self, sequence: int, batch: list[Any]) -> None:
        if sequence > 0 and self._last < 0:
            self._index.missed(self._replica, self._source.rank)
        self._last, self._last_time = sequence, batch[0]
        apply_events(self._index, self._replica, batch[1], rank=self._source.rank)


class _Fetch:
    """One small page of an engine. A ``Listener``."""

    def __init__(self, engines: EnginePool) -> None:
        self._engines = engines
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pieces: list[bytes] = []

    def answer_progressed(self, connection: EngineConnection) -> None:
        self._pieces.append(connection.take_body())
        if connection.is_complete and not self.done.done():
            status = connection.status
            self._engines.give_back(connection)
            if status == OK:
                self.done.set_result(b"".join(self._pieces))
            else:
                self.done.set_exception(LookupError(f"status {status}"))

    def answer_lost(self, connection: EngineConnection, _cause: LossCause, detail: str) -> None:
        self._engines.give_back(connection)
        self._fail(ConnectionError(detail))

    def answer_crashed(self, _connection: EngineConnection) -> None:
        self._fail(ConnectionError("internal error"))

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


async def fetch(engines: EnginePool, replica: Replica, target: bytes) -> bytes:
    """A page of an engine. Raises ``OSError`` or ``LookupError`` (not there)."""
    fetching = _Fetch(engines)
    opened: asyncio.Future[EngineConnection] = asyncio.get_running_loop().create_future()
    endpoint, upstream = replica.info.endpoint, replica.upstream
    connection = engines.take_idle(upstream, now_seconds=monotonic())
    if connection is None:
        connecting = engines.connect(
            upstream,
            opened.set_result,
            lambda _, detail: opened.set_exception(ConnectionError(detail)),
            lambda: opened.set_exception(ConnectionError("internal error")),
        )
        try:
            connection = await opened
        finally:
            connecting.cancel()
    connection.expect_within(TIMEOUT_SECONDS, now_seconds=monotonic())
    head = b"GET %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (target, endpoint.authority)
    connection.send(fetching, head, b"")
    try:
        return await fetching.done
    finally:
        if connection in upstream.busy:
            engines.give_back(connection)


def _reachable(endpoint: object, host: str) -> str | None:
    """An endpoint that is bound there, from here; None for others."""
    if not isinstance(endpoint, str) or not endpoint.startswith("tcp://"):
        return None
    for wildcard in ("*", "[::]", "0.0.0.0"):  # noqa: S104 - read, not bound
        if endpoint.startswith(f"tcp://{wildcard}:"):
            port = endpoint.rpartition(":")[2]
            return f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
    bound = urlsplit(endpoint).hostname
    return endpoint if bound == host else None


def _unpacked(payload: bytes) -> list[Any]:
    batch = msgpack.unpackb(payload, strict_map_key=False)
    if not isinstance(batch, list) or len(batch) < 2 or not isinstance(batch[1], list):  # noqa: PLR2004
        msg = "no batch of KV events"
        raise ValueError(msg)
    return batch


def _named(event: Any) -> tuple[str, dict[str, Any]]:
    """An event of either form, by its fields' names."""
    if isinstance(event, dict):
        return str(event.get("type")), event
    if not isinstance(event, list) or not event:
        return "", {}
    kind = str(event[0])
    fields = _STORED_FIELDS if kind == "BlockStored" else _REMOVED_FIELDS
    return kind, dict(zip(fields, event[1:], strict=False))


def _name(rank: int, value: int | bytes) -> int | bytes:
    """Ranks name the same block alike and cache it apart."""
    if not rank:
        return value
    return b"%b%d/%b" % (_RANK, rank, value if isinstance(value, bytes) else b"%d" % value)


def _rank_of(name: int | bytes) -> int:
    if isinstance(name, int) or not name.startswith(_RANK):
        return 0
    return int(name[len(_RANK) : name.index(b"/")])
