"""What one replica holds: measured at the last scrape, reserved since, and projected.

The three are kept apart and combined only when a decision is made:

```text
held      = sharing x tokens of our answers now + what others hold there
projected = held + growth of our answers until the fullest moment to come
          + prompts that wait there, with their answers
```

**Measured.** A scrape that started at time T includes this router's requests that had their first
token by T, whole. Of requests that were sent by T without a first token, it may include the prompt.
It includes no later request. What it measured beyond these is foreign: held by other routers, by
traffic that passes this router by, or by requests from before its restart. What it measured below
the first group is shared prefixes: the engine counts them once, this router once per request, and
``sharing_ratio`` scales its count.

**Projected.** Answers that decode grow until the fullest moment to come (``decoding``). An answer
that outlives its expected length gets a new one, from answers that got as long
(``requests_there``). What this router's requests show is kept in ``own_requests``, what other
routers tell in ``peer_requests``.

Nothing here goes by the wall clock: a lease ends when its request does.
"""

from itertools import chain
from typing import Final

from memroute.traffic.lengths.events import TokensPerEvent
from memroute.traffic.lengths.output import OutputLengths
from memroute.traffic.replica.host_cache import HostCache
from memroute.traffic.replica.learned_limits import LearnedLimits
from memroute.traffic.replica.peer_requests import SharedRequests
from memroute.traffic.replica.predictions import Predictions
from memroute.traffic.replica.reading import ReplicaReading, is_same_work

# Least factor by which sharing scales our own count: a measured use of 0 is a reading that is off.
# Unit: ratio. Source: a bound, chosen by hand.
MIN_SHARING_RATIO: Final = 0.02
# Seconds of watched events that make one comparison with the engine's token counter.
# Unit: seconds. Source: chosen by hand.
COMPARED_SECONDS: Final = 2.0


