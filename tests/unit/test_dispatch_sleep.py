"""Replicas that sleep, as the dispatcher sees them: held for the wake, or when to come back."""

import heapq
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch_rig import Asking, answer, end, fill, pool, read
from memroute.traffic.admission import QueueLimits, Reject, RejectReason
from memroute.traffic.dispatch import AdmissionMode, Assignment, RequestPool, RetryRule
from memroute.traffic.dispatch.ask import REPLICA, ROOM, WAKE
from memroute.traffic.replica import SleepPhase
from memroute.traffic.replica.sleep import (
    LOOK_SECONDS,
    OVERDUE_SECONDS,
    UNKNOWN_WAKE_SECONDS,
    ReplicaSleep,
)

FALLING, ASLEEP, WAKING = SleepPhase.FALLING_ASLEEP, SleepPhase.ASLEEP, SleepPhase.WAKING


def sleeps(made, phase, names="ab", *, wake=3.0, now=0.0):
    """The operator says so of these replicas; None: they are awake."""
    for name in names:
        made.backends[name].is_routable = phase is None
        made.set_sleep(name, phase, wake_seconds=wake, now_seconds=now)


def submitted(made, now=0.0, **facts):
    ticket = Asking(**facts)
    return ticket, made.submit(ticket, now_seconds=now)


def turns(made, now):
    return dict(made.turns(now_seconds=now))


@pytest.mark.parametrize("phase", SleepPhase)
@pytest.mark.parametrize("mode", AdmissionMode)
def test_nothing_is_sent_to_a_sleeper_and_what_waits_goes_when_it_wakes(phase, mode):
    made = pool(admission=mode)
    sleeps(made, phase)
    ticket, verdict = submitted(made)
    assert verdict is None
    assert turns(made, 1.0) == {}
    assert [ask.waits_for for ask in made.waiting()] == [WAKE]
    sleeps(made, None, now=2.0)
    assert isinstance(turns(made, 2.0)[ticket], Assignment)
    assert made.num_held == 0


def test_while_one_is_awake_it_serves_and_nobody_waits_for_the_others():
    made = pool()
    sleeps(made, ASLEEP, "a")
    for _ in range(5):
        _, verdict = submitted(made)
        assert verdict.choice.replica == "b"
        answer(verdict, 0.0)


def test_when_the_awake_one_is_full_requests_wait_for_room_as_ever():
    """Sleepers wake when the operator sees that somebody waits; then they take what is there."""
    made = pool()
    sleeps(made, ASLEEP, "a")
    fill(made, "b", 990)
    ticket, verdict = submitted(made)
    assert verdict is None
    assert [ask.waits_for for ask in made.waiting()] == [ROOM]
    sleeps(made, None, "a", now=1.0)
    assert turns(made, 1.0)[ticket].choice.replica == "a"


def test_the_last_awake_replica_goes_and_what_waits_waits_for_the_sleeper():
    made = pool()
    sleeps(made, ASLEEP, "a")
    fill(made, "b", 990)
    ticket, _ = submitted(made)
    made.remove("b")
    assert turns(made, 1.0) == {}
    assert [ask.waits_for for ask in made.waiting()] == [WAKE]
    sleeps(made, None, "a", now=3.0)
    assert turns(made, 3.0)[ticket].choice.replica == "a"


def test_what_is_in_flight_goes_on_to_its_end():
    made = pool(replicas=1)
    _, running = submitted(made)
    answer(running, 0.1)
    sleeps(made, FALLING, "a")
    answer(running, 0.2)
    end(made, running, 1.0)
    assert made.backends["a"].ledger.num_in_flight == 0


def test_what_reached_an_engine_after_it_was_told_goes_to_one_that_is_awake():
    """It would wait there for the wake; where nobody is awake, that is what it does."""
    made = pool()
    _, late = submitted(made)
    name = late.choice.replica
    (other,) = set("ab") - {name}
    sleeps(made, ASLEEP, name)
    assert made.stuck(now_seconds=1000.0) == [late.reservation]
    sleeps(made, ASLEEP, other)
    assert made.stuck(now_seconds=1000.0) == []


# Who has no time for the wake.


@pytest.mark.parametrize(
    ("wake", "retry_after"),
    [(9.5, 11), (20.2, 22), (None, 7), (3_600, 60)],
)
def test_whoever_has_no_time_is_told_when_to_come_back(wake, retry_after):
    """The look (1 s) and the wake, rounded up, at most 60 s; 6 s where nobody has predicted it."""
    limits = QueueLimits(max_requests=100, max_tokens=10**6, max_seconds=5)
    made = pool(limits=limits)
    sleeps(made, ASLEEP, wake=wake)
    _, verdict = submitted(made)
    assert verdict.reason is RejectReason.MODEL_ASLEEP
    assert verdict.retry_after_seconds == retry_after
    assert "2 replica(s) of this model could hold the request and sleep" in verdict.message
    assert verdict.message.endswith("it would wait for too long")
    assert made.num_held == 0


