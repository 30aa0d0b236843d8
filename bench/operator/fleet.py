"""What a whole fleet costs the operator: a real control plane, nodes and foreign pods as objects.

etcd, kube-apiserver, kube-controller-manager and kube-scheduler are real, and so is the operator,
a process with its own ServiceAccount. Nodes have no processes: a stand-in for all their kubelets
says of every bound replica that it runs and is ready, and lets go of what is deleted.

| phase | what is measured |
| --- | --- |
| cold start | from the start of the operator until all replicas are placed, and until all are Ready |
| restart | from the start of another operator until it has seen all of it and leads |
| change | from one more replica being asked for until it is Ready, median and worst |
| idle | CPU and calls while nothing happens |

CPU, memory and the longest block of the event loop are the operator process's own; calls are
those in the API server's audit log.
"""

import argparse
import asyncio
import collections
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memroute_kube import ApiError, KubernetesClient, watch_forever
from memroute_kube.resources import (
    GPU_RESOURCE,
    LABEL_DEPLOYMENT,
    MODEL_DEPLOYMENTS,
    NAMESPACES,
    NODES,
    PODS,
    SERVICE_ACCOUNTS,
    KubeObject,
    is_condition_true,
)
from memroute_simulator.controlplane.cluster import MEMROUTE_NAMESPACE, ControlPlane
from memroute_simulator.emulated_cluster import find_kubectl

