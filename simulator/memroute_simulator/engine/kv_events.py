"""KV events over ZMQ, as vLLM 0.32 publishes them: one batch per step that changed blocks.

Three frames: topic, sequence (8 bytes, big-endian), msgpack ``[ts, [events], rank]``; events
are maps since 0.25, arrays before. An endpoint with ``*`` is bound, any other is connected to:
then the subscriber binds. Each rank has the endpoint's port plus its rank.
"""

import json
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import msgpack
import zmq
import zmq.asyncio

from memroute_simulator.engine.model import (
    BlockEvent,
    BlocksCleared,
    BlocksStored,
    TokenContent,
)

_HASH_MASK = (1 << 64) - 1
END_SEQUENCE = -1


class KVEventsConfigError(Exception):
    """``--kv-events-config`` cannot be read; the message is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVEventsConfig:
    """``--kv-events-config``, with vLLM's defaults."""

    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None
    buffer_steps: int = 10_000
    hwm: int = 100_000
    topic: str = ""
    as_arrays: bool = False
    """The encoding up to 0.22."""

    @classmethod
    def parse(cls, text: str) -> "KVEventsConfig | None":
        """Read the flag's JSON; None where events are off. Raises ``KVEventsConfigError``."""
        try:
            document = json.loads(text)
        except ValueError:
            msg = f"--kv-events-config is not JSON: {text}"
            raise KVEventsConfigError(msg) from None
        if not isinstance(document, dict):
            msg = f"--kv-events-config is not a JSON object: {text}"
            raise KVEventsConfigError(msg)
        if not document.get("enable_kv_cache_events") or document.get("publisher") == "null":
            return None
        names = ("endpoint", "replay_endpoint", "buffer_steps", "hwm", "topic")
        return cls(**{name: document[name] for name in names if name in document})


class KVEventPublisher:
    """Publishes the events of all ranks. Owns its sockets; close it."""

    def __init__(self, config: KVEventsConfig, *, num_ranks: int, block_size_tokens: int) -> None:
        self.config = config
        self._block_size = block_size_tokens
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
        request, first, size = event.request, event.first_block, self._block_size
        parent = request.content.keys(first - 1, first, size)[0] & _HASH_MASK if first else None
        hashes = [key & _HASH_MASK for key in event.keys]
        content = request.content
        if not isinstance(content, TokenContent):
            msg = "KV events need prompts by their tokens"
            raise TypeError(msg)
        tokens = content.token_ids(first * size, (first + len(hashes)) * size)
        if self.config.as_arrays:
            return ["BlockStored", hashes, parent, tokens, size, None]
        return {
            "type": "BlockStored",
            "block_hashes": hashes,
            "parent_block_hash": parent,
            "token_ids": tokens,
            "block_size": size,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": request.adapter,
            "extra_keys": [None] * len(hashes),
            "group_idx": event.group,
        }


def _with_port(endpoint: str, rank: int) -> str:
    """Each rank has its own port, as in ``offset_endpoint_port``."""
    if endpoint.startswith("inproc"):
        return f"{endpoint}_dp{rank}" if rank else endpoint
    base, _, port = endpoint.rpartition(":")
    return f"{base}:{int(port) + rank}" if port.isdigit() else endpoint
