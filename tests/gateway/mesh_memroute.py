"""memroute in the mesh as a release installs it: operator, router and picker, and what they serve.

Its pods and its replicas are emulated nodes'. They are in the network of the test itself, by
addresses of the bridge: what a gateway reaches, and what EndpointSlices may hold.
"""

import ipaddress
import json
import os
import re
import subprocess
import threading
import urllib.request
from pathlib import Path

from mesh_cluster import APPS, POOLS, MeshCluster
from mesh_network import PREFIX, add_address
from mesh_web import TIMEOUT_SECONDS, ask

from cluster_support import get_deployment, manifest, pods_of
from memroute_kube.resources import is_condition_true
from memroute_simulator.emulated_cluster import find_kubectl
from page_blocks import SHELL, blocks
from release.artifacts import MANIFESTS

ROOT = Path(__file__).parents[2]
SYSTEM = "memroute-system"
PAGE = "docs/how-to/behind-a-gateway-picker.md"
NETWORKS = {name: f"{PREFIX}{first}/27" for name, first in
            (("shared", 128), ("whole", 160), ("plain", 192))}  # fmt: skip
FLEET = [
    {"name": "shared", "machine": "h100-1", "gpuSharing": "shared", "exporterSeconds": 1},
    {"name": "whole", "machine": "h100-2", "exporterSeconds": 1},
    {"name": "plain", "machine": "plain"},
]
MODEL = "Qwen/Qwen3-0.6B"
REPLICA = "x-memroute-replica"
"""Of answers, where a request asks why: the replica that the picker has named."""
# Between two requests of a client that asks on and on. Unit: seconds. Chosen by hand.
PAUSE_SECONDS = 0.05


def run_nodes(cluster: MeshCluster) -> None:
    """Nodes with devices are ready, and their pods can be reached from the pods of the mesh."""
    for network in NETWORKS.values():
        for address in ipaddress.IPv4Network(network).hosts():
            add_address(str(address))
    cluster.run_nodes([entry | {"podNetwork": NETWORKS[entry["name"]]} for entry in FLEET])


class Reader:
    """Somebody who follows the page about gateways, with a release's files beside them."""

    def __init__(self, cluster: MeshCluster) -> None:
        self._cluster = cluster
        self.folder = cluster.directory / "reader"
        self.folder.mkdir()
        for file, folder in MANIFESTS.items():
            text = cluster.kubectl("kustomize", str(ROOT / folder))
            (self.folder / file).write_text(text)
        for block in blocks(PAGE):
            if block.language == "yaml" and (named := re.match(r"# ([\w-]+\.yaml)\n", block.text)):
                (self.folder / named[1]).write_text(block.text)

    def apply(self, file: str) -> None:
        """Apply a release's file, and wait until all of it runs."""
        self.run(f"kubectl apply --server-side -f {file}\n"
                 f"kubectl rollout status -n {SYSTEM} deployment --timeout=240s")  # fmt: skip

    def follow(self, word: str) -> str:
        """Run the page's only script that has this word; what it prints."""
        (block,) = (one for one in blocks(PAGE) if one.language in SHELL and word in one.script)
        return self.run(block.script)

    def run(self, script: str) -> str:
        """What a script prints. Fails with what it says where it fails."""
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, capture_output=True,
            text=True, check=False,
            env=os.environ | {
                "KUBECONFIG": str(self._cluster.kubeconfig),
                "PATH": f"{Path(find_kubectl()).parent}{os.pathsep}{os.environ['PATH']}",
            },
        )  # fmt: skip
        assert result.returncode == 0, f"{script}\n{result.stdout}\n{result.stderr}"
        return result.stdout


class Model:
    """A ModelDeployment with a pool, and the host that is routed to it."""

    def __init__(self, mesh, name: str, route: str, host: str) -> None:
        self.name, self.route, self.host = name, route, host
        self.served = f"{name}-model"
        self._mesh, self._cluster = mesh, mesh.cluster

    def write(self, **spec) -> None:
        """It is so, once the API server has it."""
        model = {"name": MODEL, "servedName": self.served}
        asked = {"model": model, "routing": {"gateway": {}}} | spec
        self._cluster.kubectl(
            "apply",
            "--server-side",
            "-f",
            "-",
            stdin=json.dumps(manifest(APPS, self.name, **asked)),
        )

    def scale(self, replicas: int) -> None:
        """Ask for as many replicas, as a person does."""
        self._cluster.kubectl("scale", "mdep", self.name, "-n", APPS, f"--replicas={replicas}")

    def delete(self) -> None:
        """It is gone, and so are its replicas."""
        self._cluster.kubectl("delete", "mdep", self.name, "-n", APPS, "--ignore-not-found")
        self._cluster.wait_for("replicas to go", lambda: not self.pods())

    @property
    def status(self) -> dict:
        """What the operator says of it."""
        return get_deployment(self._cluster, APPS, self.name).get("status", {})

    def pods(self) -> dict[str, str]:
        """Address of each replica by its pod's name."""
        found = pods_of(self._cluster, APPS, self.name)
        return {one["metadata"]["name"]: one["status"].get("podIP") for one in found}

    def ask(self, *, model: str | None = None, gateway="first"):
        """A chat request through the gateway, and its answer."""
        return ask(self._mesh.gateway(gateway), self.host, "/v1/chat/completions",
                   body=chat(model or self.served), x_memroute_explain="1")  # fmt: skip

    def pool(self) -> dict:
        """The InferencePool, as it is now."""
        return self._cluster.read(POOLS, APPS, self.name)


def chat(model: str) -> bytes:
    """A chat request."""
    message = {"role": "user", "content": "Which way?"}
    return json.dumps({"model": model, "messages": [message], "max_tokens": 4}).encode()


def is_picked(answer) -> bool:
    """Whether a replica has answered that the picker has named."""
    return answer.status == 200 and REPLICA in answer.headers


def num_served(address: str) -> float:
    """Requests that an engine has served, by its own word."""
    url = f"http://{address}:8000/metrics"
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as page:
        text = page.read().decode()
    return sum(map(float, re.findall(r"(?m)^vllm:request_success_total\{.*\} (\S+)$", text)))


def written(cluster: MeshCluster, name: str) -> set[tuple[str, str]]:
    """What the operator has written for the gateways of a ModelDeployment: (plural, name)."""
    names = {(POOLS, name), ("services", f"picker-{name}"),
             ("endpointslices", f"picker-{name}-ipv4")}  # fmt: skip
    return {
        (resource, one["metadata"]["name"])
        for resource in {each[0] for each in names}
        for one in cluster.get(resource, "-n", APPS)
    } & names


def picker_pods(cluster: MeshCluster) -> dict[str, str]:
    """Address of each ready pod of the installed picker by its uid."""
    found = cluster.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=picker")
    return {
        one["metadata"]["uid"]: one["status"]["podIP"]
        for one in found
        if is_condition_true(one, "Ready") and "deletionTimestamp" not in one["metadata"]
    }


class Traffic:
    """While it is entered, a client asks on and on; then ``answers`` are what it got."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._stopping = threading.Event()
        self.answers: list = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_SECONDS):
            self.answers.append(self._model.ask())
