"""The reconcile loop on a stub of the API server: what fails, fails alone."""

import asyncio
import copy
import json
import random

import pytest

from cluster_stub import HANG, STAMP, refuse
from memroute_operator.actions.apply import Applier
from memroute_operator.actions.carry_out import LATE_SECONDS
from memroute_operator.plan import Delete
from memroute_operator.pod.pod_names import replica_key
from memroute_operator.reconciler import RETRY_LIST_SECONDS
from memroute_operator.replicas.reading import read_replica
from memroute_operator.spec.deployment import read_deployment
from operator_rig import mdep, node, operator_rig, reading
from sizes import size

FOUR = [node(name, gpus=4) for name in ("a", "b")]


def foreign(name="f", namespace="x", *, amount="1", on="a", owner=None):
    pod = {
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "nodeName": on,
            "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": amount}}}],
        },
        "status": {"phase": "Running"},
    }
    if owner:
        pod["metadata"]["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": owner[0], "name": owner[1], "uid": "o",
             "controller": True}
        ]  # fmt: skip
    return pod


async def test_what_is_wanted_is_made_and_told():
    """The plain case, so that the others mean something."""
    async with operator_rig(nodes=FOUR, mdeps=[mdep("m", replicas=3)]) as rig:
        await rig.until("three replicas", lambda: rig.is_ready("default/m"))
        assert len(rig.cluster.pods()) == 3
        patches = rig.cluster.count("PATCH", "modeldeployments")
        await rig.steps(20)
        assert rig.cluster.count("PATCH", "modeldeployments") == patches, "nothing has changed"


async def test_a_webhook_that_is_down_in_one_namespace_delays_nobody_else():
    """r6: team-a's fail-closed webhook answers 500, and team-a is older: team-b was never made."""
    async with operator_rig(nodes=FOUR, mdeps=[mdep("a", "team-a"), mdep("b", "team-b")]) as rig:
        down = refuse(500, "InternalError", 'failed calling webhook "validate.kyverno.svc-fail"')
        rig.cluster.fault = lambda call: (
            down
            if (call.method, call.plural, call.namespace) == ("POST", "pods", "team-a")
            else None
        )
        taken = await rig.until("team-b", lambda: rig.is_ready("team-b/b"))
        assert taken <= 5
        told = rig.condition("team-a/a", "Placed")
        assert (told["status"], told["reason"]) == ("False", "PodRefused")
        assert "failed calling webhook" in told["message"]
        assert "tried again in" in told["message"]
        await rig.steps(60)
        # 1, 2, 4, ... 60 s apart: seven tries in the first two minutes, not 120.
        assert rig.cluster.count("POST", "pods", namespace="team-a") <= 9
        rig.cluster.fault = lambda _call: None
        await rig.until("team-a", lambda: rig.is_ready("team-a/a"), at_most=70)


async def test_a_webhook_that_hangs_delays_nobody_else():
    """A call that is not answered is left to itself: the step goes on without it."""
    async with operator_rig(
        nodes=FOUR, mdeps=[mdep("a", "team-a"), mdep("b", "team-b")], request_seconds=30.0
    ) as rig:
        rig.cluster.fault = lambda call: (
            HANG
            if (call.method, call.plural, call.namespace) == ("POST", "pods", "team-a")
            else None
        )
        rig.reconciler._lanes.settle_seconds = 0.05
        taken = await rig.until("team-b", lambda: rig.is_ready("team-b/b"))
        assert taken <= 5
        assert rig.cluster.count("POST", "pods", namespace="team-a") == 1


async def test_a_pod_that_may_have_been_created_keeps_its_room():
    """The answer was lost: until a list shows that the pod is not there, nobody else gets it.

    One device of 79 GiB; each wants more than half of it.
    """
    big = [mdep(name, model="Qwen/Qwen3-8B", concurrency=20) for name in ("m1", "m2")]
    async with operator_rig(nodes=[node()], mdeps=big, request_seconds=1.0) as rig:
        rig.cluster.fault = lambda call: (
            HANG if call.method == "POST" and call.plural == "pods" else None
        )
        await rig.step()
        assert rig.cluster.count("POST", "pods") == 1
        rig.recover()
        await rig.steps(5)
        assert rig.cluster.pods() == [], "m1's may still come: neither is tried meanwhile"
        rig.now += 60
        await rig.step()
        await rig.reconciler._list_all()
        await rig.until("the first", lambda: rig.is_ready("default/m1"), at_most=10)
        assert len(rig.cluster.pods()) == 1


