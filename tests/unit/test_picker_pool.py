"""The pods of an InferencePool are replicas, whoever has deployed them."""

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest

import router_objects
from cluster_stub import HANG, cluster_stub, refuse
from gateway_rig import Gateway, PickerRig, Stream
from memroute.traffic.replica import SleepPhase
from memroute_kube.shapes import OddObjectError, name_of
from memroute_picker.picking.asking import Asking
from memroute_picker.picking.passing import passes_to
from memroute_picker.pools.book import PoolBook, PoolTarget, kept_as
from memroute_picker.pools.membership import PoolMembership
from memroute_picker.pools.objectives import Objectives, priority_of
from memroute_picker.pools.objects import endpoints_of_pod, read_pool
from memroute_picker.settings import parse_settings
from memroute_router.discovery.discovery import Discovery
from memroute_router.pages.debug import queue
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
        {"selector": {"matchLabels": {"/a": "b"}}, "targetPorts": [{"number": 1}]},
        {"selector": {"matchLabels": {"a/b/c": "d"}}, "targetPorts": [{"number": 1}]},
        {"selector": {"matchLabels": {"a": "-b"}}, "targetPorts": [{"number": 1}]},
        {"selector": {"matchLabels": {"a" * 64: "b"}}, "targetPorts": [{"number": 1}]},
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
async def following(client, *named, fleet=False, flags=()):
    """A picker that follows pools: those that are named, or beside a fleet all that ask for it."""
    rig = PickerRig("--scrape-seconds", "3600", *flags)
    await rig.start()

    def upsert(replica):
        rig.router.on_upsert(replica)
        replica.health.answered()

    beside = None
    if fleet:
        beside = Discovery(client, rig.pools, on_upsert=upsert, on_gone=rig.router.on_gone)
    membership = PoolMembership(
        client, rig.pools, named=named or ([] if fleet else [("models", "llama")]), fleet=beside,
        book=rig.router.book, objectives=rig.router.objectives,
        on_upsert=upsert, on_gone=rig.router.on_gone,
    )  # fmt: skip
    rig.membership = membership
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


def asking_pool(namespace="own", name="llama", *, service="picker-own", label="serve", ports=(9,)):
    """A pool that somebody else wrote, and that asks for memroute's picker."""
    obj = pool(*ports, name=name)
    obj["metadata"] |= {"namespace": namespace, "labels": {"memroute.dev/picker": label}}
    obj["spec"]["endpointPickerRef"] = {"name": service, "port": {"number": 9002}}
    return obj


def written_pool(name="chat", namespace="a"):
    """A pool that the operator wrote for a ModelDeployment."""
    obj = asking_pool(namespace, name, service=f"picker-{name}", label="")
    obj["metadata"]["ownerReferences"] = [
        {"apiVersion": "memroute.dev/v1alpha1", "kind": "ModelDeployment", "name": name,
         "uid": "u", "controller": True}
    ]  # fmt: skip
    return obj


def fleet_of(cluster, *, served="chat", **more):
    """A ModelDeployment ``a/chat`` with a replica at 10.0.1.1, as its status says."""
    obj = router_objects.deployment(served=served, **more)
    replica = router_objects.pod(served=served, of=obj["metadata"]["name"], address="10.0.1.1")
    cluster.put("pods", replica)
    cluster.put("modeldeployments", router_objects.told(obj, replica))


