"""The node of upstream's conformance suite: it runs the pods that the suite's Deployments want.

What runs instead of an image is ``upstream_pods``'. Kubernetes' own scheduler and controllers put
pods here and take them away; each model server's pod has a network of its own, as in ``mesh_pods``.
A pod is ready once the probes of all its programs have succeeded; whoever was ready stays so, and
a program that ends by itself is told at the end (``ended``).
"""

import asyncio
import os
import subprocess
from pathlib import Path

import aiohttp
from mesh_cluster import NODE, MeshCluster
from mesh_network import PodNetwork, add_address
from mesh_pods import NOW, next_address, pod_status, python_path
from upstream_pods import Program, programs_of

from memroute_kube import NODES, PODS, KubeObject, KubernetesClient
from memroute_kube.watch import watch_forever

CAPACITY = {"cpu": "64", "memory": "64Gi", "pods": "110"}
"""Of the emulated node: whatever the suite asks for fits. Chosen by hand."""
PROBE_SECONDS = 0.2
# Until a pod is ready. Chosen by hand: the suite itself gives them 300 s, on a machine of its own.
READY_SECONDS = 240.0


class _RunningPod:
    """One pod's processes and its address."""

    def __init__(self, node: "UpstreamNode", pod: KubeObject) -> None:
        self.namespace, self.name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        self.uid = pod["metadata"]["uid"]
        self.containers = [each["name"] for each in pod["spec"]["containers"]]
        self.address = next_address()
        self.network: PodNetwork | None = None
        self.processes: list[subprocess.Popen] = []
        cluster = node.cluster
        self.programs = programs_of(pod, self.address, echo=node.echo)
        if any(program.is_picker for program in self.programs):
            add_address(self.address)
            kubeconfig = cluster.picker_kubeconfig(self.namespace, "default")
            environment = python_path() | {"KUBECONFIG": str(kubeconfig)}
        else:
            self.network = PodNetwork(self.address, cluster.environment)
            environment = {}
        self.log = cluster.directory / "logs" / f"pod-{self.name}.log"
        for program in self.programs:
            command = list(program.command)
            if self.network is not None:
                command = self.network.inside(*command)
            with self.log.open("ab") as log:
                self.processes.append(subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env=os.environ | cluster.environment | environment | program.environment,
                ))  # fmt: skip

    @property
    def has_ended(self) -> bool:
        """Whether one of its programs has ended by itself."""
        return any(process.poll() is not None for process in self.processes)

    def close(self) -> None:
        """It is gone."""
        for process in self.processes:
            process.kill()
            process.wait()
        if self.network is not None:
            self.network.close()


class UpstreamNode:
    """The one node. Owns the pods that run, by their uids."""

    def __init__(self, cluster: MeshCluster, *, namespace: str, echo: Path) -> None:
        """``namespace``: whose pods. ``echo``: upstream's echo server."""
        self.cluster = cluster
        self.echo = echo
        self._namespace = namespace
        self._pods: dict[str, _RunningPod] = {}

    async def run(self) -> None:
        """Run pods until cancelled. Raises what is wrong with a manifest or with a program."""
        async with (
            await KubernetesClient.from_environment(kubeconfig=self.cluster.kubeconfig) as client,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
            asyncio.TaskGroup() as starting,
        ):
            await client.patch(NODES, None, NODE, {"status": _node_status()}, sub="status")
            async for event in watch_forever(client, PODS, self._namespace):
                pod = event.object
                if pod is None or pod["spec"].get("nodeName") != NODE:
                    continue
                uid = pod["metadata"]["uid"]
                if event.type == "DELETE" or "deletionTimestamp" in pod["metadata"]:
                    await self._end(client, pod)
                elif uid not in self._pods:
                    running = self._pods[uid] = _RunningPod(self, pod)
                    starting.create_task(self._begin(client, session, running))

    async def _begin(
        self, client: KubernetesClient, session: aiohttp.ClientSession, pod: _RunningPod
    ) -> None:
        """Say that it runs, and that it is ready once it is."""
        await self._say(client, pod, is_ready=False)
        try:
            async with asyncio.timeout(READY_SECONDS):
                for program in pod.programs:
                    while not await _answers(session, pod.address, program):
                        await asyncio.sleep(PROBE_SECONDS)
        except TimeoutError:
            if pod.uid not in self._pods:  # it was taken away meanwhile
                return
            message = f"{pod.name} does not serve:\n{pod.log.read_text()[-2000:]}"
            raise RuntimeError(message) from None
        await self._say(client, pod, is_ready=True)

    async def _say(self, client: KubernetesClient, pod: _RunningPod, *, is_ready: bool) -> None:
        if pod.uid in self._pods:
            status = pod_status(pod.address, pod.containers, is_ready=is_ready)
            body = {"status": status}
            await client.patch(PODS, pod.namespace, pod.name, body, sub="status")

    async def _end(self, client: KubernetesClient, pod: KubeObject) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        if running := self._pods.pop(uid, None):
            running.close()
        await client.delete(PODS, self._namespace, name, grace_period_seconds=0, uid=uid)

    def ended(self) -> list[str]:
        """Names of the pods of which a program has ended by itself."""
        return [pod.name for pod in self._pods.values() if pod.has_ended]

    def close(self) -> None:
        """All pods are gone."""
        for pod in self._pods.values():
            pod.close()
        self._pods.clear()


async def _answers(session: aiohttp.ClientSession, address: str, program: Program) -> bool:
    """Whether its probe succeeds."""
    try:
        async with session.get(f"http://{address}:{program.port}{program.path}") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def _node_status() -> dict:
    return {
        "capacity": CAPACITY,
        "allocatable": CAPACITY,
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Emulated", "message": "as the test says",
             "lastHeartbeatTime": NOW, "lastTransitionTime": NOW},
        ],
    }  # fmt: skip
