"""What one replica holds: measured at the last scrape, reserved since, and projected.

The three are kept apart and combined only when a decision is made:

```text
held      = sharing x tokens of our answers now + what others hold there
projected = held + growth of our answers until the fullest moment to come
          + prompts that wait there, with their answers
```

**Measured.** A scrape that started at time T saw our requests that had answered by then, whole;
of those that were sent by then and had not answered it may have seen the prompt; none that came
later. What it measured beyond both is held by others (other routers, traffic that does not come
through us, what we forgot when we were restarted). What it measured below the first is shared
prefixes, counted once by the engine and once per request by us: the ratio scales our own count.

**Projected.** What decodes grows until the fullest moment to come (``pressure/growth.py``). An
answer that outlives its expectation gets a new one, from those that got as long.

**Visible to everybody else.** A replica's queue, what it owes to prompts that wait, how many
answers share its steps. Nothing here goes by the wall clock: a lease ends when its request does.
"""

from typing import Final

from memroute.traffic.lengths.output import OutputLengths
from memroute.traffic.replica.decoding import DecodingAnswers, Reservation
from memroute.traffic.replica.peer_requests import LeaseObserver, PeerRequest
from memroute.traffic.replica.reading import ReplicaReading
from memroute.traffic.replica.speed import SpeedMeter
from memroute.traffic.request import RequestProfile

PACE_QUANTILE: Final = 0.3
# Short answers suffer most from a prompt in between: they are planned for.
MEMORY_QUANTILE: Final = 0.5
LEAST_MORE_TOKENS: Final = 4
OUTLIVED_RATIO: Final = 1.3
# An answer that got longer than any: a third more each time.
MIN_SHARING_RATIO: Final = 0.02
MAX_ENDED: Final = 1024
# Answers whose ends a scrape that is under way may have missed.
NEARLY_FULL_RATIO: Final = 0.8
# Requests that wait at an emptier cache do not wait for blocks.
FLOOR_RATIO: Final = 0.5
LOWERED_RATIO: Final = 0.95
RAISED_RATIO: Final = 0.01
# The ceiling under preemptions: 5 % down for a reading that has some, 1 point up for one that has
# none: additive increase, multiplicative decrease.


