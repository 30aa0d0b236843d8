"""Pods of the mesh: model servers in networks of their own, and pickers.

A node's agent would do what is done here: start a pod's program, and say that it is ready.
"""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mesh_cluster import APPS, NODE, MeshCluster
from mesh_network import GATEWAY_ADDRESS, PREFIX, PodNetwork, add_address

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "kube", "router", "picker", "simulator")
SERVER = ROOT / "tests" / "picker_conformance" / "picker_upstream.py"
PICKER_PORT, OPS_PORT = 9002, 8002
START_SECONDS = 240.0
NOW = "2026-01-01T00:00:00Z"
_numbers = itertools.count(10)


def next_address() -> str:
    """An address that no pod has had."""
    return f"{PREFIX}{next(_numbers)}"


def envoy_program() -> Path:
    """The Envoy of PATH itself, not what starts it. Raises ``RuntimeError``."""
    found = shutil.which("envoy")
    if found is None:
        message = "envoy is not on PATH: make gateway-test installs it"
        raise RuntimeError(message)
    inner = sorted(Path(found).parents[1].glob("lib/python3*/site-packages/envoy/_bin/envoy"))
    return inner[0] if inner else Path(found)


@dataclass(kw_only=True)
class Pod:
    """A pod, its address and its program."""

    cluster: MeshCluster
    name: str
    address: str
    labels: dict[str, str]
    ports: tuple[int, ...]
    command: list[str]
    namespace: str = APPS
    environment: dict[str, str] = field(default_factory=dict)
    network: PodNetwork | None = None
    process: subprocess.Popen | None = None

    def manifest(self) -> dict:
        """What the API server knows of it."""
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": self.labels},
            "spec": {
                "nodeName": NODE,
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "main", "image": "test"}],
            },
        }

    def start(self) -> None:
        """Start its program."""
        command = self.command
        if self.network is not None:
            command = self.network.inside(*command)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | self.cluster.environment | self.environment,
            )  # fmt: skip

    def wait(self) -> None:
        """Return when its ports answer. Raises ``RuntimeError`` with the end of its log."""
        deadline = time.monotonic() + START_SECONDS
        waiting = list(self.ports)
        while waiting:
            try:
                socket.create_connection((self.address, waiting[0]), 1).close()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    message = f"{self.name} does not serve:\n{self.log.read_text()[-2000:]}"
                    raise RuntimeError(message) from None
                time.sleep(0.05)
            else:
                waiting.pop(0)

    @property
    def log(self) -> Path:
        """Where its program writes."""
        return self.cluster.directory / "logs" / f"pod-{self.name}.log"

    def say(self, *, is_ready: bool) -> None:
        """Write its status, as its node would."""
        status = pod_status(self.address, ["main"], is_ready=is_ready)
        self.cluster.status("pod", self.namespace, self.name, status)

    def signal(self, number: int) -> None:
        """Send its program a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End its program at once, also if it is paused."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        """End its program, and start it anew."""
        self.kill()
        self.start()
        self.wait()

    def close(self) -> None:
        """It is gone, as far as this machine is concerned."""
        self.kill()
        if self.network is not None:
            self.network.close()


def pod_status(address: str, containers: Sequence[str], *, is_ready: bool) -> dict:
    """The status of a pod that runs, as its node writes it."""
    word = "True" if is_ready else "False"
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": GATEWAY_ADDRESS,
        "startTime": NOW,
        "conditions": [
            {"type": kind, "status": word, "lastTransitionTime": NOW}
            for kind in ("Initialized", "ContainersReady", "Ready", "PodScheduled")
        ],
        "containerStatuses": [
            {
                "name": name, "ready": is_ready, "started": True, "restartCount": 0,
                "image": "test", "imageID": "test", "state": {"running": {"startedAt": NOW}},
            }
            for name in containers
        ],
    }  # fmt: skip


def model_server(cluster, name, app, *, ports=(3000,), h2c=()):
    """A pod that answers who it is, and as requests wish; it has no metrics."""
    address = next_address()
    where = [f"{address}:{port}" for port in ports]
    command = [
        str(Path(shutil.which("envoy")).parent / "python"),
        str(SERVER),
        "--pod",
        name,
        *where,
    ]
    if h2c:
        command += ["--h2c", *(f"{address}:{port}" for port in h2c)]
    return Pod(
        cluster=cluster, name=name, address=address, labels={"app": app}, ports=(*ports, *h2c),
        command=command, network=PodNetwork(address, cluster.environment),
    )  # fmt: skip


def engine(cluster, name, app, *, capacity_tokens):
    """A pod with a simulated engine, whose metrics are vLLM's."""
    address = next_address()
    command = [
        sys.executable, "-m", "memroute_simulator", "engine",
        "--model", "meta-llama/Llama-3.1-8B-Instruct", "--served-model-name", "model",
        "--host", address, "--port", "8000", "--simulator-accelerator", "H100",
        "--kv-cache-memory-bytes", str(capacity_tokens * 128 * 1024),
        "--max-model-len", str(capacity_tokens),
    ]  # fmt: skip
    return Pod(
        cluster=cluster, name=name, address=address, labels={"app": app}, ports=(8000,),
        command=command, environment=python_path(),
        network=PodNetwork(address, cluster.environment),
    )  # fmt: skip


def picker(cluster, name, pools, *flags):
    """A pod with memroute's picker of some pools, as its ServiceAccount."""
    address = next_address()
    add_address(address)
    command = [
        sys.executable, "-m", "memroute_picker",
        *(word for pool in pools for word in ("--inference-pool", f"{APPS}/{pool}")),
        "--host", address, "--port", str(PICKER_PORT), "--ops-port", str(OPS_PORT),
        "--scrape-seconds", "0.5", *flags,
    ]  # fmt: skip
    environment = python_path() | {"KUBECONFIG": str(cluster.picker_kubeconfig())}
    return Pod(
        cluster=cluster, name=name, address=address, labels={"app": name},
        ports=(PICKER_PORT, OPS_PORT), command=command, environment=environment,
    )  # fmt: skip


def python_path() -> dict[str, str]:
    """The environment in which this checkout's packages are found."""
    places = [str(ROOT / name) for name in PACKAGES]
    return {"PYTHONPATH": os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")])}


def picker_service(name: str, app: str) -> dict:
    """A Service of a picker's pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": APPS},
        "spec": {
            "selector": {"app": app},
            "ports": [{"port": PICKER_PORT, "appProtocol": "http2", "name": "grpc"}],
        },
    }
