"""Nodes as they are elsewhere: sliced, shared in time, unlabelled, IPv6, cut off, hanging.

A control plane of its own: these nodes would take replicas that other tests expect elsewhere.
Its exporters collect every 30 s, as real ones do.
"""

import json
import subprocess
import sys

import pytest

from cluster_support import (
    FAULT,
    apply,
    condition,
    installed_cluster,
    pods_of,
    set_fault,
    wait_condition,
    wait_ready,
)
from memroute_kube.resources import is_condition_true

FLEET = [
    {"name": "plain", "machine": "plain"},
    {"name": "time-sliced", "machine": "l4-1", "deviceSharing": "time-slicing"},
    {"name": "mig", "machine": "h100-1", "migStrategy": "single", "migSlices": {"1g.20gb": 2}},
    {
        "name": "mixed",
        "machine": "h100-1",
        "migStrategy": "mixed",
        "migSlices": {"3g.40gb": 1, "1g.20gb": 1},
    },
    {"name": "gke", "machine": "l4-1", "labels": "gke"},
    {"name": "bare", "machine": "l4-1", "labels": "none"},
    {"name": "amd", "machine": "mi300x-1"},
    {"name": "v6", "machine": "l4-1", "gpuSharing": "shared", "ipFamily": "ipv6"},
]
# Of the others nothing is labelled as NVIDIA's or AMD's operator does it.
WITH_EXPORTER = {"time-sliced", "mig", "mixed", "amd", "v6"}
OPERATOR_ARGS = ["--scrape-seconds=1", "--drain-timeout-seconds=5", "--node-lost-seconds=60"]


@pytest.fixture(scope="module")
def cluster(repository, helm):
    """The odd nodes, with memroute installed by Helm."""
    chart = repository / "helm" / "memroute"
    with installed_cluster(FLEET, helm, chart, OPERATOR_ARGS) as it:
        yield it


def on(node, mode="Exclusive"):
    return {"mode": mode, "nodeSelector": {"kubernetes.io/hostname": node}}


