"""What only Events say of a pod reaches the ModelDeployment, for a few calls."""

import pytest

from cluster_stub import refuse
from memroute_kube import EVENTS
from memroute_operator.failures.happenings import hindrance, is_pulling, read_events
from memroute_operator.readings.pod_events import FORBIDDEN_SECONDS
from operator_rig import mdep, node, operator_rig

CREATING = {"name": "engine", "state": {"waiting": {"reason": "ContainerCreating"}}}
STARTING = {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]}


def event(reason, message="", *, uid="u", second=0, name=None, count=1, kind="Warning"):
    """As kubelet writes it."""
    return {
        "metadata": {
            "name": name or f"m-0.{reason}.{second}", "namespace": "default",
            "resourceVersion": str(500 + second),
        },
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "m-0", "uid": uid},
        "reason": reason, "message": message, "type": kind, "count": count,
        "source": {"component": "kubelet", "host": "a"},
        "firstTimestamp": "2026-11-29T03:00:00Z",
        "lastTimestamp": f"2026-11-29T03:00:{second:02}Z",
    }  # fmt: skip


MOUNT = 'MountVolume.SetUp failed for volume "t" : secret "tls" not found'


def test_what_hindered_a_start_is_over_once_the_start_has_gone_on():
    """Kubelet's Events stay for an hour: an old one is no reason of today."""
    mount = event("FailedMount", MOUNT, second=1)
    pulled = event("Pulled", "already present on machine", second=5, kind="Normal")
    assert hindrance(read_events([mount], "u")).name == "SecretMissing"
    assert hindrance(read_events([pulled, mount], "u")) is None
    again = event("FailedMount", MOUNT, second=9)
    assert hindrance(read_events([again, pulled, mount], "u")).name == "SecretMissing"


def test_kube_schedulers_events_have_other_times_and_are_read_too():
    """events.k8s.io: no lastTimestamp, an eventTime and a series."""
    obj = event("FailedScheduling", "0/3 nodes are available") | {
        "lastTimestamp": None, "firstTimestamp": None, "count": None,
        "eventTime": "2026-11-29T03:00:00.000000Z",
        "series": {"count": 7, "lastObservedTime": "2026-11-29T03:09:00.000000Z"},
    }  # fmt: skip
    (one,) = read_events([obj], "u")
    assert one.count == 7
    assert one.at.startswith("2026-11-29T03:09")


@pytest.mark.parametrize(
    "odd",
    [
        {}, {"involvedObject": "u"}, {"involvedObject": {"uid": "u"}},
        {"involvedObject": {"uid": "u"}, "reason": 5, "lastTimestamp": "x"},
        {"involvedObject": {"uid": "u"}, "reason": "A", "message": [], "lastTimestamp": "x"},
        event("FailedMount", MOUNT, uid="another"),
    ],
)  # fmt: skip
def test_an_event_of_another_shape_or_of_another_pod_is_left_out(odd):
    """Anybody may write Events of a namespace: one that is odd is nobody's trouble."""
    assert read_events([odd], "u") == ()


def test_an_image_that_is_being_pulled_is_told_from_a_volume_that_is_not_mounted():
    pulling = event("Pulling", 'Pulling image "x"', second=2, kind="Normal")
    assert is_pulling(read_events([pulling], "u"))
    pulled = event("Pulled", 'Successfully pulled image "x"', second=9, kind="Normal")
    assert not is_pulling(read_events([pulling, pulled], "u"))


async def starting(rig):
    """One replica whose container is in the making, seen so for a while; its pod."""
    rig.cluster.is_ready_at_once = False
    await rig.until("a pod", rig.cluster.pods)
    await rig.steps(2)
    rig.cluster.change("pods", rig.pod("default/m"), in_the_making)
    await rig.step(12)
    return rig.cluster.objects["pods"][rig.pod("default/m")]


def in_the_making(pod):
    pod["status"] = dict(STARTING, containerStatuses=[CREATING])


def events_asked(rig):
    return rig.cluster.count("GET", "events")


async def look(rig, seconds=1.0):
    """The operator's own round, and the step that follows from it."""
    await rig.reconciler.pod_events.read_due()
    await rig.step(seconds)