def test_a_wake_that_is_under_way_is_that_much_nearer():
    """10 s by the prediction: after 7 of them 3 are left; after 10 it may serve at any moment."""
    sleep = ReplicaSleep(WAKING, since_seconds=100.0, wake_seconds=10.0)
    assert sleep.expected_seconds(now_seconds=107.0) == pytest.approx(3.0)
    assert sleep.expected_seconds(now_seconds=130.0) == OVERDUE_SECONDS
    unknown = ReplicaSleep(ASLEEP, since_seconds=0.0, wake_seconds=None)
    assert unknown.expected_seconds(now_seconds=50.0) == LOOK_SECONDS + UNKNOWN_WAKE_SECONDS


def test_the_replica_that_serves_soonest_counts():
    made = pool()
    sleeps(made, ASLEEP, "a", wake=50.0)
    sleeps(made, WAKING, "b", wake=4.0)
    _, verdict = submitted(made)
    assert verdict is None


def test_a_first_token_that_is_wanted_before_the_wake_is_refused_at_once():
    made = pool()
    sleeps(made, ASLEEP, wake=3.0)
    _, verdict = submitted(made, deadline_seconds=2.0)
    assert (verdict.reason, verdict.retry_after_seconds) == (RejectReason.MODEL_ASLEEP, 4)
    _, verdict = submitted(made, deadline_seconds=6.0)
    assert verdict is None


def test_prompts_that_wait_already_are_part_of_the_prediction():
    """Each takes half a second there: nine of them and 1 + 3 s are within 10 s, no more is."""
    made = pool(replicas=1, capacity=10**6)
    made.backends["a"].ledger.speed.assume(prompt_seconds=0.0, token_seconds=0.005)
    sleeps(made, ASLEEP, "a", wake=3.0)
    verdicts = [submitted(made, prompt=100)[1] for _ in range(20)]
    held = verdicts.count(None)
    assert 10 <= held <= 13
    assert all(v.reason is RejectReason.MODEL_ASLEEP for v in verdicts[held:])
    # Others go before it only if they are as urgent.
    assert submitted(made, prompt=100, priority=1)[1] is None


def test_it_waits_for_as_long_as_requests_may_and_then_is_told_why():
    made = pool()
    sleeps(made, ASLEEP, wake=3.0)
    ticket, _ = submitted(made)
    assert turns(made, 9.9) == {}
    reject = turns(made, 10.1)[ticket]
    assert reject.reason is RejectReason.MODEL_ASLEEP
    assert reject.because == "it waited for its time"
    assert reject.retry_after_seconds == 4


def test_a_longer_time_may_be_given_to_wakes():
    limits = QueueLimits(max_requests=9, max_tokens=10**6, max_seconds=5, max_wake_seconds=60)
    made = pool(limits=limits)
    sleeps(made, ASLEEP, wake=40.0)
    ticket, verdict = submitted(made)
    assert verdict is None
    assert turns(made, 41.0) == {}
    sleeps(made, None, now=42.0)
    assert isinstance(turns(made, 42.0)[ticket], Assignment)


def test_the_line_is_bounded_for_them_too():
    made = pool(limits=QueueLimits(max_requests=2, max_tokens=10**6, max_seconds=10))
    sleeps(made, ASLEEP)
    verdicts = [submitted(made)[1] for _ in range(3)]
    assert verdicts[:2] == [None, None]
    assert verdicts[2].because == "too many requests wait"
    assert verdicts[2].reason is RejectReason.MODEL_ASLEEP


def test_nobody_makes_room_for_a_request_that_cannot_wait_for_the_wake():
    """It is refused for its own deadline, full line or not, whatever its priority."""
    made = pool(limits=QueueLimits(max_requests=2, max_tokens=10**6, max_seconds=10))
    sleeps(made, ASLEEP, wake=3.0)
    held = [submitted(made)[0] for _ in range(2)]
    _, verdict = submitted(made, priority=5, deadline_seconds=1.0)
    assert verdict.because == "it would wait for too long"
    assert turns(made, 0.0) == {}
    assert [ask.ticket for ask in made.waiting()] == held


