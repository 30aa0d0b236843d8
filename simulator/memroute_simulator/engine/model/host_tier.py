"""KV cache on the host beside an engine: what is stored when, what is found, and when it is there.

vLLM 0.32's connector, for a model with one kind of cache:

* each step offers the chunks of prompts that it completes; their copies begin when the step ends;
* a lookup finds consecutive whole chunks behind what the device has; where one of them is on its
  way, in or out, the request is asked again in a later step;
* a load holds the request's blocks from its beginning, and other requests go on meanwhile;
* copies of one direction run one after another; both at once share the link.

Not modelled: a block that is taken again while its store is pending waits for it.

Owns its chunks and its link. It has no clock: who steps the engine says what time it is.
"""

from collections import deque
from dataclasses import dataclass, field

from memroute_simulator.engine.model.host_chunks import HostChunks
from memroute_simulator.engine.model.request import EngineRequest

# Both directions at once, H100: 83.4 GB/s together, 52 alone (vLLM's blog of 2026-01-08).
BOTH_WAYS_RATIO = 83.4 / 104


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTierLimits:
    """What the host gives, and how fast it moves."""

    num_chunks: int
    chunk_tokens: int
    chunk_bytes: int
    """Of all ranks together."""
    load_seconds: float
    """Of one chunk, each rank over its own link."""
    store_seconds: float


@dataclass(slots=True)
class HostTierCounts:
    """What a tier counts from its start on."""

    num_refused_offers: int = 0
    stored_chunks: int = 0
    loaded_chunks: int = 0
    evicted_chunks: int = 0
    load_seconds: float = 0.0
    """That loads took on the link."""
    store_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class HostEvent:
    """Chunks that came to the host, or went."""

    request: EngineRequest | None
    """Whose they are; None for those that went."""
    chunks: tuple[int, ...]
    """Which of the request's they are, counted from 0; none for those that went."""
    keys: tuple[int, ...]
    is_removed: bool


@dataclass(slots=True)
class HostTierLog:
    """What a tier has done since somebody last looked, for an engine's metrics."""

    loads: list[tuple[int, float]] = field(default_factory=list)
    """Chunks and seconds of each load that has ended."""
    stores: list[tuple[int, float]] = field(default_factory=list)
    offers: list[int] = field(default_factory=list)
    """Chunks of each offer that had any to store, refused ones too."""


@dataclass(slots=True)
class _Transfer:
    keys: list[int]
    chunks: list[int]
    request: EngineRequest
    took_seconds: float
    """On the link, before others are waited for."""
    done_seconds: float = 0.0


@dataclass(slots=True)
class _Direction:
    transfers: deque[_Transfer] = field(default_factory=deque)
    free_seconds: float = 0.0
    """When the last of them ends."""


