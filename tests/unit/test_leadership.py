"""Who may write, by rules alone: several candidates, one Lease, and everything that goes wrong."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_operator.election.leadership import (
    Attempt,
    Leadership,
    LeaseRecord,
    LeaseTiming,
    Wait,
    confirm,
    decide,
    observe,
    released,
    step_down_if_late,
)
from memroute_simulator.virtual.loop import VirtualLoop
from sizes import tries

TIMING = LeaseTiming()
WALL = "2026-01-01T00:00:00.000000Z"


def held(holder="other", *, renewed=WALL, duration=10, transitions=3):
    return LeaseRecord(
        holder=holder, duration_seconds=duration, renew_time=renewed, transitions=transitions
    )


def candidate(record=None, *, at=0.0, **facts):
    return observe(Leadership(identity="me", **facts), record, now=at)


def test_a_missing_lease_is_created():
    verdict = decide(candidate(), now=0.0, wall_time=WALL)
    assert isinstance(verdict, Attempt)
    assert verdict.creates
    assert verdict.record.holder == "me"


def test_a_lease_is_not_taken_before_it_has_looked_the_same_for_its_duration():
    """First seen at 100 s, good for 10: at 109 one waits the second that is left, at 110 takes."""
    waiting = candidate(held(), at=100.0)
    verdict = decide(waiting, now=109.0, wall_time=WALL)
    assert isinstance(verdict, Wait)
    assert verdict.seconds == pytest.approx(1.0)
    taken = decide(waiting, now=110.0, wall_time=WALL)
    assert isinstance(taken, Attempt)
    assert not taken.creates
    assert taken.record.transitions == 4
    assert "other has not renewed it for 10 s" in taken.why


@pytest.mark.parametrize("renewed", ["1970-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"])
def test_the_holders_wall_clock_decides_nothing(renewed):
    """A holder whose clock is years behind (or ahead) keeps its Lease for as long as any other."""
    waiting = candidate(held(renewed=renewed), at=100.0)
    assert isinstance(decide(waiting, now=109.9, wall_time=WALL), Wait)
    assert isinstance(decide(waiting, now=110.0, wall_time=WALL), Attempt)


def test_each_renewal_that_is_seen_starts_the_wait_anew():
    waiting = candidate(held(renewed="a"), at=100.0)
    waiting = observe(waiting, held(renewed="a"), now=108.0)
    assert waiting.observed_at == 100.0
    waiting = observe(waiting, held(renewed="b"), now=109.0)
    assert isinstance(decide(waiting, now=118.0, wall_time=WALL), Wait)
    assert isinstance(decide(waiting, now=119.0, wall_time=WALL), Attempt)


def test_the_holders_own_duration_counts():
    """During an upgrade of the flags, the two may disagree: the holder's promise is the one."""
    waiting = candidate(held(duration=60), at=0.0)
    assert isinstance(decide(waiting, now=59.0, wall_time=WALL), Wait)


def test_a_lease_that_was_given_back_is_taken_at_once():
    verdict = decide(candidate(held(""), at=5.0), now=5.0, wall_time=WALL)
    assert isinstance(verdict, Attempt)
    assert "gave it back" in verdict.why


def test_writing_ends_before_anybody_else_may_begin():
    """Confirmed at 50 s, but sent at 48: writes until 55, and others wait until 58 at least."""
    leading = confirm(candidate(), held("me"), sent_at=48.0)
    assert leading.is_leading(54.9)
    assert not leading.is_leading(55.0)
    assert step_down_if_late(leading, now=55.0).renewed_at is None
    assert TIMING.renew_seconds < TIMING.duration_seconds


def test_one_who_reads_another_holder_leads_no_more():
    leading = confirm(candidate(), held("me"), sent_at=48.0)
    assert not observe(leading, held("other"), now=49.0).is_leading(49.0)
    assert not observe(leading, None, now=49.0).is_leading(49.0)


