"""A replica that does not start, in room that a sleeper has lent it: whose room is it now?

On 79.2 GiB: ``m`` sleeps (52.8), and is asked for; ``x`` is new, has its room, and does not start.
"""

import random
from dataclasses import replace

import pytest

from memroute_operator.plan import Create, Delete, MarkSleep, plan_step
from memroute_operator.replicas.failed_pods import FailedPods
from memroute_operator.replicas.replica import Seen
from memroute_operator.rules.priorities import Priority, PriorityClasses
from memroute_operator.sleeping.mark import MarkedState
from memroute_operator.status.conditions import NO_TROUBLES, placed
from planned_objects import context, facts, pod_of
from sleep_steps import LONG, QUIET, marks, pod
from sleeping_world import sleeper

WAITS = replace(QUIET, waiting_seconds={"default/m": 2.0})
ALLOWED_SECONDS = 300.0
GOLD = PriorityClasses(by_name={"gold": Priority(value=10, class_name="gold")})
ASIDE = {"default/x#0": "default/m"}


def newcomer(**others):
    return sleeper("x", rollout={"progressDeadlineSeconds": int(ALLOWED_SECONDS)}, **others)


def starting(seconds):
    return Seen(unready_seconds=seconds, starting_seconds=seconds)


LATE, IN_TIME = starting(ALLOWED_SECONDS + 1.0), starting(ALLOWED_SECONDS)


def with_class(of, name):
    return replace(of, template=replace(of.template, priority_class=name))


def step(x, seen_x, demand=WAITS, *, others=(), pods=(), **known):
    m = sleeper("m")
    found = facts(
        [m, x, *others],
        [pod(m, MarkedState.ASLEEP), pod_of(x, ready=False), *pods],
        m_0=LONG, x_0=seen_x, n_0=LONG,
    )  # fmt: skip
    return plan_step(found, context(demand=demand, **known))


def ended(found):
    return [one.replica.deployment_name for one in found.actions if isinstance(one, Delete)]


def test_while_it_is_on_the_way_in_its_time_its_room_is_its_own():
    found = step(newcomer(), IN_TIME)
    assert found.actions == []
    assert found.outcomes["default/m"].sleep_waits == (
        "waits for 26.5 GiB on a/GPU-a-0: default/x is on the way to serve"
    )


def test_after_that_the_owner_of_the_room_gets_it_back_when_it_is_asked_for():
    """Its requests waited for as long as somebody else's engine crashed and was started again."""
    found = step(newcomer(), LATE)
    (action,) = found.actions
    assert isinstance(action, Delete)
    assert (action.replica.pod_name, action.has_failed, action.room_for) == (
        "x-0", True, "default/m",
    )  # fmt: skip
    assert action.why == (
        "x-0 did not become ready within 300 s; default/m is asked for, and had lent it its room"
    )
    assert found.outcomes["default/m"].sleep_waits == (
        "waits for 26.5 GiB on a/GPU-a-0: default/x did not start, and ends"
    )
    assert found.outcomes["default/x"].kept == set()


def test_while_nobody_asks_for_the_owner_it_may_go_on_trying():
    assert step(newcomer(), LATE, QUIET).actions == []


def test_a_replica_of_its_own_model_is_no_exception():
    """Two replicas of which one sleeps, and the other never came up."""
    m = sleeper("m", replicas=2, rollout={"progressDeadlineSeconds": int(ALLOWED_SECONDS)})
    pods = [pod(m, MarkedState.ASLEEP), pod_of(m, 1, ready=False)]
    found = plan_step(facts([m], pods, m_0=LONG, m_1=LATE), context(demand=WAITS))
    assert [one.replica.pod_name for one in found.actions if isinstance(one, Delete)] == ["m-1"]


@pytest.mark.parametrize(
    "spared", [with_class(newcomer(), "gold"), replace(newcomer(), paused=True)]
)
def test_one_of_higher_priority_or_that_is_paused_is_not_ended(spared):
    assert ended(step(spared, LATE, priorities=GOLD)) == []


