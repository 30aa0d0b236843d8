"""The pods of an InferencePool are replicas, whoever has deployed them."""

import asyncio
import contextlib

import pytest

from cluster_stub import cluster_stub
from gateway_rig import Gateway, PickerRig, Stream
from memroute_kube.shapes import OddObjectError
from memroute_picker.pools.membership import PoolMembership
from memroute_picker.pools.objects import endpoints_of_pod, read_pool
from memroute_picker.settings import parse_settings
from router_rig import body, until


def pool(*ports, labels=None, name="llama"):
    return {
        "metadata": {"namespace": "models", "name": name},
        "spec": {
            "selector": {"matchLabels": {"app": "llama"} if labels is None else labels},
            "targetPorts": [{"number": port} for port in ports or (8000,)],
        },
    }


def pod(name="llama-0", address="10.0.0.1", *, ready="True", **metadata):
    return {
        "metadata": {"namespace": "models", "name": name, "uid": f"uid-{name}"} | metadata,
        "spec": {},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.mark.parametrize(
    "spec",
    [
        {}, {"selector": {"matchLabels": {}}, "targetPorts": [{"number": 1}]},
        {"selector": {"matchLabels": {"a": "b,c=d"}}, "targetPorts": [{"number": 1}]},
        {"selector": {"matchLabels": {"a": 7}}, "targetPorts": [{"number": 1}]},
        {"selector": {"matchLabels": {"a": "b"}}, "targetPorts": []},
        {"selector": {"matchLabels": {"a": "b"}}, "targetPorts": [{"number": 0}, 7]},
    ],
)  # fmt: skip
def test_a_pool_that_cannot_be_read_is_odd(spec):
    """A selector is part of a request to the API server: it may hold nothing but labels."""
    with pytest.raises(OddObjectError):
        read_pool({"spec": spec})


def test_each_port_of_a_pod_is_an_endpoint_unless_it_says_otherwise():
    """Ranks of data parallelism: each has a KV cache of its own."""
    facts = read_pool(pool(8000, 8001, 8002))
    assert facts.selector == "app=llama"
    found = endpoints_of_pod(pod(), facts, "llama")
    assert [info.endpoint.authority for info in found] == [
        b"10.0.0.1:8000", b"10.0.0.1:8001", b"10.0.0.1:8002",
    ]  # fmt: skip
    assert len({info.key for info in found}) == 3
    active = {"annotations": {"inference.networking.k8s.io/active-ports": "8001, 9"}}
    found = endpoints_of_pod(pod(**active), facts, "llama")
    assert [info.endpoint.port for info in found] == [8001]


@pytest.mark.parametrize("address", ["169.254.169.254", "::", "224.0.0.1", "no"])
def test_an_address_of_no_pod_is_odd(address):
    """The gateway would connect to whatever is written there."""
    with pytest.raises(OddObjectError):
        endpoints_of_pod(pod(address=address), read_pool(pool()), "llama")


@contextlib.asynccontextmanager
async def following(client):
    rig = PickerRig("--scrape-seconds", "3600", "--inference-pool", "models/llama")
    await rig.start()
    membership = PoolMembership(
        client, rig.pools, "models", "llama",
        on_upsert=lambda replica: replica.health.answered(), on_gone=rig.router.on_gone,
    )  # fmt: skip
    task = asyncio.create_task(membership.follow())
    try:
        await until(lambda: membership.is_synced)
        yield rig
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await rig.stop()


def endpoints(rig):
    return {r.upstream.endpoint.authority.decode() for r in rig.replicas if r.info.is_routable}


async def test_pods_come_and_go_and_any_model_is_served():
    """Engines that memroute has not deployed know themselves what they serve."""
    async with cluster_stub() as (cluster, client):
        cluster.put("inferencepools", pool())
        cluster.put("inferencepools", pool(9, name="other"))
        cluster.put("pods", pod())
        cluster.put("pods", pod("llama-1", "10.0.0.2", ready="False"))
        cluster.put("pods", pod("odd", "169.254.169.254"))
        async with following(client) as rig, Gateway(rig.port) as gateway:
            await until(lambda: endpoints(rig) == {"10.0.0.1:8000"})
            answer = await Stream(gateway).routed(body(model="meta/Llama-3"))
            assert answer.endpoint == "10.0.0.1:8000"
            cluster.put("pods", pod("llama-1", "10.0.0.2"))
            await until(lambda: endpoints(rig) == {"10.0.0.1:8000", "10.0.0.2:8000"})
            cluster.put("pods", pod(deletionTimestamp="2026-01-01T00:00:00Z"))
            await until(lambda: endpoints(rig) == {"10.0.0.2:8000"})
            cluster.remove("pods", "models/llama-0")
            await until(lambda: len(rig.replicas) == 1)


async def test_a_pool_that_changes_or_goes_takes_its_endpoints_with_it():
    """What the pool says counts at once, and what it no longer says no more."""
    async with cluster_stub() as (cluster, client):
        cluster.put("inferencepools", pool())
        cluster.put("pods", pod())
        async with following(client) as rig:
            await until(lambda: endpoints(rig) == {"10.0.0.1:8000"})
            cluster.put("inferencepools", pool(8000, 8001))
            await until(lambda: endpoints(rig) == {"10.0.0.1:8000", "10.0.0.1:8001"})
            broken = pool()
            broken["spec"]["targetPorts"] = 7
            cluster.put("inferencepools", broken)
            cluster.put("pods", pod("llama-1", "10.0.0.2"))
            await until(lambda: len(endpoints(rig)) == 4)
            cluster.remove("inferencepools", "models/llama")
            await until(lambda: not rig.replicas)


async def test_a_pool_that_is_not_there_is_no_reason_to_be_unready():
    """The picker may be there before its pool: requests get 503, not the pod restarts."""
    async with (
        cluster_stub() as (_, client),
        following(client) as rig,
        Gateway(rig.port) as gateway,
    ):
        stream = Stream(gateway)
        stream.ask(body())
        answer = await stream.next()
        assert answer.status == 503
        assert answer.sets["x-memroute-reason"] == "no-ready-replica"


@pytest.mark.parametrize(
    "flags",
    [["--inference-pool", "llama"], ["--max-endpoints", "9"], ["--objective", "x"],
     ["--objective", "x=2000"], ["--inference-pool", "a/b", "--config", "x"],
     ["--max-attempts", "2"]],
)  # fmt: skip
def test_settings_that_cannot_be_are_told(flags, capsys):
    """Before anything starts, in one line."""
    with pytest.raises(SystemExit):
        parse_settings(flags)
    assert "memroute-picker: " in capsys.readouterr().err


def test_settings_have_the_routers_and_the_pickers():
    """What a picker has no use for has the router's default."""
    settings = parse_settings(["--objective", "batch=-5", "--conformance-test"])
    assert settings.router.port == 9002
    assert settings.router.max_attempts == 3
    assert settings.objective == {b"batch": -5}
    assert settings.pass_other_paths
    assert settings.max_endpoints == 1