def test_a_model_that_falls_asleep_and_wakes_in_turn_holds_nobody_for_ever():
    """Awake it is full, asleep it serves nobody: a request has one wake to wait for, not more."""
    made = pool(replicas=1, limits=QueueLimits(max_requests=9, max_tokens=10**6, max_seconds=10))
    lease = fill(made, "a", 990)
    ticket, verdict = submitted(made)
    assert verdict is None
    now = 0.0
    while made.num_held and now < 300.0:
        now += 2.0
        sleeps(made, ASLEEP if now % 8 < 4 else None, "a", now=now)
        made.backends["a"].ledger.streamed(lease, num_events=int(now), now_seconds=now)
        told = turns(made, now)
    assert isinstance(told[ticket], Reject)
    assert now <= 40.0


# Which sleepers are waited for.


def test_a_sleeper_that_could_never_hold_it_is_not_waited_for():
    made = pool()
    for backend in made.backends.values():
        backend.ledger.promise(capacity_tokens=1000, max_context_tokens=200)
    sleeps(made, ASLEEP)
    _, verdict = submitted(made, prompt=500)
    assert verdict.reason is RejectReason.NEVER_FITS


@pytest.mark.parametrize("facts", [{"adapter": "sql"}, {"shares": {"a": 1.0, "b": 0.0}}])
def test_a_sleeper_that_may_not_have_it_is_not_waited_for(facts):
    made = pool(shares=facts.get("shares", {}))
    for name in "ab":
        made.backends[name].version = name
    made.backends["b"].adapters = frozenset()
    made.backends["a"].adapters = frozenset({"sql"})
    made.backends["a"].is_routable = False
    sleeps(made, ASLEEP, "b")
    _, verdict = submitted(made, adapter=facts.get("adapter", ""))
    assert verdict.reason is RejectReason.NO_READY_REPLICA


def test_a_request_that_has_failed_there_does_not_wait_for_it():
    made = pool(replicas=1)
    sleeps(made, ASLEEP, "a")
    ticket = Asking()
    ticket.tried = ["a"]
    assert made.submit(ticket, now_seconds=0.0).reason is RejectReason.NO_READY_REPLICA


def test_when_the_sleeper_goes_for_good_nobody_waits_for_it():
    made = pool(replicas=1)
    sleeps(made, ASLEEP, "a")
    ticket, _ = submitted(made)
    made.remove("a")
    assert turns(made, 1.0)[ticket].reason is RejectReason.NO_READY_REPLICA


def test_where_replicas_are_waited_for_what_it_waits_for_changes_with_them():
    made = pool(replicas=1, waits_for_replicas=True)
    made.backends["a"].is_routable = False
    submitted(made)
    assert [ask.waits_for for ask in made.waiting()] == [REPLICA]
    sleeps(made, WAKING, "a")
    turns(made, 1.0)
    assert [ask.waits_for for ask in made.waiting()] == [WAKE]
    made.set_sleep("a", None, now_seconds=2.0)
    turns(made, 2.0)
    assert [ask.waits_for for ask in made.waiting()] == [REPLICA]


# After the wake.


def test_what_has_waited_for_a_wake_is_not_late_for_it():
    """50 requests at a target of 1 s, woken after 4: all of them have their second from then on."""
    made = pool(replicas=1, capacity=10**6)
    sleeps(made, ASLEEP, "a", wake=3.0)
    tickets = [submitted(made)[0] for _ in range(50)]
    sleeps(made, None, "a", now=4.0)
    verdicts = turns(made, 4.0)
    placed = [v for v in verdicts.values() if isinstance(v, Assignment)]
    assert placed
    assert len(placed) == len(verdicts)
    assert all(v.choice.waited_for_wake for v in placed)
    assert "it was asleep" in placed[0].choice.why
    deadlines = {ask.deadline_seconds for ask in made.waiting()}
    assert all(deadline >= 5.0 for deadline in deadlines)
    assert set(verdicts) <= set(tickets)


def test_what_was_learned_stays_and_what_was_cached_is_gone():
    made = pool()
    prefix = tuple(range(100, 110))
    facts = {"prompt": 160, "prefix": prefix, "tokens_per_block": 16, "session": "s"}
    _, first = submitted(made, **facts)
    answer(first, 0.0)
    end(made, first, 1.0)
    name = first.choice.replica
    backends = list(made.backends.values())
    assert made.cached.hits(Asking(**facts).profile, backends)[name] > 0
    read(made, name, ratio=0.2, at=1.0, kv_capacity_tokens=2222)
    ledger = made.backends[name].ledger
    speed = ledger.speed.token_seconds
    sleeps(made, FALLING, name)
    assert made.cached.hits(Asking(**facts).profile, backends)[name] > 0
    sleeps(made, ASLEEP, name)
    assert made.cached.hits(Asking(**facts).profile, backends) == {}
    made.cached.sent(ledger, Asking(**facts).profile)
    sleeps(made, WAKING, name)
    assert made.cached.hits(Asking(**facts).profile, backends)[name] > 0, "emptied once"
    sleeps(made, None, name)
    assert (ledger.capacity_tokens, ledger.speed.token_seconds) == (2222, speed)


