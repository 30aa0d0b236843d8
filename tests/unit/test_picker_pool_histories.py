"""Pools and pods that come, change and go in any order: what is served is what there is."""

import asyncio
import contextlib
import random

import pytest

from cluster_stub import cluster_stub
from gateway_rig import PickerRig
from memroute_picker.pools.membership import PoolMembership
from router_rig import until
from sizes import size

DOINGS = ("pool", "pool", "unpool", "odd", "others", "pod", "pod", "unpod", "look")


def pool(namespace, name, ports, *, label="serve"):
    """``ports`` None: its ports cannot be read."""
    given = 7 if ports is None else [{"number": port} for port in ports]
    return {
        "metadata": {
            "namespace": namespace, "name": name, "labels": {"memroute.dev/picker": label},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "engine"}}, "targetPorts": given,
            "endpointPickerRef": {"name": f"picker-{name}", "port": {"number": 9002}},
        },
    }  # fmt: skip


def pod(namespace, name, address, *, is_ready):
    condition = {"type": "Ready", "status": str(is_ready)}
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": f"uid-{address}"},
        "spec": {},
        "status": {"podIP": address, "conditions": [condition]},
    }


class History:
    """What has been done to a cluster, and what a picker should serve by now."""

    def __init__(self, cluster, rng):
        self._cluster, self._rng = cluster, rng
        self._pools, self._pods, self._written = {}, {}, set()
        self._num_addresses = 0

    def do(self, what):
        cluster, rng = self._cluster, self._rng
        key = rng.choice("xy"), rng.choice("pq")
        name = "/".join(key)
        if what == "pool":
            self._pools[name] = rng.sample([80, 81, 82], rng.randint(1, 3))
            cluster.put("inferencepools", pool(*key, self._pools[name]))
            self._written.add(name)
        elif what == "unpool" and name in self._written:
            cluster.remove("inferencepools", name)
            self._pools.pop(name, None)
            self._written.discard(name)
        elif what == "odd" and name in self._pools:
            cluster.put("inferencepools", pool(*key, None))  # what it said before still counts
        elif what == "others":
            cluster.put("inferencepools", pool(*key, [80], label="no"))
            self._pools.pop(name, None)
            self._written.add(name)
        elif what == "pod":
            self._num_addresses += 1
            address, is_ready = f"10.0.0.{self._num_addresses}", rng.random() < 0.8
            one = pod(key[0], f"{key[1]}-0", address, is_ready=is_ready)
            cluster.put("pods", one)
            self._pods[f"{name}-0"] = address, is_ready
        elif what == "unpod" and self._pods:
            gone = rng.choice(sorted(self._pods))
            cluster.remove("pods", gone)
            del self._pods[gone]

    def served(self):
        return {
            (name, f"{address}:{port}")
            for name, ports in self._pools.items()
            for one, (address, is_ready) in self._pods.items()
            for port in ports
            if is_ready and one[0] == name[0]
        }

    @property
    def num_pools(self):
        return len(self._pools)


@pytest.mark.parametrize("seed", range(size(3, 20)))
async def test_what_is_served_is_what_there_is(seed):
    """Whatever came before: a pool of the same name is another pool, and a pod another engine."""
    rng = random.Random(seed)
    async with cluster_stub() as (cluster, client):
        rig = PickerRig("--scrape-seconds", "3600")
        await rig.start()
        membership = PoolMembership(
            client, rig.pools, book=rig.router.book, objectives=rig.router.objectives,
            on_upsert=rig.router.on_upsert, on_gone=rig.router.on_gone,
        )  # fmt: skip
        following = asyncio.create_task(membership.follow())
        history = History(cluster, rng)

        def is_true():
            rig.pools.tick()
            served = {
                (f"{one.info.namespace}/{one.info.deployment.removeprefix('inferencepool/')}",
                 one.upstream.endpoint.authority.decode())
                for one in rig.replicas if one.info.is_routable
            }  # fmt: skip
            return served == history.served() and len(rig.pools.by_model) == history.num_pools

        try:
            await until(lambda: membership.is_synced)
            for _ in range(40):
                what = rng.choice(DOINGS)
                history.do(what)
                if what == "look":
                    await until(is_true)
            await until(is_true)
            assert rig.pools.any_name == set(rig.pools.by_model)
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            await rig.stop()