class ReplicaLedger(DecodingAnswers):
    """The leases, the last reading and the speed of one replica. Owns all three.

    What decisions read is kept ready in plain attributes, because they read it for every replica.
    """

    __slots__ = (
        "_ended", "_leader", "_lengths", "_max_context_tokens", "_projected_tokens",
        "_promised_capacity_tokens", "_unseen", "adapters", "capacity_tokens",
        "ceiling_ratio",
        "foreign_tokens", "leases", "limit_tokens", "measured_ratio", "num_foreign_running",
        "num_foreign_waiting", "num_peers_pending", "num_pending", "num_shown", "observer",
        "peer_requests", "pending_reserved_tokens", "pending_tokens", "pinned_ratio", "progressed_at_seconds", "read_at_seconds", "reading",
        "replica", "running_limit", "sent_since_reading_tokens", "sharing_ratio", "speed",
        "tells_life", "weight_ratio",
    )  # fmt: skip

    def __init__(
        self,
        replica: str,
        *,
        promised_capacity_tokens: int | None = None,
        max_context_tokens: int | None = None,
        lengths: OutputLengths | None = None,
        weight_ratio: float = 1.0,
    ) -> None:
        """``promised_capacity_tokens``: what the operator expects, used until the engine says.

        ``lengths``: of the model's answers, shared by its replicas. ``weight_ratio``: share of
        traffic that it is meant to get, relative to others (1 where nobody says).
        """
        super().__init__()
        self.replica = replica
        self.weight_ratio = weight_ratio
        self._promised_capacity_tokens = promised_capacity_tokens
        self._max_context_tokens = max_context_tokens
        self._lengths = lengths or OutputLengths()
        self.reading: ReplicaReading | None = None
        self.read_at_seconds = -1.0
        """When the last scrape started; -1 when there was none."""
        self.capacity_tokens: int | None = None
        """Tokens that its KV cache holds: the engine's word, else the operator's, else unknown."""
        self.limit_tokens: int | None = None
        """The most that one request may hold; None when unknown."""
        self.ceiling_ratio = 1.0
        """How full it may be planned, whatever the watermark says: preemptions lower it."""
        self.running_limit: int | None = None
        """Requests that the engine runs at once, whatever its memory; None: not reached so far."""
        self.num_shown = 0
        """Of our answers there, those that are read as they come: every step shows in them."""
        self.adapters: dict[str, int] = {}
        """Our requests there by the LoRA adapter that they use."""
        self.sent_since_reading_tokens = 0
        """Prompt tokens that we have sent since the last reading came."""
        self.measured_ratio = 0.0
        """KV use at the last scrape, 0 to 1."""
        self.speed = SpeedMeter()
        self.leases: set[Reservation] = set()
        self.observer: LeaseObserver | None = None
        """Who is told of our requests there, if anybody is."""
        self.peer_requests: set[PeerRequest] = set()
        """Requests there of routers that tell us."""
        self.num_peers_pending = 0
        """Of those, the ones that have not answered."""
        self.num_pending = 0
        """Our requests there that have not answered, and those of routers that tell us."""
        self.pending_tokens = 0
        """Uncached prompt tokens of those."""
        self.pending_reserved_tokens = 0
        """What those are expected to hold at their ends."""
        self.foreign_tokens = 0
        self.num_foreign_waiting = self.num_foreign_running = 0
        """What others hold, queue and run there, as of the last scrape."""
        self.sharing_ratio = 1.0
        """What the engine holds of our answers' tokens, counting what they share once."""
        self.pinned_ratio = 0.0
        """Of the tokens that our answers there found cached, the share that others pin too."""
        self.progressed_at_seconds = -1.0
        """When it last answered anything; -1: never."""
        self.tells_life = False
        """Whether it reports how much it has computed, so that its silence is no sign alone."""
        self._leader: Reservation | None = None
        self._projected_tokens = -1
        self._ended: list[tuple[float, int]] = []
        self._unseen: list[Reservation] = []
        self._refresh_capacity()

    # What is told.

    def promise(self, *, capacity_tokens: int | None, max_context_tokens: int | None) -> None:
        """What the operator says now; the engine's own word goes before it."""
        self._promised_capacity_tokens = capacity_tokens
        self._max_context_tokens = max_context_tokens
        self._refresh_capacity()

    def apply_reading(self, reading: ReplicaReading) -> None:
        """Take a new reading: see the module's text for what it is taken to include."""
        self._adjust_ceiling(self.reading, reading)
        computed, last = reading.num_computed_tokens_total, self.reading
        self.tells_life = computed is not None
        if computed is not None and last is not None:
            before = last.num_computed_tokens_total
            if before is not None and computed > before:
                # At some time since the last one: it may hang since a moment after that.
                alive_at = last.taken_at_seconds
                self.progressed_at_seconds = max(self.progressed_at_seconds, alive_at)
        self.reading = reading
        self._projected_tokens = -1
        self.sent_since_reading_tokens = 0
        started = self.read_at_seconds = reading.taken_at_seconds
        self._refresh_capacity()
        seen, maybe, num_sent, hits = 0, 0, 0, 0
        for lease in self.leases:
            if lease.sent_at_seconds >= started:
                continue
            if 0 <= lease.answered_at_seconds <= started:
                seen += lease.prompt_tokens + lease.generated_tokens
                hits += lease.prompt_tokens - lease.work_tokens
            else:
                maybe += lease.prompt_tokens
                num_sent += 1
        unseen_tokens, num_unseen = 0, 0
        for request in self.peer_requests:
            if request.answered_at_seconds > started:
                unseen_tokens += request.needed_tokens
                num_unseen += 1
            elif not request.is_pending:
                continue
            if request.sent_at_seconds < started:
                maybe += request.prompt_tokens
                num_sent += 1
        ratio = reading.kv_cache_utilization_ratio
        self.measured_ratio = ratio or 0.0
        ended = sum(tokens for when, tokens in self._ended if when > started)
        self._ended = [item for item in self._ended if item[0] > started]
        if ratio is None or self.capacity_tokens is None:
            self.foreign_tokens, self.sharing_ratio, self.pinned_ratio = 0, 1.0, 0.0
        else:
            measured = max(0, int(ratio * self.capacity_tokens) - ended)
            self.foreign_tokens = max(0, measured - seen - maybe)
            self.sharing_ratio, self.pinned_ratio = 1.0, 0.0
            if measured < seen:
                self.sharing_ratio = max(MIN_SHARING_RATIO, measured / seen)
                self.pinned_ratio = min(1.0, (seen - measured) / hits) if hits else 0.0
        waiting, running = reading.num_requests_waiting, reading.num_requests_running
        self.num_foreign_waiting = max(0, (waiting or 0) - num_sent)
        answered = len(self.leases) - self.num_own_pending
        self.num_foreign_running = max(0, (running or 0) - answered - num_sent) + num_unseen
        self.foreign_tokens += unseen_tokens

    # What we send and get.

    def reserve(
        self,
        profile: RequestProfile,
        *,
        now_seconds: float = 0.0,
        work_tokens: int | None = None,
        expected_output_tokens: int | None = None,
    ) -> Reservation:
        """Take a lease on the tokens that the request is expected to hold.

        ``work_tokens``: of its prompt, those that are not in the replica's prefix cache.
        """
        expected = profile.assumed_output_tokens
        if expected_output_tokens is not None:
            expected = expected_output_tokens
        work = profile.num_prompt_tokens if work_tokens is None else work_tokens
        lease = Reservation(
            profile,
            work_tokens=work,
            needed_tokens=self.needed_tokens(profile.num_prompt_tokens, work),
            expected_output_tokens=expected,
            now_seconds=now_seconds,
        )
        self.leases.add(lease)
        if profile.adapter:
            self.adapters[profile.adapter] = self.adapters.get(profile.adapter, 0) + 1
        self._projected_tokens = -1
        self.sent_since_reading_tokens += lease.prompt_tokens
        self.num_pending += 1
        self.pending_tokens += lease.work_tokens
        self.pending_reserved_tokens += lease.needed_tokens + expected
        if not profile.is_stream:
            wait = self.speed.prefill_seconds(self.num_pending, self.pending_tokens)
            lease.settles_at_seconds = now_seconds + wait
            self._unseen.append(lease)
        self.speed.sent(now_seconds=now_seconds)
        if self.observer is not None:
            self.observer.sent(self.replica, lease)
        return lease

    def progress(
        self, lease: Reservation, *, generated_tokens: int, now_seconds: float = 0.0
    ) -> None:
        """The answer has ``generated_tokens`` tokens by now."""
        if lease.answered_at_seconds < 0:
            self.progressed_at_seconds = now_seconds
            # A whole answer says when it ended, not when its prompt was done.
            self._answered(lease, now_seconds, is_seen=lease.profile.is_stream)
        elif generated_tokens > lease.generated_tokens:
            self.progressed_at_seconds = now_seconds
        lease.generated_tokens = generated_tokens

    def streamed(self, lease: Reservation, *, generated_tokens: int, now_seconds: float) -> None:
        """The same, of an answer that is read as it comes: one such answer tells the steps."""
        num_more = generated_tokens - lease.generated_tokens
        self.progress(lease, generated_tokens=generated_tokens, now_seconds=now_seconds)
        if self._leader is lease:
            if num_more > 0:
                self.stepped(now_seconds=now_seconds, num_steps=num_more)
        elif self._leader is None:
            self._leader = lease
            self.speed.restart(now_seconds=now_seconds)

    def stepped(self, *, now_seconds: float, num_steps: int = 1) -> None:
        """The replica has ended so many steps."""
        num_streams = self.num_streams
        if not num_streams:
            return
        self.progressed_at_seconds = now_seconds
        speed = self.speed
        inverse = self.sum_inverse_expected_lengths
        window = num_streams / inverse if inverse > 0 else 0.0
        speed.stepped(window_steps=window, now_seconds=now_seconds, num_steps=num_steps)
        while (due := self.first_due(speed.num_steps)) is not None:
            self._re_estimate(due)

    def release(self, lease: Reservation, *, now_seconds: float = 0.0) -> int:
        """Give the lease back; returns the tokens it held at its end.

        Raises ``KeyError`` when it was given back before: that is a bug of the caller.
        """
        self.leases.remove(lease)
        adapter = lease.profile.adapter
        if adapter:
            self.adapters[adapter] -= 1
            if not self.adapters[adapter]:
                del self.adapters[adapter]
        self._projected_tokens = -1
        if lease.answered_at_seconds < 0:
            self._waits_no_more(lease)
            self.speed.left(num_left=self.num_pending)
            return lease.prompt_tokens
        self.drop(lease)
        if lease.profile.is_stream:
            self.num_shown -= 1
        if self._leader is lease:
            self._leader = None
        held = lease.prompt_tokens + lease.generated_tokens
        self._note_end(held, now_seconds)
        if not self.num_streams:
            self.speed.idle()
        return held

    def settle(self, *, now_seconds: float) -> None:
        """Answers that are not streamed are taken to have begun when they should have."""
        for lease in self._unseen[:]:
            if lease.settles_at_seconds <= now_seconds:
                self._answered(lease, now_seconds, is_seen=False)

    # What other routers send and get.

    def peer_sent(self, request: PeerRequest, *, now_seconds: float) -> None:
        """Another router's request is on its way there."""
        request.needed_tokens = self.needed_tokens(request.prompt_tokens, request.work_tokens)
        self.peer_requests.add(request)
        self._projected_tokens = -1
        self.num_peers_pending += 1
        self.num_pending += 1
        self.pending_tokens += request.work_tokens
        self.pending_reserved_tokens += request.needed_tokens + request.expected_output_tokens
        self.speed.sent(now_seconds=now_seconds)

    def peer_answered(self, request: PeerRequest, *, is_seen: bool, now_seconds: float) -> None:
        """Its first token has come: its prompt is held there, whatever the last reading says."""
        self._peer_waits_no_more(request)
        request.answered_at_seconds = now_seconds
        if is_seen:
            self.progressed_at_seconds = now_seconds
            self.speed.prefilled(
                request.work_tokens, num_left=self.num_pending, now_seconds=now_seconds
            )
        else:
            self.speed.left(num_left=self.num_pending)
        self.num_foreign_running += 1
        self.foreign_tokens += request.needed_tokens

    def peer_ended(
        self, request: PeerRequest, *, held_tokens: int | None, now_seconds: float
    ) -> None:
        """It has left; ``held_tokens``: at its end, None when nobody has said."""
        self.peer_requests.remove(request)
        if request.is_pending:
            self._peer_waits_no_more(request)
            self.speed.left(num_left=self.num_pending)
            return
        self._projected_tokens = -1
        self.num_foreign_running = max(0, self.num_foreign_running - 1)
        if held_tokens is None:
            return
        freed = max(0, held_tokens - request.prompt_tokens) + request.needed_tokens
        self.foreign_tokens = max(0, self.foreign_tokens - freed)
        self._note_end(freed, now_seconds)

    def _peer_waits_no_more(self, request: PeerRequest) -> None:
        self._projected_tokens = -1
        self.num_peers_pending -= 1
        self.num_pending -= 1
        self.pending_tokens -= request.work_tokens
        self.pending_reserved_tokens -= request.needed_tokens + request.expected_output_tokens

    # What decisions ask.

    def has_adapter(self, name: str) -> bool:
        """Whether requests use the adapter there now, ours or others'."""
        if name in self.adapters:
            return True
        read = None if self.reading is None else self.reading.adapters
        return read is not None and name in read

    def has_adapter_slot(self) -> bool:
        """Whether it can use one more adapter beside those in use; unknown counts as yes."""
        reading = self.reading
        if reading is None or reading.max_adapters is None:
            return True
        in_use = reading.adapters or frozenset()
        return len(in_use.union(self.adapters)) < reading.max_adapters

    @property
    def num_in_flight(self) -> int:
        """Our requests there."""
        return len(self.leases)

    @property
    def num_own_pending(self) -> int:
        """Our requests there that have not answered."""
        return self.num_pending - self.num_peers_pending

    @property
    def num_there(self) -> int:
        """Requests in the engine, ours and others', as far as this router can tell."""
        return (
            self.num_streams + self.num_pending + self.num_foreign_running
            + self.num_foreign_waiting
        )  # fmt: skip

    @property
    def reserved_tokens(self) -> int:
        """Tokens of all leases that are held, as they are expected at their ends."""
        return sum(lease.reserved_tokens for lease in self.leases)

    @property
    def held_tokens(self) -> int:
        """Tokens that the KV cache holds now, prompts that wait there not counted."""
        own = self.own_tokens(self.speed.num_steps)
        return int(self.sharing_ratio * own) + self.foreign_tokens

    def needed_tokens(self, prompt_tokens: int, work_tokens: int) -> int:
        """What a prompt would add to the KV cache, if ``work_tokens`` of it are not cached.

        Cached blocks that nobody uses count as free until they are hit: a hit pins them, so it
        saves time and no memory. Only what running answers pin as well is not held twice.
        """
        return prompt_tokens - int(self.pinned_ratio * (prompt_tokens - work_tokens))

    def projected_tokens(self) -> int:
        """The most that the KV cache will hold, as far as our answers' ends can be told.

        Worked out when something has come, gone or been read since: between, answers grow towards
        what is projected already.
        """
        projected = self._projected_tokens
        if projected < 0:
            step = self.speed.num_steps
            own = self.own_tokens(step)
            growth = max(0, self.peak_tokens(step) - own)
            held = int(self.sharing_ratio * own) + self.foreign_tokens
            projected = held + growth + self.pending_reserved_tokens
            self._projected_tokens = projected
        return projected

    def projected_with(self, num_tokens: int, num_more: int) -> int:
        """The most that it will hold with one more request: so many tokens, so many to come."""
        step = self.speed.num_steps
        own = self.own_tokens(step)
        held = int(self.sharing_ratio * own) + self.foreign_tokens
        return (
            held + self.peak_with(num_tokens, num_more, step) - own + self.pending_reserved_tokens
        )

    def projected_ratio(self, additional_tokens: int = 0) -> float | None:
        """Projected KV use, 0 to 1 and above, once ``additional_tokens`` are added."""
        if not self.capacity_tokens:
            return None
        return (self.projected_tokens() + additional_tokens) / self.capacity_tokens

    def is_fresh(self, *, max_age_seconds: float, now_seconds: float) -> bool:
        """Whether its reading is recent enough to trust."""
        return self.read_at_seconds >= 0 and now_seconds - self.read_at_seconds <= max_age_seconds

    @property
    def has_streams_only(self) -> bool:
        """Whether all of our answers there are read as they come: each shows that it lives."""
        return all(lease.profile.is_stream for lease in self.leases)

    def silent_seconds(self, now_seconds: float) -> float:
        """How long nothing has come back for what waits there; 0 where nothing waits."""
        if not self.num_own_pending:
            return 0.0
        sent = [lease.sent_at_seconds for lease in self.leases if lease.answered_at_seconds < 0]
        return now_seconds - max(self.progressed_at_seconds, min(sent))

    # Inside.

    def _note_end(self, held_tokens: int, now_seconds: float) -> None:
        """A scrape that is under way may have missed it."""
        self._ended.append((now_seconds, held_tokens))
        if len(self._ended) > MAX_ENDED:
            del self._ended[: MAX_ENDED // 2]

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

    def _adjust_ceiling(self, before: ReplicaReading | None, now: ReplicaReading) -> None:
        """Preemptions since the last reading, or requests that wait for blocks, lower the ceiling.

        Those that wait are a sign only where they are ours (we thought that they would fit) and
        the cache is full: else they wait for their turn in a step.
        """
        self._count_running(before, now)
        if before is None:
            return
        if before.num_preemptions_total is None or now.num_preemptions_total is None:
            return
        was_preempted = now.num_preemptions_total > before.num_preemptions_total
        waits = (
            (now.num_waiting_for_capacity or 0) > 0
            and self.num_own_pending > 0
            and (now.kv_cache_utilization_ratio or 0.0) >= NEARLY_FULL_RATIO
        )
        if was_preempted or waits:
            self.ceiling_ratio = max(FLOOR_RATIO, self.ceiling_ratio * LOWERED_RATIO)
        else:
            self.ceiling_ratio = min(1.0, self.ceiling_ratio + RAISED_RATIO)

    def _count_running(self, before: ReplicaReading | None, now: ReplicaReading) -> None:
        """How many the engine runs at once: as it says, or as many, twice, while others wait.

        While steps or memory are what they wait for, the number that runs changes.
        """
        if now.max_running is not None:
            self.running_limit = now.max_running
            return
        running = now.num_requests_running
        if not running or before is None:
            return
        limit = self.running_limit
        if _waiting(now):
            stands_still = running == before.num_requests_running and _waiting(before)
            if stands_still or (limit is not None and running > limit):
                self.running_limit = running
        elif limit is not None and running >= limit:
            # It may have been chance: one more will tell.
            self.running_limit = running + 1

    def _answered(self, lease: Reservation, now_seconds: float, *, is_seen: bool) -> None:
        """Its prompt is computed: from now on it decodes."""
        self._waits_no_more(lease)
        lease.answered_at_seconds = now_seconds
        if self.observer is not None:
            self.observer.answered(lease, is_seen=is_seen)
        speed = self.speed
        if is_seen:
            speed.prefilled(lease.work_tokens, num_left=self.num_pending, now_seconds=now_seconds)
        else:
            speed.left(num_left=self.num_pending)
        if lease.profile.is_stream:
            self.num_shown += 1
        lease.base_tokens = lease.prompt_tokens - speed.num_steps
        lease.inverse_output = 1.0 / self._expected(lease, PACE_QUANTILE, 0)
        self.insert(lease, lease.expected_output_tokens, speed.num_steps)
        self._projected_tokens = -1

    def _waits_no_more(self, lease: Reservation) -> None:
        """Its prompt is computed, or gone."""
        self.num_pending -= 1
        self.pending_tokens -= lease.work_tokens
        self.pending_reserved_tokens -= lease.needed_tokens + lease.expected_output_tokens
        if lease.settles_at_seconds >= 0:
            lease.settles_at_seconds = -1.0
            self._unseen.remove(lease)

    def _re_estimate(self, lease: Reservation) -> None:
        """It decodes longer than expected: expect anew, from those that got as long."""
        self.drop(lease)
        so_far = lease.base_tokens + self.speed.num_steps - lease.prompt_tokens
        longer = self._expected(lease, MEMORY_QUANTILE, so_far)
        lease.inverse_output = 1.0 / self._expected(lease, PACE_QUANTILE, so_far)
        lease.expected_output_tokens = longer
        self.insert(lease, longer - so_far, self.speed.num_steps)
        self._projected_tokens = -1

    def _expected(self, lease: Reservation, quantile: float, so_far: int) -> int:
        profile = lease.profile
        known = profile.known_output_tokens
        if known is not None:
            return max(so_far + LEAST_MORE_TOKENS, known)
        told = self._lengths.quantile(
            quantile,
            tenant=profile.tenant,
            num_prompt_tokens=profile.num_prompt_tokens,
            max_output_tokens=profile.max_output_tokens,
            after_tokens=so_far,
        )
        if told is None:
            told = profile.assumed_output_tokens if so_far == 0 else int(OUTLIVED_RATIO * so_far)
        return max(so_far + LEAST_MORE_TOKENS, told)


def _waiting(reading: ReplicaReading) -> bool:
    """Whether requests wait for room in the engine, as far as it says."""
    waiting = reading.num_waiting_for_capacity
    return ((reading.num_requests_waiting if waiting is None else waiting) or 0) > 0
