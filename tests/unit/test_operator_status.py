"""What the plan has found is told on the object that it concerns."""

from dataclasses import replace

from memroute.units import GIB
from memroute_operator.plan import Outcome, Overbooked
from memroute_operator.replicas.reading import read_replica
from memroute_operator.replicas.replica import ReplicaState, Seen
from memroute_operator.status.status import deployment_status
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


def broken_pod(of, index, **ended):
    pod = pod_of(of, index, ready=False)
    pod["status"]["containerStatuses"] = [
        {
            "name": "engine",
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
            "lastState": {"terminated": {"reason": "Error", "exitCode": 1} | ended},
            "restartCount": 3,
        }
    ]
    return read_replica(pod)


def test_a_failing_engine_is_told_by_what_it_failed_of():
    """One reason for all failures, and "see the logs", wakes the wrong person."""
    of = deployment(replicas=4)
    gated = "OSError: You are trying to access a gated repo.\n401 Client Error."
    replicas = [
        broken_pod(of, 0, reason="OOMKilled", exitCode=137),
        *(broken_pod(of, index, message=gated) for index in (1, 2, 3)),
    ]
    told = conditions(of, replicas, Outcome())["Ready"]
    assert (told["status"], told["reason"]) == ("False", "ModelGated")
    assert "m-1, m-2, m-3 (3 restart(s)): the model is gated" in told["message"]
    assert "HF_TOKEN from it into spec.engine.env [exit code 1: OSError: " in told["message"]
    assert "(kubectl logs --previous -n default m-1)" in told["message"]
    assert "m-0 (3 restart(s)): the engine used more host memory" in told["message"]


def test_what_would_help_the_scheduler_stands_beside_its_words():
    """Its own words name a resource; whose job it is to give it, they do not."""
    of = deployment()
    said = "0/3 nodes are available: 1 node(s) had untolerated taint {sku: gpu}."
    waiting = replace(
        read_replica(pod_of(of, ready=False)), state=ReplicaState.PENDING, scheduler_message=said
    )
    told = conditions(of, [waiting], Outcome())["Available"]["message"]
    assert f"(kube-scheduler: {said}): the node has a taint that the replica does not" in told
    assert "tolerate (sku); tolerate it in spec.template" in told


def starting(of, *, seconds, state):
    pod = pod_of(of, 0, ready=False)
    pod["status"]["containerStatuses"] = [{"name": "engine", "state": state}]
    return replace(read_replica(pod), seen=Seen(unready_seconds=seconds))


def test_a_slow_start_is_told_from_one_that_is_usual_and_from_a_slow_image():
    """Half an hour of "Starting" is what people delete pods for that only load."""
    of = deployment()
    running, creating = {"running": {}}, {"waiting": {"reason": "ContainerCreating"}}

    def told(seconds, state):
        replica = starting(of, seconds=seconds, state=state)
        return conditions(of, [replica], Outcome())["Available"]["message"]

    assert "GiB of weights; 3 min from a network disk is usual)" in told(10, running)
    assert told(10, running) == told(20, running), "nothing that grows by itself is written"
    assert "slower than the 3 min that " in told(1500, running)
    assert "shows whether it still loads, or is stuck)" in told(1500, running)
    assert "(" not in told(10, creating).partition("m-0")[2]
    assert "the image is being pulled, or a volume mounted" in told(400, creating)
