"""A control plane with emulated nodes: what the demo and the cluster tests run on."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from memroute_kube import KubeObject
from memroute_kube.resources import is_condition_true
from memroute_simulator.controlplane import ControlPlane
from memroute_simulator.controlplane.binary_cache import Report, report_to_stderr
from memroute_simulator.controlplane.calls import ApiCaller, CallError
from memroute_simulator.controlplane.cluster import NODE_GRACE_SECONDS
from memroute_simulator.nodes.services import ANNOTATION_ADDRESSES

POLL_SECONDS = 0.1
# For what comes on any machine, however slow; only spent where something is wrong. Source: four
# times what replicas have needed to serve on two busy cores.
PATIENCE_SECONDS = 240.0
T = TypeVar("T")


class KubectlError(RuntimeError):
    """kubectl ended with an error; the message is its own."""


class KubectlCluster(ControlPlane):
    """A control plane, and a kubectl to speak to it."""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator; its output. Raises ``KubectlError``."""
        result = subprocess.run(
            [find_kubectl(), "--kubeconfig", str(self.kubeconfig), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise KubectlError(result.stderr.strip())
        return result.stdout

    def get(self, resource: str, *arguments: str) -> list[KubeObject]:
        """Objects by kubectl's name of their resource, in all namespaces unless one is given.

        Raises ``KubectlError``.
        """
        with _as_kubectl():
            if (found := self._api.objects(resource, *arguments)) is not None:
                return found
        scope = [] if "-n" in arguments else ["-A"]
        output = self.kubectl("get", resource, *scope, *arguments, "-o", "json")
        items: list[KubeObject] = json.loads(output)["items"]
        return items

    def read(self, resource: str, namespace: str, name: str) -> KubeObject:
        """One object. Raises ``KubectlError``."""
        with _as_kubectl():
            if (found := self._api.one(resource, namespace, name)) is not None:
                return found
        obj: KubeObject = json.loads(
            self.kubectl("get", resource, name, "-n", namespace, "-o", "json")
        )
        return obj

    def create(self, obj: KubeObject) -> KubeObject:
        """The object as it is stored; no field may be unknown. Raises ``KubectlError``."""
        with _as_kubectl():
            return self._api.create(obj)

    def server_side_apply(self, obj: KubeObject) -> KubeObject:
        """The object as it is stored; no field may be unknown. Raises ``KubectlError``."""
        with _as_kubectl():
            return self._api.apply(obj)

    def delete_all(self, resource: str, namespace: str) -> None:
        """All of one namespace begin to go. Raises ``KubectlError``."""
        with _as_kubectl():
            self._api.delete_all(resource, namespace)

    @cached_property
    def _api(self) -> ApiCaller:
        return ApiCaller(self.kubeconfig, self.directory / "pki")

    def wait_for(
        self, what: str, condition: Callable[[], T], *, timeout_seconds: float = PATIENCE_SECONDS
    ) -> T:
        """Poll until ``condition`` returns something true; that. Raises ``TimeoutError``."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            result = condition()
            if result:
                return result
            self.check_alive()
            if time.monotonic() > deadline:
                msg = f"waited {timeout_seconds:.0f} s for {what}"
                raise TimeoutError(msg)
            time.sleep(POLL_SECONDS)

    def check_alive(self) -> None:
        """Raise ``RuntimeError`` if a process of the cluster has ended by itself."""
        for name, process in self._processes:
            if process.poll() is not None:
                msg = f"{name} ended with status {process.returncode}:\n{self.log_tail(name)}"
                raise RuntimeError(msg)

    def run_nodes(self, fleet: list[dict[str, Any]]) -> None:
        """Run emulated nodes, once for a cluster; returns when every one is ready.

        ``fleet``: the entries of a fleet file (name, machine, gpuSharing).
        """
        path = self.directory / "fleet.yaml"
        path.write_text(yaml.safe_dump({"nodes": fleet}))
        self.spawn(
            "nodes",
            [
                sys.executable, "-m", "memroute_simulator", "nodes",
                "--fleet", str(path),
                "--kubeconfig", str(self.kubeconfig),
                "--network", str(self.network),
                "--cluster-id", self.cluster_id,
                "--directory", str(self.directory),
            ],
        )  # fmt: skip
        self.wait_for_nodes({entry["name"] for entry in fleet})

    def wait_for_nodes(self, names: Collection[str] = ()) -> None:
        """Return when these nodes are ready; without names, all that there are."""
        self.wait_for("every node to be ready", lambda: self._are_ready(names))

    def _are_ready(self, names: Collection[str]) -> bool:
        nodes = self.get("nodes")
        ready = {
            node["metadata"]["name"]
            for node in nodes
            if is_condition_true(node, "Ready")
            and not any(
                taint["key"].startswith("node.kubernetes.io/")
                for taint in node["spec"].get("taints") or ()
            )
        }
        return ready.issuperset(names or (node["metadata"]["name"] for node in nodes))


class EmulatedCluster(KubectlCluster):
    """A control plane that also runs a fleet of emulated nodes."""

    def __init__(
        self,
        fleet: list[dict[str, Any]],
        *,
        report: Report = report_to_stderr,
        node_grace_seconds: int = NODE_GRACE_SECONDS,
    ) -> None:
        """``fleet``: the entries of a fleet file (name, machine, gpuSharing).

        ``node_grace_seconds``: how long a node may be silent before it is unreachable.
        """
        super().__init__(report=report, node_grace_seconds=node_grace_seconds)
        self._fleet = fleet

    def start(self) -> None:
        """Start the control plane and the nodes; returns when every node is ready."""
        super().start()
        self.run_nodes(self._fleet)

    def service_address(self, namespace: str, name: str, port: str) -> str:
        """``host:port`` of a Service's port, by its name. Waits until it is served."""

        def find() -> str | None:
            obj = self.read("services", namespace, name)
            said = (obj["metadata"].get("annotations") or {}).get(ANNOTATION_ADDRESSES, "{}")
            found: str | None = json.loads(said).get(port)
            return found

        return str(self.wait_for(f"the Service {name}", find))


@contextlib.contextmanager
def _as_kubectl() -> Iterator[None]:
    """What is refused is told as kubectl tells it."""
    try:
        yield
    except CallError as error:
        raise KubectlError(str(error)) from error


def find_kubectl() -> str:
    """The kubectl of this environment (its wheel), else the one on PATH."""
    beside = Path(sys.executable).parent / "kubectl"
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        msg = "kubectl is missing: run `make install`, which takes it from its wheel"
        raise KubectlError(msg)
    return found