def test_nobody_is_ended_where_that_is_not_enough():
    """``n`` (23.6 GiB) is busy there: without ``x`` (23.6) some 6 GiB would still be lacking."""
    n, x = sleeper("n", concurrency=4), newcomer(concurrency=4)
    m = sleeper("m", concurrency=38)
    busy = replace(WAITS, in_flight={"default/n-0": 1})
    pods = [pod(m, MarkedState.ASLEEP), pod_of(x, ready=False), pod(n)]
    found = plan_step(facts([m, x, n], pods, m_0=LONG, x_0=LATE, n_0=LONG), context(demand=busy))
    assert found.actions == []
    assert "default/n is busy there" in found.outcomes["default/m"].sleep_waits


def test_who_serves_nobody_goes_before_who_is_idle_and_until_it_has_gone_nobody_sleeps_for_it():
    """Without ``x`` (32.6 GiB) ``m`` (52.8) has room beside ``n`` (23.6), which is idle."""
    n, x = sleeper("n", concurrency=4), newcomer(concurrency=12)
    recent = replace(WAITS, asked_seconds={"default/n": 5.0})
    found = step(x, LATE, recent, others=[n], pods=[pod(n)])
    assert (ended(found), marks(found)) == (["x"], set())
    m, going = sleeper("m"), pod_of(x, ready=False)
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    later = plan_step(
        facts([m, x, n], [pod(m, MarkedState.ASLEEP), going, pod(n)], m_0=LONG, n_0=LONG),
        context(demand=recent, held_back=frozenset({"default/x#0"})),
    )
    assert later.actions == []
    assert later.outcomes["default/m"].sleep_waits.endswith("default/x did not start, and ends")


def test_its_successor_does_not_take_the_room_before_the_owner_has_woken():
    """Its back-off may be over before its pod has gone."""
    m, x = sleeper("m"), newcomer()
    asleep = facts([m, x], [pod(m, MarkedState.ASLEEP)], m_0=LONG)
    before = plan_step(asleep, context(demand=WAITS))
    assert [type(one) for one in before.actions] == [Create], "who was never ended is a newcomer"
    found = plan_step(asleep, context(demand=WAITS, stood_aside=ASIDE))
    assert [type(one) for one in found.actions] == [MarkSleep]
    assert marks(found) == {("m", "Waking")}
    outcome = found.outcomes["default/x"]
    status, _, message = placed(x, [], outcome, NO_TROUBLES)
    assert status == "Unknown"
    assert message == (
        "0 of 1 replica(s) placed; the next once default/m has woken, whose room the one before "
        "it had, and did not start"
    )
    idle = plan_step(asleep, context(demand=QUIET, stood_aside=ASIDE))
    assert [type(one) for one in idle.actions] == [Create], "its owner does not need it"


@pytest.mark.parametrize("hindered", [{"paused": True}, {"is_ready": False}])
def test_an_owner_that_cannot_wake_keeps_nobody_out(hindered):
    m, x = replace(sleeper("m"), paused=hindered.get("paused", False)), newcomer()
    asleep = pod(m, MarkedState.ASLEEP)
    if "is_ready" in hindered:
        asleep["status"]["conditions"][0]["status"] = "False"
    found = plan_step(facts([m, x], [asleep], m_0=LONG), context(demand=WAITS, stood_aside=ASIDE))
    assert [type(one) for one in found.actions] == [Create]


def test_one_that_starts_again_after_that_gives_way_at_once_until_it_has_served():
    """Else its owner would wait for another five minutes, again and again."""
    assert ended(step(newcomer(), starting(2.0), stood_aside=ASIDE)) == ["x"]
    unready = Seen(serving_seconds=50.0, unready_seconds=2.0, starting_seconds=2.0)
    assert ended(step(newcomer(), unready, stood_aside=ASIDE)) == []


def test_who_stood_aside_for_whom_is_remembered_as_long_as_its_failure():
    pods = FailedPods(random.Random(1))
    (action,) = step(newcomer(), LATE).actions
    failure = pods.on_deleted(action, now_seconds=0.0)
    assert "did not become ready within 300 s" in failure.told
    assert pods.held_back(0.0) == {"default/x#0"}
    assert pods.stood_aside() == ASIDE
    pods.forget_old(failure.due_seconds + 899.0)
    assert pods.stood_aside() == ASIDE
    pods.forget_old(failure.due_seconds + 900.0)
    assert pods.stood_aside() == {}
