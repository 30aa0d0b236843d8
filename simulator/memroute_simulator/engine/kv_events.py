"""KV events over ZMQ, as vLLM 0.32 publishes them: one batch per step that changed blocks.

Three frames: topic, sequence (8 bytes, big-endian), msgpack ``[ts, [events], rank]``; events
are maps since 0.25, arrays before. An endpoint with ``*`` is bound, any other is connected to:
then the subscriber binds. Each rank has the endpoint's port plus its rank.

A chunk on the host is told once its copy has ended, behind the device's events of the step: by the
hash of its last block alone, or with all that a block of the device has where that is asked for.
"""

import time
from collections import deque
from typing import Any

import msgpack
import zmq
import zmq.asyncio

from memroute_simulator.engine.kv_events_config import KVEventsConfig
from memroute_simulator.engine.model import (
    BlockEvent,
    BlocksCleared,
    BlocksStored,
    EngineRequest,
    HostEvent,
    TokenContent,
)

_HASH_MASK = (1 << 64) - 1
END_SEQUENCE = -1


class KVEventPublisher:
    """Publishes the events of all ranks. Owns its sockets; close it."""

    def __init__(
        self,
        config: KVEventsConfig,
        *,
        num_ranks: int,
        block_size_tokens: int,
        host_blocks_per_chunk: int = 1,
        describes_host: bool = False,
    ) -> None:
        """``describes_host``: ``self_describing_kv_events`` of the connector."""
        self.config = config
        self._block_size = block_size_tokens
        self._chunk_blocks = host_blocks_per_chunk
        self._describes_host = describes_host
        self._on_host: list[dict[int, list[int]]] = [{} for _ in range(num_ranks)]
        """What chunks were called when they came: they go by the same hashes."""
        self._context = zmq.asyncio.Context()
        self._sockets: list[zmq.asyncio.Socket] = []
        self._pending: list[list[Any]] = [[] for _ in range(num_ranks)]
        self._sequences = [0] * num_ranks
        self._buffers: list[deque[tuple[int, bytes]]] = [
            deque(maxlen=config.buffer_steps) for _ in range(num_ranks)
        ]
        for rank in range(num_ranks):
            socket = self._context.socket(zmq.PUB)
            socket.set_hwm(config.hwm)
            endpoint = _with_port(config.endpoint, rank)
            if "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc", "inproc")):
                socket.bind(endpoint)
            else:
                socket.connect(endpoint)
            self._sockets.append(socket)

    def on_event(self, rank: int, event: BlockEvent) -> None:
        """An event of the step that is running."""
        self._pending[rank].append(self._encoded(event))

    def on_host_event(self, rank: int, event: HostEvent) -> None:
        """Chunks that came to the rank's host, or went. Maps, as in every release that has it."""
        told = self._on_host[rank]
        if event.is_removed:
            hashes = [one for key in event.keys for one in told.pop(key, ())]
            if hashes:
                removed = {"type": "BlockRemoved", "block_hashes": hashes, "medium": "CPU"}
                self._pending[rank].append(removed | {"group_idx": 0})
            return
        request, size = event.request, self._chunk_blocks
        if request is None:
            return
        for chunk, key in zip(event.chunks, event.keys, strict=True):
            first, last = chunk * size, (chunk + 1) * size
            begin = first if self._describes_host else last - 1
            hashes = self._hashes(request, begin, last)
            told[key] = hashes
            if self._describes_host:
                stored = self._stored(request, first, hashes, group=0, medium="CPU")
                # The connector passes no keys of images on.
                self._pending[rank].append(stored | {"extra_keys": None})
            else:
                self._pending[rank].append(
                    {
                        "type": "BlockStored", "block_hashes": hashes, "parent_block_hash": None,
                        "token_ids": [], "block_size": 0, "lora_id": None, "medium": "CPU",
                        "lora_name": None, "group_idx": 0,
                    }
                )  # fmt: skip

    def publish(self) -> None:
        """The step has ended: send what it changed."""
        for rank, events in enumerate(self._pending):
            if not events:
                continue
            payload = msgpack.packb([time.time(), events, rank])
            sequence = self._sequences[rank]
            self._sequences[rank] += 1
            self._buffers[rank].append((sequence, payload))
            frames = (self.config.topic.encode(), sequence.to_bytes(8, "big"), payload)
            # A PUB socket never blocks: past its high-water mark it drops.
            self._sockets[rank].send_multipart(frames)
            self._pending[rank] = []

    async def serve_replays(self, rank: int) -> None:
        """Answer replay requests of one rank, for ever; returns at once where there is none."""
        if self.config.replay_endpoint is None:
            return
        socket = self._context.socket(zmq.ROUTER)
        socket.bind(_with_port(self.config.replay_endpoint, rank))
        self._sockets.append(socket)
        while True:
            client, *_, start = await socket.recv_multipart()
            first = int.from_bytes(start, "big")
            for sequence, payload in tuple(self._buffers[rank]):
                if sequence >= first:
                    await socket.send_multipart((client, b"", sequence.to_bytes(8, "big"), payload))
            end = END_SEQUENCE.to_bytes(8, "big", signed=True)
            await socket.send_multipart((client, b"", end, b""))

    def sources(self) -> dict[str, Any]:
        """What ``/kv_event_sources`` says."""
        return {
            str(rank): {
                "endpoint": _with_port(self.config.endpoint, rank),
                "replay_endpoint": (
                    _with_port(self.config.replay_endpoint, rank)
                    if self.config.replay_endpoint
                    else None
                ),
                "topic": self.config.topic,
            }
            for rank in range(len(self._pending))
        }

    def close(self) -> None:
        """Close every socket."""
        for socket in self._sockets:
            socket.close(linger=0)
        self._context.term()

    def _encoded(self, event: BlockEvent) -> Any:
        if isinstance(event, BlocksCleared):
            return ["AllBlocksCleared"] if self.config.as_arrays else {"type": "AllBlocksCleared"}
        if not isinstance(event, BlocksStored):
            hashes = [event.key & _HASH_MASK]
            if self.config.as_arrays:
                return ["BlockRemoved", hashes]
            removed = {"type": "BlockRemoved", "block_hashes": hashes, "medium": "GPU"}
            return removed | {"group_idx": event.group}
        hashes = [key & _HASH_MASK for key in event.keys]
        stored = self._stored(
            event.request, event.first_block, hashes, group=event.group, medium="GPU"
        )
        if self.config.as_arrays:
            parent, tokens = stored["parent_block_hash"], stored["token_ids"]
            return ["BlockStored", hashes, parent, tokens, self._block_size, None]
        return stored

    def _stored(
        self, request: EngineRequest, first: int, hashes: list[int], *, group: int, medium: str
    ) -> dict[str, Any]:
        """The payload with tokens, of a request's blocks from ``first`` on."""
        size, content = self._block_size, request.content
        if not isinstance(content, TokenContent):
            msg = "KV events need prompts by their tokens"
            raise TypeError(msg)
        return {
            "type": "BlockStored",
            "block_hashes": hashes,
            "parent_block_hash": self._hashes(request, first - 1, first)[0] if first else None,
            "token_ids": content.token_ids(first * size, (first + len(hashes)) * size),
            "block_size": size,
            "lora_id": None,
            "medium": medium,
            "lora_name": request.adapter,
            "extra_keys": [None] * len(hashes),
            "group_idx": group,
        }

    def _hashes(self, request: EngineRequest, first: int, last: int) -> list[int]:
        return [key & _HASH_MASK for key in request.content.keys(first, last, self._block_size)]


def _with_port(endpoint: str, rank: int) -> str:
    """Each rank has its own port, as in ``offset_endpoint_port``."""
    if endpoint.startswith("inproc"):
        return f"{endpoint}_dp{rank}" if rank else endpoint
    base, _, port = endpoint.rpartition(":")
    return f"{base}:{int(port) + rank}" if port.isdigit() else endpoint
