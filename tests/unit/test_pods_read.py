"""What each kind of pod counts as, and whether it may ever be deleted: one table, by outcome."""

import copy
import json
from collections import Counter
from dataclasses import replace

import pytest

from memroute_operator.pod.pod_resources import ANY_RESOURCE, EVERY_DEVICE
from memroute_operator.replicas.pods import PodsRead, describe_owner, read_pods
from planned_objects import GPU, SHARED, deployment, pod_of

RESERVATION = "memroute.dev/reservation"
GPU_LIMIT = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}


def ours(**changes):
    """A replica's pod, with other values at these places (``a.b.0.c``); None takes one away."""
    pod = copy.deepcopy(pod_of(deployment()))
    for path, value in changes.items():
        *before, last = path.split("__")
        place = pod
        for part in before:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return pod


def reserved(**changes):
    """A replica's pod whose reservation says something else."""
    pod = ours()
    annotations = pod["metadata"]["annotations"]
    document = json.loads(annotations[RESERVATION]) | changes
    annotations[RESERVATION] = json.dumps(document)
    return pod


def annotated(**changes):
    pod = ours()
    pod["metadata"]["annotations"] |= {
        f"memroute.dev/{name.replace('_', '-')}": value for name, value in changes.items()
    }
    return pod


def test_a_pod_that_we_made_is_a_replica():
    found = read_pods([ours()])
    (replica,) = found.replicas
    assert (replica.key, replica.node, list(replica.device_bytes)) == (
        "default/m-0", "a", ["GPU-a-0"],
    )  # fmt: skip
    assert found.live == {"default/m-0"}
    assert (found.unreadable, found.strays, found.problems) == ([], [], {})


@pytest.mark.parametrize(
    ("pod", "why"),
    [
        (ours(metadata__annotations={}), "it has none"),
        (reserved(v=9), "no reservation of a known version"),
        (reserved(node=5), "no reservation of a known version"),
        (reserved(node=""), "a name or a text of it is none"),
        (reserved(bytesPerDevice=-1), "no reservation of a known version"),
        (reserved(count=5000), "no reservation of a known version"),
        (annotated(placement_reason=5), "a name or a text of it is none"),
        (ours(metadata__creationTimestamp=5), "a name or a text of it is none"),
        (ours(spec="nonsense"), "AttributeError"),
        (ours(status={"conditions": [5]}), "AttributeError"),
    ],
)
def test_a_pod_of_ours_that_cannot_be_read_is_kept_and_named(pod, why):
    """It may serve: it is neither deleted nor forgotten, and a person is told what is wrong."""
    found = read_pods([pod])
    assert (found.replicas, found.strays, found.foreign_devices) == ([], [], {})
    (unreadable,) = found.unreadable
    assert unreadable.deployment == "default/m"
    assert why in unreadable.why
    assert found.problems == {"default/m-0": unreadable.why}


@pytest.mark.parametrize(
    ("pod", "held"),
    [
        # It names what it holds, as ours do, or as another version would.
        (reserved(v=9), {"GPU-a-0"}),
        (reserved(v=9, devices=["GPU-a-1"]), {"GPU-a-1"}),
        # What it names is not there, or is no name: the whole node.
        (reserved(v=9, devices=["GPU-elsewhere"]), {"GPU-a-0", "GPU-a-1"}),
        (reserved(v=9, devices=[5]), {"GPU-a-0", "GPU-a-1"}),
        (reserved(v=9, devices="GPU-a-0"), {"GPU-a-0", "GPU-a-1"}),
        (ours(metadata__annotations={}), {"GPU-a-0", "GPU-a-1"}),
        (ours(metadata__annotations={RESERVATION: "[" * 100_000}), {"GPU-a-0", "GPU-a-1"}),
    ],
)
def test_an_unreadable_pod_counts_as_what_it_names_or_as_its_node(pod, held):
    node = replace(SHARED, devices=(GPU, replace(GPU, index=1, uuid="GPU-a-1")))
    (unreadable,) = read_pods([pod]).unreadable
    reservation = unreadable.reservation(node)
    assert set(reservation.device_bytes) == held
    assert all(size == GPU.usable_bytes for size in reservation.device_bytes.values())
    assert reservation.num_exclusive_devices == len(held)
    assert (reservation.owner, reservation.node) == ("default/m-0", "a")


@pytest.mark.parametrize(
    ("changes", "node"),
    [
        ({}, "a"),
        ({"spec__nodeName": "b"}, "b"),
        # Not bound yet: where its affinity pins it.
        ({"spec__nodeName": None}, "a"),
        ({"spec__nodeName": None, "spec__affinity": None}, None),
        ({"spec__nodeName": None, "spec__affinity": {"nodeAffinity": 5}}, None),
        ({"spec": 7}, None),
    ],
)
def test_an_unreadable_pod_holds_where_it_runs_or_is_bound_to_run(changes, node):
    pod = ours(metadata__annotations={}, **changes)
    (unreadable,) = read_pods([pod]).unreadable
    assert unreadable.node == node


