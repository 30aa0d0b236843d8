"""Whom routers believe, on a real API server: forged pods, taken names, administrators' grants."""

import contextlib
import json
import secrets

import httpx
import pytest

from cluster_support import (
    ANSWER_SECONDS,
    apply,
    create_namespace,
    fetch,
    get_deployment,
    pod_names,
    pods_of,
    router_of,
    wait_condition,
    wait_ready,
)
from memroute_operator.rules.name_grants import GRANTS_NAME
from router_load import operations_url, router_metric

SYSTEM = "memroute-system"


@pytest.fixture
def tenant(cluster):
    """A namespace of somebody else."""
    name = f"tenant-{secrets.token_hex(2)}"
    create_namespace(cluster, name)
    yield name
    cluster.kubectl("delete", "mdep", "--all", "-n", name, "--wait=true")
    cluster.kubectl("delete", "pods", "--all", "-n", name, "--wait=false")
    cluster.wait_for("pods to go", lambda: not cluster.get("pods", "-n", name))
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@contextlib.contextmanager
def granted(cluster, name, *namespaces):
    """An administrator's word."""
    literals = [f"--from-literal={one}={name}" for one in namespaces]
    cluster.kubectl("create", "configmap", GRANTS_NAME, "-n", SYSTEM, *literals)
    try:
        yield
    finally:
        cluster.kubectl("delete", "configmap", GRANTS_NAME, "-n", SYSTEM)


def forged(pod, tenant):
    """The same engine as a pod of somebody else. One with our owner, the operator would delete."""
    metadata = pod["metadata"]
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "forged",
            "namespace": tenant,
            "labels": metadata["labels"],
            "annotations": metadata["annotations"]
            | {"memroute.dev/kv-capacity-tokens": "1000000000"},
        },
        "spec": {name: value for name, value in pod["spec"].items() if name != "nodeName"},
    }
    return json.dumps(made)


def test_a_forged_pod_and_a_taken_name_get_nothing_until_an_administrator_says_so(
    cluster, namespace, tenant
):
    """d07: a pod with two texts, and a ModelDeployment with somebody's name, got their prompts."""
    url = router_of(cluster)
    model = {"name": "Qwen/Qwen3-0.6B", "servedName": namespace}

    def routable():
        return {pod for pod, value in router_metric(url, "replica_routable").items() if value == 1}

    def doubted():
        page = fetch(f"{operations_url(url)}/metrics").text
        lines = [one for one in page.splitlines() if "doubted_objects{" in one]
        return {one.split('reason="')[1].split('"')[0] for one in lines if '"Pod"' in one}

    apply(cluster, namespace, "ours", model=model)
    wait_ready(cluster, namespace, "ours")
    (pod,) = pods_of(cluster, namespace)
    ours = pod["metadata"]["name"]
    cluster.wait_for("the router to see the replica", lambda: ours in routable())
    told = get_deployment(cluster, namespace, "ours")["status"]["routing"]
    assert told["replicas"][0]["pods"] == {ours: pod["metadata"]["uid"]}

    # He makes an engine of the same name, and asks for the name himself.
    cluster.kubectl("apply", "--validate=false", "-f", "-", stdin=forged(pod, tenant))
    apply(cluster, tenant, "theirs", model=model)
    taken = wait_condition(cluster, tenant, "theirs", "Ready", "NameTaken")
    assert f"{namespace}/ours" in taken["message"]
    assert f"{SYSTEM}/{GRANTS_NAME}" in taken["message"]
    cluster.wait_for(
        "both of his pods to be ready and in doubt",
        lambda: doubted() >= {"no-deployment", "name-taken"},
    )
    (theirs,) = pod_names(cluster, tenant, "theirs")
    assert routable() & {"forged", theirs} == set()
    ask = {"model": namespace, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    for _ in range(5):
        answer = httpx.post(
            f"{url}/v1/chat/completions",
            json=ask,
            headers={"x-memroute-explain": "1"},
            timeout=ANSWER_SECONDS,
            trust_env=False,
        )
        assert answer.status_code == 200
        assert answer.headers["x-memroute-replica"] == f"{namespace}/{ours}"

    with granted(cluster, namespace, namespace, tenant):
        wait_ready(cluster, tenant, "theirs")
        cluster.wait_for("the granted replica", lambda: routable() >= {ours, theirs})
        assert "forged" not in routable()
