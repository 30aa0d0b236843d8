"""Objects that are followed whether or not they may be, and whether or not their kind is known."""

import asyncio
import contextlib

from cluster_stub import cluster_stub, refuse
from memroute_kube.following import Followed
from memroute_kube.gateway import INFERENCE_POOLS
from router_rig import until


def pool(name="m", namespace="models", **metadata):
    return {"metadata": {"namespace": namespace, "name": name} | metadata, "spec": {}}


@contextlib.asynccontextmanager
async def followed(client, namespaces=()):
    changes = []
    it = Followed(client, INFERENCE_POOLS, namespaces, on_change=lambda: changes.append(1))
    task = asyncio.create_task(it.run())
    try:
        yield it, changes
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_objects_come_change_and_go_and_each_time_it_is_told():
    async with cluster_stub() as (cluster, client):
        cluster.put("inferencepools", pool())
        async with followed(client) as (it, changes):
            await until(lambda: it.is_listed)
            assert set(it.objects) == {"models/m"}
            before = len(changes)
            cluster.put("inferencepools", pool("other"))
            await until(lambda: len(it.objects) == 2)
            cluster.change("inferencepools", "models/m", lambda obj: obj["spec"].update(a=1))
            await until(lambda: it.objects["models/m"]["spec"] == {"a": 1})
            cluster.remove("inferencepools", "models/m")
            await until(lambda: set(it.objects) == {"models/other"})
            assert len(changes) >= before + 3


async def test_a_kind_that_is_not_installed_is_missing_until_it_comes_and_when_it_goes():
    """Nothing may be concluded from what is not there while the kind is not."""
    async with cluster_stub() as (cluster, client):
        cluster.put("inferencepools", pool())
        cluster.fault = lambda _call: refuse(404, "NotFound")
        async with followed(client) as (it, _):
            await until(lambda: it.is_missing)
            assert not it.is_listed
            assert it.objects == {}
            cluster.fault = lambda _call: None
            await until(lambda: it.is_listed)
            assert not it.is_missing
            assert it.trouble is None
            assert set(it.objects) == {"models/m"}


async def test_of_several_namespaces_one_that_may_not_be_read_is_told_and_the_others_are_known():
    async with cluster_stub() as (cluster, client):
        for namespace in ("a", "b"):
            cluster.put("inferencepools", pool(namespace=namespace))
        cluster.fault = lambda call: (
            refuse(403, "Forbidden", "not in b") if call.namespace == "b" else None
        )
        async with followed(client, ["a", "b"]) as (it, _):
            await until(lambda: it.trouble is not None and it.objects)
            assert "not in b" in it.trouble
            assert not it.is_listed
            assert set(it.objects) == {"a/m"}
            cluster.fault = lambda _call: None
            await until(lambda: it.is_listed)
            assert set(it.objects) == {"a/m", "b/m"}


async def test_of_a_list_it_is_told_once():
    """Whoever looks looks at all: of N objects told one by one, that would be N x N."""
    async with cluster_stub() as (cluster, client):
        for number in range(50):
            cluster.put("inferencepools", pool(f"m-{number}"))
        async with followed(client) as (it, changes):
            await until(lambda: it.is_listed)
            assert len(it.objects) == 50
            assert len(changes) == 1
