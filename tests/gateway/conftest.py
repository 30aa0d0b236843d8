"""One mesh for all tests of a run: control plane, pilot, gateways, model servers, pickers."""

import re
import secrets
import shutil
from contextlib import ExitStack

import mesh_pods
import pytest
from mesh_cluster import APPS, INFRA, POOLS, MeshCluster, pool, route, rule
from mesh_network import PrivateNetwork
from mesh_web import SERVED, ask, eventually, is_served

from memroute_simulator.controlplane import find_binaries
from memroute_simulator.controlplane.cluster import BINARIES

PROGRAMS = {"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}
"""What the networks are made with, and the Debian package that has it."""
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
            cluster.apply(mesh_pods.gateway_object(name), mesh_pods.gateway_service(name))
            self._add(mesh_pods.gateway(cluster, name))
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
                self._expose(pod)
            else:
                pod.wait()
            pod.say(is_ready=True)

        for name in ("first", "second"):
            self._attach(name)

    def start_gateway(self, pod) -> None:
        """One more gateway, whose Service there is."""
        self._add(pod)
        self.cluster.apply(pod.manifest())
        self._expose(pod)
        pod.say(is_ready=True)

    def _expose(self, pod) -> None:
        """A gateway has its address. It listens once it has a route, which needs that."""
        address = {"loadBalancer": {"ingress": [{"ip": pod.address}]}}
        service = pod.name.replace("-gateway", "-istio")
        self.cluster.status("service", pod.namespace, service, address)

    def _attach(self, gateway) -> None:
        """A gateway has a pool that stays, and asks pickers.

        Istio puts the filter that asks into a listener only while the gateway has a pool attached,
        and may see the first one too late for the push that it causes: seen in 4 of 25 tries. With
        the next route it sees it.
        """
        for attempt in range(3):
            host = f"standing-{attempt}.example.com"
            standing = route(f"standing-{gateway}-{attempt}", gateway, [rule("http1")], [host])
            self.cluster.apply(standing)
            pod = self.gateway(gateway)
            if SERVED in eventually(lambda p=pod, h=host: _asked(p, h), is_served).headers:
                return
        message = f"the {gateway} gateway asks no picker"
        raise RuntimeError(message)

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


def _asked(pod, host):
    """What a gateway answers; None: it does not listen yet."""
    try:
        return ask(pod, host)
    except OSError:
        return None


@pytest.fixture(scope="session")
def mesh():
    """The one mesh of a run."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            pytest.fail(f"{program} is not on PATH (on Debian: {package})")
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
