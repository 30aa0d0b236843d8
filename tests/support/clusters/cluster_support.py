"""What the cluster tests share: a recorder of promises, and short ways to say things."""

import asyncio
import contextlib
import json
import subprocess
import threading

import httpx

from memroute.units import GIB
from memroute_kube import PODS, KubernetesClient, watch_forever
from memroute_kube.quantities import parse_count
from memroute_kube.resources import LABEL_DEPLOYMENT, LABEL_REPLICA, is_condition_true
from memroute_kube.shapes import is_terminal
from memroute_operator.replicas.reading import read_replica
from memroute_simulator.emulated_cluster import EmulatedCluster, KubectlError, find_kubectl
from memroute_simulator.nodes.machines import MACHINES

KILLED = (0, 137, 143)
"""Exit codes of a process that ended well, or that someone ended."""
# Of one answer. httpx gives up after 5 s, which a busy machine may take. Source: chosen by hand.
ANSWER_SECONDS = 120.0


@contextlib.contextmanager
def installed_cluster(fleet, helm, chart, operator_args, *, values=(), **options):
    """A control plane with these emulated nodes, and memroute installed by Helm.

    ``values``: more of the chart's, as ``--set`` has them.
    """
    with EmulatedCluster(fleet, **options) as cluster:
        command = [helm, "install", "memroute", str(chart)]
        command += ["--namespace", "memroute-system", "--create-namespace", "--wait"]
        command += ["--set", "router.service.enabled=false", "--timeout", "600s"]
        command += ["--set", "operator.extraArgs={" + ",".join(operator_args) + "}"]
        for value in values:
            command += ["--set", value]
        command += ["--kubeconfig", str(cluster.kubeconfig)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        yield cluster
        cluster.check_alive()


def create_namespace(cluster, name):
    """A namespace in which pods can be made: Kubernetes makes their account a moment later."""
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster.wait_for("its ServiceAccount", lambda: cluster.get("serviceaccounts", "-n", name))


def install_definition(cluster, definition):
    """A kind is served, and whoever asks which kinds there are is told of it, a moment later."""
    name, spec = definition["metadata"]["name"], definition["spec"]
    cluster.server_side_apply(definition)
    version = next(one["name"] for one in spec["versions"] if one["served"])

    def is_listed():
        try:
            cluster.kubectl("get", f"{spec['names']['plural']}.{version}.{spec['group']}", "-A")
        except KubectlError:
            return False
        return is_condition_true(cluster.read("crd", "", name), "Established")

    cluster.wait_for(f"{name} to be served", is_listed)


def wait_quotas(cluster, namespace):
    """Return when a namespace's quotas count: until Kubernetes has read them, they refuse none."""

    def count():
        found = cluster.get("resourcequotas", "-n", namespace)
        return found and all(one.get("status", {}).get("hard") for one in found)

    cluster.wait_for("the quotas to count", count)


def fetch(url):
    """The answer to a GET."""
    return httpx.get(url, trust_env=False, timeout=ANSWER_SECONDS)


def manifest(namespace, name, **spec):
    """A ModelDeployment; 0.6B on a shared device unless said otherwise."""
    defaults = {"model": {"name": "Qwen/Qwen3-0.6B"}, "placement": {"mode": "Shared"}}
    return {
        "apiVersion": "memroute.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": defaults | spec,
    }


def apply(cluster, namespace, name, **spec):
    cluster.server_side_apply(_without_nulls(manifest(namespace, name, **spec)))


def _without_nulls(value):
    """As the API server takes an object that is created; what is applied it takes by the word."""
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def get_deployment(cluster, namespace, name):
    return cluster.read("mdep", namespace, name)


def condition(cluster, namespace, name, kind):
    status = get_deployment(cluster, namespace, name).get("status", {})
    found = [c for c in status.get("conditions", ()) if c["type"] == kind]
    return found[0] if found else {"status": None, "reason": None, "message": ""}


def is_observed(obj):
    """Whether the status is about what was last applied."""
    return obj.get("status", {}).get("observedGeneration") == obj["metadata"]["generation"]


def wait_ready(cluster, namespace, name):
    """Ready, and for the generation that was last applied."""

    def ready():
        obj = get_deployment(cluster, namespace, name)
        return is_observed(obj) and is_condition_true(obj, "Ready")

    cluster.wait_for(f"{name} to be ready", ready)


def wait_condition(cluster, namespace, name, kind, reason):
    """The condition, once it has the reason, for the generation that was last applied."""

    def there():
        obj = get_deployment(cluster, namespace, name)
        conditions = obj.get("status", {}).get("conditions", ())
        told = (one for one in conditions if (one["type"], one["reason"]) == (kind, reason))
        return next(told, None) if is_observed(obj) else None

    return cluster.wait_for(f"{name} {kind} to be {reason}", there)


def pods_of(cluster, namespace, name=None):
    selector = f"{LABEL_DEPLOYMENT}={name}" if name else LABEL_DEPLOYMENT
    return cluster.get("pods", "-n", namespace, "-l", selector)


def wait_replicas(cluster, namespace, name, count, *, without=()):
    """A model's pods, once there are so many, all of them ready, and none has one of these uids.

    What ``wait_ready`` goes by may be from before: the operator hears of a pod that goes, or fails,
    a moment later.
    """

    def there():
        pods = pods_of(cluster, namespace, name)
        is_right = len(pods) == count and all(
            is_condition_true(pod, "Ready")
            and "deletionTimestamp" not in pod["metadata"]
            and pod["metadata"]["uid"] not in without
            for pod in pods
        )
        return pods if is_right else None

    return cluster.wait_for(f"{count} replica(s) of {name} to serve", there)


def pod_names(cluster, namespace, name=None):
    """The names of the replicas' pods, by their slots."""
    pods = [one["metadata"] for one in pods_of(cluster, namespace, name)]
    pods.sort(key=lambda one: int(one["labels"][LABEL_REPLICA]))
    return [one["name"] for one in pods]


FAULT = "simulator.memroute.dev"


def set_fault(cluster, node, kind, value):
    """A fault of an emulated node; None: it has it no longer. Returns when the node says so.

    A node hears of its own faults and of its pods on two ways, in no order.
    """
    log = cluster.directory / "logs" / "nodes.log"
    before = log.stat().st_size
    change = f"{FAULT}/{kind}-" if value is None else f"{FAULT}/{kind}={value}"
    cluster.kubectl("annotate", "node", node, change, "--overwrite")

    def is_said():
        lines = log.read_bytes()[before:].decode(errors="replace").splitlines()
        words = [line.partition(f"faults node={node} now=")[2] for line in lines]
        told = [json.loads(word) for word in words if word.endswith("}")]
        return told and told[-1].get(f"{FAULT}/{kind}") == value

    cluster.wait_for(f"{node} to have {change}", is_said)


def wait_event(cluster, namespace, reason, is_meant=lambda _event: True):
    """An Event of that reason: it may be written after the status that a test has waited for."""

    def found():
        events = cluster.get("events", "-n", namespace)
        return next((one for one in events if one["reason"] == reason and is_meant(one)), None)

    return cluster.wait_for(f"an Event {reason}", found)


def wait_log(cluster, namespace, name, word):
    """A word in what a pod's (or ``deploy/NAME``'s) container prints, now or after its next start.

    A container that has just been started again has printed nothing; one that waits for its next
    start may have no log.
    """

    def is_said():
        try:
            return word in cluster.kubectl("logs", name, "-n", namespace)
        except KubectlError:
            return False

    cluster.wait_for(f"{word!r} in the log of {name}", is_said)


def program_address(cluster, component):
    selector = f"app.kubernetes.io/component={component}"
    for pod in cluster.get("pods", "-n", "memroute-system", "-l", selector):
        if is_condition_true(pod, "Ready") and "deletionTimestamp" not in pod["metadata"]:
            return pod["status"]["podIP"]
    return None


def wait_program(cluster, component):
    """The address of a ready pod of a program: its probes may be late for a moment."""
    return cluster.wait_for(f"the {component}", lambda: program_address(cluster, component))


def wait_gone(cluster, component):
    """Return when no pod of a program is left: one that is on its way out may still write."""
    selector = f"app.kubernetes.io/component={component}"
    cluster.wait_for(
        f"the {component} to be gone",
        lambda: not cluster.get("pods", "-n", "memroute-system", "-l", selector),
    )


def router_of(cluster):
    """Where the cluster's router takes requests."""
    return f"http://{wait_program(cluster, 'router')}:8000"


class Recorder:
    """Watches all replica pods, and checks after every event that nothing is promised twice.

    Devices by their bytes, and each node's memory by what all pods on it ask for.
    """

    def __init__(self, cluster, fleet):
        self._cluster = cluster
        self._exclusive = {
            entry["name"]: len(MACHINES[entry["machine"]].gpus)
            for entry in fleet
            if "gpuSharing" not in entry
        }
        self._usable = {
            entry["name"]: MACHINES[entry["machine"]].gpus[0].accelerator.usable_bytes
            for entry in fleet
            if "gpuSharing" in entry
        }
        self._host_bytes = {
            entry["name"]: MACHINES[entry["machine"]].memory_gib * GIB for entry in fleet
        }
        self.num_events = 0
        self.overbooked = []
        self.failed_engines = set()
        self.out_of_memory = set()
        """Pods of which the kernel has killed a container for want of the node's memory."""

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._watch())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._loop.close()

    def _run(self):
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        # The cancelled watch leaves its connection closing: one turn of the loop ends it.
        self._loop.run_until_complete(asyncio.sleep(0.1))

    async def _watch(self):
        pods = {}
        client = await KubernetesClient.from_environment(kubeconfig=self._cluster.kubeconfig)
        async with client:
            async for event in watch_forever(client, PODS, label_selector=LABEL_DEPLOYMENT):
                if event.type == "SYNCED":
                    continue
                self.num_events += 1
                if event.type == "DELETE":
                    pods.pop(event.key, None)
                else:
                    pods[event.key] = event.object
                    self._look_for_failures(event.key, event.object)
                self._check(pods.values())
                self._check_hosts(pods.values())

    def host_records(self):
        """Node → what engines have pinned of its memory (``HostMemory.record``)."""
        return {
            path.stem: json.loads(path.read_text())
            for path in (self._cluster.directory / "host-memory").glob("*.json")
        }

    def _look_for_failures(self, key, pod):
        for status in pod.get("status", {}).get("containerStatuses") or ():
            for state in (status.get("state", {}), status.get("lastState", {})):
                ended = state.get("terminated")
                if ended and ended.get("reason") == "OOMKilled":
                    self.out_of_memory.add(key)
                if ended and ended["exitCode"] not in KILLED:
                    self.failed_engines.add((key, self._last_words(pod)))

    def _last_words(self, pod):
        """The last line of any instance of the engine that ended badly."""
        metadata = pod["metadata"]
        name = f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
        logs = sorted((self._cluster.directory / "pods" / name / "engine").glob("*.log"))
        lines = [line for log in logs for line in log.read_text().splitlines()]
        errors = [line for line in lines if "ERROR" in line or "Error" in line]
        return (errors or lines or ["no log"])[-1]

    def _check(self, pods):
        promised, devices = {}, {}
        for pod in pods:
            replica = read_replica(pod)
            if replica is None or is_terminal(pod):
                continue
            for uuid in replica.device_bytes:
                total, _ = promised.get(uuid, (0, ""))
                # One that sleeps has lent the rest: the driver would tell if it had not.
                promised[uuid] = (total + replica.present_bytes(uuid), replica.node)
            if not replica.device_bytes:
                devices[replica.node] = devices.get(replica.node, 0) + replica.num_devices
        for uuid, (total, node) in promised.items():
            if total > self._usable[node]:
                self.overbooked.append((uuid, total))
        for node, count in devices.items():
            if count > self._exclusive[node]:
                self.overbooked.append((node, count))

    def _check_hosts(self, pods):
        asked = {}
        for pod in pods:
            node = pod["spec"].get("nodeName")
            if node in self._host_bytes and not is_terminal(pod):
                asked[node] = asked.get(node, 0) + _requested_bytes(pod)
        for node, total in asked.items():
            if total > self._host_bytes[node]:
                self.overbooked.append((f"memory of {node}", total))


def _requested_bytes(pod):
    """What its containers ask of the node's memory: all that engines pin is in it."""
    asked = 0
    for container in pod["spec"]["containers"]:
        requests = container.get("resources", {}).get("requests", {})
        asked += parse_count(requests.get("memory")) or 0
    return asked


@contextlib.contextmanager
def watched(cluster, namespace, name, path):
    """Every value that a field of a ModelDeployment has from now on, as a list that grows.

    Polling misses some.

    ``path``: as in JSONPath, such as ``.status.rollout.message``.
    """
    told = []
    watching = subprocess.Popen(
        [
            find_kubectl(), "--kubeconfig", str(cluster.kubeconfig), "get", f"mdep/{name}",
            "-n", namespace, "--watch", "-o", f"jsonpath={{{path}}}{{'\\n'}}",
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    reader = threading.Thread(target=lambda: told.extend(iter(watching.stdout.readline, "")))
    reader.start()
    try:
        # It begins with what is there.
        cluster.wait_for(f"{path} to be watched", lambda: told)
        yield told
    finally:
        watching.terminate()
        watching.wait()
        reader.join()
        watching.stdout.close()
