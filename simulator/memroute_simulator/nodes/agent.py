"""One emulated node: registers, heartbeats, runs its pods, suffers its faults.

Faults on demand are annotations of the Node object (``faults``).
"""

import asyncio
import contextlib
import ipaddress
import json
import logging
import ssl
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from memroute.bandwidth import SharingMechanism, is_link
from memroute.units import GIB
from memroute_kube import EVENTS, LEASES, NODES, ApiError, KubeObject, KubernetesClient
from memroute_kube.resources import DEVICE_LINK, GPU_RESOURCE, LABEL_GPU_SHARING, TAINT_SHARED
from memroute_simulator.nodes.container import now_rfc3339
from memroute_simulator.nodes.dcgm import Exporter
from memroute_simulator.nodes.devices import DeviceTable, EmulatedDevice
from memroute_simulator.nodes.faults import PREFIX as FAULT_PREFIX
from memroute_simulator.nodes.faults import read_faults
from memroute_simulator.nodes.host_memory import HostMemory, MemoryBudget, host_record
from memroute_simulator.nodes.kubelet_server import Driver, logs_application, serve
from memroute_simulator.nodes.labels import node_labels
from memroute_simulator.nodes.pod_worker import PodWorker
from memroute_simulator.nodes.spec import NodeSpec

LOGGER = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 2.0
LEASE_SECONDS = 40
# kubelet's own nodeLeaseDurationSeconds.
KUBELET_VERSION = "v1.37.2"
MAX_PODS = 110
# Loopback has one IPv6 address: pods of an IPv6 node share it, as on the host's network, so that
# a port is one pod's. (Mapped addresses are refused by the API server.)
IPV6_ADDRESS = "::1"
# The least time between two collections of an exporter that is told to collect at once.
MIN_COLLECT_SECONDS = 0.2


