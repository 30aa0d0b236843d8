"""The operator's reconcile loop on a stub cluster, one step at a time, on a clock of its own."""

import asyncio
import contextlib
import copy
import random
from contextlib import asynccontextmanager

from cluster_stub import cluster_stub
from memroute.units import MIB
from memroute_kube import MODEL_DEPLOYMENTS, NODES, PODS, watch_forever
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.pod.pod_names import replica_key
from memroute_operator.readings.device_metrics import DeviceReading, NodeReading
from memroute_operator.readings.loops import Readings
from memroute_operator.reconciler import Reconciler
from memroute_operator.settings import parse_settings
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.store.store import Store

STAMP = "2026-01-01T00:00:00Z"
PRODUCT = "NVIDIA-H100-80GB-HBM3"
# How long, in real seconds, a step waits for events that the stub has sent or will never send.
CATCH_UP_SECONDS = 0.5
# How often everything is listed again, on the rig's clock.
RESYNC_SECONDS = 60.0


def node(name="a", *, gpus=1, ready=True, boot_id="boot-1"):
    """A node whose GPUs memroute hands out."""
    return {
        "metadata": {
            "name": name,
            "labels": {
                "nvidia.com/gpu.count": str(gpus),
                "nvidia.com/gpu.memory": "81559",
                "nvidia.com/gpu.product": PRODUCT,
                "memroute.dev/gpu-sharing": "shared",
            },
        },
        "spec": {},
        "status": {
            "allocatable": {},
            "nodeInfo": {"bootID": boot_id},
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


def mdep(
    name, namespace="default", *, replicas=1, model="Qwen/Qwen3-0.6B", mode="Shared", **memory
):
    """A ModelDeployment as the API server sends it, with its defaults.

    Outside of ``default`` it is known by a name of its own: a name belongs to one namespace.
    """
    own_name = {} if namespace == "default" else {"servedName": f"{namespace}-{name}"}
    defaults = {
        "maxContextTokens": 8192, "concurrency": 4, "kvCacheDtype": "Auto", "quantization": "Auto",
    }  # fmt: skip
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": f"uid-{namespace}-{name}",
            "generation": 1,
            "creationTimestamp": STAMP,
        },
        "spec": {
            "model": {"name": model} | own_name,
            "engine": {"type": "VLLM"},
            "memory": defaults | memory,
            "parallelism": {"tensorParallelSize": 1},
            "replicas": replicas,
            "placement": {"mode": mode, "strategy": "Pack"},
            "routing": {"kvWatermarkPercent": 95, "assumedOutputTokens": 256},
        },
    }


def reading(name, gpus, now_seconds, *, free_mib=81100):
    return NodeReading(
        devices=tuple(
            DeviceReading(
                index=index,
                uuid=f"GPU-{name}-{index}",
                product=PRODUCT,
                free_bytes=free_mib * MIB,
                used_bytes=(81100 - free_mib) * MIB,
                reserved_bytes=459 * MIB,
            )
            for index in range(gpus)
        ),
        taken_at_seconds=now_seconds,
    )


class _NoReader:
    """Readings are put there by the test: nothing is asked for."""

    def lane(self):
        return self


