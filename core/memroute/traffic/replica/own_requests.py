"""This router's requests on one replica, and what their answers show of it.

A streamed answer shows its events (``lengths.events`` says how many tokens an event carries). A
whole answer shows nothing until it ends: its prompt is taken to be done when the prefill law says
so (``settle``), and from then on it grows with the replica's token clock (``step_clock``).

One streamed answer, the *leader*, drives the clock. When the leader ends, or its client reads
slowly, another takes its place. Where no answer is read as it comes, the clock goes on by time.
"""

import math
from typing import Final

from memroute.traffic.lengths.events import TokensPerEvent
from memroute.traffic.lengths.output import OutputLengths
from memroute.traffic.replica.decoding import Reservation
from memroute.traffic.replica.observer import LeaseObserver
from memroute.traffic.replica.predictions import Predictions
from memroute.traffic.replica.requests_there import RequestsThere
from memroute.traffic.request import RequestProfile

# Tokens from which on a whole answer tells how long a token takes.
# Unit: tokens. Source: chosen by hand.
MIN_TELLING_TOKENS: Final = 8
# Tokens per event from which on every stream tells how long its tokens took, not the leader alone:
# else the mean would be as old as an event is long.
# Unit: tokens per event. Source: chosen by hand.
SPARSE_RATIO: Final = 1.6
# Events of its own that a stream which should show every step may be silent for, before its
# replica counts as unproven, or another answer leads the clock.
# Unit: events. Source: chosen by hand.
SILENT_EVENTS: Final = 8.0
# And seconds, before another answer leads.
# Unit: seconds. Source: chosen by hand.
LEAST_SILENT_SECONDS: Final = 1.0


