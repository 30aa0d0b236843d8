"""A control plane with the Gateway API, its inference extension and Istio's pilot."""

import json
from pathlib import Path

import yaml
from mesh_network import GATEWAY_ADDRESS

from memroute_simulator.controlplane import find_binaries
from memroute_simulator.controlplane.cluster import kubeconfig
from memroute_simulator.emulated_cluster import KubectlCluster, KubectlError

NODE = "node"
INFRA, APPS = "infra", "apps"
"""Namespaces: of the gateways, and of what is behind them."""
XDS_PORT = 15010
CLASS = "istio"
POOLS = "inferencepools.inference.networking.k8s.io"
POOL_API, ROUTE_API = "inference.networking.k8s.io/v1", "gateway.networking.k8s.io/v1"
# No node reports here, and none is to be called dead for it. Unit: seconds. Chosen by hand.
NODE_GRACE_SECONDS = 3600

PILOT_SETTINGS = {
    "ENABLE_GATEWAY_API_INFERENCE_EXTENSION": "true",
    # Both name filters that only Istio's own build of Envoy has.
    "PILOT_ENABLE_METADATA_EXCHANGE": "false",
    "PILOT_ENABLE_ALPN_FILTER": "false",
    "PILOT_ENABLE_TELEMETRY_LABEL": "false",
    "ENABLE_LEADER_ELECTION": "false",
    "INJECTION_WEBHOOK_CONFIG_NAME": "",
    "VALIDATION_WEBHOOK_CONFIG_NAME": "",
    "ISTIOD_CUSTOM_HOST": "localhost",
    "POD_NAME": "pilot",
    "POD_NAMESPACE": "istio-system",
    "POD_IP": GATEWAY_ADDRESS,
}
# Clusters would wait for certificates that only Istio's own node agent hands out.
MESH = {"enableAutoMtls": False}
INSTALLED = Path(__file__).parents[2] / "deploy/components/endpoint-picker/picker.yaml"


def picker_rights() -> list[dict]:
    """What a picker may do, as it is installed."""
    objects = yaml.safe_load_all(INSTALLED.read_text())
    (role,) = (one for one in objects if one["kind"] == "ClusterRole")
    return role["rules"]


