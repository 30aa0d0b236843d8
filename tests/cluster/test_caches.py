"""Weights on the emulated fleet: fetched once for each node, from a hub that counts its bytes."""

import contextlib
import json
import threading

from cluster_support import (
    apply,
    get_deployment,
    pods_of,
    wait_quotas,
    wait_ready,
    wait_replicas,
    watched,
)
from fake_hub import SHARDS, dripping
from memroute_kube.resources import is_condition_true

MEMORY = {"maxContextTokens": 1024}
MODEL = "org/cached"
L4 = {"nvidia.com/gpu.product": "NVIDIA-L4"}


def on(node):
    return {"kubernetes.io/hostname": node}


def cached(cluster, namespace, name, *, nodes, **spec):
    """A ModelDeployment whose weights are kept in a folder of the nodes."""
    apply(
        cluster, namespace, name,
        model={
            "name": MODEL, "servedName": f"{namespace}-{name}",
            "cache": {"hostPath": {"path": f"/var/cache/{namespace}"}},
        },
        memory=MEMORY, placement={"mode": "Exclusive", "nodeSelector": nodes}, **spec,
    )  # fmt: skip


def bytes_sent(hub):
    """Of weights alone: the operator reads configurations too."""
    return sum(hub.bytes_sent.get(shard, 0) for shard in SHARDS)


def size_of_weights(hub):
    return sum(len(hub.repositories[MODEL].files[shard]) for shard in SHARDS)


def users_told(pod):
    """UIDs of the pods that its fetcher was told of."""
    (fetch,) = pod["spec"]["initContainers"]
    variables = {one["name"]: one.get("value", "") for one in fetch["env"]}
    return variables["MEMROUTE_LIVE_PODS"].split()


@contextlib.contextmanager
def slow_hub(hub):
    """A hub that sends half of a file, and the rest when it is let."""
    go_on = threading.Event()
    hub.faults[SHARDS[0]] = [dripping(10_000, go_on)]
    try:
        yield go_on
    finally:
        go_on.set()
        hub.faults.pop(SHARDS[0], None)


def test_two_replicas_that_start_at_once_fetch_once_and_the_next_start_fetches_nothing(
    cluster, namespace, hub
):
    """Their engines load a folder, without a token and without a hub; the status tells how far."""
    before = bytes_sent(hub)
    with slow_hub(hub) as go_on:
        cached(cluster, namespace, "m", nodes=on("gpu-c"), replicas=2)

        def is_told():
            status = get_deployment(cluster, namespace, "m").get("status", {})
            placements = status.get("placements", ())
            told = " ".join(one.get("progress", "") for one in placements)
            return (
                {one["state"] for one in placements} == {"Downloading"}
                and "0.0 of 0.0 GiB" in told
                and "waits for another replica that downloads the same weights" in told
            )

        cluster.wait_for("both to say how far they are", is_told)
        go_on.set()
        wait_ready(cluster, namespace, "m")
    assert bytes_sent(hub) - before == size_of_weights(hub)
    gone = set()
    for pod in pods_of(cluster, namespace, "m"):
        (engine,) = pod["spec"]["containers"]
        assert engine["args"][:2] == ["--model", "/model"]
        assert {"name": "HF_HUB_OFFLINE", "value": "1"} in engine["env"]
        cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace, "--wait=false")
        gone.add(pod["metadata"]["uid"])
        pods = wait_replicas(cluster, namespace, "m", 2, without=gone)
    assert bytes_sent(hub) - before == size_of_weights(hub), "the second start reads no byte"
    users = {pod["metadata"]["uid"]: users_told(pod) for pod in pods}
    assert any(users.keys() & set(told) for told in users.values()), (
        "whoever came second knows whose weights are not to be evicted"
    )


