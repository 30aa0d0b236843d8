"""What a person sees of a fleet by a kubeconfig alone, and what only Events say of a pod."""

import json
import subprocess
import sys

from cluster_support import apply, pods_of, wait_condition, wait_event, wait_ready
from memroute.units import GIB


def memroute(cluster, *arguments):
    """The command as a person runs it."""
    result = subprocess.run(
        [sys.executable, "-m", "memroute_cli", *arguments, "--kubeconfig", str(cluster.kubeconfig)],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert result.returncode in (0, 1), result.stderr
    return result.stdout


def kubelets_event(cluster, namespace, pod, reason, message):
    """An Event on a pod, as kubelet writes it."""
    metadata = pod["metadata"]
    event = {
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"namespace": namespace, "name": f"{metadata['name']}.{reason.lower()}"},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": metadata["name"],
            "uid": metadata["uid"],
        },
        "reason": reason, "message": message, "type": "Normal", "count": 1,
        "firstTimestamp": metadata["creationTimestamp"],
        "lastTimestamp": metadata["creationTimestamp"],
        "source": {"component": "kubelet", "host": pod["spec"].get("nodeName", "")},
    }  # fmt: skip
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(event))


def test_top_explain_and_the_words_of_an_event(cluster, namespace):
    """By the rights that are granted: the operator lists Events and writes what it has read."""
    apply(cluster, namespace, "killed", engine={"args": ["--simulator-ending=killed"]})
    apply(cluster, namespace, "chat")
    (pod,) = cluster.wait_for("a pod", lambda: pods_of(cluster, namespace, "killed"))
    kubelets_event(
        cluster, namespace, pod, "Killing",
        "Container engine failed liveness probe, will be restarted",
    )  # fmt: skip
    wait_ready(cluster, namespace, "chat")
    told = wait_condition(cluster, namespace, "killed", "Ready", "LivenessProbeFailed")
    assert "livenessProbe.failureThreshold" in told["message"]
    assert wait_event(cluster, namespace, "LivenessProbeFailed")["type"] == "Warning"

    def observed():
        rows = json.loads(memroute(cluster, "top", "devices", "-o", "json"))["devices"]
        used = [one for one in rows if any(namespace in h["pod"] for h in one["holders"])]
        fresh = [one for one in used if (one["observedAgeSeconds"] or 0) < 60]
        return [one for one in fresh if (one["observedBytes"] or 0) > GIB]

    (device,) = cluster.wait_for("a fresh view of the operator", observed)
    assert device["promisedBytes"] > 2 * 4 * GIB, "both models hold it"
    assert f"{namespace}/chat" in memroute(cluster, "top", "--wide")
    assert max(map(len, memroute(cluster, "top").splitlines())) <= 80

    def explained():
        told = json.loads(memroute(cluster, "explain", "killed", "-n", namespace, "-o", "json"))
        # While its engine is started again it has not failed: that lasts longer on a slow machine.
        failures = [one["failure"] for one in told["replicas"] if one["failure"]]
        is_told = [one["reason"] for one in failures] == ["LivenessProbeFailed"]
        return told if is_told and len(told["replicas"]) == 1 else None

    whole = cluster.wait_for("the only replica to have failed, for that reason", explained)
    assert {one["node"] for one in whole["nodes"]} >= {"gpu-a", "gpu-b", "plain"}