class HostTier:
    """One engine's tier."""

    def __init__(self, limits: HostTierLimits) -> None:
        self.limits = limits
        self.chunks = HostChunks(limits.num_chunks)
        self.counts = HostTierCounts()
        self.events: list[HostEvent] = []
        """Since somebody last took them; kept only where ``keeps_events``."""
        self.keeps_events = False
        self.log: HostTierLog | None = None
        """Kept where somebody reads and empties it."""
        self._offered: list[tuple[EngineRequest, list[int], list[int]]] = []
        self._next_chunk: dict[EngineRequest, int] = {}
        self._refused: dict[EngineRequest, int] = {}
        self._used: dict[EngineRequest, dict[int, None]] = {}
        """Chunks that it loaded or offered, in the order of its prompt."""
        self._ended: list[EngineRequest] = []
        self._loads = _Direction()
        self._stores = _Direction()
        self._being_loaded: set[int] = set()

    # Looking up and loading.

    def find(self, request: EngineRequest, device_tokens: int) -> int | None:
        """Tokens behind the device's that can be loaded; None to be asked again later."""
        size = self.limits.chunk_tokens
        first, last = device_tokens // size, request.num_tokens // size
        found: list[int] = []
        is_pending = False
        for key in request.content.keys(first, last, size):
            ready = self.chunks.is_ready(key)
            if ready is None:
                break
            is_pending |= not ready
            found.append(key)
        tokens = (first + len(found)) * size - device_tokens
        if tokens < size:
            return 0
        if is_pending or any(key in self._being_loaded for key in found):
            return None
        return tokens

    def begin_load(
        self, request: EngineRequest, device_tokens: int, num_tokens: int, now_seconds: float
    ) -> None:
        """Bring what was found; ``advance`` says when it is there."""
        size = self.limits.chunk_tokens
        first, last = device_tokens // size, (device_tokens + num_tokens) // size
        keys = request.content.keys(first, last, size)
        self.chunks.prepare_load(keys)
        self._being_loaded.update(keys)
        took = len(keys) * self.limits.load_seconds
        transfer = _Transfer(keys, list(range(first, last)), request, took)
        self._send(self._loads, self._stores, transfer, now_seconds)
        self._next_chunk[request] = last
        self._used.setdefault(request, {}).update(dict.fromkeys(keys))
        self.counts.loaded_chunks += len(keys)
        self.counts.load_seconds += took

    # Storing.

    def offer(self, request: EngineRequest, computed_tokens: int) -> None:
        """The step computes the request's tokens up to there: its whole chunks are offered.

        What the device had is offered too: the host may have lost it. What was loaded is not.
        """
        size = self.limits.chunk_tokens
        first = self._next_chunk.get(request, 0)
        last = min(computed_tokens, request.num_prompt_tokens) // size
        if last <= first:
            return
        keys = request.content.keys(first, last, size)
        self._used.setdefault(request, {}).update(dict.fromkeys(self.chunks.known(keys)))
        placed = self.chunks.prepare_store(keys)
        if self.log is not None and (placed is None or placed[0]):
            self.log.offers.append(len(keys) if placed is None else len(placed[0]))
        if placed is None:
            self.counts.num_refused_offers += 1
            self._refused[request] = computed_tokens
            return
        self._refused.pop(request, None)
        self._next_chunk[request] = last
        new, evicted = placed
        if evicted:
            self.counts.evicted_chunks += len(evicted)
            self._tell(HostEvent(None, (), tuple(evicted), is_removed=True))
        if new:
            wanted = set(new)
            places = [first + at for at, key in enumerate(keys) if key in wanted]
            self._offered.append((request, places, new))

    def offer_again(self) -> None:
        """Offers that were refused are made again in every step."""
        for request, computed_tokens in tuple(self._refused.items()):
            self.offer(request, computed_tokens)

    def settle(self) -> None:
        """All offers of the step are made: requests that ended before it have used their chunks."""
        for request in self._ended:
            self.chunks.mark_used(tuple(self._used.pop(request, ())))
        self._ended.clear()

    def end_step(self, now_seconds: float) -> None:
        """The step has ended: what it offered is copied."""
        for request, places, keys in self._offered:
            took = len(keys) * self.limits.store_seconds
            transfer = _Transfer(keys, places, request, took)
            self._send(self._stores, self._loads, transfer, now_seconds)
            self.counts.stored_chunks += len(keys)
            self.counts.store_seconds += took
        self._offered.clear()

    def end(self, request: EngineRequest) -> None:
        """The request has ended, or was given up."""
        self._next_chunk.pop(request, None)
        self._refused.pop(request, None)
        self._ended.append(request)

    # Time.

    @property
    def next_seconds(self) -> float | None:
        """When the next load ends; None where there is none."""
        return self._loads.transfers[0].done_seconds if self._loads.transfers else None

    def advance(self, now_seconds: float) -> list[EngineRequest]:
        """It is that time: requests whose loads have ended."""
        stores, loads = self._stores.transfers, self._loads.transfers
        while stores and stores[0].done_seconds <= now_seconds:
            transfer = stores.popleft()
            stored = self.chunks.complete_store(transfer.keys)
            if self.log is not None:
                self.log.stores.append((len(transfer.keys), transfer.took_seconds))
            if stored and self.keeps_events:
                here = set(stored)
                places = [
                    place
                    for place, key in zip(transfer.chunks, transfer.keys, strict=True)
                    if key in here
                ]
                self._tell(
                    HostEvent(transfer.request, tuple(places), tuple(stored), is_removed=False)
                )
        loaded = []
        while loads and loads[0].done_seconds <= now_seconds:
            transfer = loads.popleft()
            self.chunks.complete_load(transfer.keys)
            if self.log is not None:
                self.log.loads.append((len(transfer.keys), transfer.took_seconds))
            self._being_loaded.difference_update(transfer.keys)
            loaded.append(transfer.request)
        return loaded

    def clear(self) -> None:
        """Forget everything, as a sleep does. Nothing may be loading."""
        self.chunks.clear()
        self._offered.clear()
        self._refused.clear()
        self._used.clear()
        self._stores.transfers.clear()

    @property
    def pinned_ratios(self) -> tuple[float, float]:
        """Shares of the chunks that stores under way hold, and loads."""
        stores = sum(len(transfer.keys) for transfer in self._stores.transfers)
        stores += sum(len(keys) for _, _, keys in self._offered)
        num_chunks = max(1, self.limits.num_chunks)
        return stores / num_chunks, len(self._being_loaded) / num_chunks

    def take_events(self) -> list[HostEvent]:
        """What has come and gone since the last time."""
        events, self.events = self.events, []
        return events

    def _send(
        self,
        way: _Direction,
        other: _Direction,
        transfer: _Transfer,
        now_seconds: float,
    ) -> None:
        took = transfer.took_seconds
        begun = max(now_seconds, way.free_seconds)
        if other.free_seconds > begun:
            took /= BOTH_WAYS_RATIO
        way.free_seconds = transfer.done_seconds = begun + took
        way.transfers.append(transfer)

    def _tell(self, event: HostEvent) -> None:
        if self.keeps_events:
            self.events.append(event)