async def test_one_status_that_is_refused_ends_no_other():
    """422: an enum of an old CRD. Older ones came first, and nobody got a status any more."""
    async with operator_rig(nodes=FOUR, mdeps=[mdep("a"), mdep("b")]) as rig:
        rig.cluster.fault = lambda call: (
            refuse(422, "Invalid", "status.kvPressure: Unsupported value")
            if (call.plural, call.name, call.sub) == ("modeldeployments", "a", "status")
            else None
        )
        await rig.until("b", lambda: rig.is_ready("default/b"), at_most=6)
        await rig.steps(60)
        assert rig.cluster.count("PATCH", "modeldeployments", name="a") <= 8
        rig.cluster.fault = lambda _call: None
        await rig.until("a", lambda: rig.is_ready("default/a"), at_most=70)


async def test_a_name_that_is_taken_is_told_with_its_owner():
    """r7: 20 POSTs a second, and no word. The pods of a StatefulSet chat are not in the way."""
    name = replica_key(read_deployment(mdep("chat")), 0).pod_name
    pods = [foreign(one, "default", owner=("StatefulSet", "chat")) for one in (name, "chat-0")]
    async with operator_rig(nodes=FOUR, mdeps=[mdep("chat")], pods=pods) as rig:
        await rig.steps(30)
        told = rig.condition("default/chat", "Placed")
        assert (told["status"], told["reason"]) == ("False", "NameTaken")
        assert f'pods "{name}" belongs to StatefulSet chat' in told["message"]
        assert rig.cluster.count("POST", "pods") == 0, "it is known before it is tried"
        rig.cluster.remove("pods", f"default/{name}")
        await rig.until("its turn", lambda: rig.is_ready("default/chat"), at_most=6)


async def test_a_name_that_is_taken_unseen_is_waited_for():
    """409 from a pod whose event has not come: told, and tried with a growing wait."""
    async with operator_rig(nodes=FOUR, mdeps=[mdep("chat")]) as rig:
        rig.cluster.fault = lambda call: (
            refuse(409, "AlreadyExists") if (call.method, call.plural) == ("POST", "pods") else None
        )
        await rig.steps(60)
        assert rig.cluster.count("POST", "pods") <= 8
        told = rig.condition("default/chat", "Placed")
        assert told["reason"] == "NameTaken"
        assert "tried again in" in told["message"]


async def test_of_refused_replicas_one_is_tried():
    """r19: a quota, 100 replicas: 5,000 POSTs in 5 s. And its wait is the server's, if longer."""
    eight = [node(f"n{i}", gpus=8) for i in range(4)]
    async with operator_rig(nodes=eight, mdeps=[mdep("m", replicas=100)]) as rig:
        rig.cluster.fault = lambda call: (
            refuse(403, "Forbidden", "exceeded quota", retry_after=20)
            if (call.method, call.plural) == ("POST", "pods")
            else None
        )
        await rig.steps(19)
        assert rig.cluster.count("POST", "pods") == 1
        await rig.steps(3)
        assert rig.cluster.count("POST", "pods") == 2
        assert "tried again in 20 s" in rig.condition("default/m", "Placed")["message"]
        rig.cluster.fault = lambda _call: None
        await rig.steps(22)
        assert len(rig.cluster.pods()) == 100, "when one is accepted the others follow"


async def test_what_a_refused_deployment_would_take_is_others_room():
    """One device with room for one: the older is refused by its namespace's quota."""
    big = [mdep(name, name, model="Qwen/Qwen3-8B", concurrency=20) for name in ("older", "younger")]
    async with operator_rig(nodes=[node()], mdeps=big) as rig:
        rig.cluster.fault = lambda call: (
            refuse(403, "Forbidden", "exceeded quota")
            if (call.method, call.plural, call.namespace) == ("POST", "pods", "older")
            else None
        )
        await rig.until("the younger", lambda: rig.is_ready("younger/younger"), at_most=8)


