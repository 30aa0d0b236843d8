import asyncio
import collections
import contextlib
import signal
import time

import openai
import pytest

from cluster_support import (
    apply,
    condition,
    fetch,
    pod_names,
    pods_of,
    wait_condition,
    wait_ready,
)
from router_load import Load, operations_url, router_metric

# Of a stream that takes some five seconds.
LONG_TOKENS = 1500
# Between two of them, in seconds: one replica alone has room for all that are under way then, on
# a machine on which each takes twice as long, too.
LONG_INTERVAL_SECONDS = 0.4


def two_replicas(cluster, namespace, url):
    """Two routable replicas of a model named after the namespace, and load for them."""
    model = {"name": "Qwen/Qwen3-0.6B", "servedName": namespace}
    apply(cluster, namespace, "m", model=model, replicas=2)
    wait_ready(cluster, namespace, "m")

    def all_there():
        routable = router_metric(url, "replica_routable")
        return all(routable.get(pod) == 1 for pod in pod_names(cluster, namespace))

    cluster.wait_for("the router to see the replicas", all_there)
    return Load(url, namespace)


async def begun_by(load, namespace, replicas):
    """Return when each of them has streams of the load under way."""
    while not all(load.under_way[f"{namespace}/{one}"] >= 2 for one in replicas):
        await asyncio.sleep(0.02)


async def died_and_back(address):
    """When an engine refused connections first, and when it took them again."""
    times = []
    while len(times) < 2:
        try:
            _, writer = await asyncio.open_connection(address, 8000)
        except OSError:
            takes = False
        else:
            writer.close()
            takes = True
        if takes == (len(times) == 1):
            times.append(time.monotonic())
        await asyncio.sleep(0.01)
    return times


def test_a_replica_killed_under_load_costs_only_the_streams_it_had_begun(
    cluster, namespace, router_url
):
    """What had not sent a byte is served elsewhere; what had ends with a clear error.

    The ledger returns to zero, and until it is back all new traffic is with the survivor.
    """
    load = two_replicas(cluster, namespace, router_url)
    first, second = pod_names(cluster, namespace)
    (address,) = (
        pod["status"]["podIP"] for pod in pods_of(cluster, namespace)
        if pod["metadata"]["name"] == first
    )  # fmt: skip

    async def scenario():
        is_over = asyncio.Event()
        # So long that some are under way at any time from now on.
        load.tokens = LONG_TOKENS
        sending = asyncio.create_task(load.run_until(is_over.is_set, LONG_INTERVAL_SECONDS))
        await begun_by(load, namespace, (first, second))
        watching = asyncio.create_task(died_and_back(address))
        await asyncio.to_thread(
            cluster.kubectl, "annotate", "pod", first, "-n", namespace,
            "simulator.memroute.dev/kill=now",
        )  # fmt: skip
        died, back = await watching
        is_over.set()
        await sending
        return died, back

    died, back = asyncio.run(scenario())
    outcomes = load.outcomes()
    assert set(outcomes) <= {"served", "broken"}, outcomes
    assert outcomes["broken"] >= 1
    # A broken stream had begun: nothing that had no byte was lost.
    assert all(got > 0 for _, outcome, _, got in load.ends if outcome == "broken")
    assert all(r.endswith(first) for _, o, r, _ in load.ends if o == "broken")
    assert all(sent < died for sent, o, _, _ in load.ends if o == "broken")
    # Nobody is served by the dead: whoever came meanwhile is served by the other one, or by the
    # one that is back.
    meanwhile = [replica for sent, _, replica, _ in load.ends if died < sent < back]
    assert any(replica.endswith(second) for replica in meanwhile)

    def nothing_reserved():
        return not any(router_metric(router_url, "reserved_tokens").values())

    cluster.wait_for("the ledger to be empty", nothing_reserved)
    cluster.wait_for(
        "nothing to be in flight",
        lambda: not any(router_metric(router_url, "requests_in_flight").values()),
    )


def test_a_replica_that_drains_finishes_what_it_has(cluster, namespace, router_url):
    """Scaling down under load loses no request."""
    load = two_replicas(cluster, namespace, router_url)
    names = pod_names(cluster, namespace)

    def scale_down():
        cluster.kubectl("scale", "mdep/m", "--replicas=1", "-n", namespace)
        cluster.wait_for("one pod", lambda: len(pods_of(cluster, namespace)) == 1)

    async def scenario():
        is_over = asyncio.Event()
        # So long that both have some: one alone would have all that are short.
        load.tokens = LONG_TOKENS
        sending = asyncio.create_task(load.run_until(is_over.is_set, LONG_INTERVAL_SECONDS))
        await begun_by(load, namespace, names)
        await asyncio.to_thread(scale_down)
        is_over.set()
        await sending

    asyncio.run(scenario())
    outcomes = load.outcomes()
    assert set(outcomes) == {"served"}, outcomes


