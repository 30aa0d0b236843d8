"""Models that sleep, through random demand: nothing is there twice, and nobody waits for ever."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_kube.sleeping import SleepState
from memroute_operator.sleeping.models import MIN_AWAKE_SECONDS
from sizes import tries
from sleeping_world import AFTER_SECONDS, World, awake, sleeper

A, B, C = "default/a", "default/b", "default/c"
# What one wake takes at most where somebody has to fall asleep first, in steps: it may have woken a
# moment ago, its last request takes 8 s, two looks until it is quiet, sleep and wake, marks.
SWITCH_STEPS = int(MIN_AWAKE_SECONDS) + 8 + 20


def world(*concurrencies, seed=1):
    """Models of which the first is awake."""
    models = [
        sleeper(name, concurrency=one) for name, one in zip("abcd", concurrencies, strict=False)
    ]
    it = World(models[:1], rng=random.Random(seed))
    for of in models[1:]:
        it.models.append(of)
        it.held[of.key], it.in_flight[of.key] = [], []
        it.add(of, asleep=True)
    return it


def test_an_idle_model_falls_asleep_and_a_request_wakes_it():
    """60 s after the last request, and not before; the request that wakes it waits some seconds."""
    it = world(30)
    it.ask(A)
    it.run(AFTER_SECONDS)
    assert it.state(A) is None
    it.run(20)
    assert it.state(A) is SleepState.ASLEEP
    assert it.engines[A].is_asleep
    it.ask(A)
    it.run(12)
    assert awake(it) == [A]
    assert not it.held[A]


def test_one_that_waits_gets_the_room_of_one_that_is_idle():
    """52.9 GiB each, of 79.2: b wakes once a sleeps."""
    it = world(30, 30)
    it.run(3)
    it.ask(B)
    it.run(SWITCH_STEPS)
    assert awake(it) == [B]
    assert it.state(A) is SleepState.ASLEEP
    assert not it.held[B]


def test_one_that_is_busy_keeps_its_room_and_the_status_says_for_whom_another_waits():
    """Twice 52.9 GiB are 26.5 more than there are."""
    it = world(30, 30)
    it.ask(A)
    it.in_flight[A].append(it.now + 300)
    it.ask(B)
    it.run(200)
    assert awake(it) == [A]
    assert it.step_.outcomes[B].sleep_waits == (
        "waits for 26.5 GiB on a/GPU-a-0: default/a is busy there"
    )
    it.run(100 + SWITCH_STEPS)
    assert not it.held[B]


def test_two_that_are_asked_for_in_turns_do_not_keep_each_other_from_serving():
    """Each stays awake for 30 s at least, so that most of the time somebody serves."""
    it = world(30, 30)
    for _ in range(20):
        it.ask(A)
        it.ask(B)
        it.run(10)
    it.run(2 * SWITCH_STEPS)
    assert not it.held[A]
    assert not it.held[B]
    assert len(it.waits) == 40


def test_nothing_falls_asleep_while_a_router_does_not_answer():
    it = world(30)
    it.run(AFTER_SECONDS - 5)
    it.routers_answer = False
    it.run(100)
    assert it.state(A) is None
    it.routers_answer = True
    it.run(AFTER_SECONDS - 5)
    assert it.state(A) is None, "what was asked meanwhile nobody knows: it begins anew"
    it.run(20)
    assert it.state(A) is SleepState.ASLEEP


def test_a_router_that_does_not_answer_keeps_no_request_of_others_waiting():
    """The world's router holds it and shows that; another one, of a node that is lost, does not."""
    it = world(30)
    it.run(AFTER_SECONDS + 20)
    assert it.state(A) is SleepState.ASLEEP
    it.routers_answer = False
    it.ask(A)
    it.run(15)
    assert not it.held[A]


def test_an_operator_that_begins_while_a_router_does_not_answer_wakes_nobody():
    it = world(30, 30)
    it.ask(A)
    it.run(AFTER_SECONDS + 20)
    it.routers_answer = False
    it.restart_operator()
    it.run(5)
    it.routers_answer = True
    it.run(20)
    assert awake(it) == []


def test_a_request_that_comes_while_it_falls_asleep_is_served():
    it = world(30)
    it.run(AFTER_SECONDS - 1)
    while it.state(A) is not SleepState.FALLING_ASLEEP:
        it.step()
    it.ask(A)
    it.run(15)
    assert not it.held[A]


def test_who_sleeps_is_not_woken_by_a_restart_of_the_operator():
    """Its routers have counted for weeks: the first look says nothing new."""
    it = world(30)
    it.ask(A)
    it.run(AFTER_SECONDS + 20)
    it.restart_operator()
    it.run(100)
    assert it.state(A) is SleepState.ASLEEP


@pytest.mark.parametrize("state", ["FallingAsleep", "Waking"])
def test_an_operator_that_dies_on_the_way_leaves_what_to_do(state):
    it = world(30, 30)
    it.run(3)
    it.ask(B)
    for _ in range(SWITCH_STEPS):
        if state in {str(it.state(A)), str(it.state(B))}:
            break
        it.step()
    it.restart_operator()
    it.run(SWITCH_STEPS)
    assert not it.held[B]
    assert awake(it) == [B]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([A, B, C, "restart", "silence", "answer"]), st.integers(1, 40)
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=tries(12))
@given(events=EVENTS, concurrencies=st.tuples(*[st.sampled_from([4, 12, 30, 38])] * 3),
       seed=st.integers(0, 5))  # fmt: skip
def test_whatever_is_asked_everybody_is_served_once_the_others_are_idle(
    events, concurrencies, seed
):
    """Any history, then quiet: all that was held is served within three switches.

    In each step ``World.check`` says that nothing is there twice.
    """
    it = world(*concurrencies, seed=seed)
    for what, steps in events:
        if what == "restart":
            it.restart_operator()
        elif what in ("silence", "answer"):
            it.routers_answer = what == "answer"
        else:
            it.ask(what)
        it.run(steps)
    it.routers_answer = True
    it.run(3 * SWITCH_STEPS)
    assert not any(it.held.values())
