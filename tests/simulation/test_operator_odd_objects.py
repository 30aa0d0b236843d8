"""Bar 1: whatever pods, nodes and ModelDeployments look like, nothing leaves gather, plan, status.

500 examples by default; ``make odd-objects`` tries 10,000.
"""

import copy
import random
from datetime import UTC, datetime

from hypothesis import example, given, settings
from hypothesis import strategies as st

from memroute.placement import Ledger
from memroute_operator.gather import gather, node_sights
from memroute_operator.isolation import PatientPlanner
from memroute_operator.memory import PlanMemory
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.plan import Delete, MarkDraining, PlanContext
from memroute_operator.readings.device_metrics import DeviceMetrics
from memroute_operator.replicas.lost_nodes import LostNodes
from memroute_operator.status.routing_status import routing_statuses
from memroute_operator.status.status import broken_status, deployment_status
from memroute_operator.store.store import Store
from operator_rig import mdep, node, reading
from sizes import examples
from spoiled_objects import ODD, RESERVATION, spoiled

EXAMPLES = examples()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
    "max_position_embeddings": 8192, "torch_dtype": "bfloat16", "sliding_window": 1024,
    "head_dim": 128, "quantization_config": {"quant_method": "fp8", "weight_block_size": [1, 1]},
    "rope_scaling": {"type": "x"}, "layer_types": ["full_attention"], "num_experts": 8,
    "text_config": {"hidden_size": 64}, "kv_lora_rank": 512, "tie_word_embeddings": True,
}  # fmt: skip