class OwnRequests(RequestsThere):
    """The leases on one replica, and what drives its clock. Owns both."""

    __slots__ = (
        "_event_tokens", "_leader_events", "_unseen", "adapters", "leases", "num_shown", "observer",
        "progressed_at_seconds", "seen_events", "seen_seconds", "sent_since_reading_tokens",
        "settles_at_seconds",
    )  # fmt: skip

    def __init__(
        self,
        lengths: OutputLengths | None,
        events: TokensPerEvent | None,
        predictions: Predictions | None,
    ) -> None:
        super().__init__(lengths, events, predictions)
        self.leases: set[Reservation] = set()
        self.observer: LeaseObserver | None = None
        """Hears of our requests on the replica; None: nothing does."""
        self.num_shown = 0
        """Our answers there that are read as they come: every step shows in them."""
        self.adapters: dict[str, int] = {}
        """Our requests there by the LoRA adapter that they use."""
        self.sent_since_reading_tokens = 0
        """Prompt tokens that we have sent since the last reading came."""
        self.progressed_at_seconds = -1.0
        """When the replica last sent anything back; -1: never."""
        self.settles_at_seconds = math.inf
        """When the next whole answer counts as begun; infinity: none is pending."""
        self.seen_events = self.seen_seconds = 0.0
        """Events per sequence that drove the clock, and the seconds they took, since they were last
        compared with the engine's counters."""
        self._event_tokens = 1.0
        """Tokens per event that the clock's ticks rest on."""
        self._leader_events = 0
        """Of the leader, those since the clock's last tick."""
        self._unseen: list[Reservation] = []
        """Whole answers that have not begun."""

    # What is sent, and what comes back.

    def reserve(
        self,
        profile: RequestProfile,
        *,
        now_seconds: float = 0.0,
        work_tokens: int | None = None,
        expected_output_tokens: int | None = None,
    ) -> Reservation:
        """Reserve the tokens that the request is expected to hold.

        ``work_tokens``: of its prompt, those that are not in the replica's prefix cache.
        """
        expected = profile.assumed_output_tokens
        if expected_output_tokens is not None:
            expected = expected_output_tokens
        work = profile.num_prompt_tokens if work_tokens is None else work_tokens
        if self.settles_at_seconds <= now_seconds:
            self.settle(now_seconds=now_seconds)
        lease = self._await(
            profile, work_tokens=work, expected_output_tokens=expected, now_seconds=now_seconds
        )
        self.leases.add(lease)
        if profile.adapter:
            self.adapters[profile.adapter] = self.adapters.get(profile.adapter, 0) + 1
        self.sent_since_reading_tokens += lease.prompt_tokens
        if not profile.is_stream:
            wait = self.speed.prefill_seconds(self.num_pending, self.pending_tokens)
            lease.settles_at_seconds = self.speed.busy_since_seconds + wait
            lease.settles_at_seconds = max(lease.settles_at_seconds, now_seconds)
            self._unseen.append(lease)
            self.settles_at_seconds = min(self.settles_at_seconds, lease.settles_at_seconds)
        return lease

    def streamed(self, lease: Reservation, *, num_events: int, now_seconds: float) -> None:
        """A streamed answer has shown ``num_events`` events by now; the leader drives the clock."""
        num_more = num_events - lease.num_events
        if num_more <= 0:
            return
        lease.num_events = num_events
        sequences = lease.num_sequences
        after_first = max(0, num_events - sequences)
        lease.generated_tokens = num_events - after_first + int(after_first * self._events.ratio)
        lease.is_answered = True
        self.progressed_at_seconds = now_seconds
        if self.settles_at_seconds <= now_seconds:
            # Whole answers that should have begun by now belong to the time before this token.
            self.settle(now_seconds=now_seconds)
        if lease.answered_at_seconds < 0:
            self._answered(lease, now_seconds, is_seen=True)
            if lease.expected_first_token_seconds >= 0:
                self._predictions.first_token(
                    expected=lease.expected_first_token_seconds,
                    actual=now_seconds - lease.sent_at_seconds,
                    now_seconds=now_seconds,
                )
        ratio = self._events.ratio
        if ratio != self._event_tokens:
            self.steps.rescale(self._event_tokens / ratio)
            self._event_tokens = ratio
        is_sparse = ratio >= SPARSE_RATIO
        if self._leader is lease:
            self._lead(num_more, sequences, now_seconds, is_sparse=is_sparse)
        elif not lease.is_paused and (self._leader is None or self._is_leader_silent(now_seconds)):
            if self._leader is not None:
                self._lose_leader(now_seconds)
            self._leader, self._leader_events = lease, 0
            self.steps.restart(now_seconds=now_seconds)
        elif is_sparse and lease.shown_at_seconds >= 0 and sequences == 1:
            self._glimpse(lease, num_more, now_seconds)
        lease.shown_at_seconds = now_seconds

    def completed(
        self, lease: Reservation, *, generated_tokens: int | None, now_seconds: float
    ) -> None:
        """The answer is complete. ``generated_tokens``: as the engine says (``usage``), or None.

        A whole answer teaches how long a token takes, a streamed one how many an event carries.
        """
        lease.is_answered = True
        self.progressed_at_seconds = now_seconds
        if lease.answered_at_seconds < 0:
            # A whole answer shows when it ends, not when its prompt was done.
            self._answered(lease, now_seconds, is_seen=False)
        elif generated_tokens is not None and not lease.profile.is_stream:
            ticks = generated_tokens / lease.num_sequences
            if ticks >= MIN_TELLING_TOKENS:
                self.steps.report((now_seconds - lease.answered_at_seconds) / ticks)
                self.steps.report_alone(
                    now_seconds - lease.sent_at_seconds, ticks, now_seconds=now_seconds
                )
        if generated_tokens is None:
            return
        lease.generated_tokens = generated_tokens
        ticks = generated_tokens / lease.num_sequences
        if lease.num_events and ticks >= MIN_TELLING_TOKENS and self.steps.mean_seconds > 0.0:
            self._predictions.token(
                expected=self.steps.mean_seconds,
                actual=(now_seconds - lease.answered_at_seconds) / (ticks - 1.0),
                now_seconds=now_seconds,
            )
        if lease.num_events:
            self._events.observe(
                num_tokens=generated_tokens,
                num_events=lease.num_events,
                num_sequences=lease.num_sequences,
            )

    def paused(self, lease: Reservation, *, now_seconds: float) -> None:
        """The answer is not read for a while, because its client is slow: it shows nothing."""
        if lease.is_paused:
            return
        lease.is_paused = True
        if lease.answered_at_seconds >= 0 and lease.profile.is_stream:
            self.num_shown -= 1
        if self._leader is lease:
            self._lose_leader(now_seconds)

    def resumed(self, lease: Reservation) -> None:
        """The answer is read again."""
        if not lease.is_paused:
            return
        lease.is_paused = False
        if lease.answered_at_seconds >= 0 and lease.profile.is_stream:
            self.num_shown += 1

    def release(self, lease: Reservation, *, now_seconds: float = 0.0) -> int:
        """Release a reservation; returns the tokens that it held at its end.

        Raises ``KeyError`` when it was released before: that is a bug of the caller.
        """
        self.leases.remove(lease)
        adapter = lease.profile.adapter
        if adapter:
            self.adapters[adapter] -= 1
            if not self.adapters[adapter]:
                del self.adapters[adapter]
        self._projected_tokens = -1
        if lease.answered_at_seconds < 0:
            self._settles_no_more(lease)
            self._left_unanswered(lease, now_seconds)
            return lease.prompt_tokens
        self.drop(lease)
        if lease.profile.is_stream and not lease.is_paused:
            self.num_shown -= 1
        held = lease.prompt_tokens + self._tokens_so_far(lease)
        if self._leader is lease:
            self._lose_leader(now_seconds)
        self._note_end(held, now_seconds)
        self._look_for_idle()
        return held

    def settle(self, *, now_seconds: float) -> None:
        """Let time pass: whole answers begin when the prefill law says so, and grow."""
        if self.settles_at_seconds <= now_seconds:
            due = [lease for lease in self._unseen if lease.settles_at_seconds <= now_seconds]
            for lease in due:
                self._answered(lease, lease.settles_at_seconds, is_seen=False)
        if self._pass_time(now_seconds):
            self._re_estimate_due()

    # What decisions ask.

    @property
    def num_in_flight(self) -> int:
        """Our requests there."""
        return len(self.leases)

    @property
    def reserved_tokens(self) -> int:
        """Tokens that all our requests there are expected to hold at their ends."""
        return sum(lease.reserved_tokens for lease in self.leases)

    @property
    def leader(self) -> Reservation | None:
        """The answer whose events drive the clock; None while no answer is read as it comes."""
        return self._leader

    @property
    def unanswered(self) -> list[Reservation]:
        """Our requests there without any part of an answer."""
        return [lease for lease in self.leases if not lease.is_answered]

    @property
    def has_streams_only(self) -> bool:
        """Whether all our answers there are streamed, so that each shows a sign of life."""
        return all(lease.profile.is_stream for lease in self.leases)

    def silent_seconds(self, now_seconds: float) -> float:
        """Seconds without anything from the replica while a request is unanswered; else 0."""
        sent = [lease.sent_at_seconds for lease in self.leases if not lease.is_answered]
        if not sent:
            return 0.0
        return now_seconds - max(self.progressed_at_seconds, min(sent))

    @property
    def event_seconds(self) -> float:
        """Seconds between two events of one answer there; 0 while nothing decodes."""
        return self.steps.mean_seconds * max(1.0, self._events.ratio)

    # Inside.

    def _answered(self, lease: Reservation, now_seconds: float, *, is_seen: bool) -> None:
        """Our request's prompt is computed: from now on it decodes."""
        self._settles_no_more(lease)
        if lease.profile.is_stream and not lease.is_paused:
            self.num_shown += 1
        self._decodes(lease, now_seconds, is_seen=is_seen)
        if self.observer is not None:
            self.observer.answered(lease, is_seen=is_seen)

    def _settles_no_more(self, lease: Reservation) -> None:
        """A whole answer has begun, or left before: no time is waited for on its account."""
        if lease.settles_at_seconds >= 0:
            lease.settles_at_seconds = -1.0
            self._unseen.remove(lease)
            earliest = math.inf
            for other in self._unseen:
                earliest = min(earliest, other.settles_at_seconds)
            self.settles_at_seconds = earliest

    def _is_leader_silent(self, now_seconds: float) -> bool:
        """Whether the leader shows nothing while others do: preempted, or held back by a parser."""
        silent = now_seconds - self.steps.last_at_seconds
        return silent > LEAST_SILENT_SECONDS and silent > SILENT_EVENTS * self.event_seconds

    def _glimpse(self, lease: Reservation, num_more: int, now_seconds: float) -> None:
        """A stream beside the leader has shown ``num_more`` events, of many tokens each."""
        ticks = num_more * self._events.ratio
        inverse = self.sum_inverse_expected_lengths
        weight = 1.0 / max(1, self.num_shown)
        self.unshown_tokens -= int(self.unshown_tokens * weight)
        self.steps.glimpse(
            (now_seconds - lease.shown_at_seconds) / ticks,
            ticks,
            window_ticks=self.num_streams / inverse if inverse > 0 else 0.0,
            weight=weight,
        )

    def _lead(self, num_more: int, sequences: int, now_seconds: float, *, is_sparse: bool) -> None:
        """The leader has shown ``num_more`` events: the clock advances."""
        self._leader_events += num_more
        if self._leader_events < sequences:
            # All choices get a token in the same step, and may arrive in separate reads.
            return
        steps, streams = self.steps, self.num_streams
        each = self._leader_events / sequences
        self._leader_events = 0
        weight = 1.0 / max(1, self.num_shown) if is_sparse else 1.0
        self.unshown_tokens -= int(self.unshown_tokens * weight)
        inverse = self.sum_inverse_expected_lengths
        last = self.steps.last_at_seconds
        steps.advance(
            each * self._events.ratio,
            window_ticks=streams / inverse if inverse > 0 else 0.0,
            now_seconds=now_seconds,
            weight=weight,
            is_between_prompts=not self.num_pending and self._prompt_at_seconds <= last,
            num_streams=streams,
            num_tokens=self.own_tokens(steps.num_ticks),
        )
        if last >= 0:
            self.seen_events += each
            self.seen_seconds += now_seconds - last
        self._re_estimate_due()

    def _lose_leader(self, now_seconds: float) -> None:
        self._leader = None
        self.unshown_tokens = 0
        self.steps.lose_leader(now_seconds=now_seconds)