class Rig:
    """One operator. ``step`` it; look at the cluster."""

    def __init__(self, cluster, client, *, seed=1, argv=(), resolve_model=None, caller=None):
        """``resolve_model``: the hub; None for an operator that has none.

        ``caller``: what calls engines; None for an operator that tells them nothing.
        """
        self.cluster = cluster
        self.now = 1000.0
        self.settings = parse_settings(list(argv))
        self.store = Store(self.settings.watch_namespace)
        self.metrics = OperatorMetrics()
        self.readings = Readings(
            _NoReader(), self.store.pods, self.metrics.readings,
            exporters=(), exporter_port=9400, routers=(), scrape_seconds=5.0,
            on_change=lambda: None, clock=self.clock,
        )  # fmt: skip
        self.reconciler = Reconciler(
            client, self.store, self.settings, self.metrics, self.readings,
            clock=self.clock, rng=random.Random(seed), resolve_model=resolve_model, caller=caller,
        )  # fmt: skip
        self._client = client
        self._seen = {}
        self._loops = []
        self.has_exporters = True
        self.waits_for_hub = True
        self.read_exporter = reading
        """What each node's exporter says; None where it is silent."""
        self._listed_at = self.now
        self._catch_up_seconds = CATCH_UP_SECONDS

    def be_patient(self, seconds=120.0):
        """Wait that long, in real seconds, for what comes on any machine: events and lanes."""
        self._catch_up_seconds = seconds
        self.reconciler._lanes.settle_seconds = seconds

    def clock(self):
        return self.now

    def pod(self, deployment, slot=0):
        """``namespace/name`` of the pod that fills a slot of a deployment with its spec of now."""
        obj = self.cluster.objects["modeldeployments"][deployment]
        return replica_key(read_deployment(obj), slot).pod

    async def start(self):
        """List and watch, as kopf does for the operator."""
        for resource, collection in (
            (NODES, self.store.nodes),
            (PODS, self.store.pods),
            (MODEL_DEPLOYMENTS, self.store.model_deployments),
        ):
            self._loops.append(asyncio.create_task(self._follow(resource, collection)))

    async def stop(self):
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.reconciler.stop()

    async def step(self, seconds=1.0):
        """Time passes, nodes do their part, the operator hears of it and reconciles."""
        self.now += seconds
        self.cluster.play()
        await self.catch_up()
        if self.has_exporters:
            for obj in self.store.nodes.values():
                name = obj["metadata"]["name"]
                if name not in self.cluster.cut_off:
                    gpus = int(obj["metadata"]["labels"]["nvidia.com/gpu.count"])
                    found = self.read_exporter(name, gpus, self.now)
                    if found is not None:
                        self.readings.devices.readings[name] = found
        pause = await self.reconciler.reconcile_guarded()
        if self.reconciler.hub_models is not None:
            self.reconciler.hub_models.start_due()
            if self.waits_for_hub:
                await self.reconciler.hub_models.settle()
        if self.reconciler.lister.is_wanted or self.now - self._listed_at >= RESYNC_SECONDS:
            self._listed_at = self.now
            await self.reconciler.list_guarded()
        return pause

    async def steps(self, number, seconds=1.0):
        for _ in range(number):
            await self.step(seconds)

    @asynccontextmanager
    async def restarted(self, **options):
        """Another operator in its place, on the same cluster."""
        await self.stop()
        again = Rig(self.cluster, self._client, **options)
        again.read_exporter = self.read_exporter
        await again.start()
        try:
            yield again
        finally:
            await again.stop()

    async def list_and_step(self, number=1):
        """A full list, as at the start and at each resync, and then some steps."""
        await self.reconciler.list_guarded()
        await self.steps(number)

    async def until(self, what, condition, *, at_most=60, seconds=1.0):
        """Step until it holds; how many steps that took."""
        for taken in range(at_most):
            if condition():
                return taken
            await self.step(seconds)
        message = f"{what}: not after {at_most} steps: {self.cluster.tally()}"
        raise AssertionError(message)

    async def catch_up(self):
        """Wait until every event has been heard of, if they come at all."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._catch_up_seconds):
                while not all(self._is_current(r) for r in (PODS, NODES, MODEL_DEPLOYMENTS)):
                    await asyncio.sleep(0.001)

    def _is_current(self, resource):
        return self._seen.get(resource.plural, -1) >= max(
            (v for v, plural, *_ in self.cluster._log if plural == resource.plural), default=-1
        )

    async def _follow(self, resource, collection):
        async for event in watch_forever(self._client, resource):
            if event.type == "SYNCED":
                self._seen.setdefault(resource.plural, 0)
                continue
            obj = copy.deepcopy(event.object)
            version = int(obj["metadata"]["resourceVersion"])
            self._seen[resource.plural] = max(self._seen.get(resource.plural, 0), version)
            changed = collection.delete(obj) if event.type == "DELETE" else collection.upsert(obj)
            if changed:
                self.store.mark_dirty()

    # -- what tests ask -----------------------------------------------------------------------

    def recover(self, fault=lambda _call: None):
        """Nothing but `fault` fails any more, however slow the machine is that answers."""
        self.cluster.fault = fault
        self._client.request_seconds = 60.0

    def condition(self, key, kind="Ready"):
        """A condition of a ModelDeployment as anybody sees it."""
        conditions = (
            self.cluster.objects["modeldeployments"][key].get("status", {}).get("conditions", [])
        )
        return next((c for c in conditions if c["type"] == kind), {})

    def is_ready(self, key):
        return self.condition(key).get("status") == "True"

    def events(self, reason):
        events = self.cluster.objects["events"].values()
        return [event["message"] for event in events if event["reason"] == reason]


@asynccontextmanager
async def operator_rig(*, nodes=(), mdeps=(), pods=(), request_seconds=5.0, **options):
    """A rig on a cluster that has these objects."""
    async with cluster_stub(request_seconds=request_seconds) as (cluster, client):
        for plural, objects in (("nodes", nodes), ("modeldeployments", mdeps), ("pods", pods)):
            for obj in objects:
                cluster.put(plural, obj)
        rig = Rig(cluster, client, **options)
        await rig.start()
        try:
            yield rig
        finally:
            await rig.stop()
