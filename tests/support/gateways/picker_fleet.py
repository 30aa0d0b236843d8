"""Two ModelDeployments of one served name behind a picker, each with a pool: blue and green."""

import asyncio
import contextlib
from dataclasses import replace

import router_objects
from gateway_rig import PickerRig
from memroute.traffic.replica import SleepPhase
from memroute_picker.pools.membership import PoolMembership
from memroute_router.discovery.discovery import Discovery
from router_rig import until


def written_pool(name="chat", namespace="a"):
    """A pool that the operator wrote for a ModelDeployment."""
    owner = {
        "apiVersion": "memroute.dev/v1alpha1", "kind": "ModelDeployment", "name": name, "uid": "u",
        "controller": True,
    }  # fmt: skip
    return {
        "metadata": {"namespace": namespace, "name": name, "ownerReferences": [owner]},
        "spec": {
            "selector": {"matchLabels": {"memroute.dev/model-deployment": name}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": f"picker-{name}", "port": {"number": 9002}},
        },
    }


@contextlib.asynccontextmanager
async def asleep_fleet(cluster, client):
    """Blue serves at 10.0.1.1:8000; green, at 10.0.1.2:8000, sleeps."""
    rig = PickerRig("--scrape-seconds", "3600", "--max-queue-seconds", "60")
    for index, name in enumerate(("blue", "green")):
        obj = router_objects.deployment(name=name)
        pod = router_objects.pod(name=f"{name}-0", of=name, address=f"10.0.1.{index + 1}")
        cluster.put("pods", pod)
        cluster.put("modeldeployments", router_objects.told(obj, pod))
        cluster.put("inferencepools", written_pool(name))
    await rig.start()

    def upsert(replica):
        rig.router.on_upsert(replica)
        replica.health.answered()

    discovery = Discovery(client, rig.pools, on_upsert=upsert, on_gone=rig.router.on_gone)
    membership = PoolMembership(
        client, rig.pools, fleet=discovery, book=rig.router.book,
        objectives=rig.router.objectives, on_upsert=upsert, on_gone=rig.router.on_gone,
    )  # fmt: skip
    task = asyncio.create_task(membership.follow())
    try:
        await until(lambda: membership.is_synced and len(rig.replicas) == 2)
        (green,) = (one for one in rig.replicas if one.info.deployment == "green")
        rig.pools.upsert_replica(
            replace(green.info, is_routable=False, sleep=SleepPhase.ASLEEP, wake_seconds=3.0)
        )
        yield rig
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await rig.stop()