def cli(cluster, *arguments):
    """What a command of `memroute` says, as a document."""
    result = subprocess.run(
        [sys.executable, "-m", "memroute_cli", *arguments, "-o", "json",
         *(() if "--inventory" in arguments else ("--kubeconfig", str(cluster.kubeconfig)))],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert result.returncode in (0, 1), result.stderr
    return json.loads(result.stdout)


def test_a_plan_tries_every_kind_of_node_live_and_from_files(cluster, tmp_path):
    """MIG slices, time slices, a cloud's labels, AMD, shared devices; what is not known is said.

    The first test of the file: nothing has used a device, so no reading shows it.
    From files it answers the same: nodes and pods in one, the operator's readings in another.
    """

    def view():
        found = cluster.kubectl(
            "get", "configmap", "memroute-fleet", "-n", "memroute-system", "-o", "json",
            "--ignore-not-found",
        )  # fmt: skip
        nodes = json.loads(json.loads(found)["data"]["view"])["nodes"] if found else {}
        return found if nodes.keys() == WITH_EXPORTER else None

    (tmp_path / "view.json").write_text(cluster.wait_for("the operator's readings", view))
    (tmp_path / "fleet.json").write_text(cluster.kubectl("get", "nodes,pods", "-A", "-o", "json"))
    files = f"{tmp_path / 'fleet.json'},{tmp_path / 'view.json'}"
    told = {}
    for where in (("--cluster",), ("--inventory", files)):
        (plan,) = cli(cluster, "plan", "Qwen/Qwen3-0.6B", *where)["plans"]
        now = told[where[0]] = plan["now"]
        fits = {(way["mode"], way["numDevices"]): set() for way in now["ways"]}
        for way in now["ways"]:
            fits[way["mode"], way["numDevices"]] |= set(way["fitsOn"])
        assert fits["exclusive", 1] == {"time-sliced", "mig", "mixed", "gke", "amd"}
        assert fits["shared", 1] == {"v6"}
        assert not set().union(*(nodes for (_, n), nodes in fits.items() if n > 1))
        assert any("bare" in note for note in now["notKnown"])
        by_node = {}
        for device in now["devices"]:
            by_node.setdefault(device["node"], []).append(device)
        assert [len(by_node[name]) for name in ("mig", "mixed", "time-sliced")] == [2, 2, 1]
        assert by_node["v6"][0]["uuid"].startswith("GPU-")
        assert all("1 x bf16 exclusive" in one["ways"] for one in by_node["mixed"])
    assert [w["fitsOn"] for w in told["--cluster"]["ways"]] == [
        w["fitsOn"] for w in told["--inventory"]["ways"]
    ]


def test_the_doctor_tells_a_gpu_that_has_fallen_off_the_bus(cluster):
    """By the device plugin, which hands out one less; and no more once it is back."""

    def lost():
        checks = cli(cluster, "doctor")["checks"]
        return [one for one in checks if one["check"] == "lost-devices" and one["state"] != "ok"]

    cluster.wait_for("all devices", lambda: not lost() or None)
    cluster.kubectl("annotate", "node", "gke", f"{FAULT}/lost-gpus=0")
    found = cluster.wait_for("a lost device", lost)
    assert any("gke hands out 0 of 1 nvidia.com/gpu" in one["sentence"] for one in found)
    cluster.kubectl("annotate", "node", "gke", f"{FAULT}/lost-gpus-")
    cluster.wait_for("it to be back", lambda: not lost() or None)


def test_a_time_sliced_device_serves_one_replica(cluster, namespace):
    """Four slices are one card: three of four replicas found no memory there, for ever."""
    apply(cluster, namespace, "m", placement=on("time-sliced"), replicas=2)
    wait_condition(cluster, namespace, "m", "Placed", "InsufficientHBM")
    cluster.wait_for(
        "the one that fits to serve",
        lambda: [is_condition_true(pod, "Ready") for pod in pods_of(cluster, namespace)] == [True],
    )


@pytest.mark.parametrize("node", ["mig", "mixed", "gke"])
def test_a_replica_serves_where_the_memory_is_known_otherwise(cluster, namespace, node):
    """By the labels of MIG slices, under either name, and by what GKE says of its nodes."""
    apply(cluster, namespace, "m", placement=on(node))
    wait_ready(cluster, namespace, "m")


def test_slices_of_every_profile_are_planned_on(cluster, namespace):
    """One kind of a node was: the others stayed empty while replicas waited for room."""
    apply(cluster, namespace, "m", placement=on("mixed"), replicas=2)
    wait_ready(cluster, namespace, "m")
    limits = [
        pod["spec"]["containers"][0]["resources"]["limits"] for pod in pods_of(cluster, namespace)
    ]
    asked = sorted(name for one in limits for name in one if name.startswith("nvidia.com/"))
    assert asked == ["nvidia.com/mig-1g.20gb", "nvidia.com/mig-3g.40gb"]
    apply(cluster, namespace, "m", placement=on("mixed"), replicas=3)
    wait_condition(cluster, namespace, "m", "Placed", "InsufficientHBM")


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
        lambda: (pod := pod_of(cluster, namespace, name)) and is_condition_true(pod, "Ready"),
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
    set_fault(cluster, "plain", "image-pull-seconds", "never")
    run_pod(cluster, namespace, "p", image="pause:of-its-own")

    def waits():
        statuses = pod_of(cluster, namespace, "p")["status"].get("containerStatuses") or [{}]
        return statuses[0].get("state", {}).get("waiting", {}).get("reason")

    cluster.wait_for("the pull to be tried", lambda: waits() == "ImagePullBackOff")
    set_fault(cluster, "plain", "image-pull-seconds", None)
    wait_running(cluster, namespace, "p")
    cluster.kubectl("delete", "pod", "p", "-n", namespace)


def test_a_node_that_is_cut_off_runs_on_and_catches_up(cluster, namespace):
    """The kubelet's view: nothing new starts, nothing that runs ends, and then both happen."""
    run_pod(cluster, namespace, "old")
    wait_running(cluster, namespace, "old")
    set_fault(cluster, "plain", "cut-off", "true")
    run_pod(cluster, namespace, "new")
    cluster.kubectl("delete", "pod", "old", "-n", namespace, "--wait=false")
    cluster.wait_for(
        "the new pod to be bound",
        lambda: pod_of(cluster, namespace, "new")["spec"].get("nodeName") == "plain",
    )
    assert pod_of(cluster, namespace, "new")["status"]["phase"] == "Pending"
    assert pod_of(cluster, namespace, "old") is not None
    set_fault(cluster, "plain", "cut-off", None)
    wait_running(cluster, namespace, "new")
    cluster.wait_for("the old pod to go", lambda: pod_of(cluster, namespace, "old") is None)
    cluster.kubectl("delete", "pod", "new", "-n", namespace)