class MeshCluster(KubectlCluster):
    """The control plane. Pods, gateways and pickers are ``mesh_pods``'."""

    def __init__(self) -> None:
        super().__init__(node_grace_seconds=NODE_GRACE_SECONDS, has_endpoint_slices=True)
        self._pilot = find_binaries(["pilot-discovery"])["pilot-discovery"]

    def start(self) -> None:
        """Return when the gateway class is accepted."""
        super().start()
        self._apply_definitions(self._pilot.parent)
        self.apply(
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
              for name in (INFRA, APPS, "istio-system")),
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}},
        )  # fmt: skip
        self._let_pickers_read()
        self._start_pilot()
        self.wait_for("Istio's gateway class", self._is_class_accepted)

    def apply(self, *objects: dict) -> None:
        """Objects are as these say, once the API server has them."""
        text = yaml.safe_dump_all(objects)
        # A namespace's ServiceAccount comes a moment after it, and pods need it.
        self.wait_for("objects to be applied", lambda: self._applied(text))

    def _applied(self, text: str) -> bool:
        try:
            self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
        except KubectlError as error:
            if "serviceaccount" not in str(error):
                raise
            return False
        return True

    def delete(self, resource: str, namespace: str, *names: str) -> None:
        """Objects are gone, and nobody waits for them."""
        self.kubectl("delete", resource, *names, "-n", namespace, "--ignore-not-found",
                     "--grace-period=0", "--force", "--wait=false")  # fmt: skip

    def status(self, resource: str, namespace: str, name: str, status: dict) -> None:
        """Write an object's status."""
        self.kubectl("patch", resource, name, "-n", namespace, "--subresource=status",
                     "--type=merge", "-p", json.dumps({"status": status}))  # fmt: skip

    def picker_kubeconfig(self, namespace: str = APPS, account: str = "picker") -> Path:
        """Credentials with the rights of a picker's ServiceAccount, and no more."""
        path = self.directory / f"{namespace}-{account}.kubeconfig"
        if not path.exists():
            token = self.kubectl("create", "token", account, "-n", namespace).strip()
            admin = yaml.safe_load(self.kubeconfig.read_text())
            server = admin["clusters"][0]["cluster"]["server"]
            authority = (self.directory / "pki" / "ca.crt").read_bytes()
            document = kubeconfig(server, authority, user="picker", token=token)
            path.write_text(yaml.safe_dump(document))
        return path

    def _apply_definitions(self, folder: Path) -> None:
        pools = yaml.safe_load((folder / "inference-pools.yaml").read_text())
        for version in pools["spec"]["versions"]:
            # Optional since 1.6 of the extension; the Go modules that can be had are 1.5's.
            required = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["required"]
            if "endpointPickerRef" in required:
                required.remove("endpointPickerRef")
        self.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(pools))
        for name in ("gateway-api.yaml", "istio.yaml"):
            self.kubectl("apply", "--server-side", "-f", str(folder / name))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=240s")

    def _let_pickers_read(self) -> None:
        account = {"kind": "ServiceAccount", "name": "picker", "namespace": APPS}
        self.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _named("picker")},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
             "metadata": _named("picker"), "rules": picker_rights()},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
             "metadata": _named("picker"), "subjects": [account],
             "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role",
                         "name": "picker"}},
        )  # fmt: skip

    def _start_pilot(self) -> None:
        mesh = self.directory / "mesh.yaml"
        mesh.write_text(yaml.safe_dump(MESH))
        command = [
            "env", f"--chdir={self.directory}", str(self._pilot), "discovery",
            "--kubeconfig", str(self.kubeconfig), "--meshConfig", str(mesh),
            "--domain", "cluster.local", "--grpcAddr", f"{GATEWAY_ADDRESS}:{XDS_PORT}",
            "--secureGRPCAddr", "", "--httpsAddr", "", "--httpAddr", "127.0.0.1:15080",
            "--monitoringAddr", "127.0.0.1:15014", "--ctrlz_port", "0",
        ]  # fmt: skip
        self.spawn("pilot", command, environment=PILOT_SETTINGS)

    def _is_class_accepted(self) -> bool:
        for found in self.get("gatewayclasses"):
            conditions = found.get("status", {}).get("conditions", ())
            if found["metadata"]["name"] == CLASS:
                return any(c["type"] == "Accepted" and c["status"] == "True" for c in conditions)
        return False


def _named(name: str) -> dict:
    return {"name": name, "namespace": APPS}


def pool(name: str, *, app: str, ports=(3000,), picker=None, failure_mode=None, protocol=None):
    """An InferencePool of the pods with a label. ``picker``: of which Service; None: of none."""
    spec = {
        "selector": {"matchLabels": {"app": app}},
        "targetPorts": [{"number": port} for port in ports],
    }
    if picker is not None:
        spec["endpointPickerRef"] = {"name": picker, "kind": "Service", "port": {"number": 9002}}
        if failure_mode is not None:
            spec["endpointPickerRef"]["failureMode"] = failure_mode
    if protocol is not None:
        spec["appProtocol"] = protocol
    return {"apiVersion": POOL_API, "kind": "InferencePool", "metadata": _named(name), "spec": spec}


def route(name: str, gateway: str, rules: list[dict], hosts=(), *, namespace: str = INFRA):
    """An HTTPRoute of a gateway. ``namespace``: the gateway's."""
    spec = {"parentRefs": [{"name": gateway, "namespace": namespace}], "rules": rules}
    if hosts:
        spec["hostnames"] = list(hosts)
    return {"apiVersion": ROUTE_API, "kind": "HTTPRoute", "metadata": _named(name), "spec": spec}


def rule(*pools: str, path: str = "/", weights=(), port=None):
    """A route's rule: to pools, by their weights if there are any."""
    backends = []
    for number, name in enumerate(pools):
        backend = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name}
        if weights:
            backend["weight"] = weights[number]
        if port is not None:
            backend["port"] = port
        backends.append(backend)
    return {
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "backendRefs": backends,
    }