async def test_an_unreadable_reservation_is_a_full_node_and_no_pod_to_delete():
    """A newer operator's, after a rollback: they were all deleted at once, undrained."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))

        def newer(pod):
            text = pod["metadata"]["annotations"]["memroute.dev/reservation"]
            pod["metadata"]["annotations"]["memroute.dev/reservation"] = text.replace(
                '"v":1', '"v":2'
            )

        rig.cluster.change("pods", rig.pod("default/m"), newer)
        rig.cluster.put("modeldeployments", mdep("other"))
        await rig.steps(30)
        assert rig.cluster.count("DELETE", "pods") == 0
        assert [f"default/{pod['metadata']['name']}" for pod in rig.cluster.pods()] == [
            rig.pod("default/m")
        ]
        told = rig.condition("default/m", "Placed")
        assert told["reason"] == "NameTaken"
        assert "reservation cannot be read" in told["message"]
        assert rig.condition("default/other", "Placed")["reason"] == "InsufficientHBM"


@pytest.mark.parametrize("keeps_owner", [True, False])
async def test_only_what_we_made_is_deleted(keeps_owner):
    """cascade=orphan, or a label that somebody copied: by label and controller, or not at all."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        if not keeps_owner:
            rig.cluster.change(
                "pods", rig.pod("default/m"), lambda p: p["metadata"].pop("ownerReferences")
            )
        rig.cluster.remove("modeldeployments", "default/m")
        rig.cluster.put("modeldeployments", mdep("b", model="Qwen/Qwen3-8B", concurrency=48))
        await rig.steps(4)
        assert rig.cluster.count("DELETE", "pods") == (1 if keeps_owner else 0)
        if not keeps_owner:
            await rig.steps(5)
            assert rig.condition("default/b", "Placed")["reason"] == "InsufficientHBM"


async def test_pods_that_are_to_be_left_behind_are_left_alone():
    """``kubectl delete mdep --cascade=orphan``: they serve on, and what they hold stays theirs.

    The object goes once the garbage collector has taken the owner off its pods. Until then they
    looked like orphans, and were deleted.
    """
    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        rig.cluster.change(
            "modeldeployments",
            "default/m",
            lambda obj: obj["metadata"].update(deletionTimestamp=STAMP, finalizers=["orphan"]),
        )
        await rig.steps(3)
        pod = next(iter(rig.cluster.pods()))
        rig.cluster.change(
            "pods", rig.pod("default/m"), lambda p: p["metadata"].pop("ownerReferences")
        )
        await rig.steps(2)
        rig.cluster.remove("modeldeployments", "default/m")
        await rig.steps(3)
        rig.cluster.put("modeldeployments", mdep("m"))
        rig.cluster.put("modeldeployments", mdep("b", model="Qwen/Qwen3-8B", concurrency=48))
        await rig.steps(5)
        (left,) = rig.cluster.pods()
        assert left["metadata"]["uid"] == pod["metadata"]["uid"]
        assert rig.cluster.count("DELETE", "pods") == 0
        assert rig.condition("default/b", "Placed")["reason"] == "InsufficientHBM"
        told = rig.condition("default/m", "Placed")
        assert told["reason"] == "NameTaken"
        assert "stays until somebody deletes it" in told["message"]


async def test_a_pod_that_was_left_behind_unseen_is_not_deleted():
    """The watch of pods lags: by the store it still has an owner, which is gone."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        name = rig.pod("default/m")
        stale = rig.store.pods.get(name)
        rig.cluster.change("pods", name, lambda p: p["metadata"].pop("ownerReferences"))
        rig.cluster.remove("modeldeployments", "default/m")
        await rig.catch_up()
        replica = read_replica(stale)
        orphan = Delete(replica=replica, why="its ModelDeployment is gone", only_as_seen=True)
        applier = Applier(rig._client, rig.store, rig.settings)
        assert not await applier.apply(orphan)
        assert [p["metadata"]["name"] for p in rig.cluster.pods()] == [name.partition("/")[2]]
        assert rig.store.pods.get(name) is not None, "it is there, and stays counted"


@pytest.mark.parametrize(
    "spoil",
    [
        {"spec": {"model": {"name": "acme/x", "config": {"quantization_config": "fp8"}}}},
        {"spec": {"model": {"name": "acme/x", "config": {"hidden_size": 1e308}}}},
        {"spec": {"memory": None}},
        {"spec": {"replicas": "٣"}},
        {"status": {"placements": [{"model": 5}], "conditions": [7, {"type": None}]}},
    ],
)
async def test_one_odd_deployment_is_its_owners_problem(spoil):
    """r25: `quantization_config: "fp8"` of one tenant crash-looped everybody's operator."""
    base = {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 4,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
        "vocab_size": 128256, "max_position_embeddings": 8192,
    }  # fmt: skip
    odd = mdep("odd", "tenant-x")
    for part, fields in spoil.items():
        odd[part] = odd.get(part, {}) | copy.deepcopy(fields)
    if config := (odd["spec"]["model"] or {}).get("config"):
        odd["spec"]["model"]["config"] = base | config
    async with operator_rig(nodes=FOUR, mdeps=[odd, mdep("good", "prod")]) as rig:
        assert await rig.until("the good one", lambda: rig.is_ready("prod/good")) <= 5
        if "spec" in spoil:
            told = rig.condition("tenant-x/odd", "Resolved")
            assert told["status"] == "False"
            assert len(told["message"]) > 20
        await rig.steps(5)
        patches = rig.cluster.count("PATCH", "modeldeployments", name="odd")
        await rig.steps(10)
        assert rig.cluster.count("PATCH", "modeldeployments", name="odd") == patches


