"""All emulated nodes of a cluster, in one process.

The fleet file names the nodes:

```yaml
nodes:
- {name: gpu-a, machine: h100-1, gpuSharing: shared}
- {name: gpu-b, machine: l40s-2}
- {name: plain, machine: plain}
- {name: sliced, machine: h100-1, migStrategy: single, migSlices: {1g.10gb: 7}}
- {name: bare, machine: l4-2, labels: none, exporterSeconds: 5}
```

``spec.HELP`` says what each field means.
"""

import asyncio
import logging
import signal
import ssl
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml

from memroute_kube import (
    DAEMON_SETS,
    NAMESPACES,
    NODES,
    PODS,
    RUNTIME_CLASSES,
    KubeObject,
    KubernetesClient,
    watch_forever,
)
from memroute_simulator.controlplane.guardian import TAG
from memroute_simulator.nodes.agent import NodeAgent
from memroute_simulator.nodes.labels import AMD_PRESENT_LABEL
from memroute_simulator.nodes.machines import GPU_PRESENT_LABEL
from memroute_simulator.nodes.services import ServiceProxy
from memroute_simulator.nodes.spec import FleetFileError, NodeSpec

LOGGER = logging.getLogger(__name__)
FIELD_MANAGER = "memroute-simulator"
__all__ = ["FleetFileError", "NodeSpec", "load_fleet", "run_fleet"]


def load_fleet(path: Path) -> list[NodeSpec]:
    """The nodes of a fleet file. Raises ``FleetFileError``."""
    document = yaml.safe_load(path.read_text())
    if not isinstance(document, dict) or not isinstance(document.get("nodes"), list):
        msg = f"{path}: a fleet file is a mapping with a list called nodes"
        raise FleetFileError(msg)
    specs = [NodeSpec.parse(entry) for entry in document["nodes"]]
    if len({spec.name for spec in specs}) != len(specs):
        msg = f"{path}: two nodes have the same name"
        raise FleetFileError(msg)
    return specs


async def run_fleet(
    specs: list[NodeSpec], *, kubeconfig: Path, network: int, cluster_id: str, directory: Path
) -> None:
    """Run the nodes until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "pki" / "kubelet.crt", directory / "pki" / "kubelet.key")
    endpoint = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
    async with (
        await KubernetesClient.from_environment(kubeconfig=kubeconfig) as client,
        aiohttp.ClientSession() as session,
    ):
        agents = [
            NodeAgent(
                client=client,
                session=session,
                spec=spec,
                network=network,
                ordinal=ordinal,
                cluster_id=cluster_id,
                cluster_environment={TAG: cluster_id},
                directory=directory,
                tls=tls,
                cluster_endpoint=endpoint,
            )
            for ordinal, spec in enumerate(specs)
        ]
        for agent in agents:
            await agent.start()
        await _install_gpu_operator(client)
        if any(gpu.is_amd for spec in specs for gpu in spec.kind.gpus):
            await _install_exporter(client, AMD_EXPORTER)
        by_name = {agent.name: agent for agent in agents}
        pods: dict[str, KubeObject] = {}
        watches = [
            asyncio.create_task(_watch_pods(client, by_name, pods)),
            asyncio.create_task(_watch_nodes(client, by_name)),
            asyncio.create_task(
                ServiceProxy(client, network, lambda: iter(list(pods.values()))).run()
            ),
        ]
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait([stop, *watches], return_when=asyncio.FIRST_COMPLETED)
        for task in watches:
            task.cancel()
        failures = await asyncio.gather(*watches, return_exceptions=True)
        await asyncio.gather(*(agent.stop() for agent in agents))
        for failure in failures:
            if isinstance(failure, Exception):
                raise failure


async def _watch_pods(
    client: KubernetesClient, agents: dict[str, NodeAgent], pods: dict[str, KubeObject]
) -> None:
    """``pods``: by uid, kept as the cluster has them."""
    async for event in watch_forever(client, PODS):
        if event.object is None:
            continue
        uid = event.object["metadata"]["uid"]
        if event.type == "DELETE":
            pods.pop(uid, None)
        else:
            pods[uid] = event.object
        agent = agents.get(event.object["spec"].get("nodeName", ""))
        if agent is None:
            continue
        try:
            if event.type == "DELETE":
                agent.delete_pod(event.object)
            else:
                agent.upsert_pod(event.object)
        except Exception:  # a bug met by one pod ends no other
            LOGGER.exception("pod not brought up to date pod=%s", event.object["metadata"]["name"])


async def _watch_nodes(client: KubernetesClient, agents: dict[str, NodeAgent]) -> None:
    async for event in watch_forever(client, NODES):
        if event.type == "UPSERT" and event.object is not None:
            agent = agents.get(event.object["metadata"]["name"])
            if agent is None:
                continue
            try:
                await agent.upsert_node(event.object)
            except Exception:  # a bug met by one node's object ends no other node
                LOGGER.exception("node not brought up to date node=%s", agent.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterSet:
    """The DaemonSet of a metrics exporter, as its operator installs it."""

    namespace: str
    name: str
    image: str
    port: int
    labels: dict[str, str]
    node_label: str


NVIDIA_EXPORTER = ExporterSet(
    namespace="gpu-operator",
    name="nvidia-dcgm-exporter",
    image="nvidia/dcgm-exporter:4.5.3-4.8.2-ubuntu22.04",
    port=9400,
    labels={"app": "nvidia-dcgm-exporter"},
    node_label=GPU_PRESENT_LABEL,
)
AMD_EXPORTER = ExporterSet(
    namespace="kube-amd-gpu",
    name="default-metrics-exporter",
    image="rocm/device-metrics-exporter:v1.3.0",
    port=5000,
    labels={"app.kubernetes.io/name": "metrics-exporter"},
    node_label=AMD_PRESENT_LABEL,
)


async def _install_gpu_operator(client: KubernetesClient) -> None:
    """What NVIDIA's GPU operator installs: the runtime class, and the exporter's DaemonSet."""
    await client.apply(
        RUNTIME_CLASSES,
        None,
        {"metadata": {"name": "nvidia"}, "handler": "nvidia"},
        field_manager=FIELD_MANAGER,
    )
    await _install_exporter(client, NVIDIA_EXPORTER)


async def _install_exporter(client: KubernetesClient, exporter: ExporterSet) -> None:
    await client.apply(
        NAMESPACES, None, {"metadata": {"name": exporter.namespace}}, field_manager=FIELD_MANAGER
    )
    container = {
        "name": "exporter",
        "image": exporter.image,
        "ports": [{"name": "metrics", "containerPort": exporter.port}],
    }
    template = {
        "metadata": {"labels": exporter.labels},
        "spec": {
            "nodeSelector": {exporter.node_label: "true"},
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
        },
    }
    await client.apply(
        DAEMON_SETS,
        exporter.namespace,
        {
            "metadata": {"name": exporter.name},
            "spec": {"selector": {"matchLabels": exporter.labels}, "template": template},
        },
        field_manager=FIELD_MANAGER,
    )
