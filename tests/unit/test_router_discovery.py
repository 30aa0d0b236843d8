"""What pods and ModelDeployments say to a router, and the watches that bring it."""

import asyncio
import contextlib
import random

import pytest

from cluster_stub import cluster_stub
from memroute.traffic.admission import OverloadObjective, QueueLimits
from memroute.traffic.dispatch import AdmissionMode
from memroute_router.app import Router
from memroute_router.discovery import discovery
from memroute_router.discovery.discovery import Discovery
from memroute_router.discovery.kube_objects import read_model_deployment, read_pod
from memroute_router.discovery.name_book import complete_shares
from memroute_router.replicas.pool_settings import CommonSettings
from memroute_router.settings import parse_settings
from router_objects import CAPACITY, SERVED, deployment, pod, told

ROUTING = {
    "kvWatermarkPercent": 90, "assumedOutputTokens": 100, "policy": "lmetric",
    "admission": "Observe", "weight": 5,
}  # fmt: skip


def test_a_deployment_says_how_its_pool_admits():
    unready = {"type": "Ready", "status": "False", "reason": "Starting"}
    facts = read_model_deployment(
        deployment(routing=ROUTING, adapters=["sql"]) | {"status": {"conditions": [unready]}}
    )
    settings = facts.settings
    assert (facts.names.served, settings.deployment, settings.policy) == ("chat", "chat", "lmetric")
    assert (settings.watermark_ratio, settings.assumed_output_tokens) == (0.9, 100)
    assert settings.admission is AdmissionMode.OBSERVE
    assert settings.adapters == ("sql",)
    assert settings.unready_reason == "Starting"
    assert facts.weight == 5
    assert facts.oddities == ()


@pytest.mark.parametrize(
    ("given", "objective"),
    [("Sizes", OverloadObjective.SIZES), ("tokens", OverloadObjective.TOKENS),
     (None, OverloadObjective.REQUESTS), ("later", OverloadObjective.REQUESTS)],
)  # fmt: skip
def test_a_deployment_says_who_is_late_under_overload(given, objective):
    """One that a newer custom resource knows and this router does not is the default: no crash."""
    routing = ROUTING | ({} if given is None else {"overloadObjective": given})
    settings = read_model_deployment(deployment(routing=routing)).settings
    assert settings.overload_objective is objective
    common = CommonSettings(queue_limits=QueueLimits())
    assert settings.dispatch(common).limits.objective is objective


def test_a_pod_that_drains_or_is_deleted_is_going():
    """Its own mark is believed: it can only take itself out."""
    assert not read_pod(pod()).is_going
    assert read_pod(pod(deletionTimestamp="2026-01-01T00:00:00Z")).is_going
    for mark in ("2026-01-01T00:00:00Z", "", "\u00b2"):
        marked = pod(annotations={SERVED: "chat", "memroute.dev/draining": mark})
        assert read_pod(marked).is_going


def ready(status, containers, reason=None):
    said = {"type": "Ready", "status": status} | ({"reason": reason} if reason else {})
    return [said, {"type": "ContainersReady", "status": containers}]


@pytest.mark.parametrize(
    ("conditions", "is_serving"),
    [
        (ready("True", "True"), True),
        # As kube-controller-manager leaves it when the node does not report.
        (ready("False", "True"), True),
        (ready("False", "True", "ReadinessGatesNotReady"), False),
        (ready("False", "False", "ContainersNotReady"), False),
        (ready("False", "False"), False),
        (ready("Unknown", "Unknown"), False),
        ([{"type": "ContainersReady", "status": "True"}], False),
        ([], False),
        (None, False),
    ],
)
def test_a_replica_whose_node_is_silent_is_sent_to_as_before(conditions, is_serving):
    """All nodes may fall silent at once: every request got a 503 while every engine served."""
    facts = read_pod(pod() | {"status": {"podIP": "::1", "conditions": conditions}})
    assert facts.is_serving is is_serving
    assert facts.address == "::1"


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({"a": None}, {}),
        ({"a": None, "b": None}, {}),
        ({"a": 95.0, "b": 5.0}, {"a": 95.0, "b": 5.0}),
        ({"a": None, "b": 5.0}, {"a": 100.0, "b": 5.0}),
        ({"a": None, "b": 0.0}, {"a": 100.0, "b": 0.0}),
    ],
)
def test_weights_are_shares_once_one_is_said(weights, shares):
    assert complete_shares(weights) == shares