async def test_one_picker_serves_modeldeployments_and_every_pool_that_asks():
    """Which is meant says the name of the Service that the gateway has called."""
    async with cluster_stub() as (cluster, client):
        fleet_of(cluster)
        cluster.put("inferencepools", written_pool())
        cluster.put("inferencepools", asking_pool())
        cluster.put("inferencepools", asking_pool("third", label="no", service="picker-no"))
        cluster.put("pods", pod(namespace="own"))
        cluster.put("pods", pod(namespace="third", address="10.0.0.9"))
        async with following(client, fleet=True) as rig, Gateway(rig.port) as gateway:
            await until(lambda: endpoints(rig) == {"10.0.1.1:8000", "10.0.0.1:9"})

            async def asked(called, model, **more):
                return await Stream(gateway, called=called).routed(body(model=model), **more)

            own = await asked(b"outbound|9002||picker-own.own.svc.cluster.local", "meta/Llama-3")
            assert own.endpoint == "10.0.0.1:9"
            chat = await asked(b"picker-chat.a.svc:9002", "chat")
            assert chat.endpoint == "10.0.1.1:8000"
            assert (await asked(b"", "chat")).endpoint == "10.0.1.1:8000"
            # A gateway that does not say which pool may say which endpoints.
            hinted = await asked(b"", "meta/Llama-3", subset=["10.0.0.1:9"])
            assert hinted.endpoint == "10.0.0.1:9"
            # Nobody gets into another's pool by a name.
            for called, model in (
                (b"", "meta/Llama-3"), (b"", "own/llama"), (b"", "llama"),
                (b"", kept_as("own/llama")), (b"picker-chat.a.svc:9002", kept_as("own/llama")),
                (b"picker-chat.a.svc:9002", "meta/Llama-3"), (b"picker-no.third.svc", "x"),
            ):  # fmt: skip
                assert (await asked(called, model)).status == 404
            assert rig.pools.names() == ["chat"]
            # It asks no more, or goes: its pods are nobody's any more.
            cluster.put("inferencepools", asking_pool(label="no"))
            await until(lambda: endpoints(rig) == {"10.0.1.1:8000"})
            assert (await asked(b"picker-own.own.svc", "meta/Llama-3")).status == 404


async def test_a_modeldeployments_pool_leads_to_its_own_replicas_alone():
    """Two may serve one name: a gateway has the endpoints of the pool that it asks for."""
    async with cluster_stub() as (cluster, client):
        for index, name in enumerate(("blue", "green")):
            obj = router_objects.deployment(name=name)
            replica = router_objects.pod(name=f"{name}-0", of=name, address=f"10.0.1.{index + 1}")
            cluster.put("pods", replica)
            cluster.put("modeldeployments", router_objects.told(obj, replica))
            cluster.put("inferencepools", written_pool(name))
        async with following(client, fleet=True) as rig, Gateway(rig.port) as gateway:
            await until(lambda: endpoints(rig) == {"10.0.1.1:8000", "10.0.1.2:8000"})
            for name, address in (("blue", "10.0.1.1:8000"), ("green", "10.0.1.2:8000")):
                for _ in range(4):
                    stream = Stream(gateway, called=b"picker-%b.a.svc:9002" % name.encode())
                    assert (await stream.routed(body(model="chat"))).endpoint == address
            stream = Stream(gateway, called=b"picker-blue.a.svc:9002")
            answer = await stream.routed(body(model="chat"), subset=["10.0.1.2:8000"])
            assert (answer.status, answer.sets["x-memroute-reason"]) == (503, "no-ready-replica")


async def test_a_model_of_another_modeldeployment_is_unknown_to_a_pool():
    """Its own would get 503, to come back; a model that is never there gets the router's 404."""
    async with cluster_stub() as (cluster, client):
        for index, name in enumerate(("blue", "green", "other")):
            obj = router_objects.deployment(name=name, served="m" if name == "other" else "chat")
            pods = []
            if name != "green":
                served = obj["spec"]["model"]["servedName"]
                pods = [router_objects.pod(
                    name=f"{name}-0", of=name, served=served, address=f"10.0.1.{index + 1}"
                )]  # fmt: skip
                cluster.put("pods", pods[0])
            cluster.put("modeldeployments", router_objects.told(obj, *pods))
            cluster.put("inferencepools", written_pool(name))
        async with following(client, fleet=True) as rig, Gateway(rig.port) as gateway:
            await until(lambda: endpoints(rig) == {"10.0.1.1:8000", "10.0.1.3:8000"})

            async def asked(name, model):
                stream = Stream(gateway, called=b"picker-%b.a.svc:9002" % name)
                answer = await stream.routed(body(model=model))
                return answer, json.loads(answer.body) if answer.body else None

            for pool_of, model, known in (
                (b"blue", "m", "chat"), (b"other", "chat", "m"), (b"blue", "x", "chat"),
            ):  # fmt: skip
                answer, told = await asked(pool_of, model)
                assert (answer.status, answer.sets["x-memroute-reason"]) == (404, "unknown-model")
                assert told["error"]["message"] == (
                    f"the model {model!r} does not exist; models: {known}"
                )
                assert told["error"]["param"] == "model"
            answer, _ = await asked(b"green", "chat")  # its own, and no replica is there yet
            assert (answer.status, answer.sets["x-memroute-reason"]) == (503, "no-ready-replica")
            assert (await asked(b"blue", "chat"))[0].endpoint == "10.0.1.1:8000"
            page = rig.router.metrics.render().decode()
            assert (
                'memroute_router_requests_total{model_deployment="",model_namespace="",'
                'outcome="unknown-model"} 3' in page
            )


