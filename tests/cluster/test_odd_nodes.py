"""Nodes as they are elsewhere: sliced, shared in time, unlabelled, IPv6, cut off, hanging.

A control plane of its own: these nodes would take replicas that other tests expect elsewhere.
Its exporters collect every 30 s, as real ones do.
"""

import json

import pytest

from cluster_support import (
    apply,
    condition,
    installed_cluster,
    pods_of,
    wait_condition,
    wait_ready,
)
from memroute_kube.resources import is_condition_true

FAULT = "simulator.memroute.dev"
FLEET = [
    {"name": "plain", "machine": "plain"},
    {"name": "time-sliced", "machine": "l4-1", "deviceSharing": "time-slicing"},
    {"name": "mig", "machine": "h100-1", "migStrategy": "single", "migSlices": {"1g.20gb": 2}},
    {"name": "mixed", "machine": "h100-1", "migStrategy": "mixed", "migSlices": {"3g.40gb": 2}},
    {"name": "gke", "machine": "l4-1", "labels": "gke"},
    {"name": "bare", "machine": "l4-1", "labels": "none"},
    {"name": "v6", "machine": "l4-1", "gpuSharing": "shared", "ipFamily": "ipv6"},
]
OPERATOR_ARGS = ["--scrape-seconds=1", "--drain-timeout-seconds=5", "--node-lost-seconds=60"]


@pytest.fixture(scope="module")
def cluster(repository, helm):
    """The odd nodes, with memroute installed by Helm."""
    chart = repository / "helm" / "memroute"
    with installed_cluster(FLEET, helm, chart, OPERATOR_ARGS) as it:
        yield it


def on(node, mode="Exclusive"):
    return {"mode": mode, "nodeSelector": {"kubernetes.io/hostname": node}}


def test_a_time_sliced_device_serves_one_replica(cluster, namespace):
    """Four slices are one card: three of four replicas found no memory there, for ever."""
    apply(cluster, namespace, "m", placement=on("time-sliced"), replicas=2)
    wait_condition(cluster, namespace, "m", "Placed", "InsufficientHBM")
    cluster.wait_for(
        "the one that fits to serve",
        lambda: [is_condition_true(pod, "Ready") for pod in pods_of(cluster, namespace)] == [True],
        timeout_seconds=60,
    )


@pytest.mark.parametrize("node", ["mig", "mixed", "gke"])
def test_a_replica_serves_where_the_memory_is_known_otherwise(cluster, namespace, node):
    """By the labels of MIG slices, under either name, and by what GKE says of its nodes."""
    apply(cluster, namespace, "m", placement=on(node))
    wait_ready(cluster, namespace, "m")


def test_a_node_that_nobody_describes_is_unknown_until_somebody_does(cluster, namespace):
    """As k3s with nothing but the device plugin: "never fits" was wrong, and helped nobody."""
    apply(cluster, namespace, "m", placement=on("bare"))
    found = wait_condition(cluster, namespace, "m", "Placed", "DevicesUnknown")
    assert "memroute.dev/device-memory" in found["message"]
    cluster.kubectl("annotate", "node", "bare", "memroute.dev/device-memory=22Gi")
    wait_ready(cluster, namespace, "m")
    cluster.kubectl("annotate", "node", "bare", "memroute.dev/device-memory-")


def test_pods_with_ipv6_addresses_are_read_and_served(cluster, namespace):
    """On such clusters the operator ended at its first scrape; shared placement needs it."""
    apply(cluster, namespace, "m", placement=on("v6", mode="Shared"))
    wait_ready(cluster, namespace, "m")
    (pod,) = pods_of(cluster, namespace)
    assert ":" in pod["status"]["podIP"]
    assert condition(cluster, namespace, "m", "Available")["status"] is not None