class ReplicaLedger(SharedRequests):
    """The requests on one replica, and its last reading. Owns both."""

    __slots__ = (
        "_max_context_tokens", "_promised_capacity_tokens", "capacity_tokens", "host",
        "limit_tokens", "limits", "measured_ratio", "pinned_ratio", "reading",
        "replica", "sharing_ratio", "tells_life", "weight_ratio",
    )  # fmt: skip

    def __init__(
        self,
        replica: str,
        *,
        promised_capacity_tokens: int | None = None,
        max_context_tokens: int | None = None,
        lengths: OutputLengths | None = None,
        events: TokensPerEvent | None = None,
        predictions: Predictions | None = None,
        weight_ratio: float = 1.0,
    ) -> None:
        """``promised_capacity_tokens``: what the operator expects, used until the engine says.

        ``lengths`` of the model's answers and ``events`` (tokens in one) are shared by the pool.
        ``weight_ratio``: the share of traffic that the replica is meant to get, relative to others
        (1 by default).
        """
        super().__init__(lengths, events, predictions)
        self.replica = replica
        self.weight_ratio = weight_ratio
        self._promised_capacity_tokens = promised_capacity_tokens
        self._max_context_tokens = max_context_tokens
        self.reading: ReplicaReading | None = None
        self.host: HostCache | None = None
        """KV cache on its host; None: there is none, or nobody says."""
        self.capacity_tokens: int | None = None
        """Tokens that its KV cache holds, by the engine, else by the operator; None: unknown."""
        self.limit_tokens: int | None = None
        """The most that one request may hold; None when unknown."""
        self.limits = LearnedLimits()
        """How full the replica may be planned, and how many requests it runs at once."""
        self.measured_ratio = 0.0
        """KV use at the last scrape, 0 to 1."""
        self.sharing_ratio = 1.0
        """Tokens that the engine holds for our answers, over our count, which ignores sharing."""
        self.pinned_ratio = 0.0
        """Fraction (0 to 1) of our running requests' prefix-cache hits that other running requests
        also reference, so that they occupy memory once. Estimated at the last scrape."""
        self.tells_life = False
        """Whether the engine counts computed tokens: then silence alone is no sign of a hang."""
        self._refresh_capacity()

    # What the operator and the engine say of it.

    def promise(self, *, capacity_tokens: int | None, max_context_tokens: int | None) -> None:
        """What the operator expects now. The engine's own report overrides it."""
        self._promised_capacity_tokens = capacity_tokens
        self._max_context_tokens = max_context_tokens
        self._refresh_capacity()

    def apply_reading(self, reading: ReplicaReading) -> None:
        """Take a new reading. The module's text says what it is taken to include."""
        last = self.reading
        num_pending = sum(lease.is_pending for lease in self.leases)
        self.limits.apply_reading(last, reading, num_pending=num_pending)
        if last is not None:
            self._count_generated(last, reading)
        computed = reading.num_computed_tokens_total
        self.tells_life = computed is not None
        if computed is not None and last is not None:
            before = last.num_computed_tokens_total
            if before is not None and computed > before:
                # It computed something since the last reading, so it lived at that moment.
                alive_at = last.taken_at_seconds
                self.progressed_at_seconds = max(self.progressed_at_seconds, alive_at)
        held, had_foreign = self.held_tokens, self.foreign_tokens
        self.reading = reading
        self._projected_tokens = -1
        self.sent_since_reading_tokens = 0
        started = self.read_at_seconds = reading.taken_at_seconds
        self._refresh_capacity()
        seen, maybe, num_sent, hits = 0, 0, 0, 0
        for lease in chain(self.leases, self.peer_leases):
            if lease.sent_at_seconds >= started:
                continue
            if 0 <= lease.answered_at_seconds <= started:
                seen += lease.prompt_tokens + self._tokens_so_far(lease)
                hits += lease.prompt_tokens - lease.work_tokens
            else:
                maybe += lease.prompt_tokens
                num_sent += lease.num_sequences
        ratio = reading.kv_cache_utilization_ratio
        self.measured_ratio = ratio or 0.0
        ended = sum(tokens for when, tokens in self._ended if when > started)
        self._ended = [item for item in self._ended if item[0] > started]
        if ratio is None or self.capacity_tokens is None:
            self.foreign_tokens, self.sharing_ratio, self.pinned_ratio = 0, 1.0, 0.0
        else:
            # Of several ranks, what all hold together: what the fullest holds, the others do not.
            mean = reading.kv_cache_mean_ratio
            held_ratio = ratio if mean is None else mean
            measured = max(0, int(held_ratio * self.capacity_tokens) - ended)
            if last is not None:
                self._predictions.kv_cache(
                    expected=held,
                    actual=measured,
                    capacity=self.capacity_tokens,
                    now_seconds=started,
                )
            self.foreign_tokens = max(0, measured - seen - maybe)
            self.sharing_ratio, self.pinned_ratio = 1.0, 0.0
            if measured < seen:
                self.sharing_ratio = max(MIN_SHARING_RATIO, measured / seen)
                self.pinned_ratio = min(1.0, (seen - measured) / hits) if hits else 0.0
        self._count_foreign(reading, num_sent, had_foreign)

    # What decisions ask.

    def has_adapter(self, name: str) -> bool:
        """Whether any request uses the adapter there now, ours or foreign."""
        if name in self.adapters:
            return True
        read = None if self.reading is None else self.reading.adapters
        return read is not None and name in read

    def has_adapter_slot(self) -> bool:
        """Whether the replica can use one more adapter at once; unknown counts as yes."""
        reading = self.reading
        if reading is None or reading.max_adapters is None:
            return True
        in_use = reading.adapters or frozenset()
        return len(in_use.union(self.adapters)) < reading.max_adapters

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do, as far as this router can tell."""
        return not self.num_streams and not self.num_pending and not self.foreign_tokens

    @property
    def num_there(self) -> int:
        """Requests in the engine, ours and foreign, as far as this router can tell."""
        return (
            self.num_streams + self.num_pending + self.num_foreign_running
            + self.num_foreign_waiting
        )  # fmt: skip

    @property
    def held_tokens(self) -> int:
        """Tokens that the KV cache holds now, prompts that wait there not counted."""
        own = self.own_tokens(self.steps.num_ticks)
        return int(self.sharing_ratio * own) + self.foreign_tokens

    def needed_tokens(self, prompt_tokens: int, work_tokens: int) -> int:
        """Tokens that a prompt would add to the KV cache, if ``work_tokens`` of it are not cached.

        Cached blocks without a user count as free until a hit pins them. So a hit saves time and no
        memory, except for blocks that running answers pin already.
        """
        return prompt_tokens - int(self.pinned_ratio * (prompt_tokens - work_tokens))

    def projected_tokens(self) -> int:
        """The most tokens that the KV cache will hold, by the expected ends of our answers.

        Computed again when a request has come or gone, or a reading has come. In between, answers
        grow towards what is projected already.
        """
        projected = self._projected_tokens
        if projected < 0:
            step = self.steps.num_ticks
            own = self.own_tokens(step)
            growth = max(0, self.peak_tokens(step) - own)
            held = int(self.sharing_ratio * own) + self.foreign_tokens
            projected = held + growth + self.pending_reserved_tokens
            self._projected_tokens = projected
        return projected

    def projected_with(self, num_tokens: int, num_more: int, num_sequences: int = 1) -> int:
        """The most tokens that the KV cache will hold with one more request.

        The request has ``num_tokens``, and ``num_more`` are to come in each of its sequences.
        """
        step = self.steps.num_ticks
        own = self.own_tokens(step)
        held = int(self.sharing_ratio * own) + self.foreign_tokens
        peak = self.peak_with(num_tokens, num_more, step, num_sequences)
        return held + peak - own + self.pending_reserved_tokens

    def projected_ratio(self, additional_tokens: int = 0) -> float | None:
        """Projected KV use, 0 to 1 and above, once ``additional_tokens`` are added."""
        if not self.capacity_tokens:
            return None
        return (self.projected_tokens() + additional_tokens) / self.capacity_tokens

    def is_fresh(self, *, max_age_seconds: float, now_seconds: float) -> bool:
        """Whether its reading is recent enough to trust."""
        return self.read_at_seconds >= 0 and now_seconds - self.read_at_seconds <= max_age_seconds

    # Inside.

    def _refresh_capacity(self) -> None:
        reading = self.reading
        capacity = self._promised_capacity_tokens
        if reading is not None and reading.kv_capacity_tokens is not None:
            capacity = reading.kv_capacity_tokens
        self.capacity_tokens = capacity
        limit = self._max_context_tokens
        of_rank = capacity
        if capacity is not None and reading is not None and reading.num_ranks > 1:
            of_rank = capacity // reading.num_ranks
        if limit is None or (of_rank is not None and of_rank < limit):
            limit = of_rank
        self.limit_tokens = limit

    def _count_foreign(self, reading: ReplicaReading, num_sent: int, had_tokens: int) -> None:
        """Requests there that no router reports; ``had_tokens``: held by them, as read before."""
        waiting, running = reading.num_requests_waiting, reading.num_requests_running
        ran = self.num_foreign_running
        self.num_foreign_waiting = max(0, (waiting or 0) - num_sent)
        self.num_foreign_running = max(0, (running or 0) - self.num_streams - num_sent)
        self.steps.foreign_streams = max(ran, self.num_foreign_running)
        self.steps.foreign_tokens = max(had_tokens, self.foreign_tokens)

    def _count_generated(self, before: ReplicaReading, now: ReplicaReading) -> None:
        """Learn from the engine's counters how long a token takes, and how many make an event."""
        seconds = now.taken_at_seconds - before.taken_at_seconds
        first, last = before.num_generated_tokens_total, now.num_generated_tokens_total
        running, ran = now.num_requests_running, before.num_requests_running
        num_events, watched_seconds = self.seen_events, self.seen_seconds
        if first is None or last is None or not running or not ran or last <= first or seconds <= 0:
            # Nothing ran for part of the time: the events counted in it cannot be compared.
            self.seen_events = self.seen_seconds = 0.0
            return
        tokens_per_second = (last - first) / (0.5 * (running + ran)) / seconds
        self.steps.report(1.0 / tokens_per_second)
        is_between_prompts = not self.num_pending and (
            self._prompt_at_seconds < before.taken_at_seconds
        )
        if self._leader is None and is_between_prompts and is_same_work(before, now):
            # No answer is read as it comes: the counters are all that shows a slowdown.
            held = self.own_tokens(self.steps.num_ticks)
            self.steps.slowdown.show(
                1.0 / tokens_per_second,
                most=(max(running, ran), held),
                least=(min(running, ran), held),
                now_seconds=now.taken_at_seconds,
                is_of_events=False,
            )
        if watched_seconds >= COMPARED_SECONDS:
            # The tokens of those seconds in which events were watched.
            num_tokens = watched_seconds * tokens_per_second
            self._events.count(num_tokens=num_tokens, num_events=num_events)
            self.seen_events = self.seen_seconds = 0.0