async def test_a_modeldeployments_pod_in_somebody_elses_pool_stays_where_it_is():
    """Two ledgers of one engine would each see half of what it holds."""
    async with cluster_stub() as (cluster, client):
        fleet_of(cluster)
        cluster.put("inferencepools", asking_pool("a", ports=(8000,)))
        cluster.put("pods", pod(namespace="a"))
        async with following(client, fleet=True) as rig:
            await until(lambda: endpoints(rig) == {"10.0.1.1:8000", "10.0.0.1:8000"})
            assert [r.info.served_model for r in rig.replicas if r.info.pod == "chat-0"] == ["chat"]


async def test_a_foreign_pool_is_told_apart_from_a_modeldeployment_of_its_name():
    """One series for both would scale the ModelDeployment by requests that are none of its."""
    async with cluster_stub() as (cluster, client):
        fleet_of(cluster)
        cluster.put("inferencepools", asking_pool("a", "chat"))
        cluster.put("pods", pod("own-0", namespace="a"))
        async with following(client, fleet=True) as rig, Gateway(rig.port) as gateway:
            await until(lambda: endpoints(rig) == {"10.0.1.1:8000", "10.0.0.1:9"})
            for called in (b"picker-own.a.svc:9002", b"picker-own.a.svc:9002", b""):
                assert (await Stream(gateway, called=called).routed(body(model="chat"))).endpoint
            page = rig.router.metrics.render().decode()
            for name, count in (("chat", 1), ("inferencepool/chat", 2)):
                labels = f'{{model_deployment="{name}",model_namespace="a"}}'
                assert f"memroute_router_arrivals_total{labels} {count}" in page
            for name, replica in (("chat", "chat-0"), ("inferencepool/chat", "chat/own-0")):
                labels = f'model_deployment="{name}",model_namespace="a",replica="{replica}"'
                assert f"memroute_router_replica_routable{{{labels}}} 1" in page
            asking = Asking(rig.router.side, b"", b"")
            asking.target_pool = PoolTarget(namespace="a", deployment="chat")
            assert [one.info.pod for one in passes_to(rig.router.side, asking)] == ["chat-0"]


async def test_a_pool_names_what_can_be_had_through_it():
    """Whoever may ask one pool has not been let in to the others."""
    async with cluster_stub() as (cluster, client):
        for index, (name, served) in enumerate({"chat": "chat", "other": "m"}.items()):
            obj = router_objects.deployment(name=name, served=served)
            replica = router_objects.pod(
                name=f"{name}-0", of=name, served=served, address=f"10.0.1.{index + 1}"
            )
            cluster.put("pods", replica)
            cluster.put("modeldeployments", router_objects.told(obj, replica))
            cluster.put("inferencepools", written_pool(name))
        cluster.put("inferencepools", asking_pool())
        cluster.put("pods", pod(namespace="own"))
        async with following(client, fleet=True) as rig, Gateway(rig.port) as gateway:
            await until(lambda: len(endpoints(rig)) == 3)

            async def asked(called, path):
                stream = Stream(gateway, called=called)
                stream.head(is_last=True, **{":method": "GET", ":path": path})
                return await stream.next()

            for called, names in (
                (b"picker-chat.a.svc:9002", ["chat"]),
                (b"picker-other.a.svc:9002", ["m"]),
                (b"", ["chat", "m"]),
            ):
                listed = json.loads((await asked(called, "/v1/models")).body)["data"]
                assert [one["id"] for one in listed] == names
                described = (await asked(called, "/openapi.json")).body
                assert [name for name in ("chat", "m") if b'"%b"' % name.encode() in described] == (
                    names
                )
                assert (await asked(called, "/v1/models/m")).status == (
                    200 if "m" in names else 404
                )
            # Only a pod knows what a pool that somebody else wrote serves.
            for path in ("/v1/models", "/v1/models/any"):
                answer = await asked(b"picker-own.own.svc:9002", path)
                assert answer.endpoint == "10.0.0.1:9"