class NodeAgent:
    """One node. Owns its devices, its addresses and its pod workers."""

    def __init__(
        self,
        *,
        client: KubernetesClient,
        session: aiohttp.ClientSession,
        spec: NodeSpec,
        network: int,
        ordinal: int,
        cluster_id: str,
        cluster_environment: dict[str, str],
        directory: Path,
        tls: ssl.SSLContext,
        cluster_endpoint: dict[str, Any],
    ) -> None:
        self.client = client
        self.session = session
        self.spec = spec
        self.name = spec.name
        self.machine = spec.kind
        self.is_shared = spec.is_shared
        self.address = f"127.{network}.0.{10 + ordinal}"
        self.cluster_environment = cluster_environment
        self.directory = directory
        self.devices = DeviceTable(self.name, self.machine.gpus, cluster=cluster_id, spec=spec)
        self.is_gone = False
        self.is_cut_off = False
        self.image_pull_seconds = spec.image_pull_seconds
        """How long an image that is not here yet takes; infinite for never."""
        self.pulled_images: set[str] = set()
        is_mps = spec.sharing == "mps"
        mechanism = SharingMechanism.FRACTIONS if is_mps else SharingMechanism.TIME_SLICES
        self.host_memory = HostMemory(self.machine.memory_gib * GIB)
        self._driver = Driver(
            self.devices, mechanism, host=self.host_memory, on_held=self._host_memory_held
        )
        self._driver_url = ""
        loopback = ipaddress.IPv4Network(f"127.{network}.{ordinal + 1}.0/24")
        self._free_addresses = list(map(str, (spec.pod_network or loopback).hosts()))[::-1]
        self._workers: dict[str, PodWorker] = {}
        self._bound_pods: dict[str, KubeObject] = {}
        self.finished: set[str] = set()
        """UIDs of pods that have ended for good, until the API server says that they are gone: an
        event that was under way must not start one again, which would take a device."""
        self._exporter = Exporter(self.name, self.devices)
        self._tls = tls
        self._cluster_endpoint = cluster_endpoint
        self._logs_port = 0
        self._runners: list[web.AppRunner] = []
        self._background: set[asyncio.Task[None]] = set()
        self._exporter_down = False
        self._told: set[str] = set()
        """What was said last of annotations that are no faults."""
        self._faults_said: dict[str, str] = {}
        self._reported_resources: dict[str, int] | None = None
        self._last_seen: KubeObject | None = None

    async def start(self) -> None:
        """Serve, register, and begin to heartbeat."""
        runner, self._logs_port = await serve(
            logs_application(self.find_pod), self.address, 0, tls=self._tls
        )
        self._runners.append(runner)
        runner, port = await serve(self._driver.application(), self.address, 0)
        self._runners.append(runner)
        self._driver_url = f"http://{self.address}:{port}"
        await self._register()
        self._exporter.collect()
        self.run_soon(self._collect_forever())
        self.run_soon(self._heartbeat())

    async def stop(self) -> None:
        """End every process of the node."""
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*(worker.abandon() for worker in list(self._workers.values())))
        for runner in self._runners:
            await runner.cleanup()

    def run_soon(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background; it ends with the node."""
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._forget_task)

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            LOGGER.error("background task failed node=%s", self.name, exc_info=error)

    # Pods

    def find_pod(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of a pod by its name."""
        wanted = (namespace, name)
        # The youngest: a process that cannot die may be left of an older pod of that name.
        return next((w for w in reversed(self._workers.values()) if w.key == wanted), None)

    def upsert_pod(self, pod: KubeObject) -> None:
        """A pod of this node is new or has changed."""
        uid = pod["metadata"]["uid"]
        self._bound_pods[uid] = pod
        if self.is_gone or self.is_cut_off or uid in self.finished:
            return
        worker = self._workers.get(uid)
        if worker is not None:
            worker.update(pod)
        elif pod.get("status", {}).get("phase") not in ("Succeeded", "Failed") or (
            "deletionTimestamp" in pod["metadata"]
        ):
            self._workers[uid] = PodWorker(self, pod)

    def delete_pod(self, pod: KubeObject) -> None:
        """A pod of this node is gone from the API server."""
        self._bound_pods.pop(pod["metadata"]["uid"], None)
        self.finished.discard(pod["metadata"]["uid"])
        worker = self._workers.get(pod["metadata"]["uid"])
        # A process that cannot die outlives its pod, and keeps what it has allocated.
        if worker is not None and not self.is_cut_off and not worker.is_undying:
            self.run_soon(worker.abandon())

    def forget(self, worker: PodWorker) -> None:
        """A pod has ended for good: its address and devices are free."""
        if self._workers.pop(worker.uid, None) is None:
            return
        self.devices.unassign(worker.uid)
        if worker.ip and worker.ip != IPV6_ADDRESS:
            self._free_addresses.insert(0, worker.ip)

    def take_address(self, previous: str | None) -> str:
        """An address for a pod: the one it had before a reboot, else the one unused for longest."""
        if self.spec.ip_family == "ipv6":
            return IPV6_ADDRESS
        if previous in self._free_addresses:
            self._free_addresses.remove(previous)
            return previous
        return self._free_addresses.pop()

    def open_driver(self, owner: str, visible: list[EmulatedDevice], budget: MemoryBudget) -> str:
        """The driver's URL for one container instance."""
        return self._driver_url + self._driver.open(owner, visible, budget)

    def close_driver(self, owner: str) -> None:
        """A container's process has ended."""
        self._driver.close(owner)

    def kubeconfig_for(self, account: str, token: str, namespace: str) -> dict[str, Any]:
        """A kubeconfig for a pod's ServiceAccount."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": self._cluster_endpoint}],
            "users": [{"name": account, "user": {"token": token}}],
            "contexts": [
                {
                    "name": "pod",
                    "context": {"cluster": "cluster", "user": account, "namespace": namespace},
                }
            ],
            "current-context": "pod",
        }

    @contextlib.asynccontextmanager
    async def serve_exporter(self, host: str, port: int) -> AsyncIterator[None]:
        """Serve the exporter's page on a pod's address: of its last collection, not of now."""

        async def metrics(_request: web.Request) -> web.Response:
            if self._exporter_down:
                raise web.HTTPServiceUnavailable(text="exporter is down")
            pods = {uid: worker.key for uid, worker in self._workers.items()}
            return web.Response(text=self._exporter.page(pods))

        application = web.Application()
        application.router.add_get("/metrics", metrics)
        runner, _ = await serve(application, host, port)
        try:
            yield
        finally:
            await runner.cleanup()

    async def _collect_forever(self) -> None:
        while True:
            await asyncio.sleep(max(MIN_COLLECT_SECONDS, self.spec.exporter_seconds))
            self._exporter.collect()

    # Faults

    async def apply_faults(self, node: KubeObject) -> None:
        """Bring the node into the state that its annotations ask for."""
        annotations = node["metadata"].get("annotations") or {}
        link = annotations.get(DEVICE_LINK) or (node["metadata"].get("labels") or {}).get(
            DEVICE_LINK
        )
        self._driver.link = link if link and is_link(link) else None
        faults = read_faults(annotations, num_gpus=len(self.devices.devices))
        await self._tell(node, faults.not_understood)
        pull = faults.image_pull_seconds
        self.image_pull_seconds = self.spec.image_pull_seconds if pull is None else pull
        self._exporter_down = faults.is_exporter_down
        for device in self.devices.devices:
            device.foreign_bytes = faults.foreign_bytes.get(device.index, 0)
            device.xid = faults.xids.get(device.index, 0)
            if device.index in faults.lost_gpus and not device.is_lost:
                device.is_lost = True
                self._kill_users_of(device)
            elif device.index not in faults.lost_gpus:
                device.is_lost = False
        self._set_cut_off(faults.is_cut_off)
        gone = faults.is_gone
        if gone and not self.is_gone:
            self.is_gone = True
            LOGGER.warning("node gone node=%s", self.name)
            await asyncio.gather(*(worker.abandon() for worker in list(self._workers.values())))
        elif not gone and self.is_gone:
            self.is_gone = False
            LOGGER.info("node back node=%s", self.name)
            # As after a reboot: what is still bound to the node starts again.
            for pod in list(self._bound_pods.values()):
                self.upsert_pod(pod)
        said = {name: text for name, text in annotations.items() if name.startswith(FAULT_PREFIX)}
        if said != self._faults_said:
            # For whoever must know that what comes next finds the node so.
            LOGGER.info("faults node=%s now=%s", self.name, json.dumps(said, sort_keys=True))
            self._faults_said = said
        reachable = not self.is_gone and not self.is_cut_off
        if reachable and self.devices.resources(healthy_only=True) != self._reported_resources:
            await self._write_status()

    async def _tell(self, node: KubeObject, not_understood: tuple[str, ...]) -> None:
        """Say once of each annotation that it is no fault: in the log, and as an Event."""
        for sentence in not_understood:
            if sentence in self._told:
                continue
            LOGGER.warning("%s node=%s", sentence, self.name)
            now = now_rfc3339()
            event = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"generateName": f"{self.name}-"},
                "involvedObject": {
                    "apiVersion": "v1", "kind": "Node", "name": self.name,
                    "uid": node["metadata"].get("uid", ""),
                },
                "type": "Warning",
                "reason": "FaultNotUnderstood",
                "message": sentence,
                "source": {"component": "memroute-simulator", "host": self.name},
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
            }  # fmt: skip
            try:
                await self.client.create(EVENTS, "default", event)
            except (ApiError, aiohttp.ClientError) as error:
                LOGGER.warning("no event was written node=%s error=%s", self.name, error)
        self._told = set(not_understood)

    def _set_cut_off(self, cut_off: bool) -> None:
        """Lose the API server, or find it again and catch up with what was missed."""
        if cut_off == self.is_cut_off:
            return
        self.is_cut_off = cut_off
        LOGGER.warning("node %s node=%s", "cut off" if cut_off else "connected", self.name)
        if cut_off:
            return
        for uid, worker in list(self._workers.items()):
            if uid not in self._bound_pods and not worker.is_undying:
                self.run_soon(worker.abandon())
        for pod in list(self._bound_pods.values()):
            self.upsert_pod(pod)
        # Meanwhile the control plane has marked the pods as not ready: say how they are.
        for worker in self._workers.values():
            self.run_soon(worker.report_again())

    def _kill_users_of(self, device: EmulatedDevice) -> None:
        for owner in list(device.allocations):
            worker = self._workers.get(owner.split("/", 1)[0])
            if worker is not None:
                worker.kill()

    def _host_memory_held(self, victim: str | None) -> None:
        """Somebody holds more of the node's memory: it is recorded, and the victim killed."""
        path = host_record(self.directory, self.name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.host_memory.record()))
        if victim is not None:
            self._kill_out_of_memory(victim)

    def _kill_out_of_memory(self, owner: str) -> None:
        uid, _, container = owner.partition("/")
        LOGGER.warning(
            "out of memory node=%s killed=%s held_bytes=%d node_bytes=%d",
            self.name, owner, self.host_memory.used_bytes, self.host_memory.total_bytes,
        )  # fmt: skip
        worker = self._workers.get(uid)
        if worker is not None:
            worker.kill_out_of_memory(container)

    # The Node object and its Lease

    async def _register(self) -> None:
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "node.kubernetes.io/instance-type": self.machine.instance_type,
        } | node_labels(self.spec)
        taints = []
        # AMD's device plugin comes without a taint; NVIDIA's pools have one by custom.
        if self.machine.gpus and not self.machine.gpus[0].is_amd:
            taints.append({"key": GPU_RESOURCE, "value": "present", "effect": "NoSchedule"})
        if self.is_shared:
            labels[LABEL_GPU_SHARING] = "shared"
            taints.append({"key": TAINT_SHARED, "value": "shared", "effect": "NoSchedule"})
        node = {"metadata": {"name": self.name, "labels": labels}, "spec": {"taints": taints}}
        try:
            await self.client.create(NODES, None, {"apiVersion": "v1", "kind": "Node"} | node)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            await self.client.patch(NODES, None, self.name, {"metadata": {"labels": labels}})
        await self._write_status()

    async def _write_status(self) -> None:
        resources: dict[str, str] = {
            "cpu": str(self.machine.cpus),
            "memory": f"{self.machine.memory_gib}Gi",
            "ephemeral-storage": "1Ti",
            "pods": str(MAX_PODS),
        }
        self._reported_resources = self.devices.resources(healthy_only=True)
        allocatable = dict(resources)
        # Where memroute shares the GPUs, no device plugin runs: it would hand them out twice.
        if self.machine.gpus and not self.is_shared:
            resources |= {name: str(n) for name, n in self.devices.resources().items()}
            allocatable |= {name: str(n) for name, n in self._reported_resources.items()}
        now = now_rfc3339()
        condition = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "emulated node is ready",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        status = {
            "capacity": resources,
            "allocatable": allocatable,
            "addresses": [
                {"type": "InternalIP", "address": self.address},
                {"type": "Hostname", "address": self.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs_port}},
            "nodeInfo": {
                "machineID": self.name,
                "systemUUID": self.name,
                "bootID": self.name,
                "kernelVersion": "emulated",
                "osImage": f"emulated {self.machine.instance_type}",
                "containerRuntimeVersion": "process://1",
                "kubeletVersion": KUBELET_VERSION,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
            "conditions": [condition],
        }
        await self.client.patch(
            NODES,
            None,
            self.name,
            {"status": status},
            sub="status",
            content_type="application/strategic-merge-patch+json",
        )

    async def _heartbeat(self) -> None:
        while True:
            if not self.is_gone and not self.is_cut_off:
                try:
                    await self._renew_lease()
                    await self._write_ready_if_unknown()
                except ApiError as error:
                    LOGGER.warning("heartbeat failed node=%s error=%s", self.name, error)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _renew_lease(self) -> None:
        renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": renewed,
        }
        await self.client.apply(
            LEASES,
            "kube-node-lease",
            {"metadata": {"name": self.name}, "spec": spec},
            field_manager="memroute-simulator",
        )

    async def _write_ready_if_unknown(self) -> None:
        """After an absence the controller has set Ready to Unknown; only the node can undo it."""
        node = self._last_seen
        if node is None:
            return
        for condition in node.get("status", {}).get("conditions") or ():
            if condition["type"] == "Ready" and condition["status"] != "True":
                await self._write_status()

    async def upsert_node(self, node: KubeObject) -> None:
        """The Node object has changed."""
        self._last_seen = node
        await self.apply_faults(node)