async def test_a_volume_that_cannot_be_mounted_is_told_with_the_next_step():
    """The pod says ContainerCreating, as it does while an image comes."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        pod = await starting(rig)
        assert "image is being pulled, or a volume" not in rig.condition("default/m")["message"]
        rig.cluster.put("events", event("FailedMount", MOUNT, uid=pod["metadata"]["uid"]))
        await look(rig)
        ready = rig.condition("default/m")
        assert ready["reason"] == "SecretMissing"
        assert "the Secret tls, which the replica mounts, does not exist" in ready["message"]
        assert "kubectl create secret generic tls" in ready["message"]
        assert rig.events("SecretMissing")
        status = rig.cluster.objects["modeldeployments"]["default/m"]["status"]
        assert status["placements"][0]["state"] == "Failed"
        # The Secret is made: kubelet mounts it, and the pod says so by itself.
        rig.cluster.change(
            "pods", rig.pod("default/m"),
            lambda pod: pod["status"].update(
                containerStatuses=[{"name": "engine", "state": {"running": {}}, "started": False}]
            ),
        )  # fmt: skip
        await rig.step()
        assert rig.condition("default/m")["reason"] == "ReplicasNotServing"


async def test_an_image_that_comes_is_told_as_that():
    """Ten gigabytes take minutes; a person wants to know that nothing is wrong."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        pod = await starting(rig)
        pulling = event("Pulling", 'Pulling image "x"', uid=pod["metadata"]["uid"], kind="Normal")
        rig.cluster.put("events", pulling)
        await look(rig)
        assert "its image is being pulled" in rig.condition("default/m")["message"]


async def test_who_killed_an_engine_is_told():
    """137 is kubelet's kill after a probe, or the kernel's: they need different cures."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        pod = await starting(rig)
        ended = {"terminated": {"reason": "Error", "exitCode": 137, "message": "INFO serving"}}
        rig.cluster.change(
            "pods", rig.pod("default/m"),
            lambda pod: pod["status"].update(
                phase="Running",
                containerStatuses=[{
                    "name": "engine", "restartCount": 3, "lastState": ended,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                }],
            ),
        )  # fmt: skip
        await rig.step()
        assert rig.condition("default/m")["reason"] == "KilledFromOutside"
        killing = event(
            "Killing", "Container engine failed liveness probe, will be restarted",
            uid=pod["metadata"]["uid"], kind="Normal",
        )  # fmt: skip
        rig.cluster.put("events", killing)
        await look(rig, 11)
        ready = rig.condition("default/m")
        assert ready["reason"] == "LivenessProbeFailed"
        assert "serving" in ready["message"], "the engine's last words stay"


@pytest.mark.slow
async def test_events_are_read_seldom_and_only_of_pods_that_are_not_ready():
    """A large fleet that starts must not be a flood of lists for the API server."""
    nodes = [node(f"n{i}") for i in range(12)]
    mdeps = [mdep(f"m{i:02}") for i in range(12)]
    async with operator_rig(nodes=nodes, mdeps=mdeps) as rig:
        await rig.until(
            "all ready", lambda: all(rig.is_ready(f"default/m{i:02}") for i in range(12))
        )
        await rig.step(20)
        await rig.reconciler.pod_events.read_due()
        assert events_asked(rig) == 0, "all serve"
        rig.cluster.is_ready_at_once = False
        for i in range(12):
            rig.cluster.change("pods", rig.pod(f"default/m{i:02}"), in_the_making)
        await rig.step()
        await rig.reconciler.pod_events.read_due()
        assert events_asked(rig) == 0, "they are unready for a second"
        await rig.step(12)
        for expected in (5, 10, 12, 12):
            await rig.reconciler.pod_events.read_due()
            assert events_asked(rig) == expected
        await rig.step(100)
        await rig.reconciler.pod_events.read_due()
        assert events_asked(rig) == 17, "each again after a while"


async def test_where_events_may_not_be_read_that_is_said_once(caplog):
    """A role of an older release: the operator works on, and does not ask every five seconds."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        await starting(rig)
        rig.cluster.fault = lambda call: (
            refuse(403, "Forbidden", "events is forbidden")
            if call.plural == EVENTS.plural and call.method == "GET"
            else None
        )
        for _ in range(5):
            await look(rig, 20)
        assert events_asked(rig) == 1
        assert caplog.text.count("events of pods not read") == 1
        assert rig.condition("default/m")["reason"] == "ReplicasNotServing"
        await look(rig, FORBIDDEN_SECONDS)
        await look(rig)
        assert events_asked(rig) == 2
        assert caplog.text.count("events of pods not read") == 1