async def test_several_pools_that_are_named_are_told_apart():
    """Without ModelDeployments, and each with the ports of its own ranks."""
    async with cluster_stub() as (cluster, client):
        cluster.put("inferencepools", asking_pool("one", "a", service="p-a", ports=(8000, 8001)))
        cluster.put("inferencepools", asking_pool("two", "b", service="p-b", label=""))
        cluster.put("pods", pod(namespace="one"))
        cluster.put("pods", pod(namespace="two", address="10.0.0.2"))
        named = [("one", "a"), ("two", "b"), ("two", "absent")]
        async with following(client, *named) as rig, Gateway(rig.port) as gateway:
            await until(lambda: len(endpoints(rig)) == 3)
            for called, wanted in (
                (b"p-a.one.svc", {"10.0.0.1:8000", "10.0.0.1:8001"}),
                (b"p-b.two.svc", {"10.0.0.2:9"}),
            ):  # fmt: skip
                streams = [Stream(gateway, called=called) for _ in range(8)]
                found = [await one.routed(body(model="any")) for one in streams]
                assert {one.endpoint for one in found} == wanted
            assert (await Stream(gateway).routed(body(model="any"))).status == 404


@pytest.mark.slow
async def test_pools_that_may_not_be_read_or_are_no_kind_keep_no_modeldeployment_waiting(caplog):
    """Rights may come later, and so may the CRD; each is told once."""
    async with cluster_stub() as (cluster, client):
        fleet_of(cluster)
        cluster.fault = lambda call: (
            refuse(403, "Forbidden", "may not list inferencepools")
            if call.plural == "inferencepools"
            else refuse(404, "NotFound") if call.plural == "inferenceobjectives" else None
        )  # fmt: skip
        async with following(client, fleet=True) as rig, Gateway(rig.port) as gateway:
            await until(lambda: endpoints(rig) == {"10.0.1.1:8000"})
            await until(lambda: cluster.count("GET", "inferencepools") > 3)
            told = [r for r in caplog.records if "may not list inferencepools" in r.getMessage()]
            assert len(told) == 1
            assert (await Stream(gateway).routed(body(model="chat"))).endpoint == "10.0.1.1:8000"
            cluster.put("inferencepools", asking_pool())
            cluster.put("pods", pod(namespace="own"))
            cluster.fault = lambda _call: None
            await until(lambda: "10.0.0.1:9" in endpoints(rig))


async def test_a_pool_whose_pods_are_not_listed_keeps_no_picker_unready(caplog):
    """Anybody may write a pool. Every picker would wait for it at its next start, for ever."""
    async with cluster_stub() as (cluster, client):
        fleet_of(cluster)
        cluster.put("inferencepools", asking_pool())
        is_own = {"plural": "pods", "namespace": "own"}
        cluster.fault = lambda call: (
            refuse(400, "BadRequest", "unable to parse requirement")
            if {name: getattr(call, name) for name in is_own} == is_own
            else None
        )
        async with following(client, fleet=True) as rig, Gateway(rig.port) as gateway:
            assert (await Stream(gateway).routed(body(model="chat"))).endpoint == "10.0.1.1:8000"
            await until(lambda: cluster.count("GET", "pods", namespace="own") > 2)
            assert caplog.text.count("unable to parse requirement") == 1
            cluster.put("pods", pod(namespace="own"))
            cluster.fault = lambda _call: None
            await until(lambda: "10.0.0.1:9" in endpoints(rig))


async def test_a_pool_that_comes_or_changes_makes_no_ready_picker_unready():
    """A gateway takes a picker that is not ready out: every other pool would lose it, too."""
    async with cluster_stub() as (cluster, client):
        fleet_of(cluster)
        async with following(client, fleet=True) as rig:
            membership = rig.membership
            cluster.fault = lambda call: HANG if call.namespace == "own" else None
            cluster.put("inferencepools", asking_pool())
            await until(lambda: cluster.count("GET", "pods", namespace="own"))
            assert membership.is_synced
            cluster.put("inferencepools", asking_pool(ports=(9, 10)))
            await until(lambda: cluster.count("GET", "pods", namespace="own") > 1)
            assert membership.is_synced


def objective(name="batch", namespace="a", **spec):
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


