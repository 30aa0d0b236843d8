"""Who sleeps and who wakes, step by step, and what is written on pods and in statuses."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from memroute.units import GIB
from memroute_operator.engines.owned_flags import refusal as flag_refusal
from memroute_operator.engines.owned_variables import refusal as variable_refusal
from memroute_operator.engines.sleep_mode import refusal
from memroute_operator.plan import (
    Create,
    Delete,
    MarkDraining,
    MarkSleep,
    Outcome,
    plan_step,
)
from memroute_operator.readings.demand import DemandLog
from memroute_operator.readings.router_metrics import RouterMetrics, arrivals_of
from memroute_operator.replicas.reading import read_replica
from memroute_operator.replicas.replica import ReplicaState, Seen
from memroute_operator.rules.priorities import Priority, PriorityClasses
from memroute_operator.sleeping.mark import (
    ANNOTATION_SLEEPS,
    ANNOTATION_WAKE_SECONDS,
    MarkedState,
    mark_now,
    read_mark,
)
from memroute_operator.sleeping.sight import EngineSight
from memroute_operator.sleeping.telling import asleep_condition, ready_of, sleep_fields
from memroute_operator.spec.deployment import EngineType
from memroute_operator.spec.revision import revision_of
from planned_objects import GPU, context, deployment, facts, pod_of
from sleep_steps import FALLING, LONG, QUIET, decided, marks, pod
from sleeping_world import sleeper


def test_nobody_sleeps_who_was_not_made_to():
    of = deployment()
    assert decided([of], [pod_of(of)]).actions == []


def test_an_idle_model_falls_asleep_and_its_engine_may_be_told_once_routers_are_quiet():
    of = sleeper("m")
    assert marks(decided([of], [pod(of)])) == {("m", "FallingAsleep")}
    falling = pod(of, MarkedState.FALLING_ASLEEP)
    just = replace(LONG, sleep_seconds=1.0, resting_seconds=1.0)
    assert decided([of], [falling], seen=just).may_fall_asleep == set()
    assert decided([of], [falling], seen=FALLING).may_fall_asleep == {"pod-m-0"}
    busy = replace(QUIET, in_flight={"default/m-0": 1})
    assert marks(decided([of], [falling], busy, seen=FALLING)) == {("m", "Waking")}
    assert marks(decided([of], [falling])) == {("m", "Waking")}, "it did not in time"


@pytest.mark.parametrize("told", [{}, {"pod-m-0": 2.4}])
def test_no_engine_is_told_before_routers_have_been(told):
    """Routers go by the status, whose write may fail for minutes; the look was 0.5 s ago."""
    of = sleeper("m")
    falling = pod(of, MarkedState.FALLING_ASLEEP)
    step = decided([of], [falling], seen=FALLING, told_seconds=told)
    assert step.may_fall_asleep == set()
    step = decided([of], [falling], seen=FALLING, told_seconds={"pod-m-0": 2.5})
    assert step.may_fall_asleep == {"pod-m-0"}


@pytest.mark.parametrize(
    "demand",
    [
        None,
        replace(QUIET, is_complete=False),
        replace(QUIET, known_seconds=59.0),
        replace(QUIET, asked_seconds={"default/m": 59.0}),
        replace(QUIET, busy_seconds={"default/m-0": 59.0}),
        replace(QUIET, in_flight={"default/m-0": 1}),
        replace(QUIET, waiting_seconds={"default/m": 0.5}),
    ],
)
def test_a_model_that_may_have_been_asked_for_stays_awake(demand):
    """60 s without a request at any router, all of which are known: less is no reason."""
    of = sleeper("m")
    assert marks(decided([of], [pod(of)], demand)) == set()


def test_one_that_began_to_serve_a_moment_ago_is_given_time_to_be_asked_for():
    of = sleeper("m")
    assert marks(decided([of], [pod(of)], seen=Seen(serving_seconds=59.0))) == set()


def test_nothing_falls_asleep_beside_an_engine_that_starts():
    """It asserts when memory is freed under its profile."""
    of, other = sleeper("m", concurrency=4), deployment("other", uid="u2")
    starting = pod_of(other, ready=False)
    step = plan_step(facts([of, other], [pod(of), starting], m_0=LONG), context(demand=QUIET))
    assert marks(step) == set()


def test_bytes_are_given_up_only_when_the_engine_has_confirmed():
    of = sleeper("m")
    falling = pod(of, MarkedState.FALLING_ASLEEP)
    replica = read_replica(falling)
    assert replica.present_bytes(GPU.uuid) == of.footprint.total_bytes
    sight = EngineSight(mark=replica.sleep_mark, is_sleeping=True)
    assert marks(decided([of], [falling], sights={"pod-m-0": sight})) == {("m", "Asleep")}
    older = replace(sight, mark=replace(sight.mark, since="2026-01-01T00:00:00.001Z"))
    assert marks(decided([of], [falling], seen=FALLING, sights={"pod-m-0": older})) == set()
    asleep = read_replica(pod(of, MarkedState.ASLEEP))
    assert asleep.present_bytes(GPU.uuid) == asleep.rest_bytes
    assert asleep.state is ReplicaState.ASLEEP


def test_a_sidecar_that_starts_anew_wakes_nobody():
    """Its engine sleeps on: a request that is sent to it would hang."""
    asleep = pod(sleeper("m"), MarkedState.ASLEEP)
    asleep["status"]["containerStatuses"] = [
        {"name": "engine", "restartCount": 0, "state": {"running": {}}},
        {"name": "sidecar", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoop"}}},
    ]
    replica = read_replica(asleep)
    assert (replica.num_restarts, replica.is_down) == (0, False)
    assert replica.is_resting


def test_an_engine_that_was_started_anew_is_awake_and_counts_in_full():
    of = sleeper("m")
    anew = pod(of, MarkedState.ASLEEP, restarts=0)
    anew["status"]["containerStatuses"] = [{"restartCount": 1, "state": {"running": {}}}]
    replica = read_replica(anew)
    assert replica.sleep_state is None
    assert replica.present_bytes(GPU.uuid) == of.footprint.total_bytes
    assert replica.state is ReplicaState.SERVING
    assert ("m", "Awake") in marks(decided([of], [anew], seen=Seen(serving_seconds=1.0)))


def test_one_that_may_have_been_marked_to_wake_counts_in_full():
    """The API server did not answer: nobody knows whether it was written."""
    replica = read_replica(pod(sleeper("m"), MarkedState.ASLEEP))
    told = replace(replica, is_waking_told=True)
    assert told.present_bytes(GPU.uuid) == told.device_bytes[GPU.uuid]
    assert not told.reservation().sleep.is_asleep


def test_one_that_somebody_else_woke_is_counted_at_once():
    of = sleeper("m")
    asleep = pod(of, MarkedState.ASLEEP)
    mark = read_replica(asleep).sleep_mark
    sights = {"pod-m-0": EngineSight(mark=mark, is_sleeping=False)}
    assert marks(decided([of], [asleep], sights=sights)) == {("m", "Waking")}


def test_one_that_is_marked_awake_and_sleeps_is_woken():
    """It was told to fall asleep, did not in time, and has done it since: requests would hang."""
    of = sleeper("m")
    awake = pod(of, MarkedState.AWAKE)
    mark = read_replica(awake).sleep_mark
    asked = replace(QUIET, asked_seconds={"default/m": 1.0})
    sights = {"pod-m-0": EngineSight(mark=mark, is_sleeping=True)}
    assert marks(decided([of], [awake], asked, sights=sights)) == {("m", "Waking")}
    sights = {"pod-m-0": EngineSight(mark=mark, is_sleeping=False)}
    assert marks(decided([of], [awake], asked, sights=sights)) == set()


WAITS = replace(QUIET, waiting_seconds={"default/m": 2.0})


def test_a_request_that_waits_wakes_it_where_there_is_room():
    of = sleeper("m")
    assert marks(decided([of], [pod(of, MarkedState.ASLEEP)], WAITS)) == {("m", "Waking")}


def test_a_router_that_does_not_answer_keeps_nobody_asleep_who_is_asked_for():
    """Its node may be gone for hours. Nobody is put to sleep meanwhile: it may be at work there."""
    of = sleeper("m")
    silent = replace(WAITS, is_complete=False)
    assert marks(decided([of], [pod(of, MarkedState.ASLEEP)], silent)) == {("m", "Waking")}
    m, n, pods = pair()
    step = decided([m, n], pods, silent)
    assert marks(step) == set()
    assert step.outcomes["default/m"].sleep_waits == (
        "waits for 26.5 GiB on a/GPU-a-0: default/n may be busy: a router does not answer"
    )


def test_a_wake_that_waits_for_one_that_starts_says_so():
    """Nobody is awake there who could be put to sleep for it."""
    m, n, pods = pair()
    pods[1]["status"]["conditions"][0]["status"] = "False"
    step = decided([m, n], pods, WAITS)
    assert step.outcomes["default/m"].sleep_waits == (
        "waits for 26.5 GiB on a/GPU-a-0: default/n is on the way to serve"
    )


def test_a_request_that_was_refused_wakes_it_too_and_one_of_long_ago_does_not():
    """Its client was told to come back."""
    of = sleeper("m")
    asked = replace(QUIET, asked_seconds={"default/m": 20.0})
    assert marks(decided([of], [pod(of, MarkedState.ASLEEP)], asked)) == {("m", "Waking")}
    before = replace(LONG, resting_seconds=10.0)
    assert marks(decided([of], [pod(of, MarkedState.ASLEEP)], asked, seen=before)) == set()
    long_ago = replace(QUIET, asked_seconds={"default/m": 61.0})
    assert marks(decided([of], [pod(of, MarkedState.ASLEEP)], long_ago)) == set()


def test_one_that_is_not_ready_is_not_woken_and_takes_nobodys_room():
    """Its node is cut off, or its engine has died: nobody could tell it."""
    m, n, pods = pair()
    pods[0]["status"]["conditions"][0]["status"] = "False"
    recent = replace(WAITS, asked_seconds={"default/n": 5.0})
    step = decided([m, n], pods, recent)
    assert marks(step) == set()
    assert step.outcomes["default/m"].sleep_waits == "waits for m-0, which is not ready"


def test_a_paused_model_stays_as_it_is():
    of = replace(sleeper("m"), paused=True)
    assert marks(decided([of], [pod(of)])) == set()
    step = decided([of], [pod(of, MarkedState.ASLEEP)], WAITS)
    assert marks(step) == set()
    assert "spec.paused" in step.outcomes["default/m"].sleep_waits


def pair():
    """Two of 52.8 GiB on 79.2: ``m`` sleeps, ``n`` is awake."""
    m, n = sleeper("m"), sleeper("n")
    return m, n, [pod(m, MarkedState.ASLEEP), pod(n)]


def test_the_one_that_is_idle_makes_room_and_that_is_written():
    m, n, pods = pair()
    recent = replace(WAITS, asked_seconds={"default/n": 5.0})
    step = decided([m, n], pods, recent)
    (action,) = [one for one in step.actions if isinstance(one, MarkSleep)]
    assert (action.replica.deployment_name, action.state) == ("n", MarkedState.FALLING_ASLEEP)
    assert action.makes_room_for == "default/m"
    assert step.outcomes["default/m"].sleep_waits == (
        "waits for 26.5 GiB on a/GPU-a-0: default/n falls asleep"
    )


def test_who_makes_room_goes_on_falling_asleep_though_it_is_asked_for_too():
    """Else two models that are asked for in turns would keep each other out."""
    m, n, pods = pair()
    pods[1] = pod(n, MarkedState.FALLING_ASLEEP, room_for="default/m")
    both = replace(WAITS, waiting_seconds={"default/m": 9.0, "default/n": 1.0})
    assert marks(decided([m, n], pods, both, seen=FALLING)) == set()
    only_n = replace(QUIET, waiting_seconds={"default/n": 1.0})
    assert marks(decided([m, n], pods, only_n, seen=FALLING)) == {("n", "Waking")}


@pytest.mark.parametrize(
    ("demand", "seen_n", "why"),
    [
        (replace(WAITS, in_flight={"default/n-0": 1}), LONG, "is busy there"),
        (WAITS, replace(LONG, sleep_seconds=29.0), "woke a moment ago"),
    ],
)
def test_who_is_busy_or_woke_a_moment_ago_keeps_its_room(demand, seen_n, why):
    m, n, pods = pair()
    pods[1] = pod(n, MarkedState.AWAKE)
    step = plan_step(facts([m, n], pods, m_0=LONG, n_0=seen_n), context(demand=demand))
    assert marks(step) == set()
    assert step.outcomes["default/m"].sleep_waits == (
        f"waits for 26.5 GiB on a/GPU-a-0: default/n {why}"
    )


def test_one_of_higher_priority_is_not_put_to_sleep_for_another():
    m, n, pods = pair()
    n = replace(n, template=replace(n.template, priority_class="gold"))
    classes = PriorityClasses(by_name={"gold": Priority(value=10, class_name="gold")})
    recent = replace(WAITS, asked_seconds={"default/n": 5.0})
    step = decided([m, n], pods, recent, priorities=classes)
    assert marks(step) == set()
    assert "has a higher priority" in step.outcomes["default/m"].sleep_waits


def test_of_two_that_wait_the_one_of_higher_priority_then_the_longer_wait_wakes():
    """One of 52.8 GiB at a time."""
    m, n = sleeper("m"), sleeper("n")
    pods = [pod(m, MarkedState.ASLEEP), pod(n, MarkedState.ASLEEP)]
    both = replace(QUIET, waiting_seconds={"default/m": 1.0, "default/n": 9.0})
    assert marks(decided([m, n], pods, both)) == {("n", "Waking")}
    m = replace(m, template=replace(m.template, priority_class="gold"))
    classes = PriorityClasses(by_name={"gold": Priority(value=10, class_name="gold")})
    assert marks(decided([m, n], pods, both, priorities=classes)) == {("m", "Waking")}


def test_a_new_replica_that_may_sleep_has_the_idle_one_make_room():
    """Until a reading shows that, its room is kept: not even the sleeper itself takes it back."""
    m, n = sleeper("m"), sleeper("n")
    step = decided([n, m], [pod(n)], replace(QUIET, asked_seconds={"default/n": 5.0}))
    (action,) = [one for one in step.actions if isinstance(one, MarkSleep)]
    assert (action.replica.deployment_name, action.makes_room_for) == ("n", "default/m")
    asleep = pod(n, MarkedState.ASLEEP, room_for="default/m")
    step = decided([n, m], [asleep])
    assert [type(one) for one in step.actions] == [Create]


def test_a_new_replica_that_no_sleep_helps_is_looked_at_once_however_many_could_sleep():
    """61.8 GiB beside 23.6 that never sleep, of 79.2. A look explains itself, over all nodes."""
    m, n = sleeper("m", concurrency=4), sleeper("n", concurrency=4)
    fixed, new = deployment("fixed", uid="u9", concurrency=4), sleeper("new", concurrency=38)
    recent = replace(QUIET, asked_seconds={"default/m": 5.0, "default/n": 5.0})
    step = decided([m, n, fixed, new], [pod(m), pod(n), pod_of(fixed)], recent)
    assert step.actions == []
    assert step.outcomes["default/new"].refused[0].reason.value == "InsufficientHBM"
    assert step.num_explained == 2


def test_one_that_never_sleeps_does_not_get_a_sleepers_room():
    n, fixed = sleeper("n"), deployment("fixed", uid="u9", concurrency=30)
    step = decided([n, fixed], [pod(n, MarkedState.ASLEEP)])
    assert marks(step) == set()
    assert not any(isinstance(one, Create) for one in step.actions)
    assert "held by default/n-0" in step.outcomes["default/fixed"].refused[0].message


def test_an_engine_that_refuses_is_woken_and_left_alone_with_the_reason_in_the_status():
    of = sleeper("m")
    falling = pod(of, MarkedState.FALLING_ASLEEP)
    mark = read_replica(falling).sleep_mark
    sight = EngineSight(mark=mark, refuses=True, trouble="the engine does not fall asleep: no")
    step = decided([of], [falling], sights={"pod-m-0": sight})
    assert marks(step) == {("m", "Waking")}
    assert "does not fall asleep" in step.outcomes["default/m"].sleep_trouble
    step = decided([of], [pod(of)], sleep_refusals={"pod-m-0": "no"})
    assert marks(step) == set()
    assert step.outcomes["default/m"].sleep_trouble == "m-0 is kept awake: no"


def test_a_sleeping_replica_is_drained_and_deleted_like_any_other():
    of = sleeper("m")
    gone = replace(of, replicas=0)
    step = decided([gone], [pod(of, MarkedState.ASLEEP)])
    assert [type(one) for one in step.actions] == [MarkDraining]
    step = decided([], [pod(of, MarkedState.ASLEEP)])
    assert [type(one) for one in step.actions] == [Delete]


def test_a_gate_stays_closed_while_a_neighbour_falls_asleep():
    of, other = sleeper("m", concurrency=4), deployment("other", uid="u2")
    gated = pod_of(other, gated=True, ready=False)
    falling = pod(of, MarkedState.FALLING_ASLEEP)
    step = plan_step(facts([of, other], [falling, gated], m_0=FALLING), context(demand=QUIET))
    assert step.actions == []


# What is written.


def test_an_engine_that_may_sleep_is_started_so_and_its_pod_asks_for_what_it_pins():
    of, plain = sleeper("m"), deployment("m")
    made, other = pod_of(of), pod_of(plain)
    container, plain_container = made["spec"]["containers"][0], other["spec"]["containers"][0]
    assert "--enable-sleep-mode" in container["args"]
    assert {"name": "VLLM_SERVER_DEV_MODE", "value": "1"} in container["env"]
    assert "--enable-sleep-mode" not in plain_container["args"]
    annotations = made["metadata"]["annotations"]
    assert annotations[ANNOTATION_SLEEPS] == "WeightsOnHost"
    assert int(annotations[ANNOTATION_WAKE_SECONDS]) >= 1
    more = read_replica(made).host_bytes - read_replica(other).host_bytes
    assert more == pytest.approx(2 * of.footprint.weights.expected + 2 * GIB, abs=2**20)
    assert read_replica(other).sleep_level is None


def test_the_level_is_part_of_the_revision_and_the_time_is_not():
    spec = sleeper("m").obj["spec"]
    later = spec | {"sleep": spec["sleep"] | {"afterSeconds": 900}}
    deeper = spec | {"sleep": spec["sleep"] | {"level": "NothingKept"}}
    without = {name: value for name, value in spec.items() if name != "sleep"}
    assert revision_of(spec) == revision_of(later)
    assert len({revision_of(one) for one in (spec, deeper, without)}) == 3
    assert revision_of(without) == deployment("m", concurrency=30).revision


@pytest.mark.parametrize(
    ("spec", "engine", "says"),
    [
        ({"sleep": {}, "placement": {"mode": "Exclusive"}}, EngineType.VLLM, "mode Shared"),
        ({"sleep": {}, "placement": {"mode": "Shared"}}, EngineType.SGLANG, "for vLLM"),
    ],
)
def test_what_cannot_sleep_is_refused_with_a_sentence(spec, engine, says):
    assert says in refusal(spec, engine)


def test_what_can_sleep_is_not_refused_and_flags_of_ones_own_are():
    assert refusal({"placement": {"mode": "Exclusive"}}, EngineType.VLLM) is None
    assert refusal(sleeper("m").obj["spec"], EngineType.VLLM) is None
    assert "spec.sleep" in flag_refusal(["--enable-sleep-mode"])
    spec = {"engine": {"env": [{"name": "VLLM_SERVER_DEV_MODE", "value": "1"}]}}
    assert "spec.sleep" in variable_refusal(EngineType.VLLM, spec)


def test_a_status_says_what_sleeps_where_since_when_and_what_a_wake_waits_for():
    of = sleeper("m")
    asleep = read_replica(pod(of, MarkedState.ASLEEP, room_for="default/n"))
    lent = of.footprint.total_bytes - asleep.rest_bytes
    assert sleep_fields([asleep], Outcome()) == {
        "asleep": 1,
        "lentBytes": lent,
        "replicas": [
            {
                "pod": "m-0", "state": "Asleep", "node": "a", "devices": ["GPU-a-0"],
                "since": "2026-01-01T00:00:00.000Z", "for": "default/n",
            }
        ],
    }  # fmt: skip
    waits = Outcome(sleep_waits="waits for 12.3 GiB on a/GPU-a-0: default/n is busy there")
    status, reason, message = asleep_condition([asleep], waits)
    assert (status, reason) == ("True", "WaitsForRoom")
    assert message == (
        "m-0 sleeps on a/GPU-a-0 since 2026-01-01T00:00:00Z, for default/n, and lends 51.6 GiB; "
        "it waits for 12.3 GiB on a/GPU-a-0: default/n is busy there"
    )
    assert ready_of([asleep], Outcome())[:2] == ("True", "Asleep")
    awake = read_replica(pod(of))
    assert ready_of([asleep, awake], Outcome()) is None
    assert sleep_fields([awake], Outcome()) is None


def test_a_mark_survives_being_written_and_nonsense_is_none():
    mark = mark_now(MarkedState.WAKING, datetime(2026, 1, 1, tzinfo=UTC), 3, "a/b")
    assert read_mark(mark.text()) == mark
    for text in (None, "", "{", "[]", json.dumps({"state": "Dozing"}), "{" * 2_000, "9" * 2_000):
        assert read_mark(text) is None


# What routers have counted.


def looked(log, at, arrivals, *, waiting=None, in_flight=None, is_known=True):
    log.look(
        arrivals, waiting=waiting or {}, in_flight=in_flight or {}, is_known=is_known, at_seconds=at
    )


def test_a_request_that_came_and_went_between_two_looks_is_seen():
    log = DemandLog()
    looked(log, 0.0, {"r": {"ns/m": 5}})
    looked(log, 1.0, {"r": {"ns/m": 5}})
    assert log.demand(2.0).asked_seconds == {}
    looked(log, 2.0, {"r": {"ns/m": 6}})
    looked(log, 3.0, {"r": {"ns/m": 6}})
    assert log.demand(4.0).asked_seconds == {"ns/m": 2.0}


def test_a_router_that_began_anew_or_came_later_has_counted_from_nothing():
    log = DemandLog()
    looked(log, 0.0, {"r": {"ns/m": 5}})
    looked(log, 1.0, {"r": {"ns/m": 1}, "s": {"ns/n": 2}})
    assert log.demand(1.0).asked_seconds == {"ns/m": 0.0, "ns/n": 0.0}


def test_nobody_is_known_to_be_idle_while_a_router_does_not_answer_or_does_not_count():
    log = DemandLog()
    assert log.demand(0.0) is None
    looked(log, 0.0, {"r": {}})
    assert (log.demand(9.0).is_complete, log.demand(9.0).known_seconds) == (True, 9.0)
    looked(log, 10.0, {"r": {}, "old": None})
    assert (log.demand(10.0).is_complete, log.demand(10.0).known_seconds) == (False, 0.0)
    looked(log, 11.0, {"r": {}}, waiting={"ns/n": 1}, is_known=False)
    assert not log.demand(11.0).is_complete
    assert log.demand(11.0).waiting_seconds == {"ns/n": 0.0}
    looked(log, 12.0, {"r": {"ns/m": 1}})
    demand = log.demand(13.0)
    assert demand.is_complete
    assert (demand.known_seconds, demand.asked_seconds) == (1.0, {"ns/m": 1.0, "ns/n": 2.0})


def test_a_router_that_does_not_answer_a_new_operator_at_once_has_been_asked_nothing_new():
    """It has counted for weeks: else every model that it ever served would be woken."""
    log = DemandLog()
    looked(log, 0.0, {"r": {"ns/m": 5}}, is_known=False)
    looked(log, 1.0, {"r": {"ns/m": 5}, "s": {"ns/m": 7, "ns/n": 9}})
    assert log.demand(1.0).asked_seconds == {}
    looked(log, 2.0, {"r": {"ns/m": 5}, "s": {"ns/m": 8, "ns/n": 9}})
    assert log.demand(2.0).asked_seconds == {"ns/m": 0.0}


def test_no_router_at_all_is_nobody_who_knows():
    log = DemandLog()
    looked(log, 0.0, {}, is_known=False)
    assert not log.demand(0.0).is_complete


def test_what_waits_and_what_is_at_a_replica_is_asked_for_now():
    log = DemandLog()
    for at in (0.0, 1.0, 2.0):
        looked(log, at, {"r": {}}, waiting={"ns/m": 1}, in_flight={"ns/m-0": 2})
    demand = log.demand(3.0)
    assert demand.waiting_seconds == {"ns/m": 3.0}
    assert demand.busy_seconds == {"ns/m-0": 1.0}
    assert demand.in_flight == {"ns/m-0": 2}


def test_one_router_that_has_no_sample_yet_counts_and_one_without_the_counter_does_not():
    assert RouterMetrics().demand.demand(0.0) is None
    name = "memroute_router_arrivals_total"
    assert arrivals_of("memroute_router_queue_requests 0\n") is None
    assert arrivals_of(f"# TYPE {name} counter\n") == {}
    page = f'{name}{{model_namespace="ns",model_deployment="m"}} 7.0\n'
    assert arrivals_of(page) == {"ns/m": 7}
    assert arrivals_of(page.replace("7.0", "NaN")) is None