def test_a_sleep_of_which_the_router_saw_the_wake_alone_empties_caches_too():
    """Statuses are coalesced: what lies between two of them is not seen."""
    made = pool(replicas=1)
    facts = {"prompt": 160, "prefix": tuple(range(10)), "tokens_per_block": 16}
    _, first = submitted(made, **facts)
    end(made, first, 1.0)
    sleeps(made, WAKING, "a")
    assert made.cached.hits(Asking(**facts).profile, list(made.backends.values())) == {}


# Everything at once, in virtual time.


class Waiting(Asking):
    """A waiter of a pool that answers in a while, or leaves."""

    def __init__(self, run, **facts):
        super().__init__(**facts)
        self.run = run
        self.ends = []
        self.lease = None

    def admitted(self, lease):
        self.lease = lease
        self.run.later(self.run.rng.uniform(0.01, 2.0), lambda: self.ended("served"))

    def refused(self, reject):
        self.ends.append(reject.reason.value)

    def is_stuck(self):
        raise AssertionError

    def crashed(self):
        raise AssertionError

    def ended(self, word):
        if self.ends:
            return
        self.ends.append(word)
        if self.lease is not None:
            self.lease.release(is_complete=word == "served")
        else:
            self.run.pool.withdraw(self)


class Run:
    """A pool whose replicas sleep and wake at random, on a clock of its own."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.now = 0.0
        self.queue = []
        self.numbers = itertools.count()
        made = pool(
            replicas=3, limits=QueueLimits(max_requests=30, max_tokens=10**6, max_seconds=4)
        )
        self.made = made
        self.pool = RequestPool(
            made, retries=RetryRule(3), clock=lambda: self.now,
            call_soon=lambda call: self.later(0.0, call), call_later=self.later,
            on_error=self.on_error,
        )  # fmt: skip
        for name in made.backends:
            self.pool.replicas[name] = name

    @staticmethod
    def on_error(error):
        raise error

    def later(self, seconds, call):
        heapq.heappush(self.queue, (self.now + seconds, next(self.numbers), call))

    def change(self, name):
        """One step of the operator: along the states, or back from falling asleep."""
        backend = self.made.backends[name]
        now = None if backend.sleep is None else backend.sleep.phase
        choices = {None: [FALLING], FALLING: [None, ASLEEP], ASLEEP: [WAKING], WAKING: [None]}
        # It sleeps once nothing is in flight there.
        if now is FALLING and backend.ledger.num_in_flight:
            return
        sleeps(self.made, self.rng.choice(choices[now]), name, wake=1.0, now=self.now)
        self.pool.advance_soon()

    def until(self, end):
        while self.queue and self.queue[0][0] <= end:
            self.now, _, call = heapq.heappop(self.queue)
            call()


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_no_request_is_lost_and_no_lease_is_left(seed):
    """Replicas sleep and wake at random while 60 requests come, and some of them leave."""
    run = Run(seed)
    waiters = []

    def arrive():
        waiter = Waiting(run, prompt=run.rng.randrange(1, 900), tenant=run.rng.choice("xy"))
        waiters.append(waiter)
        asleep = {name for name, one in run.made.backends.items() if one.sleep is not None}
        verdict = run.pool.submit(waiter)
        if isinstance(verdict, Reject):
            waiter.refused(verdict)
        elif verdict is not None:
            assert verdict.choice.replica not in asleep
            waiter.admitted(verdict)
        if run.rng.random() < 0.2:
            run.later(run.rng.uniform(0, 3), lambda: waiter.ended("left"))

    for _ in range(60):
        run.later(run.rng.uniform(0, 8), arrive)
    for _ in range(30):
        run.later(run.rng.uniform(0, 10), lambda: run.change(run.rng.choice("abc")))
    run.until(20.0)
    assert [len(waiter.ends) for waiter in waiters] == [1] * 60
    assert run.pool.num_held == 0
    assert run.pool.num_arrivals == 60
    for backend in run.made.backends.values():
        assert backend.ledger.num_in_flight == 0
        assert backend.ledger.reserved_tokens == 0


def test_requests_are_counted_as_they_come_and_retries_are_not():
    run = Run(1)
    sleeps(run.made, ASLEEP, "abc", wake=100.0)
    refused = Waiting(run)
    assert isinstance(run.pool.submit(refused), Reject)
    refused.tried = ["a"]
    run.pool.submit(refused)
    assert run.pool.num_arrivals == 1