async def test_priorities_are_those_of_objectives_and_flags_fill_what_is_missing():
    """They change while the picker runs, and the newer group's word counts."""
    async with cluster_stub() as (cluster, client):
        fleet_of(cluster)
        cluster.put("inferenceobjectives", objective(priority=-7))
        async with following(client, fleet=True, flags=("--objective", "night=-3")) as rig:
            objectives = rig.router.objectives
            await until(lambda: objectives.of(b"batch", "a") == -7)
            assert objectives.of(b"batch", "b") is None
            assert objectives.of(b"batch", None) == -7
            assert objectives.of(b"night", "a") == -3
            cluster.put("inferenceobjectives", objective(priority=5))
            await until(lambda: objectives.of(b"batch", "a") == 5)
            cluster.remove("inferenceobjectives", "a/batch")
            await until(lambda: objectives.of(b"batch", "a") is None)


async def test_an_objective_of_the_pools_own_namespace_is_a_requests_priority():
    """Two namespaces may call different things batch."""
    flags = ("--trust-headers", "--max-queue-seconds", "60")
    async with cluster_stub() as (cluster, client):
        fleet_of(cluster)
        cluster.put("inferencepools", written_pool())
        cluster.put("inferenceobjectives", objective(priority=9))
        cluster.put("inferenceobjectives", objective(namespace="b", priority=-9))
        async with following(client, fleet=True, flags=flags) as rig, Gateway(rig.port) as gateway:
            await until(lambda: endpoints(rig) == {"10.0.1.1:8000"})
            await until(lambda: rig.router.objectives.of(b"batch", "b") == -9)
            # Whoever waits for a wake is told in full.
            (replica,) = rig.pools.get("chat").replicas.values()
            asleep = replace(
                replica.info, is_routable=False, sleep=SleepPhase.ASLEEP, wake_seconds=3.0
            )
            rig.pools.upsert_replica(asleep)

            def priorities():
                return [row["priority"] for row in queue(rig.pools, rig.router.isolation)]

            for number, called in enumerate((b"picker-chat.a.svc", b""), start=1):
                Stream(gateway, called=called).ask(
                    body(model="chat"), x_llm_d_inference_objective="batch"
                )
                await until(lambda: len(priorities()) == number)  # noqa: B023 - within its turn
            assert priorities() == [9, 0]


@pytest.mark.parametrize(
    ("spec", "priority"),
    [({}, 0), ({"priority": 7}, 7), ({"priority": -5000}, -1000), ({"priority": "9"}, 0),
     ({"priority": True}, 0)],
)  # fmt: skip
def test_an_objective_has_the_priority_that_it_says_within_bounds(spec, priority):
    assert priority_of({"spec": spec}) == priority


def test_namespaces_that_disagree_make_an_objective_unknown_where_none_is_said():
    known = Objectives({b"batch": 1})
    known.replace({"a/batch": objective(priority=3), "b/batch": objective(priority=4)})
    assert [known.of(b"batch", where) for where in ("a", "b", "c", None)] == [3, 4, 1, 1]
    known.replace({"a/batch": objective(priority=3), "b/batch": objective(priority=3)})
    assert known.of(b"batch", None) == 3


def test_a_service_that_two_pools_name_says_nothing():
    book = PoolBook()
    one, other = (PoolTarget(namespace="a", deployment=name) for name in ("x", "y"))
    assert book.target(b"p.a.svc") is None
    book.replace([(("a", "p"), one), (("a", "q"), other)])
    assert book.target(b"p.a.svc:9002") == one
    for number in range(100):  # whoever calls chooses the name
        assert book.target(b"p%d.a.svc" % number) is None
    assert len(book._of_authority) < 10
    book.replace([(("a", "p"), one), (("a", "p"), other)])
    assert book.target(b"p.a.svc:9002") is None


def test_no_model_can_have_the_name_by_which_a_foreign_pool_is_kept():
    """Replicas of a ModelDeployment that was named so would get another's requests."""
    assert name_of("own/llama") == "own/llama"
    assert name_of(kept_as("own/llama")) is None


@pytest.mark.parametrize(
    "flags",
    [["--inference-pool", "llama"], ["--max-endpoints", "9"], ["--objective", "x"],
     ["--objective", "x=2000"], ["--inference-pool", "a/b", "--config", "x"],
     ["--max-attempts", "2"], ["--inference-pool", "a/b", "--inference-pools"],
     ["--inference-pools", "--config", "x"]],
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