def run_pod(cluster, namespace, name, image="pause"):
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "containers": [{"name": "main", "image": image}],
            "nodeSelector": {"kubernetes.io/hostname": "plain"},
            "terminationGracePeriodSeconds": 1,
        },
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))


def pod_of(cluster, namespace, name):
    found = [one for one in cluster.get("pods", "-n", namespace) if one["metadata"]["name"] == name]
    return found[0] if found else None


def wait_running(cluster, namespace, name):
    cluster.wait_for(
        f"{name} to run",
        lambda: is_condition_true(pod_of(cluster, namespace, name), "Ready"),
    )


def test_a_process_that_does_not_die_keeps_its_pod(cluster, namespace):
    run_pod(cluster, namespace, "p")
    wait_running(cluster, namespace, "p")
    cluster.kubectl("annotate", "pod", "p", "-n", namespace, f"{FAULT}/undying=true")
    cluster.kubectl("delete", "pod", "p", "-n", namespace, "--wait=false")
    cluster.wait_for(
        "the grace period to be over",
        lambda: not is_condition_true(pod_of(cluster, namespace, "p"), "Ready"),
    )
    assert "deletionTimestamp" in pod_of(cluster, namespace, "p")["metadata"]
    cluster.kubectl("annotate", "pod", "p", "-n", namespace, f"{FAULT}/undying-")
    cluster.wait_for("the pod to go", lambda: pod_of(cluster, namespace, "p") is None)


def test_an_evicted_pod_has_failed_and_stays(cluster, namespace):
    run_pod(cluster, namespace, "p")
    wait_running(cluster, namespace, "p")
    cluster.kubectl("annotate", "pod", "p", "-n", namespace, f"{FAULT}/evict=DiskPressure")
    cluster.wait_for(
        "the eviction",
        lambda: pod_of(cluster, namespace, "p")["status"].get("reason") == "Evicted",
    )
    status = pod_of(cluster, namespace, "p")["status"]
    assert status["phase"] == "Failed"
    assert "DiskPressure" in status["message"]
    cluster.kubectl("delete", "pod", "p", "-n", namespace)


def test_an_image_that_never_comes_and_then_does(cluster, namespace):
    cluster.kubectl("annotate", "node", "plain", f"{FAULT}/image-pull-seconds=never")
    run_pod(cluster, namespace, "p", image="pause:of-its-own")

    def waits():
        statuses = pod_of(cluster, namespace, "p")["status"].get("containerStatuses") or [{}]
        return statuses[0].get("state", {}).get("waiting", {}).get("reason")

    cluster.wait_for("the pull to be tried", lambda: waits() == "ImagePullBackOff")
    cluster.kubectl("annotate", "node", "plain", f"{FAULT}/image-pull-seconds-")
    wait_running(cluster, namespace, "p")
    cluster.kubectl("delete", "pod", "p", "-n", namespace)


def test_a_node_that_is_cut_off_runs_on_and_catches_up(cluster, namespace):
    """The kubelet's view: nothing new starts, nothing that runs ends, and then both happen."""
    run_pod(cluster, namespace, "old")
    wait_running(cluster, namespace, "old")
    cluster.kubectl("annotate", "node", "plain", f"{FAULT}/cut-off=true")
    run_pod(cluster, namespace, "new")
    cluster.kubectl("delete", "pod", "old", "-n", namespace, "--wait=false")
    cluster.wait_for(
        "the new pod to be bound",
        lambda: pod_of(cluster, namespace, "new")["spec"].get("nodeName") == "plain",
    )
    assert pod_of(cluster, namespace, "new")["status"]["phase"] == "Pending"
    assert pod_of(cluster, namespace, "old") is not None
    cluster.kubectl("annotate", "node", "plain", f"{FAULT}/cut-off-")
    wait_running(cluster, namespace, "new")
    cluster.wait_for("the old pod to go", lambda: pod_of(cluster, namespace, "old") is None)
    cluster.kubectl("delete", "pod", "new", "-n", namespace)