@pytest.mark.parametrize(
    ("amount", "fits"), [("1k", False), ("1", True), ("x", False), (True, False)]
)
async def test_accelerators_of_others_are_read_as_quantities(amount, fits):
    """`nvidia.com/gpu: 1k` of one pod ended the operator; what is no number is the whole node."""
    plain = node(gpus=4)
    del plain["metadata"]["labels"]["memroute.dev/gpu-sharing"]
    plain["status"]["allocatable"] = {"nvidia.com/gpu": "4"}
    async with operator_rig(
        nodes=[plain], mdeps=[mdep("m", mode="Exclusive")], pods=[foreign(amount=amount)]
    ) as rig:
        await rig.steps(5)
        assert rig.is_ready("default/m") == fits


async def test_opening_our_gate_leaves_everybody_elses():
    """r24: Kueue holds a pod by a gate of its own; it was admitted with ours."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m", replicas=2)]) as rig:
        rig.cluster.is_ready_at_once = False
        await rig.steps(3)
        (gated,) = [p for p in rig.cluster.pods() if p["spec"].get("schedulingGates")]
        key = f"default/{gated['metadata']['name']}"
        rig.cluster.change(
            "pods",
            key,
            lambda p: p["spec"]["schedulingGates"].insert(0, {"name": "kueue/admission"}),
        )
        for pod in rig.cluster.pods():
            if pod["metadata"]["name"] != gated["metadata"]["name"]:
                name = f"default/{pod['metadata']['name']}"
                rig.cluster.change("pods", name, lambda p: p.update(status=READY))
        await rig.steps(3)
        left = rig.cluster.objects["pods"][key]["spec"]["schedulingGates"]
        assert left == [{"name": "kueue/admission"}]


READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


async def test_a_failed_pod_is_replaced_later_and_elsewhere():
    """Evicted: made again at once on the same node, and the reason was one line of a log."""
    async with operator_rig(nodes=FOUR, mdeps=[mdep("m")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        (before,) = rig.cluster.pods()
        rig.cluster.change(
            "pods",
            rig.pod("default/m"),
            lambda p: p.update(
                status={"phase": "Failed", "reason": "Evicted", "message": "low on resource"}
            ),
        )
        await rig.steps(4)
        assert rig.cluster.pods() == []
        (event,) = rig.events("ReplicaFailed")
        assert "Evicted: low on resource" in event
        told = rig.condition("default/m", "Placed")
        assert told["reason"] == "PodFailed"
        assert "tried again in 10 s" in told["message"]
        await rig.until("its successor", lambda: rig.is_ready("default/m"), at_most=14)
        (after,) = rig.cluster.pods()
        assert after["spec"]["nodeName"] != before["spec"]["nodeName"]


async def test_pods_that_fail_again_and_again_are_made_ever_more_rarely():
    """One node, whose device plugin admits nobody: ten minutes, and not a pod every second."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        for _ in range(600):
            await rig.step()
            for pod in rig.cluster.pods():
                if pod["status"].get("phase") == "Running":
                    key = f"default/{pod['metadata']['name']}"
                    rig.cluster.change(
                        "pods",
                        key,
                        lambda p: p.update(
                            status={"phase": "Failed", "reason": "UnexpectedAdmissionError"}
                        ),
                    )
        # The node is avoided for 30, 60, 120, 240, ... s: five or six pods in ten minutes.
        assert 4 <= rig.cluster.count("POST", "pods") <= 7


