"""What the plan has found is told on the object that it concerns."""

from dataclasses import replace

from memroute.units import GIB
from memroute_operator.plan import Outcome, Overbooked
from memroute_operator.replica import ReplicaState, read_replica
from memroute_operator.status import deployment_status
from planned_objects import NOW, deployment, pod_of


def conditions(of, replicas, outcome):
    status = deployment_status(
        of,
        replicas,
        replace(outcome, kept={replica.key for replica in replicas}),
        assigned_devices={},
        stale_nodes=frozenset(),
        kv_projected_ratio=None,
        now=NOW,
    )
    return {c["type"]: c for c in status["conditions"]}


def test_a_pod_that_hangs_is_named_with_what_it_holds():
    """Its device is lost until somebody mends the node: nobody looks for what nobody names."""
    of = deployment()
    hanging, other = (read_replica(pod_of(of, index)) for index in range(2))
    told = conditions(of, [other], Outcome(stuck=[hanging]))["Placed"]
    assert told["status"] == "True"
    assert "hanging in Terminating" in told["message"]
    assert f"{hanging.pod_name} on node a" in told["message"]


def test_an_overbooked_device_is_a_condition_while_it_is_one():
    """Two operators can promise the same bytes: both models look Ready until one dies of it."""
    of = deployment()
    one = read_replica(pod_of(of))
    over = Overbooked(
        node="a", device="GPU-0", over_bytes=4 * GIB, pods=(one.key, "d/x"), drained=("d/x",)
    )
    told = conditions(of, [one], Outcome(overbooked=[over]))["Overbooked"]
    assert (told["status"], told["reason"]) == ("True", "DevicePromisedTwice")
    assert "a/GPU-0 is overbooked by 4.00 GiB" in told["message"]
    assert "d/x leaves it" in told["message"]
    waits = replace(over, waiting=("d/x",))
    told = conditions(of, [one], Outcome(overbooked=[waits]))["Overbooked"]
    assert "d/x leaves it when its turn comes" in told["message"]
    assert "Overbooked" not in conditions(of, [one], Outcome())


def test_replicas_that_leave_a_cordoned_node_are_told():
    of = deployment()
    move = "m-0 leaves a: node a is cordoned"
    told = conditions(of, [read_replica(pod_of(of))], Outcome(moves=[move]))["Progressing"]
    assert (told["status"], told["reason"], told["message"]) == ("True", "ReplicasMoving", move)


def test_kube_schedulers_own_words_are_passed_on():
    """``RefusedByScheduler`` sends people to the events; the sentence is there already."""
    of = deployment()
    said = "0/3 nodes are available: 3 Insufficient memory."
    waiting = replace(
        read_replica(pod_of(of, ready=False)), state=ReplicaState.PENDING, scheduler_message=said
    )
    told = conditions(of, [waiting], Outcome())["Available"]
    assert f"(kube-scheduler: {said})" in told["message"]
