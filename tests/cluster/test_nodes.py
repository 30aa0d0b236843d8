"""What an emulated node does for any pod, as kubelet would."""

import json
import sys

SCRIPT = """
import http.server, os, signal, sys
print("greeting", os.environ["GREETING"], os.environ["FROM_SECRET"], os.environ["FROM_MAP"])
print("arguments", sys.argv[1:])
def leave(*_):
    print("leaving", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            os._exit(3)
        self.send_response(200 if self.path != "/ready" or os.path.exists("ready") else 503)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer((os.environ["POD_IP"], 8000), Handler).serve_forever()
"""


def pod(namespace):
    environment = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "GREETING", "value": "hello-$(NAME)"},
        {"name": "FROM_SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
    ]
    container = {
        "name": "main",
        "image": "busybox",
        "command": [sys.executable, "-u", "-c", SCRIPT],
        "args": ["$(GREETING)", "$(UNKNOWN)"],
        "env": environment,
        "envFrom": [{"configMapRef": {"name": "c"}}],
        "ports": [{"name": "http", "containerPort": 8000}],
        "startupProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": namespace},
            "spec": {
                "containers": [container],
                "nodeSelector": {"kubernetes.io/hostname": "plain"},
            },
        }
    )


def test_a_pods_life(cluster, namespace):
    """Missing Secret, start, probes, crash and back-off, logs of both lives, graceful end."""

    def status():
        (found,) = cluster.get("pods", "-n", namespace)
        return found["status"]

    def container():
        return status().get("containerStatuses", [{}])[0]

    def waits_for(reason):
        return container().get("state", {}).get("waiting", {}).get("reason") == reason

    cluster.kubectl("apply", "-f", "-", stdin=pod(namespace))
    cluster.wait_for("the missing ConfigMap", lambda: waits_for("CreateContainerConfigError"))
    cluster.kubectl("create", "configmap", "c", "-n", namespace, "--from-literal=FROM_MAP=mapped")
    cluster.kubectl("create", "secret", "generic", "s", "-n", namespace, "--from-literal=token=xyz")
    cluster.wait_for("the start", lambda: container().get("started"))
    assert container()["ready"] is False
    logs = cluster.kubectl("logs", "p", "-n", namespace)
    assert "greeting hello-p xyz mapped" in logs
    assert "arguments ['hello-p', '$(UNKNOWN)']" in logs
    assert status()["podIP"].startswith(f"127.{cluster.network}.")

    (uid,) = {p["metadata"]["uid"] for p in cluster.get("pods", "-n", namespace)}
    folder = cluster.directory / "pods" / f"{namespace}_p_{uid}" / "main"
    (folder / "ready").touch()
    cluster.wait_for("readiness", lambda: container().get("ready"))

    def crash():
        import httpx

        try:
            httpx.get(f"http://{status()['podIP']}:8000/crash", trust_env=False)
        except httpx.HTTPError:
            return True
        return False

    assert crash()
    cluster.wait_for("the restart", lambda: container().get("restartCount") == 1)
    assert container()["lastState"]["terminated"]["exitCode"] == 3
    cluster.wait_for("readiness again", lambda: container().get("ready"))
    assert "greeting" in cluster.kubectl("logs", "p", "-n", namespace, "--previous")
    assert cluster.kubectl("logs", "p", "-n", namespace, "--tail=1").startswith("arguments")
    cluster.kubectl("delete", "pod", "p", "-n", namespace, "--timeout=240s")
    assert "leaving" in (folder / "1.log").read_text()


def test_what_a_node_cannot_run_waits_with_a_reason(cluster, namespace):
    cluster.kubectl("run", "x", "--image=acme/unheard-of:1", "-n", namespace)

    def waiting():
        (found,) = cluster.get("pods", "-n", namespace)
        states = found["status"].get("containerStatuses", ())
        return states and states[0]["state"].get("waiting", {}).get("reason") == "ImagePullBackOff"

    cluster.wait_for("the verdict", waiting)
    cluster.kubectl("delete", "pod", "x", "-n", namespace)


def test_a_job_runs_to_its_end(cluster, namespace):
    cluster.kubectl(
        "create", "job", "j", "--image=busybox", "-n", namespace, "--",
        sys.executable, "-c", "print('done')",
    )  # fmt: skip
    cluster.kubectl("wait", "--for=condition=Complete", "job/j", "-n", namespace, "--timeout=240s")
    assert "done" in cluster.kubectl("logs", "job/j", "-n", namespace)
    cluster.kubectl("delete", "job", "j", "-n", namespace)


def test_labels_and_resources_are_those_of_real_machines(cluster):
    nodes = {node["metadata"]["name"]: node for node in cluster.get("nodes")}
    labels = nodes["gpu-c"]["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert labels["nvidia.com/gpu.memory"] == "81559"
    assert nodes["gpu-c"]["status"]["allocatable"]["nvidia.com/gpu"] == "2"
    # Where memroute shares the GPUs no device plugin runs.
    assert "nvidia.com/gpu" not in nodes["gpu-a"]["status"]["allocatable"]
    assert "nvidia.com/gpu" not in nodes["plain"]["status"]["allocatable"]