def whole_pod():
    """A replica's pod with every field that anybody reads."""
    return {
        "metadata": {
            "namespace": "default", "name": "m-0", "uid": "u-m-0", "resourceVersion": "5",
            "creationTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30,
            "labels": {"memroute.dev/model-deployment": "m", "memroute.dev/replica": "0"},
            "annotations": {
                "memroute.dev/reservation": RESERVATION, "memroute.dev/revision": "r",
                "memroute.dev/kv-capacity-tokens": "100", "memroute.dev/placement-reason": "w",
                "memroute.dev/draining": "2026-01-01T00:00:00Z", "memroute.dev/successor": "{}",
            },
            "ownerReferences": [
                {"apiVersion": "memroute.dev/v1alpha1", "kind": "ModelDeployment", "name": "m",
                 "uid": "uid-default-m", "controller": True}
            ],
        },
        "spec": {
            "nodeName": "a", "schedulingGates": [{"name": "memroute.dev/start-order"}],
            "containers": [{"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
            "initContainers": [
                {"name": "i", "restartPolicy": "Always",
                 "resources": {"requests": {"nvidia.com/gpu": "1"}}}
            ],
            "terminationGracePeriodSeconds": 60,
        },
        "status": {
            "phase": "Running", "reason": "r", "message": "m", "podIP": "10.0.0.1",
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                 "message": "no", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ],
            "containerStatuses": [
                {"name": "engine", "restartCount": 1,
                 "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "x"}},
                 "lastState": {"terminated": {"exitCode": 1, "reason": "OOMKilled"}}}
            ],
        },
    }  # fmt: skip


def whole_node():
    found = node("a", gpus=2)
    found["metadata"] |= {"resourceVersion": "5", "annotations": {"memroute.dev/devices": "[]"}}
    found["spec"] = {"unschedulable": False, "taints": [{"key": "k", "effect": "NoSchedule"}]}
    found["status"]["allocatable"] = {"nvidia.com/gpu": "2", "nvidia.com/mig-1g.10gb": "1"}
    found["status"]["capacity"] = {"nvidia.com/gpu": "2"}
    return found


def whole_mdep():
    found = mdep("m", replicas=2)
    found["metadata"] |= {"resourceVersion": "5", "annotations": {"a": "b"}}
    found["spec"]["model"] = {
        "name": "acme/x", "config": copy.deepcopy(CONFIG), "checkpointBytes": 10**9,
        "servedName": "x",
    }  # fmt: skip
    found["spec"]["engine"] |= {
        "image": "i", "args": ["--seed=32"], "env": [{"name": "A", "value": "b"}],
    }  # fmt: skip
    found["spec"]["placement"]["nodeSelector"] = {"pool": "a"}
    found["status"] = {
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Serving", "message": "m",
             "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        ],
        "placements": [{"replica": 0, "node": "a", "devices": ["GPU-a-0"]}],
        "observedGeneration": 1,
        "routing": {
            "observedGeneration": 1,
            "names": [{"name": "x", "since": "2026-01-01T00:00:00Z"}],
            "replicas": [{"servedName": "x", "kvCapacityTokens": 1, "maxContextTokens": 1,
                          "pods": {"m-0": "u-m-0"}}],
        },
    }  # fmt: skip
    return found


POD, NODE, MDEP = spoiled(whole_pod), spoiled(whole_node), spoiled(whole_mdep)


def good_mdep():
    found = mdep("good", "prod")
    found["metadata"]["resourceVersion"] = "5"
    return found


def build_store(pods, nodes, mdeps):
    store = Store()
    for collection, objects in (
        (store.pods, pods), (store.nodes, nodes), (store.model_deployments, mdeps),
    ):  # fmt: skip
        for version, obj in enumerate(objects):
            if isinstance(obj.get("metadata"), dict) and version:
                obj["metadata"].setdefault("resourceVersion", str(10 + version))
            collection.upsert(obj)
    return store


def run(store, *, memory=None, bugs=None):
    """One step on these objects, as the reconciler takes it."""
    metrics = DeviceMetrics(scrape_seconds=5)
    for name in ("a", "z"):
        metrics.readings[name] = reading(name, 2, 100.0)
    facts = gather(store, metrics, now_seconds=100.0, memory=memory or PlanMemory(), now=NOW)
    loss = LostNodes().decide(
        facts.gpu_nodes(node_sights(store, metrics)), node_lost_seconds=30, now_seconds=100.0
    )
    caught = [] if bugs is None else bugs
    planner = PatientPlanner(lambda *bug: caught.append(bug), random.Random(1))
    context = PlanContext(
        drain_timeout_seconds=60.0, in_flight=None, avoided_nodes={}, lost_nodes=loss.given_up,
        held_back=frozenset(facts.taken_slots),
    )  # fmt: skip
    step = planner.plan(facts, context, now_seconds=100.0)
    statuses = {}
    routing = routing_statuses(
        facts, {}, grants_namespace="memroute-system", now="2026-01-01T00:00:00Z"
    )
    for deployment in facts.deployments:
        outcome = step.outcomes.get(deployment.key)
        if outcome is None:
            assert planner.failure_of(deployment.key)
            continue
        replicas = facts.replicas_by_deployment().get(deployment.key, [])
        statuses[deployment.key] = deployment_status(
            deployment, replicas, outcome, assigned_devices={}, stale_nodes=facts.stale_nodes,
            kv_projected_ratio={}, now=NOW,
            routing=routing[deployment.key],
        )  # fmt: skip
        broken_status(deployment, ValueError("x"), NOW)
    OperatorMetrics().on_reconciled(facts, {}, 0.1, loss)
    return facts, step, statuses


@settings(max_examples=EXAMPLES)
@given(
    pods=st.lists(POD, max_size=3),
    nodes=st.lists(NODE, max_size=2),
    mdeps=st.lists(MDEP, max_size=2),
)
@example(pods=[{}], nodes=[{}], mdeps=[{}])
@example(pods=[{"metadata": None}], nodes=[{"metadata": []}], mdeps=[{"metadata": 5}])
def test_no_object_ends_a_reconcile_and_no_other_deployment_pays(pods, nodes, mdeps):
    """A good deployment on a good node of its own is placed, whatever else there is."""
    good_node = node("z", gpus=2)
    good_node["metadata"]["resourceVersion"] = "5"
    store = build_store(pods, [*nodes, good_node], [*mdeps, good_mdep()])
    bugs = []
    facts, step, statuses = run(store, bugs=bugs)
    assert "prod/good" in statuses
    assert {d.key for d in facts.deployments} >= {"prod/good"}
    placed = [a for a in step.actions if getattr(a, "deployment", None)]
    assert any(action.deployment.key == "prod/good" for action in placed)


@settings(max_examples=EXAMPLES)
@given(pod=POD)
def test_a_pod_is_deleted_only_if_it_is_ours_and_can_be_read(pod):
    """By label and controller; an unreadable one counts as what it names, else as its node."""
    whole, of = whole_node(), whole_mdep()
    whole["spec"] = {}
    of["spec"]["replicas"] = 0
    store = build_store([pod], [whole], [of])
    facts, step, _ = run(store)
    metadata = pod.get("metadata")
    for action in step.actions:
        # One that is sound is drained before it is deleted.
        assert isinstance(action, Delete | MarkDraining)
        owners = metadata["ownerReferences"]
        assert "memroute.dev/model-deployment" in metadata["labels"]
        assert owners[0]["kind"] == "ModelDeployment"
        assert owners[0]["controller"]
    for unreadable in facts.unreadable_pods:
        if unreadable.node == "a" and not unreadable.is_terminal:
            ledger = Ledger(facts.inventory)
            for found in (n for n in facts.inventory.nodes if n.name == "a"):
                there = {device.uuid for device in found.devices}
                named = unreadable.device_uuids & there or there
                assert all(
                    ledger.free_bytes(device) == 0
                    for device in found.devices
                    if device.uuid in named
                )


FOREIGN_AMOUNT = st.one_of(ODD, st.sampled_from(["1", "1k", "2", "1000m", "1e0", "0.5", "1Ki"]))


@settings(max_examples=EXAMPLES)
@given(amount=FOREIGN_AMOUNT, field=st.sampled_from(["containers", "initContainers"]))
def test_what_a_foreign_pod_requests_counts_or_counts_as_everything(amount, field):
    """Nothing that a tenant writes makes a device free that may be taken."""
    foreign = {
        "metadata": {"namespace": "x", "name": "f", "uid": "f", "resourceVersion": "7"},
        "spec": {"nodeName": "a", field: [{"resources": {"limits": {"nvidia.com/gpu": amount}}}]},
        "status": {"phase": "Running"},
    }
    whole = whole_node()
    store = build_store([foreign], [whole], [])
    facts, _, _ = run(store)
    (found,) = [n for n in facts.inventory.nodes if (n.name, n.resource) == ("a", "nvidia.com/gpu")]
    known = {"1": 1, "2": 2, "1000m": 1, "1e0": 1, "0.5": 1, 0: 0, 1: 1, 2: 2, "0": 0, 0.5: 1}
    usual = isinstance(amount, str | int | float) and not isinstance(amount, bool)
    if usual and amount in known:
        assert found.num_foreign_devices == known[amount]
    elif not isinstance(amount, str | int | float) or isinstance(amount, bool):
        assert found.num_foreign_devices >= 1000