@pytest.mark.parametrize(
    "owners",
    [
        None,
        [],
        [{"kind": "ModelDeployment", "apiVersion": "memroute.dev/v1alpha1"}],
        [{"kind": "ReplicaSet", "apiVersion": "apps/v1", "controller": True, "uid": "u"}],
        [{"kind": "ModelDeployment", "apiVersion": "x.ai/v1", "controller": True, "uid": "u"}],
    ],
)
def test_a_pod_with_our_label_that_we_do_not_control_is_counted_and_never_ours(owners):
    """cascade=orphan, a label that was copied, another project's ModelDeployment."""
    found = read_pods([ours(metadata__ownerReferences=owners)])
    assert (found.replicas, found.unreadable) == ([], [])
    (stray,) = found.strays
    assert stray.device_bytes.keys() == {"GPU-a-0"}


@pytest.mark.parametrize(
    ("changes", "foreign"),
    [
        # Elsewhere than it says, or nothing that can be read: what it requests counts.
        ({"spec__nodeName": "b"}, {"b": Counter({"nvidia.com/gpu": 2})}),
        ({"metadata__annotations": {}}, {"a": Counter({"nvidia.com/gpu": 2})}),
        # Nowhere, or over: it holds nothing.
        ({"spec__nodeName": None}, {}),
        ({"status__phase": "Failed"}, {}),
    ],
)
def test_a_stray_counts_only_where_it_really_runs(changes, foreign):
    """A reservation that anybody can copy must not fill a node on which nothing runs."""
    pod = ours(metadata__ownerReferences=None, **changes)
    pod["spec"]["containers"][0] |= GPU_LIMIT
    found = read_pods([pod])
    assert found.strays == []
    assert found.foreign_devices == foreign


def foreign_pod(spec=None, name="x"):
    return {"metadata": {"namespace": "other", "name": name, "uid": name}, "spec": spec or {}}


@pytest.mark.parametrize(
    ("spec", "held"),
    [
        ({"nodeName": "a", "containers": [GPU_LIMIT]}, {"a": Counter({"nvidia.com/gpu": 2})}),
        ({"nodeName": "a", "containers": [{}]}, {}),
        ({"containers": [GPU_LIMIT]}, {}),
    ],
)
def test_a_pod_of_others_counts_as_the_devices_that_it_requests(spec, held):
    found = read_pods([foreign_pod(spec)])
    assert found.foreign_devices == held
    assert found.live == {"other/x"}
    assert found.problems == {}


def test_a_pod_of_others_that_makes_no_sense_counts_as_every_device_of_its_node():
    """A device that may be taken must not be given away; and one odd pod ends nothing."""
    odd = {"metadata": {"namespace": "o", "name": "x", "labels": 5}, "spec": {"nodeName": "a"}}
    found = read_pods([odd, foreign_pod({"nodeName": "b", "containers": [GPU_LIMIT]})])
    assert found.foreign_devices == {
        "a": Counter({ANY_RESOURCE: EVERY_DEVICE}), "b": Counter({"nvidia.com/gpu": 2}),
    }  # fmt: skip
    assert "o/x" in found.problems


def test_pods_without_a_name_are_told_apart():
    """Two of them are two problems: the second must not hide the first."""
    found = read_pods([{"metadata": None}, {"spec": 5}, {}])
    assert len(found.problems) == 3
    assert found.live == set()


@pytest.mark.parametrize("value", [5, "x", [], {"metadata": []}, {"metadata": {"labels": []}}])
def test_nothing_is_too_odd_to_be_a_pod(value):
    found = read_pods([value, ours()])
    assert [replica.key for replica in found.replicas] == ["default/m-0"]
    assert len(found.problems) == 1


def test_what_is_added_to_a_reading_leaves_the_other_as_it_was():
    """Readings of single pods are kept from step to step: a sum must not grow into them."""
    one = read_pods([foreign_pod({"nodeName": "a", "containers": [GPU_LIMIT]})])
    total = PodsRead()
    total.add(one)
    total.add(one)
    assert total.foreign_devices == {"a": Counter({"nvidia.com/gpu": 4})}
    assert one.foreign_devices == {"a": Counter({"nvidia.com/gpu": 2})}


@pytest.mark.parametrize(
    ("owners", "told"),
    [
        ([{"kind": "StatefulSet", "name": "chat", "controller": True}], "StatefulSet chat"),
        (None, "belongs to nobody"),
        ([5], "cannot be read"),
    ],
)
def test_whose_pod_it_is_is_told_in_words(owners, told):
    assert told in describe_owner(ours(metadata__ownerReferences=owners))