def test_a_model_without_replicas_is_503_and_an_unknown_one_404(cluster, namespace, router_url):
    apply(
        cluster,
        namespace,
        "m",
        model={"name": "Qwen/Qwen3-0.6B", "servedName": namespace},
        replicas=0,
    )

    def known():
        models = fetch(f"{router_url}/v1/models").json()["data"]
        return namespace in {model["id"] for model in models}

    cluster.wait_for("the router to know the model", known)
    with contextlib.closing(
        openai.OpenAI(base_url=f"{router_url}/v1", api_key="x", max_retries=0)
    ) as client:
        ask = {"messages": [{"role": "user", "content": "hi"}]}
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model=namespace, **ask)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["x-memroute-reason"] == "no-ready-replica"
        assert caught.value.response.headers["retry-after"]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nobody/knows", **ask)


def test_traffic_goes_on_while_the_api_server_is_away(cluster, namespace, router_url):
    """The API server is never asked per request; when it is back, everything goes on."""
    load = two_replicas(cluster, namespace, router_url)
    api_server = cluster.process("kube-apiserver")
    api_server.send_signal(signal.SIGSTOP)
    try:
        asyncio.run(load.run(6, 0.1))
    finally:
        api_server.send_signal(signal.SIGCONT)
    outcomes = collections.Counter(outcome for _, outcome, _, _ in load.ends)
    assert set(outcomes) == {"served"}, outcomes
    cluster.kubectl("scale", "mdep/m", "--replicas=1", "-n", namespace)
    cluster.wait_for("one pod", lambda: len(pods_of(cluster, namespace)) == 1)


def test_targets_that_no_engine_meets_do_not_stop_the_service(cluster, namespace, router_url):
    """Half a millisecond per token is asked: all is served, and the status says what cannot be."""
    model = {"name": "Qwen/Qwen3-0.6B", "servedName": namespace}
    apply(cluster, namespace, "m", model=model, replicas=1, routing={"tpotTargetMilliseconds": 1})
    wait_ready(cluster, namespace, "m")
    (only,) = pod_names(cluster, namespace)
    cluster.wait_for(
        "the router to see the replica",
        lambda: router_metric(router_url, "replica_routable").get(only) == 1,
    )
    load = Load(router_url, namespace)
    asyncio.run(load.run(5, 0.5))
    outcomes = collections.Counter(outcome for _, outcome, _, _ in load.ends)
    assert set(outcomes) == {"served"}, outcomes
    told = wait_condition(cluster, namespace, "m", "TargetsUnmet", "EngineSlowerThanTargets")
    assert "per token alone, 1.0 ms asked" in told["message"]
    assert condition(cluster, namespace, "m", "Ready")["status"] == "True"


def test_a_canary_gets_its_share_and_none_once_it_has_no_weight(cluster, namespace, router_url):
    """Two ModelDeployments under one name; the weights are changed while they serve."""

    def weigh(name, weight):
        model = {"name": "Qwen/Qwen3-0.6B", "servedName": namespace}
        apply(cluster, namespace, name, model=model, replicas=1, routing={"weight": weight})

    weigh("stable", 75)
    weigh("canary", 25)
    for name in ("stable", "canary"):
        wait_ready(cluster, namespace, name)

    def served(num_requests):
        found = collections.Counter()
        with contextlib.closing(
            openai.OpenAI(base_url=f"{router_url}/v1", api_key="x", max_retries=0)
        ) as client:
            for _ in range(num_requests):
                raw = client.completions.with_raw_response.create(
                    model=namespace, prompt="hi", max_tokens=1,
                    extra_headers={"x-memroute-explain": "1"},
                )  # fmt: skip
                found[raw.headers["x-memroute-replica"].split("/")[1].rsplit("-", 2)[0]] += 1
        return found

    def both_serve():
        page = fetch(f"{operations_url(router_url)}/debug/replicas").json()
        return sum(r["model"] == namespace and r["is_routable"] for r in page) == 2

    cluster.wait_for("the router to have both", both_serve)
    shared = served(80)
    assert set(shared) == {"stable", "canary"}
    assert 5 <= shared["canary"] <= 40, "20 of 80, give or take four deviations"
    weigh("canary", 0)
    # Of a canary that has its quarter still, 20 in a row miss it once in 300 times, 100 never.
    cluster.wait_for("the canary to get nothing", lambda: "canary" not in served(100))
    assert set(served(80)) == {"stable"}
