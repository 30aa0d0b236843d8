"""The loop around the dispatcher: the same object in the router and in the simulator."""

import random

import pytest

from memroute.traffic.admission import QueueLimits
from memroute.traffic.dispatch import (
    Backend,
    Dispatcher,
    DispatchSettings,
    Lease,
    RequestPool,
    RetryRule,
)
from memroute.traffic.dispatch.request_pool import HELD_TICK_SECONDS
from memroute.traffic.request import RequestProfile
from memroute_router.replicas.pool import Pool
from memroute_simulator.virtual.loop import VirtualLoop
from memroute_simulator.virtual.mix import PLAIN
from memroute_simulator.virtual.router import RouterSettings, VirtualRouter


class Asking:
    """A waiter that keeps what it is told."""

    def __init__(self, prompt=100, output=50, **facts):
        self.tried = []
        self.profile = RequestProfile(
            num_prompt_tokens=prompt, min_prompt_tokens=prompt, max_output_tokens=None,
            assumed_output_tokens=output, **facts,
        )  # fmt: skip
        self.lease = self.reject = None
        self.num_stuck = 0
        self.has_crashed = False

    def admitted(self, lease):
        self.lease = lease

    def refused(self, reject):
        self.reject = reject

    def is_stuck(self):
        self.num_stuck += 1

    def crashed(self):
        self.has_crashed = True


class Broken(Asking):
    """A waiter with a bug."""

    def admitted(self, lease):
        raise ZeroDivisionError

    def is_stuck(self):
        raise ZeroDivisionError


class Rig:
    def __init__(self, names="a", capacity=1000, max_attempts=3):
        self.loop = loop = VirtualLoop()
        self.errors = []
        self.dispatcher = Dispatcher(
            DispatchSettings(), QueueLimits(max_seconds=10.0), rng=random.Random(1)
        )
        self.pool = RequestPool(
            self.dispatcher, retries=RetryRule(max_attempts), clock=lambda: loop.now_seconds,
            call_soon=lambda callback: loop.after(0.0, callback), call_later=loop.after,
            on_error=self.errors.append,
        )  # fmt: skip
        for name in names:
            ledger = self.dispatcher.ledger(name, promised_capacity_tokens=capacity)
            self.pool.join(Backend(ledger), f"engine {name}")

    def at(self, seconds):
        """What is due by then has happened."""
        self.loop.at(seconds, lambda: None)
        self.loop.run(seconds)

    def submit(self, kind=Asking, **facts):
        waiter = kind(**facts)
        return waiter, self.pool.submit(waiter)


def test_router_and_simulator_run_the_same_driver():
    """Two loops around one dispatcher differed, and no published figure said so."""
    virtual = VirtualRouter(
        loop=VirtualLoop(), policy="memroute", settings=RouterSettings(), mix=PLAIN,
        rng=random.Random(1), is_running=lambda: False, prefill_tokens_per_second=1e4,
    )  # fmt: skip
    assert issubclass(Pool, RequestPool)
    assert type(virtual.pool) is RequestPool


def test_who_is_held_and_could_go_at_once_goes_in_the_same_step():
    """A small one behind a large one: before, the router let it wait for the next tick of 20 ms."""
    rig = Rig()
    rig.submit(prompt=700, output=100)
    large, verdict = rig.submit(prompt=500, output=100)
    assert verdict is None
    rig.at(0.0)
    small, verdict = rig.submit(prompt=20, output=20)
    assert verdict is None or isinstance(verdict, Lease)
    rig.at(0.0)
    assert (small.lease or verdict) is not None
    assert large.lease is None


def test_who_waits_for_time_alone_is_looked_at_every_tick():
    """Nothing comes and nothing ends: the queue's own clock tells the one that has waited."""
    rig = Rig()
    rig.submit(prompt=700, output=100)
    late, verdict = rig.submit(prompt=500, output=100)
    assert verdict is None
    rig.at(10.0 - HELD_TICK_SECONDS)
    assert late.reject is None
    rig.at(10.0 + 2 * HELD_TICK_SECONDS)
    assert late.reject is not None
    assert rig.pool.num_held == 0


def test_the_first_event_and_the_end_of_an_answer_let_others_in():
    rig = Rig()
    _, lease = rig.submit(prompt=500, output=100)
    held, _ = rig.submit(prompt=500, output=100)
    lease.progress(1)
    rig.at(1.0)
    assert held.lease is None
    lease.release(is_complete=True, generated_tokens=100)
    rig.at(1.0)
    assert held.lease is not None
    assert held.lease.replica == "engine a"


def test_a_lease_comes_back_exactly_once():
    rig = Rig()
    _, lease = rig.submit()
    lease.release()
    with pytest.raises(RuntimeError):
        lease.release()
    assert rig.dispatcher.backends["a"].ledger.reserved_tokens == 0


def test_a_lease_outlives_its_replica():
    rig = Rig("ab")
    _, lease = rig.submit()
    rig.pool.leave(lease.choice.replica)
    lease.progress(1)
    lease.release(is_complete=True)
    assert lease.backend.ledger.reserved_tokens == 0


def test_what_waits_at_a_replica_that_hangs_is_told_where_others_do_not():
    rig = Rig("ab", capacity=100_000)
    waiter, _ = rig.submit()
    rig.at(100.0)
    rig.pool.tick()
    assert waiter.num_stuck == 1
    alone = Rig("a")
    waiter, _ = alone.submit()
    alone.at(100.0)
    alone.pool.tick()
    assert waiter.num_stuck == 0


def test_attempts_and_retries_are_bounded():
    """A hundred are saved up, ten more come with each second, a fifth with each new request."""
    rig = Rig("abc", max_attempts=2)
    waiter = Asking()
    waiter.tried = ["a", "b"]
    assert not rig.pool.may_retry(waiter)
    waiter.tried = ["a"]
    assert sum(rig.pool.may_retry(waiter) for _ in range(150)) == 100
    rig.at(1.0)
    assert sum(rig.pool.may_retry(waiter) for _ in range(50)) == 10
    for _ in range(11):
        rig.submit(prompt=1, output=1)
    assert sum(rig.pool.may_retry(waiter) for _ in range(50)) == 2


def test_an_exception_in_one_waiter_loses_no_other_verdict():
    """Those behind it in the list had their room reserved, and were never told."""
    rig = Rig(capacity=1000)
    _, lease = rig.submit(prompt=800, output=100)
    broken, _ = rig.submit(Broken, prompt=300, output=50)
    others = [rig.submit(prompt=300, output=50)[0] for _ in range(2)]
    lease.release()
    rig.at(0.1)
    assert [type(error) for error in rig.errors] == [ZeroDivisionError]
    assert broken.has_crashed
    assert all(waiter.lease is not None for waiter in others)
    for waiter in others:
        waiter.lease.release()
    assert rig.dispatcher.backends["a"].ledger.reserved_tokens == 0


def test_an_exception_in_a_request_that_is_stuck_ends_no_loop():
    """It ended the router's clock, and with it the process and the streams of all models."""
    rig = Rig("ab", capacity=100_000)
    broken, _ = rig.submit(Broken)
    rig.at(100.0)
    rig.pool.tick()
    assert broken.has_crashed
    assert len(rig.errors) == 1