async def test_a_field_that_an_old_crd_drops_is_asked_for_once():
    """r12: Helm never upgrades crds/: one PATCH per deployment and reconcile, for ever."""
    idle = [mdep(f"m{i}", replicas=0) for i in range(5)]
    async with operator_rig(nodes=FOUR, mdeps=idle) as rig:
        rig.cluster.pruned_status_fields = ("placedReplicas", "summary")
        await rig.steps(30)
        assert rig.cluster.count("PATCH", "modeldeployments") == 5


async def test_what_an_older_release_has_left_in_a_status_is_written_once():
    """r32: `after` lacked what `before` keeps, so it was patched at every reconcile."""
    one = mdep("m", replicas=0, maxContextTokens=200_000, model="Qwen/Qwen3-8B")
    one["status"] = {"calibrations": [{"model": "Qwen/Qwen3-8B", "engine": "default"}]}
    async with operator_rig(nodes=FOUR, mdeps=[one]) as rig:
        await rig.steps(10)
        assert rig.cluster.count("PATCH", "modeldeployments") == 1


async def test_free_memory_that_moves_is_no_news_to_the_api_server():
    """r33: 50 deployments that wait, 10 readings while a neighbour loads: 500 patches."""
    waiting = [mdep(f"big{i}", model="Qwen/Qwen3-8B", concurrency=34) for i in range(8)]
    async with operator_rig(nodes=[node()], mdeps=waiting) as rig:
        await rig.until("one of them serves", lambda: rig.is_ready("default/big0"))
        await rig.steps(3)
        rig.has_exporters = False
        for i in range(11):
            rig.readings.devices.readings["a"] = reading(
                "a", 1, rig.now + 1, free_mib=20000 - 700 * i
            )
            await rig.step()
            if i == 0:
                before = rig.cluster.count("PATCH", "modeldeployments")
        assert rig.cluster.count("PATCH", "modeldeployments") == before


async def test_one_late_exporter_concerns_those_who_run_there():
    """r33: one of 20 late, and every status in the cluster was patched with its name."""
    async with operator_rig(
        nodes=[node(f"n{i}") for i in range(6)],
        mdeps=[mdep("there"), *(mdep(f"idle{i}", replicas=0) for i in range(5))],
    ) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/there"))
        await rig.steps(2)
        (pod,) = rig.cluster.pods()
        before = rig.cluster.count("PATCH", "modeldeployments")
        rig.has_exporters = False
        late = pod["spec"]["nodeName"]
        for _ in range(3):
            for name in {f"n{i}" for i in range(6)} - {late}:
                rig.readings.devices.readings[name] = reading(name, 1, rig.now + 100)
            await rig.step(100)
        assert rig.cluster.count("PATCH", "modeldeployments") == before + 1
        told = rig.condition("default/there", "DeviceMetricsStale")
        assert told["status"] == "True"
        assert late not in told["message"]


async def test_no_connection_is_nobodys_fault():
    """What concerns everybody is noted against nothing: back at once when the server is."""
    async with operator_rig(nodes=FOUR, mdeps=[mdep("m")]) as rig:
        await rig.steps(1)
        rig.cluster.put("modeldeployments", mdep("n"))
        await rig.catch_up()
        rig.cluster.fault = lambda call: (
            refuse(401, "Unauthorized") if call.method in ("POST", "PATCH", "DELETE") else None
        )
        assert await rig.step() is None
        assert await rig.step() is None
        rig.cluster.fault = lambda _call: None
        await rig.until("both", lambda: rig.is_ready("default/m") and rig.is_ready("default/n"),
                        at_most=6)  # fmt: skip


