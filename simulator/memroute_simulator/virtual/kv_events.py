"""KV events in virtual time: what an engine tells of its cache, and the routers that hear it.

The router's own index hears them (``memroute.traffic.prefixes.BlockIndex``), a network's delay
after the step that told them. A workload has no token ids: a block's tokens are its key, as often
as it has tokens, in events and in requests alike. Chunks on the host are told as vLLM tells them by
default: a name, and nothing else.

A router that comes later is replayed as many batches as engines keep, and knows that it missed
those before.
"""

from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from functools import partial

from memroute.traffic.prefixes import BlockIndex, Tier
from memroute.traffic.prefixes.reported_blocks import next_key
from memroute_simulator.engine.model import (
    BlockEvent,
    BlocksCleared,
    BlocksStored,
    HostEvent,
    Scheduler,
)
from memroute_simulator.virtual.loop import VirtualLoop

# Batches that an engine can replay: vLLM's ``buffer_steps``.
BUFFER_STEPS = 10_000

_Event = BlockEvent | HostEvent


class Hears(StrEnum):
    """Which KV events routers hear."""

    NOTHING = "nothing"
    DEVICE = "device"
    ALL = "all"
    """Those of the host as well."""


class EventFeed:
    """One replica's events. Owns what can be replayed of them."""

    def __init__(self, loop: VirtualLoop, *, replica: str, hears: Hears) -> None:
        self._loop = loop
        self._replica = replica
        self._hears = hears
        self._schedulers: Sequence[Scheduler] = ()
        self._pending: list[_Event] = []
        self._sent: deque[list[_Event]] = deque(maxlen=BUFFER_STEPS)
        self._num_sent = 0
        self._listeners: list[tuple[BlockIndex, float]] = []

    def on_event(self, _rank: int, event: BlockEvent) -> None:
        """The device's; ranks are told together, as blocks of one replica."""
        self._pending.append(event)

    def follow(self, schedulers: Sequence[Scheduler]) -> None:
        """The engine that it tells of."""
        self._schedulers = schedulers
        for scheduler in schedulers:
            if scheduler.host is not None and self._hears is Hears.ALL:
                scheduler.host.keeps_events = True

    def join(self, index: BlockIndex, delay_seconds: float) -> None:
        """A router hears from now on, and is replayed what is still kept."""
        index.follow(self._replica)
        if self._num_sent > len(self._sent):
            index.missed(self._replica, 0)
        for batch in self._sent:
            self._apply(index, batch)
        self._listeners.append((index, delay_seconds))

    def leave(self, index: BlockIndex) -> None:
        """A router hears no more."""
        self._listeners = [one for one in self._listeners if one[0] is not index]
        index.forget(self._replica)

    def step_ended(self) -> None:
        """What the step has changed goes out, the device's first."""
        batch = self._pending
        self._pending = []
        for scheduler in self._schedulers:
            if scheduler.host is not None:
                batch += scheduler.host.take_events()
        if not batch:
            return
        self._sent.append(batch)
        self._num_sent += 1
        for index, delay in self._listeners:
            self._loop.after(delay, partial(self._apply, index, batch))

    def _apply(self, index: BlockIndex, batch: Sequence[_Event]) -> None:
        size = self._schedulers[0].cache.layout.block_size_tokens
        for event in batch:
            if isinstance(event, HostEvent):
                self._apply_host(index, event)
            elif isinstance(event, BlocksCleared):
                index.emptied(self._replica, index.names(self._replica), None)
            elif not isinstance(event, BlocksStored):
                index.removed(self._replica, [event.key])
            else:
                first, content = event.first_block, event.request.content
                index.stored(
                    self._replica,
                    event.keys,
                    parent=content.keys(first - 1, first, size)[0] if first else None,
                    token_ids=[key for key in event.keys for _ in range(size)],
                    block_tokens=size,
                )

    def _apply_host(self, index: BlockIndex, event: HostEvent) -> None:
        if event.is_removed:
            index.removed(self._replica, event.keys, Tier.HOST)
            return
        for key in event.keys:
            index.offloaded_to(self._replica, Tier.HOST, [key])


def told_keys(keys: Sequence[int], block_tokens: int) -> tuple[int, ...]:
    """What the index calls the blocks of a prompt with these content keys."""
    chain, told = 0, []
    for key in keys:
        chain = next_key(chain, (key,) * block_tokens)
        told.append(chain)
    return tuple(told)