def test_a_node_that_has_the_weights_is_preferred(cluster, namespace, hub):
    """Of two equal nodes the first by name would be taken; nothing of the model runs any more.

    What fetched them there is no engine: it takes no memory that an exporter would still show.
    """
    idle = {
        "type": "Custom", "image": "busybox", "command": ["sleep", "infinity"], "drainSeconds": 1,
    }  # fmt: skip
    cached(cluster, namespace, "first", nodes=on("gpu-e"), engine=idle)

    def is_known():
        books = cluster.get("configmaps", "-n", "memroute-system")
        (book,) = [one for one in books if one["metadata"]["name"] == "memroute-weights"] or [{}]
        return any("gpu-e" in json.loads(nodes) for nodes in book.get("data", {}).values())

    cluster.wait_for("the operator to write down who has them", is_known)
    cluster.kubectl("scale", "mdep", "first", "-n", namespace, "--replicas=0")
    cluster.wait_for(
        "the operator to see that it has gone",
        lambda: get_deployment(cluster, namespace, "first")["status"].get("replicas") == 0,
    )
    before = bytes_sent(hub)
    cached(cluster, namespace, "second", nodes=L4)
    wait_ready(cluster, namespace, "second")
    (pod,) = pods_of(cluster, namespace, "second")
    assert pod["spec"]["nodeName"] == "gpu-e"
    assert "has the weights" in pod["metadata"]["annotations"]["memroute.dev/placement-reason"]
    assert bytes_sent(hub) == before


def rollout_of(cluster, namespace, name):
    return get_deployment(cluster, namespace, name)["status"].get("rollout", {})


def pods_ahead(cluster, namespace):
    label = "memroute.dev/fetches-ahead-for"
    return [
        pod
        for pod in cluster.get("pods", "-n", namespace)
        if label in pod["metadata"].get("labels", {})
    ]


def test_what_a_rollout_needs_is_fetched_while_the_old_replicas_serve(cluster, namespace, hub):
    """Both devices of the node are taken, so each replica leaves before its successor starts.

    Its weights are there by then, and are fetched once. A quota that lets no pod more in holds
    nothing up.
    """
    files = hub.repositories[MODEL].files
    other = {name: files[name][:-1] + b"\x01" for name in SHARDS}
    hub.repositories[MODEL].older["next"] = files | other
    model = {
        "name": MODEL, "servedName": f"{namespace}-m",
        "cache": {"hostPath": {"path": f"/var/cache/{namespace}"}},
    }  # fmt: skip

    def load(revision):
        apply(
            cluster, namespace, "m", memory=MEMORY, replicas=2,
            model=model | {"source": {"hub": {"revision": revision}}},
            placement={"mode": "Exclusive", "nodeSelector": on("gpu-c")},
        )  # fmt: skip

    def finished():
        rollout = rollout_of(cluster, namespace, "m")
        return rollout.get("phase") == "Complete" and not pods_ahead(cluster, namespace)

    load("main")
    wait_ready(cluster, namespace, "m")
    old = {pod["metadata"]["uid"] for pod in pods_of(cluster, namespace, "m")}
    before = bytes_sent(hub)
    with slow_hub(hub) as go_on:
        load("next")
        cluster.wait_for(
            "the status to tell how far it is",
            lambda: (
                rollout_of(cluster, namespace, "m").get("phase") == "FetchingAhead"
                and "Fetching ahead 0.0 of 0.0 GiB"
                in rollout_of(cluster, namespace, "m")["message"]
            ),
        )
        (ahead,) = pods_ahead(cluster, namespace)
        assert ahead["spec"]["nodeName"] == "gpu-c"
        serving = pods_of(cluster, namespace, "m")
        assert {pod["metadata"]["uid"] for pod in serving} == old
        assert all(is_condition_true(pod, "Ready") for pod in serving)
        go_on.set()
        cluster.wait_for("the rollout", finished)
    pods = pods_of(cluster, namespace, "m")
    assert not old & {pod["metadata"]["uid"] for pod in pods}
    assert bytes_sent(hub) - before == size_of_weights(hub), "no successor reads a byte"
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "pods", "namespace": namespace}, "spec": {"hard": {"pods": "2"}},
    }  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(quota))
    wait_quotas(cluster, namespace)
    with watched(cluster, namespace, "m", ".status.rollout.message") as told:
        load("main")
        cluster.wait_for(
            "the quota to be told",
            lambda: any("nothing goes ahead of it" in one for one in told),
        )
        cluster.wait_for("the rollout", finished)
    wait_ready(cluster, namespace, "m")
