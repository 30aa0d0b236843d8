"""An emulated fleet with traffic, and what Prometheus' discovery would find of its pods."""

import contextlib
import hashlib
import http.client
import itertools
import json
import subprocess
import tempfile
import threading
from pathlib import Path

from cluster_support import apply
from memroute_kube.resources import LABEL_DEPLOYMENT, is_condition_true
from memroute_simulator.emulated_cluster import EmulatedCluster
from prometheus_rig import pod_targets

SYSTEM = "memroute-system"
KEY = "mr-" + hashlib.sha256(b"of this test alone").hexdigest()[:48]
NODES = [
    {"exporterSeconds": 1, "name": "gpu-a", "machine": "h100-1", "gpuSharing": "shared"},
    {"exporterSeconds": 1, "name": "gpu-b", "machine": "l40s-1", "gpuSharing": "shared"},
    {"exporterSeconds": 1, "name": "gpu-d", "machine": "l4-1"},
    {"name": "plain", "machine": "plain"},
]
# ModelDeployment → namespace. Two of them are called the same.
DEPLOYMENTS = {("default", "chat"): 2, ("team-b", "chat"): 1, ("default", "large"): 1}
KEYS = {
    "tenants": [
        {
            "name": "search",
            "models": ["*"],
            "keys": [{"id": "k", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}],
        }
    ]
}


class WatchedFleet:
    """Operator, two routers with keys, three ModelDeployments of which one fits nowhere."""

    def __init__(self, cluster, folder, keys):
        self.cluster = cluster
        self.keys = keys
        self.targets = folder / "targets.json"
        self.served = 0
        self.num_asked = 0
        self._stopping = threading.Event()
        self._sending = threading.Lock()
        self._threads = []

    # What Prometheus finds.

    def pods(self):
        return self.cluster.get("pods", "-A")

    def tell_targets(self):
        """Write what discovery would find now; whole, for Prometheus reads it at any moment."""
        draft = self.targets.with_suffix(".draft")
        draft.write_text(json.dumps(pod_targets(self.pods())))
        draft.rename(self.targets)

    # Traffic.

    def quiet(self):
        """While it is held nothing is sent, and nothing is under way."""
        return self._sending

    def routers(self):
        selector = "app.kubernetes.io/component=router"
        pods = self.cluster.get("pods", "-n", SYSTEM, "-l", selector)
        return {
            pod["metadata"]["name"]: pod["status"]["podIP"]
            for pod in pods
            if is_condition_true(pod, "Ready") and "deletionTimestamp" not in pod["metadata"]
        }

    def ask(self, address, model, *, is_stream, max_tokens=12, key=KEY):
        """The status of one request; 0 where nobody answers."""
        connection = http.client.HTTPConnection(address, 8000, timeout=120)
        document = {
            "model": model, "max_tokens": max_tokens, "stream": is_stream,
            "messages": [{"role": "user", "content": "What is a dashboard for?"}],
        }  # fmt: skip
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(document), headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return 0
        else:
            return answer.status
        finally:
            connection.close()

    def start(self):
        """Targets are told and requests are sent, until ``stop``."""
        for run in (self._tell, self._send):
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=180)

    def _tell(self):
        while not self._stopping.wait(1.0):
            with contextlib.suppress(Exception):  # the API server is busy: what was told stays
                self.tell_targets()

    def _send(self):
        addresses = list(self.routers().values())
        for number in itertools.count():
            if self._stopping.wait(0.05):
                return
            address = addresses[number % len(addresses)]
            model = ("chat", "b/chat", "large", "nobody")[number % 16 if number % 16 < 4 else 0]
            with self._sending:
                self.num_asked += 1
                status = self.ask(address, model, is_stream=number % 3 > 0)
                self.served += status == 200
            if status == 0 and not self._stopping.wait(1.0):
                addresses = list(self.routers().values()) or addresses


@contextlib.contextmanager
def watched_fleet(helm, chart, folder):
    """The fleet, with traffic and targets, once its models serve."""
    # Not below /tmp: that is a volume of the router's pod.
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as place,
        EmulatedCluster(NODES) as cluster,
    ):
        keys = Path(place) / "keys.json"
        keys.write_text(json.dumps(KEYS))
        command = [helm, "install", "memroute", str(chart), "--namespace", SYSTEM]
        command += ["--create-namespace", "--wait", "--timeout", "600s"]
        command += ["--kubeconfig", str(cluster.kubeconfig), "--set", "router.replicas=2"]
        command += [
            "--set",
            f"router.extraArgs={{--keys,{keys}}}",
            "--set",
            "hbmQuotas.default=500Gi",
        ]
        command += ["--set", "operator.extraArgs={--scrape-seconds=1,--node-lost-seconds=3}"]
        command += ["--set", "router.service.enabled=false"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        cluster.kubectl("create", "namespace", "team-b")
        apply(cluster, "default", "chat", replicas=2,
              model={"name": "Qwen/Qwen3-0.6B", "servedName": "chat"},
              placement={"mode": "Shared", "strategy": "Spread"})  # fmt: skip
        apply(cluster, "team-b", "chat", model={"name": "Qwen/Qwen3-0.6B", "servedName": "b/chat"})
        apply_large(cluster)
        fleet = WatchedFleet(cluster, folder, keys)
        for namespace in ("default", "team-b"):
            cluster.kubectl("wait", "--for=condition=Ready", "mdep/chat", "-n", namespace,
                            "--timeout=240s")  # fmt: skip
        cluster.wait_for("two routers", lambda: len(fleet.routers()) == 2)
        fleet.tell_targets()
        fleet.start()
        try:
            yield fleet
        finally:
            fleet.stop()


def apply_large(cluster):
    """A model for which no device of the fleet is large enough."""
    apply(cluster, "default", "large",
          model={"name": "meta-llama/Llama-3.1-70B-Instruct", "servedName": "large"},
          placement={"mode": "Exclusive"})  # fmt: skip


def replicas_of(pods):
    """``(namespace, ModelDeployment)`` → pod → node of every replica."""
    found = {}
    for pod in pods:
        metadata = pod["metadata"]
        name = (metadata.get("labels") or {}).get(LABEL_DEPLOYMENT)
        if name is not None:
            there = found.setdefault((metadata["namespace"], name), {})
            there[metadata["name"]] = pod["spec"].get("nodeName")
    return found
