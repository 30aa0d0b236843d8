"""Pods of other releases: recognized, or kept whole; and told where they differ."""

import copy
import json

import pytest

from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.units import GIB
from memroute_kube.resources import ANNOTATION_RESERVATION
from memroute_operator.gather import gather
from memroute_operator.pod.manifests import ANNOTATION_TEMPLATE, replica_pod
from memroute_operator.pod.templates import Templates
from memroute_operator.readings.device_metrics import DeviceMetrics
from memroute_operator.replicas.adoption import unmarked
from memroute_operator.replicas.replica import ANNOTATION_REVISION, ANNOTATION_STARTED_WITH
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.store.store import Store

MODEL_DEPLOYMENT = {
    "metadata": {
        "namespace": "default",
        "name": "m",
        "uid": "u1",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "resourceVersion": "1",
    },
    "spec": {
        "model": {"name": "Qwen/Qwen3-8B"},
        "engine": {"type": "VLLM"},
        "memory": {
            "maxContextTokens": 8192, "concurrency": 4,
            "kvCacheDtype": "Auto", "quantization": "Auto",
        },
        "parallelism": {"tensorParallelSize": 1},
        "replicas": 1,
        "placement": {"mode": "Exclusive", "strategy": "Pack"},
        "routing": {"kvWatermarkPercent": 95, "assumedOutputTokens": 256},
    },
}  # fmt: skip
NODE = {
    "metadata": {
        "name": "a",
        "uid": "n1",
        "resourceVersion": "1",
        "labels": {
            "nvidia.com/gpu.count": "2",
            "nvidia.com/gpu.memory": "81559",
            "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
        },
    },
    "spec": {},
    "status": {
        "allocatable": {"nvidia.com/gpu": "2"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
TEMPLATES = Templates(default_image="vllm/vllm-openai:v0.32.0", shared_runtime_class="nvidia")


def deployment(**changes):
    obj = copy.deepcopy(MODEL_DEPLOYMENT)
    for path, value in changes.items():
        section, field = path.split("__")
        obj["spec"][section][field] = value
    return read_deployment(obj)


def pod_of(of, *, templates=TEMPLATES, **annotations):
    """The pod as the API server shows it; an annotation that is None is not there."""
    placed = Placed(
        key=ReplicaKey(namespace="default", name="m", index=0),
        node="a", mode=PlacementMode.EXCLUSIVE, device_uuids=(), num_devices=1,
        bytes_per_device=79 * GIB, needed_bytes_per_device=20 * GIB,
        usable_bytes_per_device=79 * GIB, product=None, why="",
    )  # fmt: skip
    pod = replica_pod(
        of,
        placed,
        is_gated=False,
        default_image=templates.default_image,
        shared_runtime_class=templates.shared_runtime_class,
        template=templates.of(of),
    )
    pod["metadata"] |= {
        "uid": "p1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "resourceVersion": "5",
    }
    both = pod["metadata"]["annotations"] | annotations
    pod["metadata"]["annotations"] = {k: v for k, v in both.items() if v is not None}
    pod["spec"]["nodeName"] = "a"
    pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    return pod


def facts_of(of, pod):
    store = Store()
    store.nodes.upsert(NODE)
    store.model_deployments.upsert(of.obj)
    store.pods.upsert(pod)
    return gather(store, DeviceMetrics(scrape_seconds=5.0), now_seconds=0.0)


def test_a_replica_of_release_0_1_is_of_the_current_spec():
    """It carries the hash of that release alone: an upgrade must not replace it."""
    of = deployment()
    pod = pod_of(of, **{ANNOTATION_STARTED_WITH: None, ANNOTATION_TEMPLATE: None})
    facts = facts_of(of, pod)
    assert [r.revision for r in facts.replicas] == [facts.deployments[0].revision]


def test_a_replica_of_release_0_1_is_replaced_when_its_spec_was_edited_meanwhile():
    before, after = deployment(), deployment(memory__maxContextTokens=4096)
    pod = pod_of(before, **{ANNOTATION_STARTED_WITH: None})
    facts = facts_of(after, pod)
    assert [r.revision for r in facts.replicas] != [facts.deployments[0].revision]


def test_after_a_rollback_release_0_1_finds_the_hash_that_it_expects():
    of = deployment()
    assert pod_of(of)["metadata"]["annotations"][ANNOTATION_REVISION] == of.legacy_revision
    assert of.legacy_revision != of.revision


def test_an_edit_that_release_0_1_would_roll_out_and_we_do_not_keeps_our_replicas():
    """Its hash is for it alone: ours goes by what the engine was started with."""
    before, after = deployment(), deployment(memory__concurrency=5)
    facts = facts_of(after, pod_of(before))
    assert before.legacy_revision != after.legacy_revision
    assert [r.revision for r in facts.replicas] == [facts.deployments[0].revision]


def test_a_replica_of_release_0_1_is_marked_while_its_hash_tells_what_it_runs():
    """An edit that only 0.1 would take for one must not replace it later."""
    of = deployment()
    old = {ANNOTATION_STARTED_WITH: None}
    (marked,) = unmarked(facts_of(of, pod_of(of, **old))).values()
    assert [(one.key, one.revision) for one in marked] == [("default/m-0", of.revision)]
    assert unmarked(facts_of(of, pod_of(of))) == {}
    edited = deployment(memory__maxContextTokens=4096)
    assert unmarked(facts_of(edited, pod_of(of, **old))) == {}


def test_a_replica_of_release_0_1_holds_what_its_container_asks_for():
    """Its reservation does not say of which resource its devices are."""
    pod = pod_of(deployment())
    text = json.loads(pod["metadata"]["annotations"][ANNOTATION_RESERVATION])
    assert text.pop("resource") == "nvidia.com/gpu"
    pod["metadata"]["annotations"][ANNOTATION_RESERVATION] = json.dumps(text)
    pod["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/mig-3g.40gb": "1"}}
    (held,) = facts_of(deployment(), pod).inventory.reservations
    assert held.resource == "nvidia.com/mig-3g.40gb"


@pytest.mark.parametrize("resource", [5, ["nvidia.com/gpu"], True])
def test_a_reservation_of_a_resource_that_is_no_name_cannot_be_read(resource):
    pod = pod_of(deployment())
    text = json.loads(pod["metadata"]["annotations"][ANNOTATION_RESERVATION])
    pod["metadata"]["annotations"][ANNOTATION_RESERVATION] = json.dumps(
        text | {"resource": resource}
    )
    assert [one.key for one in facts_of(deployment(), pod).unreadable_pods] == ["default/m-0"]


def newer(**fields):
    """A reservation of a version that is still to come."""
    return json.dumps({"v": 2, "mode": "exclusive", "node": "a"} | fields)


def test_a_newer_reservation_that_says_we_may_read_it_is_read():
    """A rollback is no reason to stop looking after what runs."""
    text = newer(minReader=1, count=1, bytesPerDevice=5, shape="new")
    facts = facts_of(deployment(), pod_of(deployment(), **{ANNOTATION_RESERVATION: text}))
    assert [(r.num_devices, r.bytes_per_device) for r in facts.replicas] == [(1, 5)]


@pytest.mark.parametrize(
    "text",
    [
        newer(count=1, bytesPerDevice=5),
        newer(count=1, bytesPerDevice=5, minReader=2),
        newer(count=1, bytesPerDevice=5, minReader=True),
        newer(devices={"GPU-nobody-knows": 5}),
        newer(devices=[["nested"]]),
        newer(devices=7),
        json.dumps({"v": "two"}),
        json.dumps([2]),
        "not JSON",
        None,
    ],
)
def test_a_reservation_that_cannot_be_read_holds_its_whole_node(text):
    """Nobody knows what it holds, and it may well serve: nothing else is placed there."""
    facts = facts_of(deployment(), pod_of(deployment(), **{ANNOTATION_RESERVATION: text}))
    assert facts.replicas == ()
    assert [pod.key for pod in facts.unreadable_pods] == ["default/m-0"]
    (held,) = facts.inventory.reservations
    assert (held.node, held.num_exclusive_devices) == ("a", 2)


def routed(uids, generation=1):
    """A status that names these pods; ``generation``: at which it did so."""
    return {
        "observedGeneration": 1,
        "routing": {
            "observedGeneration": generation,
            "replicas": [
                {"servedName": "x", "pods": {f"m-{n}": uid for n, uid in enumerate(uids)}}
            ],
        },
    }


@pytest.mark.parametrize(
    ("status", "owner", "held"),
    [
        # What a newer release has made it has named, too.
        (routed(["p1"]), None, 2),
        # A new one, and what an operator or a CRD of 0.1 leaves: its owner is all that is known.
        ({}, None, 2),
        (routed(["pod-other"], generation=0), None, 2),
        (routed(["pod-other"]), None, 0),
        (routed([]), None, 0),
        # A newer release may name it in another way, and lists it for people all the same.
        (routed([]) | {"placements": [{"pod": "m-0", "node": "a"}]}, None, 2),
        (routed([]) | {"placements": [{"pod": "m-0", "node": "b"}, 5]}, None, 0),
        (routed(["p1"]), "somebody", 0),
        ({}, "somebody", 0),
        (None, None, 0),
    ],
)
def test_a_pod_that_nobody_vouches_for_blocks_no_node(status, owner, held):
    """Our label, an owner and nonsense as a reservation: anybody who may create a pod can."""
    of = deployment()
    pod = pod_of(of, **{ANNOTATION_RESERVATION: "not JSON"})
    if owner is not None:
        pod["metadata"]["ownerReferences"][0]["uid"] = owner
    store = Store()
    store.nodes.upsert(NODE)
    if status is not None:
        store.model_deployments.upsert(of.obj | {"status": status})
    store.pods.upsert(pod)
    facts = gather(store, DeviceMetrics(scrape_seconds=5.0), now_seconds=0.0)
    assert sum(one.num_exclusive_devices for one in facts.inventory.reservations) == held
    assert len(facts.unreadable_pods) == (1 if held else 0)
    assert ("it holds what it requests" in facts.unreadable_objects["Pod default/m-0"]) == (
        not held
    )


def test_a_reservation_that_names_devices_that_are_there_holds_the_whole_of_those():
    (pod,) = facts_of(
        deployment(),
        pod_of(deployment(), **{ANNOTATION_RESERVATION: newer(devices={"GPU-1": 5})}),
    ).unreadable_pods
    (node,) = facts_of(deployment(), pod_of(deployment())).inventory.nodes
    known = [
        type(device)(**{f: getattr(device, f) for f in device.__slots__} | {"uuid": f"GPU-{i}"})
        for i, device in enumerate(node.devices)
    ]
    named = type(node)(**{f: getattr(node, f) for f in node.__slots__} | {"devices": tuple(known)})
    held = pod.reservation(named)
    assert held.device_bytes == {"GPU-1": known[1].usable_bytes}
    assert held.num_exclusive_devices == 1


def condition(of, pod, templates=TEMPLATES):
    return templates.condition(of, list(facts_of(of, pod).replicas))


def test_a_fleet_that_mixes_engines_says_so():
    """Another --engine-image restarts nothing: somebody has to be told, and how to go on."""
    of = deployment()
    pod = pod_of(of)
    assert condition(of, pod) is None
    newer_image = Templates(default_image="vllm/vllm-openai:v9", shared_runtime_class="nvidia")
    status, reason, message = condition(of, pod, newer_image)
    assert (status, reason) == ("True", "StartedByAnotherRelease")
    assert "1 of 1 replica(s)" in message
    assert "m-0" in message
    assert "vllm/vllm-openai:v9" in message
    assert "spec.engine.image" in message


def test_an_image_of_ones_own_is_no_business_of_the_operators_default():
    of = deployment(engine__image="mine:1")
    newer_image = Templates(default_image="vllm/vllm-openai:v9", shared_runtime_class="nvidia")
    assert condition(of, pod_of(of), newer_image) is None


def test_a_replica_of_release_0_1_is_told_to_be_of_another_release():
    of = deployment()
    pod = pod_of(of, **{ANNOTATION_TEMPLATE: None, ANNOTATION_STARTED_WITH: None})
    assert condition(of, pod)[0] == "True"


def test_arguments_and_variables_of_its_owner_are_no_template():
    """They are in the revision: in another order the variables mean the same."""
    plain = deployment()
    own = deployment(engine__args=["--seed=1"], engine__env=[{"name": "A", "value": "1"}])
    assert TEMPLATES.of(plain) == TEMPLATES.of(own)


def test_what_the_operator_puts_into_a_pod_has_not_changed():
    """If this fails, new pods differ from those before. Decide, then write down the new hash.

    It covers ``manifests``, and the sizes that the laws of the footprint put into flags.

    Running replicas keep what they have, and ``TemplateOutdated`` tells that they differ. If they
    must be restarted for it, raise ``revision.TEMPLATE_VERSION``: it replaces every replica of
    every cluster, one at a time. Tell it in the CHANGELOG in both cases.
    """
    shared = deployment(placement__mode="Shared")
    assert (TEMPLATES.of(deployment()), TEMPLATES.of(shared)) == ("43ba0db63b", "6b00d94e6e")
