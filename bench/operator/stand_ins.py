"""What the fleet bench starts and makes: the operator, kubelets that say yes, objects."""

import asyncio
import math
import os
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from memroute_kube import ApiError, KubernetesClient, watch_forever
from memroute_kube.resources import (
    ENGINE_PORT,
    GPU_RESOURCE,
    LABEL_DEPLOYMENT,
    MODEL_DEPLOYMENTS,
    PODS,
    KubeObject,
    is_condition_true,
)
from memroute_simulator.controlplane.cluster import MEMROUTE_NAMESPACE, ControlPlane

DEVICES_PER_NODE = 8
MODELS = ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-14B")
# Calls to the API server at a time, of the bench itself.
PARALLEL = 32
# Bytes of text that pods of others carry beside the usual fields.
FOREIGN_TEXT_BYTES = 6000


class Operator:
    """The operator as a process of the cluster, with its own rights."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path, number: int) -> None:
        self.host = f"127.{plane.network}.2.{number}"
        self._process = plane.spawn(
            f"operator-{number}",
            [
                sys.executable, "-m", "memroute_operator", "--host", self.host,
                "--lease-namespace", MEMROUTE_NAMESPACE,
            ],
            environment={"KUBECONFIG": str(kubeconfig)},
        )  # fmt: skip
        self._plane, self._name = plane, f"operator-{number}"

    @property
    def cpu_seconds(self) -> float:
        """CPU of all its threads so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def peak_memory_mib(self) -> float:
        """The most that was resident so far."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        return 0.0

    def is_leading(self) -> bool:
        """Whether it says that it has the Lease and a full list."""
        leads = self._samples().get(("memroute_operator_leading", "")) == 1.0
        return leads and self._answers(8081, "/readyz") is not None

    def blocks(self) -> tuple[int, float]:
        """How often its event loop was blocked for over 0.1 s, and for how long at most."""
        buckets = {
            float(bound): value
            for (name, bound), value in self._samples().items()
            if name == "memroute_operator_loop_lag_seconds_bucket"
        }
        longest, count = longest_and_count(buckets)
        return count, longest

    def _samples(self) -> dict[tuple[str, str], float]:
        """Its metrics, by name and ``le``; none while it does not answer."""
        page = self._answers(8080, "/metrics") or ""
        return {
            (sample.name, sample.labels.get("le", "")): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    def _answers(self, port: int, path: str) -> str | None:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://{self.host}:{port}{path}", timeout=5) as answer,
        ):
            return str(answer.read().decode())
        return None

    def check(self) -> None:
        """Raise ``RuntimeError`` when it has ended by itself."""
        if self._process.poll() is not None:
            msg = f"the operator has ended:\n{self._plane.log_tail(self._name)}"
            raise RuntimeError(msg)

    def stop(self) -> None:
        """End it in its own order."""
        self._process.terminate()
        self._process.wait(30)


def longest_and_count(buckets: Mapping[float, float]) -> tuple[float, int]:
    """The bound of the longest block, and how many were over 0.1 s. ``buckets``: cumulative."""
    count = buckets[math.inf]
    longest = min(bound for bound, value in buckets.items() if value == count)
    return longest, int(count - buckets[0.1])


class Kubelets:
    """Stands in for the kubelets of all nodes: what is bound is ready, what is deleted is gone.

    One server answers for all engines, at the address that all pods have.
    """

    def __init__(self, client: KubernetesClient, network: int) -> None:
        self._client, self._ip = client, f"127.{network}.3.1"
        self._asked: set[tuple[str, str]] = set()
        self.bound: set[str] = set()
        self.ready: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        engines = web.Application()
        engines.router.add_get("/metrics", _engine_page)
        runner = web.AppRunner(engines, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, self._ip, ENGINE_PORT).start()
        try:
            await self._watch()
        finally:
            await runner.cleanup()

    async def _watch(self) -> None:
        limit = asyncio.Semaphore(PARALLEL)
        tasks: set[asyncio.Task[None]] = set()
        async for event in watch_forever(self._client, PODS, label_selector=LABEL_DEPLOYMENT):
            pod = event.object
            if pod is None:
                continue
            if event.type == "DELETE":
                self.bound.discard(event.key)
                self.ready.discard(event.key)
                continue
            if "nodeName" not in pod["spec"]:
                continue
            self.bound.add(event.key)
            if is_condition_true(pod, "Ready"):
                self.ready.add(event.key)
            task = asyncio.create_task(self._answer(pod, limit))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _answer(self, pod: KubeObject, limit: asyncio.Semaphore) -> None:
        metadata = pod["metadata"]
        is_leaving = "deletionTimestamp" in metadata
        what = (metadata["uid"], "end" if is_leaving else "ready")
        if what in self._asked:
            return
        self._asked.add(what)
        async with limit:
            with suppress(ApiError):
                if is_leaving:
                    await self._client.delete(
                        PODS, metadata["namespace"], metadata["name"], grace_period_seconds=0
                    )
                else:
                    await self._client.patch(
                        PODS, metadata["namespace"], metadata["name"],
                        self._running(pod), sub="status",
                    )  # fmt: skip

    def _running(self, pod: KubeObject) -> KubeObject:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": now}
            for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ]
        containers = [
            {
                "name": one["name"], "image": one["image"], "imageID": "", "ready": True,
                "started": True, "restartCount": 0, "state": {"running": {"startedAt": now}},
            }
            for one in pod["spec"]["containers"]
        ]  # fmt: skip
        return {
            "status": {
                "phase": "Running", "conditions": conditions, "containerStatuses": containers,
                "podIP": self._ip, "podIPs": [{"ip": self._ip}], "startTime": now,
            }
        }  # fmt: skip


async def _engine_page(_request: web.Request) -> web.Response:
    """Any engine's metrics: one whose pool the operator has sized."""
    return web.Response(text='vllm:cache_config_info{kv_cache_memory_bytes="1"} 1\n')