def test_a_term_goes_on_while_nobody_else_has_the_lease():
    """A renewal that comes late finds the Lease as it was: nobody can have written meanwhile."""
    leading = confirm(candidate(), held("me"), sent_at=0.0)
    renewed = confirm(leading, held("me", renewed="b"), sent_at=2.0)
    late = step_down_if_late(renewed, now=30.0)
    again = decide(late, now=30.0, wall_time=WALL)
    assert isinstance(again, Attempt)
    kept = confirm(late, again.record, sent_at=30.0)
    assert [one.term for one in (leading, renewed, kept)] == [1, 1, 1]


@pytest.mark.parametrize("between", [held("other"), held(""), None])
def test_a_term_ends_when_somebody_else_may_have_written(between):
    """A step that was planned before must not be carried out after."""
    leading = confirm(candidate(), held("me"), sent_at=0.0)
    lost = observe(leading, between, now=30.0)
    assert confirm(lost, held("me"), sent_at=60.0).term == 2
    # The answer to the taking was lost, and the next look finds the Lease ours: no less new.
    assert confirm(observe(lost, held("me"), now=61.0), held("me"), sent_at=62.0).term == 2


def test_only_what_is_ours_is_given_back():
    assert released(candidate(held("other")), wall_time=WALL) is None
    assert released(candidate(), wall_time=WALL) is None
    given_back = released(candidate(held("me")), wall_time=WALL)
    assert given_back is not None
    assert given_back.holder == ""


@pytest.mark.parametrize(
    ("duration", "renew", "retry", "is_sound"),
    [(10, 7, 2, True), (15, 10, 2, True), (10, 10, 2, False), (10, 4, 2, False), (10, 7, 0, False)],
)
def test_times_that_leave_no_room_are_refused(duration, renew, retry, is_sound):
    timing = LeaseTiming(duration_seconds=duration, renew_seconds=renew, retry_seconds=retry)
    assert (timing.problem is None) == is_sound


class Server:
    """The one Lease, with a resourceVersion: as the API server keeps it."""

    def __init__(self):
        self.record, self.version = None, 0

    def write(self, record, version):
        """Take the record if nobody was faster; whether it was taken."""
        if version != self.version:
            return False
        self.record, self.version = record, self.version + 1
        return True


