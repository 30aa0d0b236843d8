"""LoRA adapters on the emulated fleet: added, asked for and removed, and no engine is restarted."""

import httpx

from cluster_support import (
    ANSWER_SECONDS,
    apply,
    condition,
    fetch,
    get_deployment,
    pods_of,
    wait_event,
    wait_ready,
)

MODEL = "Qwen/Qwen3-0.6B"


def ask(router_url, name):
    body = {"model": name, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    return httpx.post(
        f"{router_url}/v1/chat/completions", json=body, timeout=ANSWER_SECONDS, trust_env=False
    )


def deploy(cluster, namespace, *adapters):
    apply(
        cluster, namespace, "m",
        model={"name": MODEL, "servedName": namespace},
        engine={"maxAdapters": 2},
        adapters=[
            {"name": name, "source": {"hub": {"repository": repository}}}
            for name, repository in adapters
        ],
    )  # fmt: skip


def told(cluster, namespace):
    """What the status says of each adapter, by name."""
    status = get_deployment(cluster, namespace, "m").get("status", {})
    return {one["name"]: one for one in status.get("adapters", ())}


def test_an_adapter_is_loaded_asked_for_and_unloaded_while_the_engine_runs(
    cluster, namespace, router_url
):
    """The whole way: hub, cache, engine, status, router. A bad one beside it disturbs nothing."""
    deploy(cluster, namespace)
    wait_ready(cluster, namespace, "m")
    (pod,) = pods_of(cluster, namespace)
    sql, large = f"{namespace}-sql", f"{namespace}-large"

    deploy(cluster, namespace, (sql, "org/sql-lora"), (large, "org/large-lora"))
    states = {sql: "Loaded", large: "Failed"}

    def is_loaded():
        found = told(cluster, namespace)
        return {name: one["state"] for name, one in found.items()} == states and found

    found = cluster.wait_for("the adapter to be loaded", is_loaded)
    assert (found[sql]["loadedReplicas"], found[sql]["readyReplicas"]) == (1, 1)
    assert len(found[sql]["commit"]) == 40
    assert large in condition(cluster, namespace, "m", "AdaptersFailing")["message"]
    assert condition(cluster, namespace, "m", "Ready")["status"] == "True"
    assert "its rank is 64, and the engine's slots take 16" in found[large]["message"]

    cluster.wait_for("the router to know it", lambda: ask(router_url, sql).status_code == 200)
    refused = cluster.wait_for(
        "the router to know the other",
        lambda: (a := ask(router_url, large)).status_code != 404 and a,
    )
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert f"no replica of this model has the LoRA adapter {large} loaded" in refused.text

    deploy(cluster, namespace)
    address = pod["status"]["podIP"]

    def is_unloaded():
        page = fetch(f"http://{address}:8000/v1/models").json()
        return [one["id"] for one in page["data"]] == [namespace]

    cluster.wait_for("the engine to have unloaded it", is_unloaded)
    cluster.wait_for("the router to know", lambda: ask(router_url, sql).status_code == 404)
    assert ask(router_url, namespace).status_code == 200
    (now,) = pods_of(cluster, namespace)
    assert now["metadata"]["uid"] == pod["metadata"]["uid"], "no edit of the list restarts it"
    for reason in ("AdapterLoaded", "AdapterFailed", "AdapterRemoved"):
        wait_event(cluster, namespace, reason)
