"""Accelerators of a pod are counted as kube-scheduler counts them."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_kube.quantities import MAX_QUANTITY, parse_count, parse_quantity
from memroute_operator.pod.pod_resources import EVERY_DEVICE, requested_devices
from sizes import examples

GPU = "nvidia.com/gpu"
EXAMPLES = examples()


def container(count=None, *, resource=GPU, sidecar=False, kind="limits"):
    one = {"name": "c", "resources": {} if count is None else {kind: {resource: count}}}
    return one | ({"restartPolicy": "Always"} if sidecar else {})


def pod(*containers, init=()):
    return {"spec": {"containers": list(containers), "initContainers": list(init)}}


@pytest.mark.parametrize(
    ("one", "count"),
    [
        (pod(container("1"), container("2")), 3),
        (pod(container(), init=[container("1", sidecar=True)]), 1),
        (pod(container("1"), init=[container("1", sidecar=True)]), 2),
        (pod(container("1"), init=[container("4")]), 4),
        (pod(container("4"), init=[container("1"), container("2")]), 4),
        (pod(container("1"), init=[container("2", sidecar=True), container("4")]), 6),
        (pod(container("1"), init=[container("4"), container("2", sidecar=True)]), 4),
        (pod(container("1", kind="requests")), 1),
        (pod(container("1k")), 1000),
        (pod(container(2)), 2),
        (pod(container("nonsense")), EVERY_DEVICE),
        (pod(container("-1")), EVERY_DEVICE),
        (pod(container()), 0),
    ],
)
def test_what_a_pod_holds(one, count):
    """max(peak of init containers, sidecars + containers): a sidecar's GPU was given away again."""
    assert requested_devices(one)[GPU] == count


def test_each_resource_is_counted_by_itself():
    one = pod(
        container("2", resource="nvidia.com/mig-1g.10gb"),
        container("1"),
        container("9", resource="cpu"),
    )
    assert requested_devices(one) == Counter({"nvidia.com/mig-1g.10gb": 2, GPU: 1})


def test_a_recorded_pod_with_a_sidecar_holds_its_gpu(data_directory):
    items = json.loads((data_directory / "nodes" / "sidecar.json").read_text())["items"]
    assert requested_devices(items[1])[GPU] == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8), ("1k", 1000), ("1Ki", 1024), ("80Gi", 80 * 2**30), ("500m", 1), ("1500m", 2),
        ("1e3", 1000), ("1E3", 1000), ("12e-1", 2), ("0.5", 1), (".5", 1), ("+3", 3), ("-3", -3),
        ("2E", 2 * 10**18), ("9999999999999999999", MAX_QUANTITY), (7, 7), (1.5, 2),
        ("", None), ("x", None), ("1kk", None), ("1e999999999", None), ("NaN", None), (None, None),
        (True, None), ("٣", None), ("1_000", None), ([], None),
    ],
)  # fmt: skip
def test_quantities_are_kubernetes_own(text, value):
    """``1k`` raised ValueError, and every reconcile of the cluster with it."""
    assert parse_quantity(text) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["1k", "Always", GPU]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["containers", "initContainers", "resources", "limits", "requests", GPU,
                         "restartPolicy"]),
        inner, max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(JSON)
def test_no_pod_is_too_odd_to_be_counted(spec):
    """An odd pod of anybody's is counted at its worst, and ends nothing."""
    counted = requested_devices({"spec": spec})
    assert all(count >= 0 for count in counted.values())


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(st.one_of(st.text(max_size=30), JSON))
def test_no_quantity_is_too_odd_to_be_read(value):
    number = parse_quantity(value)
    assert number is None or -MAX_QUANTITY <= number <= MAX_QUANTITY
    count = parse_count(value)
    assert count is None or count >= 0