def node(number: int) -> KubeObject:
    """A node of eight H100s as GPU feature discovery and the device plugin describe it."""
    size = {"cpu": "96", "memory": "1Ti", "pods": "250", GPU_RESOURCE: str(DEVICES_PER_NODE)}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "metadata": {
            "name": f"gpu-{number}",
            "labels": {
                "kubernetes.io/hostname": f"gpu-{number}", "nvidia.com/gpu.present": "true",
                "nvidia.com/gpu.count": str(DEVICES_PER_NODE),
                "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
                "nvidia.com/gpu.memory": "81559", "nvidia.com/gpu.replicas": "1",
                "nvidia.com/mig.capable": "true", "nvidia.com/gpu.family": "hopper",
            },
        },
        "status": {
            "capacity": size, "allocatable": size,
            "conditions": [
                {
                    "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                    "lastHeartbeatTime": now, "lastTransitionTime": now,
                }
            ],
        },
    }  # fmt: skip


def foreign_pod(number: int, num_nodes: int) -> KubeObject:
    """A pod of somebody else, on one of the nodes, without accelerators."""
    return {
        "metadata": {
            "name": f"pod-{number}", "labels": {"app": f"app-{number % 97}"},
            "annotations": {"example.com/text": "x" * FOREIGN_TEXT_BYTES},
        },
        "spec": {
            "nodeName": f"gpu-{number % num_nodes}",
            "containers": [{"name": "main", "image": "example.com/app:1"}],
        },
    }  # fmt: skip


def model_deployment(number: int, replicas: int) -> KubeObject:
    """One of a few small models, on whole devices."""
    return {
        "apiVersion": MODEL_DEPLOYMENTS.api_version,
        "kind": MODEL_DEPLOYMENTS.kind,
        "metadata": {"name": f"model-{number}"},
        "spec": {
            "model": {"name": MODELS[number % len(MODELS)], "servedName": f"model-{number}"},
            "replicas": replicas,
        },
    }
