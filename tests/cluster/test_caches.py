"""Weights on the emulated fleet: fetched once for each node, from a hub that counts its bytes."""

import contextlib
import json
import threading

from cluster_support import apply, get_deployment, pods_of, wait_ready
from fake_hub import SHARDS, held

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
    hub.faults[SHARDS[0]] = [held(10_000, go_on)]
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

        cluster.wait_for("both to say how far they are", is_told, timeout_seconds=90)
        go_on.set()
        wait_ready(cluster, namespace, "m", timeout_seconds=120)
    assert bytes_sent(hub) - before == size_of_weights(hub)
    for pod in pods_of(cluster, namespace, "m"):
        (engine,) = pod["spec"]["containers"]
        assert engine["args"][:2] == ["--model", "/model"]
        assert {"name": "HF_HUB_OFFLINE", "value": "1"} in engine["env"]
        cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace, "--wait=false")
        cluster.wait_for(
            "its pod to go",
            lambda uid=pod["metadata"]["uid"]: all(
                one["metadata"]["uid"] != uid for one in pods_of(cluster, namespace, "m")
            ),
            timeout_seconds=60,
        )  # fmt: skip
    wait_ready(cluster, namespace, "m", timeout_seconds=60)
    assert bytes_sent(hub) - before == size_of_weights(hub), "the second start reads no byte"
    users = {pod["metadata"]["uid"]: users_told(pod) for pod in pods_of(cluster, namespace, "m")}
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

    cluster.wait_for("the operator to write down who has them", is_known, timeout_seconds=60)
    cluster.kubectl("scale", "mdep", "first", "-n", namespace, "--replicas=0")
    cluster.wait_for(
        "the operator to see that it has gone",
        lambda: get_deployment(cluster, namespace, "first")["status"].get("replicas") == 0,
        timeout_seconds=60,
    )
    before = bytes_sent(hub)
    cached(cluster, namespace, "second", nodes=L4)
    wait_ready(cluster, namespace, "second", timeout_seconds=90)
    (pod,) = pods_of(cluster, namespace, "second")
    assert pod["spec"]["nodeName"] == "gpu-e"
    assert "has the weights" in pod["metadata"]["annotations"]["memroute.dev/placement-reason"]
    assert bytes_sent(hub) == before
