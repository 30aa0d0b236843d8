"""Tools that wait for a ModelDeployment, and a pause, on a real control plane."""

import json
import subprocess
import time

import pytest
import yaml

from cluster_support import (
    apply,
    condition,
    get_deployment,
    manifest,
    pod_names,
    pods_of,
    wait_condition,
    wait_ready,
)
from kstatus import kstatus

# What Helm is told. Longer than a simulated engine takes to start on any machine.
TIMEOUT_SECONDS = 600


@pytest.fixture
def install(cluster, namespace, helm, tmp_path):
    """``helm install --wait`` of a chart with one ModelDeployment: how it ended, and when."""

    def run(name, **spec):
        chart = tmp_path / name
        (chart / "templates").mkdir(parents=True)
        about = {"apiVersion": "v2", "name": name, "version": "1.0.0"}
        (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
        (chart / "templates" / "model.yaml").write_text(
            json.dumps(manifest(namespace, name, **spec))
        )
        command = [helm, "install", name, str(chart), "-n", namespace, "--wait"]
        command += ["--timeout", f"{TIMEOUT_SECONDS}s", "--kubeconfig", str(cluster.kubeconfig)]
        began = time.monotonic()
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        return result, time.monotonic() - began

    return run


def test_helm_waits_until_a_model_serves(cluster, namespace, install):
    """A release that is done before its models serve tells a pipeline to go on too early."""
    result, _ = install("m", replicas=2)
    assert result.returncode == 0, result.stderr
    obj = get_deployment(cluster, namespace, "m")
    assert kstatus(obj) == "Current"
    assert obj["status"]["readyReplicas"] == 2


def test_helm_does_not_wait_for_what_no_device_holds(cluster, namespace, install):
    """It would for half an hour, and then say that it took too long."""
    large = {"name": "meta-llama/Llama-3.1-70B-Instruct"}
    result, seconds = install("m", model=large, placement={"mode": "Exclusive"})
    assert result.returncode != 0
    assert seconds < TIMEOUT_SECONDS
    obj = get_deployment(cluster, namespace, "m")
    assert kstatus(obj) == "Failed"
    assert "148.5 GiB" in condition(cluster, namespace, "m", "Stalled")["message"]


def test_flags_that_memroute_owns_are_told_with_what_to_use_instead(cluster, namespace):
    """A spelling that the schema does not know, and vLLM does."""
    apply(cluster, namespace, "m", engine={"args": ["--max-model-le", "4096"]})
    told = wait_condition(cluster, namespace, "m", "Stalled", "FlagOwned")
    assert "use spec.memory.maxContextTokens" in told["message"]
    assert pods_of(cluster, namespace) == []
    apply(cluster, namespace, "m", engine={"args": ["--seed", "1"]})
    wait_ready(cluster, namespace, "m")


def test_tuning_reaches_the_engine(cluster, namespace):
    """The simulated engine ends at a flag that it does not know, as vLLM does."""
    engine = {"maxSequences": 64, "maxBatchedTokens": 4096, "blockSizeTokens": 32}
    apply(cluster, namespace, "m", engine=engine | {"execution": "Eager"})
    wait_ready(cluster, namespace, "m")
    (pod,) = pods_of(cluster, namespace)
    arguments = pod["spec"]["containers"][0]["args"]
    assert "--enforce-eager" in arguments
    assert arguments[arguments.index("--block-size") + 1] == "32"


def test_nothing_changes_while_it_is_paused_and_delete_works(cluster, namespace):
    """Somebody looks into a model that serves: neither edits nor autoscalers may move it."""
    apply(cluster, namespace, "m", replicas=2)
    wait_ready(cluster, namespace, "m")
    before = {pod["metadata"]["uid"] for pod in pods_of(cluster, namespace)}
    memory = {"maxContextTokens": 2048}
    apply(cluster, namespace, "m", replicas=1, paused=True, memory=memory)
    wait_condition(cluster, namespace, "m", "Progressing", "Paused")
    assert condition(cluster, namespace, "m", "Paused")["status"] == "True"
    assert condition(cluster, namespace, "m", "Available")["status"] == "True"
    _, second = pod_names(cluster, namespace)
    cluster.kubectl("delete", "pod", second, "-n", namespace, "--wait=true")
    cluster.wait_for(
        "the status to say that one is there",
        lambda: get_deployment(cluster, namespace, "m")["status"]["replicas"] == 1,
    )
    cluster.kubectl("scale", "mdep/m", "--replicas=3", "-n", namespace)
    wait_condition(cluster, namespace, "m", "Placed", "Paused")
    left = pods_of(cluster, namespace)
    assert {pod["metadata"]["uid"] for pod in left} < before
    apply(cluster, namespace, "m", replicas=2, memory=memory)
    wait_ready(cluster, namespace, "m")
    cluster.wait_for(
        "the old one to go",
        lambda: not {pod["metadata"]["uid"] for pod in pods_of(cluster, namespace)} & before,
    )
    cluster.kubectl(
        "patch", "mdep", "m", "-n", namespace, "--type=merge",
        "-p", json.dumps({"spec": {"paused": True}}),
    )  # fmt: skip
    wait_condition(cluster, namespace, "m", "Paused", "PausedBySpec")
    cluster.kubectl("delete", "mdep", "m", "-n", namespace)
    cluster.wait_for("its pods to be gone", lambda: not pods_of(cluster, namespace))