async def test_a_rollout_waits_while_its_pods_would_be_refused():
    """What serves goes on serving: its successor could not be made."""
    async with operator_rig(nodes=FOUR, mdeps=[mdep("m", replicas=3)]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        rig.cluster.fault = lambda call: (
            refuse(403, "Forbidden", "exceeded quota")
            if (call.method, call.plural) == ("POST", "pods")
            else None
        )

        def edit(obj):
            obj["spec"]["memory"]["concurrency"] = 5
            obj["metadata"]["generation"] = 2

        rig.cluster.change("modeldeployments", "default/m", edit)
        await rig.steps(200)
        assert len(rig.cluster.pods()) >= 2


FAULTS = (
    (409, "Conflict"), (410, "Expired"), (422, "Invalid"), (429, "TooManyRequests"),
    (500, "InternalError"), (504, "Timeout"),
)  # fmt: skip


@pytest.mark.parametrize("seed", range(size(1, 3)))
async def test_twenty_deployments_converge_while_calls_fail_at_random(seed):
    """Bar 7: one in four calls answers 409, 410, 422, 429, 500, 504 or never; watches end.

    One namespace is broken for good and must delay the others by no more than a step.
    """
    rng = random.Random(seed)
    mdeps = [mdep("m", f"team-{i}", replicas=rng.randint(1, 3)) for i in range(20)]
    mdeps.append(mdep("broken", "team-x", replicas=3))
    nodes = [node(f"n{i}", gpus=4) for i in range(4)]

    def fault(call):
        if (call.method, call.plural, call.namespace) == ("POST", "pods", "team-x"):
            return refuse(500, "InternalError", "failed calling webhook")
        if call.plural == "events" or rng.random() > 0.25:
            return None
        code, reason = rng.choice(FAULTS)
        if call.method == "GET" and code not in (410, 429, 500, 504):
            return None
        if rng.random() < 0.1 and not call.is_watch:
            return HANG
        return refuse(code, reason, retry_after=1 if code == 429 else None)

    async with operator_rig(nodes=nodes, mdeps=mdeps, request_seconds=0.2, seed=seed) as rig:
        rig.cluster.fault = fault
        await rig.steps(10)
        rig.recover(
            lambda call: (
                refuse(500, "InternalError", "failed calling webhook")
                if (call.method, call.plural, call.namespace) == ("POST", "pods", "team-x")
                else None
            )
        )
        keys = [f"team-{i}/m" for i in range(20)]
        await rig.until("all of them", lambda: all(map(rig.is_ready, keys)), at_most=120)
        wanted = sum(m["spec"]["replicas"] for m in mdeps[:-1])
        assert len(rig.cluster.pods()) == wanted
        promised = {}
        for pod in rig.cluster.pods():
            text = pod["metadata"]["annotations"]["memroute.dev/reservation"]
            for uuid, size in json.loads(text)["devices"].items():
                promised[uuid] = promised.get(uuid, 0) + size
        assert max(promised.values()) <= 81100 * 2**20
        # A change of one of them is carried out in the next step, whatever team-x does.
        rig.cluster.change("modeldeployments", "team-0/m", lambda o: o["spec"].update(replicas=4))
        await rig.step()
        assert len([p for p in rig.cluster.pods() if p["metadata"]["namespace"] == "team-0"]) == 4


async def test_a_pod_that_waits_for_a_list_does_not_keep_the_operator_busy():
    """Lists failed for a minute after a create without an answer: ten steps a second meanwhile.

    A list that comes through is told like any other change.
    """
    async with operator_rig(nodes=FOUR, mdeps=[mdep("m")]) as rig:
        rig.cluster.fault = lambda call: (
            refuse(504, "Timeout") if (call.method, call.plural) == ("POST", "pods") else None
        )
        await rig.steps(2)
        rig.cluster.fault = lambda call: (
            refuse(500, "InternalError") if call.method == "GET" and not call.is_watch else None
        )
        rig.now += LATE_SECONDS
        await rig.step()
        assert await rig.step() >= 1.0
        rig.cluster.fault = lambda _call: None
        await rig.store.wait_dirty(0.01)
        await rig.reconciler.list_guarded()
        assert rig.store._dirty.is_set()
        await rig.until("it serves", lambda: rig.is_ready("default/m"))


async def test_a_full_list_that_failed_is_taken_again_before_the_next_is_due():
    """Five minutes are long for an operator whose watches may have failed as well."""
    waits = []

    async def wait_due(seconds):
        waits.append(seconds)
        rig.cluster.fault = lambda call: (
            refuse(500, "InternalError") if len(waits) == 1 and not call.is_watch else None
        )
        if len(waits) == 3:
            raise asyncio.CancelledError

    async with operator_rig(nodes=FOUR) as rig:
        rig.reconciler.lister.wait_due = wait_due
        with pytest.raises(asyncio.CancelledError):
            await rig.reconciler._resync_forever()
    assert waits == [300.0, RETRY_LIST_SECONDS, 300.0]