class Candidate:
    """One process: a clock with its own zero, a network that delays and loses, stops and crashes.

    Whatever happens to it happens between two of its instructions: a stopped process finds the
    answer to its last call when it wakes up, and what a crashed one has sent may still arrive.
    """

    def __init__(self, name, loop, server, rng, on_confirm):
        self._name, self._loop, self._server, self._rng = name, loop, server, rng
        self._on_confirm = on_confirm
        self._offset = rng.uniform(-1e6, 1e6)
        self._stopped_until = 0.0
        self._life = 0
        self.leadership = Leadership(identity=name)

    @property
    def is_leading(self):
        return self.leadership.is_leading(self.clock)

    @property
    def turn(self):
        """Who leads, and in which of its terms."""
        return self.leadership.identity, self.leadership.term

    @property
    def clock(self):
        return self._loop.now_seconds + self._offset

    def _delay(self):
        """Mostly milliseconds; now and then seconds, as when a network is cut and heals."""
        return self._rng.choice([0.0, 0.01, 0.01, 0.1, 1.0, self._rng.uniform(0, 30)])

    def _when_running(self, callback):
        """Run it in this life, once the process is not stopped."""
        life = self._life

        def try_it():
            if life != self._life:
                return
            if self._loop.now_seconds < self._stopped_until:
                self._loop.at(self._stopped_until, try_it)
            else:
                callback()

        return try_it

    def look(self):
        """Ask; the answer is as old as it took to arrive."""
        self._loop.after(self._delay(), lambda: self._be_asked(self._life))
        # Should nothing ever come back, it asks anew.
        life, asked = self._life, self.leadership
        self._loop.after(5.0, self._when_running(lambda: self._ask_anew(life, asked)))

    def _ask_anew(self, life, asked):
        if life == self._life and self.leadership is asked:
            self.look()

    def _be_asked(self, life):
        if life != self._life or self._rng.random() < 0.05:
            return
        record, version = self._server.record, self._server.version
        hear = self._when_running(lambda: self._decide(record, version))
        self._loop.after(self._delay(), hear)

    def _decide(self, record, version):
        now = self.clock
        self.leadership = observe(step_down_if_late(self.leadership, now=now), record, now=now)
        # A wall clock of its own, as wrong as it likes.
        verdict = decide(self.leadership, now=now, wall_time=f"{now}")
        if isinstance(verdict, Wait):
            self._loop.after(verdict.seconds, self._when_running(self.look))
            return
        sent = self._when_running(lambda: self._send(verdict.record, version))
        # It may be stopped between deciding and sending.
        self._loop.after(self._rng.choice([0.0, 0.001]), sent)

    def _send(self, record, version):
        sent_at, life = self.clock, self._life

        def arrive():
            if not self._server.write(record, version):
                return
            if life == self._life and self._rng.random() > 0.1:
                hear = self._when_running(lambda: self._confirm(record, sent_at))
                self._loop.after(self._delay(), hear)

        self._loop.after(self._delay(), arrive)
        self._loop.after(TIMING.retry_seconds, self._when_running(self.look))

    def _confirm(self, record, sent_at):
        self.leadership = confirm(self.leadership, record, sent_at=sent_at)
        self._on_confirm()

    def disturb(self):
        """SIGSTOP for a while, a crash with a new process after it, or a clean end."""
        now, what = self._loop.now_seconds, self._rng.random()
        if what < 0.6:
            self._stopped_until = now + self._rng.choice([3.0, 8.0, 20.0, 60.0])
            return
        if what < 0.8:
            record, version = released(self.leadership, wall_time=f"{now}"), self._server.version
            if record is not None and self._server.record == self.leadership.observed:
                self._loop.after(self._delay(), lambda: self._server.write(record, version))
        self._life += 1
        self.leadership = Leadership(identity=f"{self._name}.{self._life}")
        self._loop.after(self._delay(), self.look)


def play(seed):
    """Ten minutes of three candidates: who led at each confirmation, and who did at each second.

    One begins to lead by a confirmation and by nothing else: at that moment two would lead, if
    ever.
    """
    loop, server, rng = VirtualLoop(), Server(), random.Random(seed)
    begun, led = [], []

    def leading():
        return [one.turn for one in candidates if one.is_leading]

    candidates = [
        Candidate(name, loop, server, rng, lambda: begun.append(leading())) for name in "abc"
    ]
    for one in candidates:
        loop.after(rng.uniform(0, 3), one.look)
        for _ in range(12):
            loop.at(rng.uniform(0, 600), one.disturb)
    for second in range(600):
        loop.at(second, lambda: led.append(leading()))
    loop.run(600.0)
    return begun, led


@pytest.mark.slow
@settings(max_examples=tries(40))
@given(st.integers(0, 2**32))
def test_no_history_has_two_who_may_write(seed):
    """Clocks of any zero, calls that are late or lost, processes stopped, killed and ended.

    A stopped process is judged as well: it writes as soon as it wakes up.
    """
    begun, led = play(seed)
    assert max(len(leading) for leading in begun + led) == 1
    # And nobody leads within another's term: what a term has planned, nobody has overtaken.
    turns = [turn for turn, _ in itertools.groupby(one for leading in begun for one in leading)]
    assert len(turns) == len(set(turns))


@pytest.mark.slow
def test_somebody_leads_most_of_the_time_in_spite_of_all():
    """Half of the calls take seconds or are lost, and each process is disturbed every 50 s."""
    led = [leading for seed in range(10) for leading in play(seed)[1]]
    assert sum(map(bool, led)) > 0.4 * len(led)