ROOT = Path(__file__).parents[2]
NAMESPACE = "fleet"
FOREIGN_NAMESPACE = "others"
OPERATOR = "memroute-operator"
DEVICES_PER_NODE = 8
MODELS = ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-14B")
# Calls to the API server at a time, of the bench itself.
PARALLEL = 32
# Nodes that nobody renews must not be called lost while they are measured.
NODE_GRACE_SECONDS = 24 * 3600
NUM_CHANGES = 5
IDLE_SECONDS = 60.0
SETTLE_SECONDS = 15.0
POLL_SECONDS = 0.25
# Bytes of text that pods of others carry beside the usual fields.
FOREIGN_TEXT_BYTES = 6000


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was measured. Seconds, MiB, calls."""

    num_models: int
    num_replicas: int
    num_nodes: int
    num_foreign_pods: int
    cold_placed_seconds: float | None = None
    cold_ready_seconds: float | None = None
    cold_cpu_seconds: float | None = None
    cold_calls: dict[str, int] = field(default_factory=dict)
    change_seconds: list[float] = field(default_factory=list)
    change_calls: dict[str, int] = field(default_factory=dict)
    idle_cpu_ratio: float | None = None
    idle_calls: dict[str, int] = field(default_factory=dict)
    restart_seconds: float | None = None
    peak_memory_mib: float | None = None
    longest_block_seconds: float | None = None


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
        return self.metric("memroute_operator_leading") == 1.0 and self._is_ready()

    def metric(self, name: str) -> float | None:
        """A metric without labels; None while it cannot be read."""
        with suppress(OSError), urllib.request.urlopen(f"http://{self.host}:8080/", timeout=5) as it:
            for line in it.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        return None

    def _is_ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://{self.host}:8081/readyz", timeout=5):
            return True
        return False

    def check(self) -> None:
        """Raise ``RuntimeError`` when it has ended by itself."""
        if self._process.poll() is not None:
            msg = f"the operator has ended:\n{self._plane.log_tail(self._name)}"
            raise RuntimeError(msg)

    def stop(self) -> None:
        """End it in its own order."""
        self._process.terminate()
        self._process.wait(30)


class Kubelets:
    """Stands in for the kubelets of all nodes: what is bound is ready, what is deleted is gone."""

    def __init__(self, client: KubernetesClient, network: int) -> None:
        self._client, self._network = client, network
        self._asked: set[tuple[str, str]] = set()
        self.bound: set[str] = set()
        self.ready: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        limit = asyncio.Semaphore(PARALLEL)
        tasks: set[asyncio.Task[None]] = set()
        async for event in watch_forever(self._client, PODS, label_selector=LABEL_DEPLOYMENT):
            if event.type == "SYNCED":
                continue
            if event.type == "DELETE":
                self.bound.discard(event.key)
                self.ready.discard(event.key)
                continue
            pod = event.object
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
                        self._running(pod, len(self._asked)), sub="status",
                    )  # fmt: skip

    def _running(self, pod: KubeObject, number: int) -> KubeObject:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ip = f"127.{self._network}.{3 + number // 250 % 250}.{1 + number % 250}"
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
                "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
            }
        }  # fmt: skip


class Bench:
    """One run. Owns the control plane's client and the figures."""

    def __init__(self, plane: ControlPlane, client: KubernetesClient, figures: Figures) -> None:
        self._plane, self._client, self._figures = plane, client, figures
        self._kubelets = Kubelets(client, plane.network)
        self._num_calls = 0

    async def run(self) -> None:
        """All phases."""
        kubectl = [find_kubectl(), "--kubeconfig", str(self._plane.kubeconfig)]
        await self._install(kubectl)
        kubeconfig = self._operators_kubeconfig(kubectl)
        await self._make_objects()
        watching = asyncio.create_task(self._kubelets.run())
        try:
            first = Operator(self._plane, kubeconfig, 1)
            await self._cold(first)
            first.stop()
            second = Operator(self._plane, kubeconfig, 2)
            await self._restarted(second)
            await self._changes(second)
            await self._idle(second)
            self._note_process(second)
            second.stop()
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _install(self, kubectl: Sequence[str]) -> None:
        """CRDs, rights and namespaces, without the Deployments: the operator runs here."""
        built = subprocess.run(
            [*kubectl, "kustomize", str(ROOT / "deploy" / "base"), "--load-restrictor=LoadRestrictionsNone"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        parts = [part for part in built.split("\n---\n") if "\nkind: Deployment\n" not in part]
        subprocess.run(
            [*kubectl, "apply", "--server-side", "-f", "-"],
            input="\n---\n".join(parts), check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in (NAMESPACE, FOREIGN_NAMESPACE):
            await self._client.create(NAMESPACES, None, {"metadata": {"name": name}})
            await _until(f"{name}'s account", lambda name=name: self._has_account(name), 60)  # type: ignore[misc]

    async def _has_account(self, namespace: str) -> bool:
        with suppress(ApiError):
            await self._client.get(SERVICE_ACCOUNTS, namespace, "default")
            return True
        return False

    def _operators_kubeconfig(self, kubectl: Sequence[str]) -> Path:
        token = subprocess.run(
            [*kubectl, "create", "token", OPERATOR, "-n", MEMROUTE_NAMESPACE, "--duration=8h"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        path = self._plane.directory / "operator.kubeconfig"
        document = json.loads(
            subprocess.run(
                [*kubectl, "config", "view", "--raw", "-o", "json"],
                check=True, capture_output=True, text=True,
            ).stdout
        )  # fmt: skip
        document["users"][0]["user"] = {"token": token}
        path.write_text(json.dumps(document))
        return path

    async def _make_objects(self) -> None:
        figures = self._figures
        _say("creating nodes, pods of others and ModelDeployments")
        nodes = [_node(number) for number in range(figures.num_nodes)]
        await self._in_parallel(self._client.create(NODES, None, node) for node in nodes)
        pods = (_foreign_pod(n, figures.num_nodes) for n in range(figures.num_foreign_pods))
        await self._in_parallel(self._client.create(PODS, FOREIGN_NAMESPACE, pod) for pod in pods)
        each = figures.num_replicas // figures.num_models
        models = (_model(number, each) for number in range(figures.num_models))
        await self._in_parallel(
            self._client.create(MODEL_DEPLOYMENTS, NAMESPACE, model) for model in models
        )

    async def _in_parallel(self, calls: Iterable[Awaitable[object]]) -> None:
        limit = asyncio.Semaphore(PARALLEL)

        async def one(call: Awaitable[object]) -> None:
            async with limit:
                await call

        await asyncio.gather(*(one(call) for call in calls))

    async def _cold(self, operator: Operator) -> None:
        figures, started = self._figures, time.monotonic()
        kubelets = self._kubelets
        _say("cold start")

        async def placed() -> bool:
            operator.check()
            return len(kubelets.bound) >= figures.num_replicas

        await _until("all replicas to be placed", placed, 1800)
        figures.cold_placed_seconds = time.monotonic() - started
        await _until("all to be Ready", self._all_ready, 600)
        figures.cold_ready_seconds = time.monotonic() - started
        figures.cold_cpu_seconds = operator.cpu_seconds
        figures.cold_calls = self._calls()
        self._note_process(operator)

    async def _all_ready(self) -> bool:
        models, _ = await self._client.list(MODEL_DEPLOYMENTS, NAMESPACE)
        num_ready = sum(is_condition_true(model, "Ready") for model in models)
        _say(f"{len(self._kubelets.ready)} replicas ready, {num_ready} ModelDeployments Ready")
        if num_ready < len(models):
            await asyncio.sleep(1.0)
        return num_ready == len(models)

    async def _restarted(self, operator: Operator) -> None:
        started = time.monotonic()
        _say("restart")

        async def leads() -> bool:
            operator.check()
            return await asyncio.to_thread(operator.is_leading)

        await _until("the new operator to lead", leads, 300)
        self._figures.restart_seconds = time.monotonic() - started
        await asyncio.sleep(SETTLE_SECONDS)

    async def _changes(self, operator: Operator) -> None:
        self._calls()
        each = self._figures.num_replicas // self._figures.num_models
        for number in range(NUM_CHANGES):
            operator.check()
            name, started = f"model-{number}", time.monotonic()
            body = {"spec": {"replicas": each + 1}}
            model = await self._client.patch(MODEL_DEPLOYMENTS, NAMESPACE, name, body)

            async def done(name: str = name, asked: int = model["metadata"]["generation"]) -> bool:
                found = await self._client.get(MODEL_DEPLOYMENTS, NAMESPACE, name)
                is_seen = found.get("status", {}).get("observedGeneration") == asked
                return is_seen and is_condition_true(found, "Ready")

            await _until(f"{name} to have one more", done, 120)
            self._figures.change_seconds.append(round(time.monotonic() - started, 2))
            _say(f"one more replica in {self._figures.change_seconds[-1]:.1f} s")
            await asyncio.sleep(1.0)
        self._figures.change_calls = self._calls()

    async def _idle(self, operator: Operator) -> None:
        await asyncio.sleep(SETTLE_SECONDS)
        self._calls()
        _say(f"idle for {IDLE_SECONDS:.0f} s")
        before, started = operator.cpu_seconds, time.monotonic()
        await asyncio.sleep(IDLE_SECONDS)
        operator.check()
        used = operator.cpu_seconds - before
        self._figures.idle_cpu_ratio = used / (time.monotonic() - started)
        self._figures.idle_calls = self._calls()

    def _note_process(self, operator: Operator) -> None:
        figures = self._figures
        figures.peak_memory_mib = max(figures.peak_memory_mib or 0.0, operator.peak_memory_mib)
        block = operator.metric("memroute_operator_longest_block_seconds")
        if block is not None:
            figures.longest_block_seconds = max(figures.longest_block_seconds or 0.0, block)

    def _calls(self) -> dict[str, int]:
        """The operator's calls since the last time, by verb and resource."""
        found: collections.Counter[str] = collections.Counter()
        for line in self._plane.audit_log.read_text().splitlines()[self._num_calls :]:
            self._num_calls += 1
            call = json.loads(line)
            target = call.get("objectRef", {})
            sub = target.get("subresource")
            resource = f"{target.get('resource')}/{sub}" if sub else str(target.get("resource"))
            found[f"{call['verb']} {resource}"] += 1
        return dict(found.most_common())


def _node(number: int) -> KubeObject:
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


def _foreign_pod(number: int, num_nodes: int) -> KubeObject:
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


def _model(number: int, replicas: int) -> KubeObject:
    return {
        "apiVersion": MODEL_DEPLOYMENTS.api_version,
        "kind": MODEL_DEPLOYMENTS.kind,
        "metadata": {"name": f"model-{number}"},
        "spec": {"model": {"name": MODELS[number % len(MODELS)]}, "replicas": replicas},
    }


async def _until(what: str, is_so: Callable[[], Awaitable[bool]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not await is_so():
        if time.monotonic() > deadline:
            msg = f"waited {seconds:.0f} s for {what}"
            raise TimeoutError(msg)
        await asyncio.sleep(POLL_SECONDS)


def _say(text: str) -> None:
    print(f"fleet: {text}", file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
    """Run it, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator fleet", description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=4, help="of each model")
    parser.add_argument("--nodes", type=int, default=501, help="of eight GPUs; one is to spare")
    parser.add_argument("--foreign-pods", type=int, default=10_000)
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args(argv)
    figures = Figures(
        num_models=options.models,
        num_replicas=options.models * options.replicas,
        num_nodes=options.nodes,
        num_foreign_pods=options.foreign_pods,
    )
    with ControlPlane(node_grace_seconds=NODE_GRACE_SECONDS) as plane:
        asyncio.run(_measure(plane, figures))
    document: dict[str, Any] = asdict(figures)
    if options.output == "json":
        print(json.dumps(document, indent=1))
        return 0
    for name, value in document.items():
        if name == "change_seconds" and value:
            value = f"median {statistics.median(value):.1f}, worst {max(value):.1f}"
        if isinstance(value, dict):
            value = ", ".join(f"{count} {what}" for what, count in value.items()) or "none"
        print(f"{name:24} {value:.3g}" if isinstance(value, float) else f"{name:24} {value}")
    return 0


async def _measure(plane: ControlPlane, figures: Figures) -> None:
    async with await KubernetesClient.from_environment(kubeconfig=plane.kubeconfig) as client:
        await Bench(plane, client, figures).run()
