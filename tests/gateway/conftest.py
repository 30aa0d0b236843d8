"""One mesh for all tests of a run: control plane, pilot, gateways, model servers, pickers."""

import re
import secrets
from contextlib import ExitStack

import mesh_gateways
import mesh_pods
import pytest
from mesh_cluster import APPS, INFRA, POOLS, MeshCluster, pool, route
from mesh_gateways import attach, expose
from mesh_network import PrivateNetwork, check_programs
from mesh_web import eventually

from memroute_simulator.controlplane import find_binaries
from memroute_simulator.controlplane.cluster import BINARIES

NUM_REPLICAS = 3
POOL_OBJECTS = {
    "primary": {"app": "primary"},
    "secondary": {"app": "secondary", "failure_mode": "FailOpen"},
    "ranks": {"app": "ranks", "ports": (3000, 3002, 3004)},
    "http1": {"app": "protocols", "protocol": "http"},
    "http2": {"app": "protocols", "ports": (3001,), "protocol": "kubernetes.io/h2c"},
    "engines": {"app": "engines", "ports": (8000,)},
    "left": {"app": "primary"},
    "right": {"app": "secondary"},
}
PICKERS = {name: [name] for name in POOL_OBJECTS if name not in {"left", "right"}}
PICKERS["shared"] = ["left", "right"]
"""Pickers, and the pools that they serve: a Service for each pool."""
FLAGS = {"engines": ["--max-queue-seconds", "0"]}
"""Of the pools' pickers: this one holds nothing, and so refuses when its pool is full."""
ENGINE_TOKENS = 8192


class Mesh:
    """What runs: pods by their names, and the cluster that knows them."""

    def __init__(self, cluster: MeshCluster) -> None:
        self.cluster = cluster
        self.pods: dict[str, mesh_pods.Pod] = {}

    def start(self) -> None:
        """Everything, at once; returns when it serves."""
        cluster = self.cluster
        for name in ("first", "second"):
            cluster.apply(mesh_gateways.gateway_object(name), mesh_gateways.gateway_service(name))
            self._add(mesh_gateways.gateway(cluster, name))
        for number in range(NUM_REPLICAS):
            for app, ports, h2c in (
                ("primary", (3000,), ()),
                ("secondary", (3000,), ()),
                ("ranks", (3000, 3002, 3004), ()),
                ("protocols", (3000,), (3001,)),
            ):
                name = f"{app}-{number}"
                self._add(mesh_pods.model_server(cluster, name, app, ports=ports, h2c=h2c))
        self._add(mesh_pods.engine(cluster, "engines-0", "engines", capacity_tokens=ENGINE_TOKENS))
        for name, pools in PICKERS.items():
            for each in pools:
                service = f"{each}-picker"
                cluster.apply(
                    mesh_pods.picker_service(service, f"{name}-picker"),
                    pool(each, picker=service, **POOL_OBJECTS[each]),
                )
            flags = FLAGS.get(name, ["--conformance-test"])
            self._add(mesh_pods.picker(cluster, f"{name}-picker", pools, *flags))
        cluster.apply(*(pod.manifest() for pod in self.pods.values()))
        for pod in self.pods.values():
            if pod.namespace == INFRA:
                expose(self.cluster, pod)
            else:
                pod.wait()
            pod.say(is_ready=True)

        for name in ("first", "second"):
            attach(cluster, self.gateway(name), "http1")

    def start_gateway(self, pod) -> None:
        """One more gateway, whose Service there is."""
        self._add(pod)
        self.cluster.apply(pod.manifest())
        expose(self.cluster, pod)
        pod.say(is_ready=True)

    def _add(self, pod) -> None:
        self.pods[pod.name] = pod
        pod.start()

    def close(self) -> None:
        """All pods are gone."""
        for pod in self.pods.values():
            pod.close()

    def gateway(self, name="first"):
        """A gateway's pod."""
        return self.pods[f"{name}-gateway"]

    def of(self, app):
        """The model servers of a label, in order."""
        return [pod for pod in self.pods.values() if pod.labels == {"app": app}]

    def conditions(self, resource, name, gateway="first"):
        """The conditions that an object has from a gateway: status and reason by type."""
        status = self.cluster.read(resource, APPS, name).get("status", {})
        for parent in [*status.get("parents", ()), *status.get("parent", ())]:
            if parent["parentRef"]["name"] == gateway:
                return {c["type"]: (c["status"], c["reason"]) for c in parent["conditions"]}
        return {}

    def expect(self, resource, name, kind, *expected, gateway="first"):
        """Return once a condition is one of those, each a status, or a status and a reason."""
        eventually(
            lambda: self.conditions(resource, name, gateway),
            lambda found: any(found.get(kind, ())[: len(one)] == one for one in expected),
        )


@pytest.fixture(scope="session")
def mesh():
    """The one mesh of a run."""
    check_programs()
    mesh_pods.envoy_program()
    # Before there is no way out of the network that they start in.
    find_binaries([*BINARIES, "pilot-discovery"])
    with ExitStack() as stack:
        stack.enter_context(PrivateNetwork())
        running = Mesh(stack.enter_context(MeshCluster()))
        stack.callback(running.close)
        running.start()
        yield running


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """What failed is told with the ends of the logs."""
    report = (yield).get_result()
    running = getattr(item, "funcargs", {}).get("mesh")
    if report.failed and running is not None:
        folder = running.cluster.directory
        for path in sorted([*folder.glob("logs/*.log"), *folder.glob("pods/memroute-*/*/*.log")]):
            if path.name.startswith(("etcd", "kube-")) or not path.stat().st_size:
                continue
            tail = "\n".join(path.read_text(errors="replace").splitlines()[-15:])
            report.sections.append((f"the end of {path.relative_to(folder)}", tail))


@pytest.fixture
def routes(mesh, request):
    """Makes routes that are gone when the test ends; the host that they are for."""
    stem = re.sub(r"[^a-z0-9]+", "-", request.node.originalname.lower())[5:45].strip("-")
    made = []

    def make(*rules, gateway="first", name=None):
        name = name or f"{stem}-{secrets.token_hex(2)}"
        host = f"{name}.example.com"
        mesh.cluster.apply(route(name, gateway, list(rules), [host]))
        made.append(name)
        return name, host

    yield make
    if made:
        mesh.cluster.delete("httproute", APPS, *made)


@pytest.fixture
def accepted(mesh):
    """Waits until a gateway has taken a route and its pools."""

    def wait(name, *pools, gateway="first"):
        for kind in ("Accepted", "ResolvedRefs"):
            mesh.expect("httproute", name, kind, ("True",), gateway=gateway)
            for each in pools:
                mesh.expect(POOLS, each, kind, ("True",), gateway=gateway)

    return wait
