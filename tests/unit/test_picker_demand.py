"""Whom requests behind a gateway have asked for, as the operator reads it of a picker.

Two ModelDeployments of one served name are in one pool of the picker, by the settings of the older.
"""

from dataclasses import replace

from cluster_stub import cluster_stub
from gateway_rig import Gateway, Stream
from memroute_operator.readings.router_metrics import RouterMetrics as Readings
from memroute_operator.readings.router_metrics import arrivals_of
from memroute_router.http.client import Endpoint
from memroute_router.metrics.exported import RouterMetrics
from picker_fleet import asleep_fleet
from router_rig import body, until

CALLED = {name: b"picker-%b.a.svc:9002" % name.encode() for name in ("blue", "green")}
BLUE, GREEN = "a/blue", "a/green"


def read(pools):
    """Requests that came and that wait, by ModelDeployment."""
    page = RouterMetrics(pools).render().decode()
    readings = Readings()
    readings.take([page])
    return arrivals_of(page), readings.waiting


async def test_a_request_for_a_pool_is_the_demand_of_that_modeldeployment():
    """Green slept on for ever: its requests waited, and kept blue awake."""
    async with cluster_stub() as (cluster, client), asleep_fleet(cluster, client) as rig:
        assert read(rig.pools) == ({BLUE: 0, GREEN: 0}, {BLUE: 0, GREEN: 0})
        async with Gateway(rig.port) as gateway:
            Stream(gateway, called=CALLED["green"]).ask(body(model="chat"))
            await until(lambda: read(rig.pools)[1][GREEN])
            assert read(rig.pools) == ({BLUE: 0, GREEN: 1}, {BLUE: 0, GREEN: 1})
            answer = await Stream(gateway, called=CALLED["blue"]).routed(body(model="chat"))
            assert answer.endpoint == "10.0.1.1:8000"
            assert read(rig.pools) == ({BLUE: 1, GREEN: 1}, {BLUE: 0, GREEN: 1})


async def test_who_names_no_pool_asks_for_the_one_that_decides():
    """A router's requests, or a gateway's that says nothing: they may go to either."""
    async with cluster_stub() as (cluster, client), asleep_fleet(cluster, client) as rig:
        async with Gateway(rig.port) as gateway:
            await Stream(gateway).routed(body(model="chat"))
        assert read(rig.pools)[0] == {BLUE: 1, GREEN: 0}


async def test_a_modeldeployment_without_replicas_is_asked_for_by_its_pool_alone():
    """An autoscaler sees that blue is wanted, and that green is what green's pool was asked for."""
    async with cluster_stub() as (cluster, client), asleep_fleet(cluster, client) as rig:
        cluster.remove("pods", "a/blue-0")
        await until(lambda: len(rig.replicas) == 1)
        rig.pools.upsert_replica(replace(rig.replicas[0].info, is_routable=True, sleep=None))
        async with Gateway(rig.port) as gateway:

            async def asked(name):
                return await Stream(gateway, called=CALLED[name]).routed(body(model="chat"))

            assert (await asked("blue")).sets["x-memroute-reason"] == "no-ready-replica"
            assert read(rig.pools)[0] == {BLUE: 1, GREEN: 0}
            assert (await asked("green")).endpoint == "10.0.1.2:8000"
            assert read(rig.pools)[0] == {BLUE: 1, GREEN: 1}


async def test_a_request_that_waits_for_a_modeldeployment_goes_to_a_replica_that_comes_for_it():
    """It had asked for the replicas that there were: what was scaled up for it served others."""
    async with (
        cluster_stub() as (cluster, client),
        asleep_fleet(cluster, client) as rig,
        Gateway(rig.port) as gateway,
    ):
        stream = Stream(gateway, called=CALLED["green"])
        stream.ask(body(model="chat"))
        await until(lambda: read(rig.pools)[1][GREEN])
        (green,) = [one.info for one in rig.replicas if one.info.deployment == "green"]
        for name, of in (("blue-1", "blue"), ("green-1", "green")):
            endpoint = Endpoint("10.0.2.1" if of == "green" else "10.0.2.2", 8000)
            info = replace(
                green, pod=name, uid=name, deployment=of, endpoint=endpoint, is_routable=True,
                sleep=None,
            )  # fmt: skip
            rig.router.on_upsert(rig.pools.upsert_replica(info))
            rig.trust_all()
        assert (await stream.next()).endpoint == "10.0.2.1:8000"


async def test_tokens_that_wait_are_counted_with_their_requests():
    async with (
        cluster_stub() as (cluster, client),
        asleep_fleet(cluster, client) as rig,
        Gateway(rig.port) as gateway,
    ):
        Stream(gateway, called=CALLED["green"]).ask(body(model="chat"))
        await until(lambda: read(rig.pools)[1][GREEN])
        (pool,) = rig.pools.by_model.values()
        assert pool.held == {("a", "blue"): (0, 0), ("a", "green"): (1, pool.held_tokens)}
        assert pool.held_tokens > 0