class Routing:
    """A router that follows a stub of the API server."""

    def __init__(self, client, namespaces=()):
        argv = ["--host", "127.0.0.1", "--port", "0", "--ops-port", "0"]
        argv += ["--shutdown-timeout-seconds", "0.1"]
        self.router = Router(parse_settings([*argv]), random.Random(1))
        self.pauses = []
        self.discovery = Discovery(
            client,
            self.router.pools,
            namespaces=namespaces,
            on_upsert=self.router.on_upsert,
            on_gone=self.router.on_gone,
            doubts=self.router.metrics.doubts,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds):
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    def replicas(self):
        pools = self.router.pools.by_model.values()
        return {key for p in pools for key, one in p.replicas.items() if one.info.is_routable}

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                assert not self.run.done(), self.run.result()
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def routing(*deployments, pods=()):
    async with cluster_stub() as (cluster, client):
        for obj in deployments:
            cluster.put("modeldeployments", obj)
        for obj in pods:
            cluster.put("pods", obj)
        it = Routing(client)
        stopping = asyncio.Event()
        it.run = asyncio.create_task(it.router.run(it.discovery, stopping))
        try:
            await it.until(lambda: it.discovery.is_synced)
            yield it, cluster
        finally:
            stopping.set()
            await it.run


async def test_no_pod_and_no_deployment_ends_the_router():
    """d07b: one annotation of one pod anywhere, and every router crashed, again at each start."""
    odd = pod("b", "x", annotations={SERVED: "chat", CAPACITY: "\u00b2"})
    newer = deployment("b", "x", served="x", routing={"policy": "oracle", "admission": "politely"})
    async with routing(told(deployment(), pod()), newer, pods=[pod(), odd]) as (it, cluster):
        await it.until(lambda: it.replicas() == {"a/chat-0"})
        cluster.put("pods", odd | {"spec": 7, "status": ["podIP"]})
        cluster.put("modeldeployments", newer | {"spec": []})
        another = pod("a", "chat-1", address="10.0.0.8")
        cluster.put("pods", another)
        cluster.put("modeldeployments", told(deployment(), pod(), another))
        await it.until(lambda: it.replicas() == {"a/chat-0", "a/chat-1"})
        cluster.remove("pods", "a/chat-0")
        await it.until(lambda: it.replicas() == {"a/chat-1"})
        page = it.router.metrics.render().decode()
        assert (
            'memroute_router_doubted_objects{kind="ModelDeployment",reason="unreadable"} 1' in page
        )
        assert it.pauses == []


async def test_a_watch_that_a_bug_ends_is_begun_again_and_misses_nothing(monkeypatch):
    """The new one lists: what has gone meanwhile is gone, and what has come is there."""
    breaks = asyncio.Event()
    original = discovery.watch_forever

    async def breaking(client, resource, *args, **options):
        events = aiter(original(client, resource, *args, **options))
        while True:
            event = asyncio.ensure_future(anext(events))
            wait = asyncio.ensure_future(breaks.wait())
            await asyncio.wait({event, wait}, return_when=asyncio.FIRST_COMPLETED)
            wait.cancel()
            if breaks.is_set():
                event.cancel()
                breaks.clear()
                raise RuntimeError
            yield event.result()

    monkeypatch.setattr(discovery, "watch_forever", breaking)
    other = pod("a", "chat-1", address="10.0.0.8")
    async with routing(told(deployment(), pod(), other), pods=[pod(), other]) as (it, cluster):
        await it.until(lambda: it.replicas() == {"a/chat-0", "a/chat-1"})
        breaks.set()
        await it.until(lambda: not breaks.is_set())
        cluster.remove("pods", "a/chat-0")
        await it.until(lambda: it.replicas() == {"a/chat-1"})
        assert it.pauses


async def test_a_router_serves_the_namespaces_that_it_is_told_and_no_other():
    """Ready when the last of them has been listed: before that it knows half of the models."""
    names = ("a", "b", "c")
    async with cluster_stub() as (cluster, client):
        for name in names:
            one = pod(name, "m-0", of="m", served=f"{name}-m")
            cluster.put("pods", one)
            cluster.put("modeldeployments", told(deployment(name, "m", served=f"{name}-m"), one))
        it = Routing(client, namespaces=("a", "b"))
        stopping = asyncio.Event()
        it.run = asyncio.create_task(it.router.run(it.discovery, stopping))
        try:
            await it.until(lambda: it.discovery.is_synced)
            await it.until(lambda: it.replicas() == {"a/m-0", "b/m-0"})
        finally:
            stopping.set()
            await it.run
