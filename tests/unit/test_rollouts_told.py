"""Rollouts through a whole operator: what is written, what is told, and what outlives it."""

import copy

import pytest

from memroute_operator.status.events import EventWriter
from memroute_operator.status.status_writer import StatusWriter
from memroute_operator.store.store import Store
from memroute_operator.weights.container import LABEL_AHEAD
from operator_rig import Rig, mdep, node, operator_rig
from planned_objects import deployment

FLAG = "--no-such-flag"
REFUSED = {
    "name": "engine",
    "restartCount": 1,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {
        "terminated": {"exitCode": 2, "message": f"error: unrecognized arguments: {FLAG}"}
    },
}


def edit(rig, **engine):
    """Another engine, as its owner would write it."""

    def change(obj):
        obj["spec"]["engine"] |= engine
        obj["metadata"]["generation"] += 1

    rig.cluster.change("modeldeployments", "default/m", change)


def engines_end_at_the_flag(cluster):
    """No engine that is given the flag ever serves."""
    play = cluster.play

    def played():
        play()
        for key, pod in list(cluster.objects["pods"].items()):
            if FLAG not in pod["spec"]["containers"][0]["args"]:
                continue
            if pod["status"].get("phase") == "Running":
                status = {
                    "phase": "Running", "conditions": [],
                    "containerStatuses": [copy.deepcopy(REFUSED)],
                }  # fmt: skip
                cluster.change("pods", key, lambda p, status=status: p.update(status=status))

    cluster.play = played


def rollout(rig):
    return rig.cluster.objects["modeldeployments"]["default/m"]["status"].get("rollout", {})


def last_good(rig):
    return rig.cluster.objects["modeldeployments"]["default/m"]["status"]["lastGood"]


@pytest.mark.slow
async def test_an_operator_that_starts_returns_to_what_another_one_knew():
    """It was killed when it had written that the revision has failed, and nothing else."""
    async with operator_rig(nodes=[node(gpus=1)], mdeps=[mdep("m")]) as rig:
        engines_end_at_the_flag(rig.cluster)
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        (before,) = rig.cluster.pods()
        assert rollout(rig)["phase"] == "Complete"
        good = last_good(rig)["revision"]
        assert good == rollout(rig)["revision"]
        edit(rig, args=[FLAG])
        await rig.until("its failure", lambda: "failed" in rollout(rig))
        assert rollout(rig)["phase"] == "Halted"
        await rig.stop()

        second = Rig(rig.cluster, rig._client)
        await second.start()
        await second.until("the way back", lambda: rollout(second)["phase"] == "Returned")
        await second.until("that alone", lambda: len(rig.cluster.pods()) == 1)
        (after,) = rig.cluster.pods()
        assert after["metadata"]["uid"] == before["metadata"]["uid"], "the old one served on"
        assert last_good(second)["revision"] == good
        assert second.condition("default/m", "Stalled")["reason"] == "RolloutHalted"
        (told,) = second.events("RolloutReturned")
        assert "no such flag: --no-such-flag" in told
        # It rests there.
        patches = rig.cluster.count("PATCH", "modeldeployments")
        await second.steps(20)
        assert rig.cluster.count("PATCH", "modeldeployments") == patches

        edit(second, args=["--seed=1"])
        await second.until("an edit that cures it", lambda: second.is_ready("default/m"))
        assert rollout(second)["phase"] == "Complete"
        assert "failed" not in rollout(second)
        assert last_good(second)["revision"] != good
        await second.stop()


@pytest.mark.slow
async def test_what_left_first_comes_back():
    """One device, one replica: it had to leave, its successor fails, and it is made again."""
    one = mdep("m", model="Qwen/Qwen3-8B", concurrency=20)
    async with operator_rig(nodes=[node(gpus=1)], mdeps=[one]) as rig:
        engines_end_at_the_flag(rig.cluster)
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        edit(rig, args=[FLAG])
        await rig.until("it to leave", lambda: rollout(rig).get("method") == "DrainFirst")
        assert "no node has 41.6 GiB free" in rollout(rig)["message"]
        assert any("first: no node has 41.6" in one for one in rig.events("RolloutProgressing"))
        await rig.until("the way back", lambda: rollout(rig)["phase"] == "Returned", at_most=200)
        (pod,) = rig.cluster.pods()
        assert FLAG not in pod["spec"]["containers"][0]["args"]
        assert rig.condition("default/m", "Available")["status"] == "True"


def other_image(rig):
    edit(rig, image="vllm/vllm-openai:next")


def aheads(rig):
    return [pod for pod in rig.cluster.pods() if LABEL_AHEAD in pod["metadata"]["labels"]]


@pytest.mark.slow
async def test_a_pod_goes_ahead_and_the_old_replica_leaves_when_it_is_done():
    """One phase, one Event, and nothing is left of it. Operators that die go on where it was."""
    one = mdep("m", model="Qwen/Qwen3-8B", concurrency=20)
    async with operator_rig(nodes=[node(gpus=1)], mdeps=[one]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        (old,) = rig.cluster.pods()
        rig.cluster.is_ready_at_once = False
        other_image(rig)
        await rig.until("the phase", lambda: rollout(rig).get("phase") == "FetchingAhead")
        await rig.steps(20)
        (ahead,) = aheads(rig)
        assert "Fetching ahead" in rollout(rig)["message"]
        assert rollout(rig)["method"] == "DrainFirst"
        assert rig.condition("default/m", "Available")["status"] == "True"
        assert len(rig.events("FetchingAhead")) == len(rig.events("RolloutFetchingAhead")) == 1
        await rig.stop()

        second = Rig(rig.cluster, rig._client)
        await second.start()
        await second.steps(5)
        assert [pod["metadata"]["uid"] for pod in aheads(rig)] == [ahead["metadata"]["uid"]]
        assert old["metadata"]["name"] in [pod["metadata"]["name"] for pod in rig.cluster.pods()]
        rig.cluster.change("pods", f"default/{ahead['metadata']['name']}", pulled)
        rig.cluster.is_ready_at_once = True
        await second.until("the new one", lambda: second.is_ready("default/m"), at_most=200)
        await second.until("that alone", lambda: len(rig.cluster.pods()) == 1)
        (new,) = rig.cluster.pods()
        assert new["spec"]["containers"][0]["image"] == "vllm/vllm-openai:next"
        await second.stop()


def pulled(pod):
    ended = {"name": "engine", "state": {"terminated": {"exitCode": 0}}}
    pod["status"] = {"phase": "Succeeded", "containerStatuses": [ended]}


@pytest.mark.slow
async def test_an_image_that_does_not_exist_costs_nobody_anything():
    """A typing error in a tag: the replica that serves has not been drained for it."""
    one = mdep("m", model="Qwen/Qwen3-8B", concurrency=20)
    async with operator_rig(nodes=[node(gpus=1)], mdeps=[one]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        (old,) = rig.cluster.pods()
        rig.cluster.is_ready_at_once = False
        other_image(rig)
        await rig.until("the pod ahead", lambda: aheads(rig))

        def missing(pod):
            waiting = {
                "reason": "ErrImagePull",
                "message": 'failed to pull and unpack image "x": failed to resolve reference "x": '
                "x: not found",
            }
            pod["status"] = {
                "phase": "Pending",
                "containerStatuses": [{"name": "engine", "state": {"waiting": waiting}}],
            }

        (ahead,) = aheads(rig)
        rig.cluster.change("pods", f"default/{ahead['metadata']['name']}", missing)
        await rig.until("the verdict", lambda: rollout(rig).get("phase") == "Returned")
        await rig.until("its end", lambda: len(rig.cluster.pods()) == 1)
        assert rollout(rig)["failed"]["reason"] == "ImageNotFound"
        (left,) = rig.cluster.pods()
        assert left["metadata"]["uid"] == old["metadata"]["uid"]
        assert "memroute.dev/draining" not in left["metadata"]["annotations"]


@pytest.mark.slow
async def test_a_replica_that_crashes_later_is_no_rollout():
    """An Event for each crash of an engine would bury those of rollouts."""
    async with operator_rig(nodes=[node(gpus=1)], mdeps=[mdep("m", replicas=2)]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        (pod, _) = rig.cluster.pods()
        rig.cluster.remove("pods", f"default/{pod['metadata']['name']}")
        await rig.until("it is missed", lambda: not rig.is_ready("default/m"))
        assert rollout(rig)["phase"] == "Complete"
        await rig.until("it serves again", lambda: rig.is_ready("default/m"))
        assert not rig.events("RolloutProgressing")


class _Answers:
    """An API server that answers a patch before its event comes."""

    async def patch(self, _resource, _namespace, _name, body, **_):
        obj = copy.deepcopy(deployment().obj)
        obj["metadata"]["resourceVersion"] = "2"
        return obj | {"status": body["status"]}


async def test_a_status_that_is_planned_on_wakes_the_loop():
    """The event of our own write is no news: a failed revision was acted on a minute later."""
    store, of = Store(), deployment()
    store.model_deployments.upsert(of.obj)
    writer = StatusWriter(_Answers(), store, EventWriter(None), lambda: 0.0)
    await store.wait_dirty(0.0)
    failed = {"revision": of.revision, "reason": "FlagUnknown", "message": "m", "retry": 0}
    await writer.write(of, {"conditions": [], "rollout": {"phase": "Halted", "failed": failed}})
    # It ends at once, or only by the time limit of the test.
    await store.wait_dirty(3600.0)
