"""A real Prometheus: where its programs come from, and what the usual jobs do with pods.

``prometheus`` and ``promtool`` are those on PATH, or of Debian's package, unpacked without root
into the project's cache. Debian builds it without the discovery of Kubernetes: the labels that
discovery would have found (``__meta_kubernetes_…``) are made here from the API server's own pods,
and handed over in a file. All that follows is relabelling, and is Prometheus' own.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

from memroute_simulator.controlplane.binary_cache import cache_directory

PACKAGE = "prometheus"
# Short, so that a test sees what it has caused; pages come within this on a busy machine, too.
SCRAPE_SECONDS = 2


class PrometheusMissingError(RuntimeError):
    """There is no Prometheus here, and Debian's cannot be fetched; the message says why."""


def find_program(name):
    """The path of ``prometheus`` or ``promtool``. Raises ``PrometheusMissingError``."""
    on_path = shutil.which(name)
    if on_path:
        return Path(on_path)
    target = cache_directory() / "prometheus"
    program = target / "usr" / "bin" / name
    if not program.exists():
        _unpack(target)
    return program


def _unpack(target):
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        msg = "no prometheus on PATH, and no Debian to fetch its package from: install Prometheus"
        raise PrometheusMissingError(msg)
    scratch = target.with_name(f"prometheus.{os.getpid()}")
    scratch.mkdir(parents=True)
    try:
        lists = scratch / "lists"
        lists.mkdir()
        if _apt(scratch, "download", PACKAGE):
            # An image without lists of packages: they are read into a folder of our own.
            own = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={scratch}"]
            error = _apt(scratch, *own, "update") or _apt(scratch, *own, "download", PACKAGE)
            if error:
                msg = f"apt-get cannot fetch {PACKAGE}: {error}"
                raise PrometheusMissingError(msg)
        (package,) = scratch.glob(f"{PACKAGE}_*.deb")
        unpacked = scratch / "unpacked"
        subprocess.run(["dpkg-deb", "-x", str(package), str(unpacked)], check=True)
        if not target.exists():
            unpacked.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _apt(folder, *arguments):
    """The error of apt-get; empty where it has worked."""
    command = ["apt-get", "-o", "APT::Sandbox::User=root", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return "" if result.returncode == 0 else (result.stderr or "it failed")[-500:]


def annotation_labels(kind, metadata, prefix="annotation"):
    """Labels of discovery for a map of annotations or labels."""
    found = metadata.get({"annotation": "annotations", "label": "labels"}[prefix]) or {}
    labels = {}
    for key, value in found.items():
        name = "".join(c if c.isalnum() else "_" for c in key)
        labels[f"__meta_kubernetes_{kind}_{prefix}_{name}"] = value
        labels[f"__meta_kubernetes_{kind}_{prefix}present_{name}"] = "true"
    return labels


def pod_targets(pods):
    """What ``role: pod`` finds: one target for each port of each container."""
    groups = []
    for pod in pods:
        metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
        address = status.get("podIP")
        if not address:
            continue
        common = {
            "__meta_kubernetes_namespace": metadata["namespace"],
            "__meta_kubernetes_pod_name": metadata["name"],
            "__meta_kubernetes_pod_ip": address,
            "__meta_kubernetes_pod_node_name": spec.get("nodeName", ""),
            "__meta_kubernetes_pod_phase": status.get("phase", ""),
            "__meta_kubernetes_pod_uid": metadata["uid"],
            **annotation_labels("pod", metadata),
            **annotation_labels("pod", metadata, "label"),
        }
        for container in spec["containers"]:
            for port in container.get("ports") or [{}]:
                number = port.get("containerPort")
                labels = common | {"__meta_kubernetes_pod_container_name": container["name"]}
                if number:
                    labels["__meta_kubernetes_pod_container_port_number"] = str(number)
                    labels["__meta_kubernetes_pod_container_port_name"] = port.get("name", "")
                target = f"{address}:{number}" if number else address
                groups.append({"targets": [target], "labels": labels})
    return groups


# The job `kubernetes-pods` of the community's chart, word by word: prometheus-community/
# helm-charts, charts/prometheus/values.yaml (Apache-2.0). ``honor_labels`` is the chart's today and
# was not always: both are tried.
_POD = "__meta_kubernetes_pod"
_BY_ANNOTATION = [
    {"source_labels": [f"{_POD}_annotation_prometheus_io_scrape"], "action": "keep",
     "regex": "true"},
    {"source_labels": [f"{_POD}_annotation_prometheus_io_scheme"], "action": "replace",
     "regex": "(https?)", "target_label": "__scheme__"},
    {"source_labels": [f"{_POD}_annotation_prometheus_io_path"], "action": "replace",
     "target_label": "__metrics_path__", "regex": "(.+)"},
    {"source_labels": [f"{_POD}_annotation_prometheus_io_port", f"{_POD}_ip"],
     "action": "replace", "regex": r"(\d+);((([0-9]+?)(\.|$)){4})", "replacement": "$2:$1",
     "target_label": "__address__"},
    {"action": "labelmap", "regex": f"{_POD}_label_(.+)"},
    {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
    {"source_labels": [f"{_POD}_name"], "target_label": "pod"},
    {"source_labels": [f"{_POD}_phase"], "regex": "Pending|Succeeded|Failed|Completed",
     "action": "drop"},
    {"source_labels": [f"{_POD}_node_name"], "target_label": "node"},
]  # fmt: skip


def pod_job(name, *, honor_labels, path):
    """The annotation job of the community's chart."""
    return {
        "job_name": name, "honor_labels": honor_labels, "relabel_configs": _BY_ANNOTATION,
        "file_sd_configs": [{"files": [str(path)], "refresh_interval": "1s"}],
    }  # fmt: skip


def pod_monitor_job(monitor, path):
    """The jobs that the Prometheus operator makes of a PodMonitor, a job for each endpoint.

    As its ``pkg/prometheus/promcfg.go`` writes them: the selector, the port by its name, and then
    namespace, container, pod, job and endpoint as labels.
    """
    spec = monitor["spec"]
    jobs = []
    for number, endpoint in enumerate(spec["podMetricsEndpoints"]):
        relabel = [
            {"source_labels": [f"{_POD}_phase"], "regex": "(Failed|Succeeded)", "action": "drop"}
        ]
        for key, value in (spec["selector"].get("matchLabels") or {}).items():
            label = "".join(c if c.isalnum() else "_" for c in key)
            relabel.append(
                {"source_labels": [f"{_POD}_label_{label}", f"{_POD}_labelpresent_{label}"],
                 "regex": f"({value});true", "action": "keep"}
            )  # fmt: skip
        for one in spec["selector"].get("matchExpressions") or ():
            label = "".join(c if c.isalnum() else "_" for c in one["key"])
            relabel.append(
                {"source_labels": [f"{_POD}_labelpresent_{label}"], "regex": "true",
                 "action": "keep"}
            )  # fmt: skip
        namespaces = spec.get("namespaceSelector", {})
        if not namespaces.get("any"):
            names = namespaces.get("matchNames") or [monitor["metadata"]["namespace"]]
            relabel.append(
                {"source_labels": ["__meta_kubernetes_namespace"], "regex": "|".join(names),
                 "action": "keep"}
            )  # fmt: skip
        relabel += [
            {"source_labels": [f"{_POD}_container_port_name"], "regex": endpoint["port"],
             "action": "keep"},
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": [f"{_POD}_container_name"], "target_label": "container"},
            {"source_labels": [f"{_POD}_name"], "target_label": "pod"},
            {"target_label": "job",
             "replacement": f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"},
            {"target_label": "endpoint", "replacement": endpoint["port"]},
            *(_snake(one) for one in endpoint.get("relabelings") or ()),
        ]  # fmt: skip
        jobs.append(
            {
                "job_name": f"podMonitor/{monitor['metadata']['name']}/{number}",
                "honor_labels": bool(endpoint.get("honorLabels")),
                "metrics_path": endpoint.get("path", "/metrics"),
                "relabel_configs": relabel,
                "file_sd_configs": [{"files": [str(path)], "refresh_interval": "1s"}],
            }
        )
    return jobs


def _snake(relabeling):
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    return {names.get(key, key): value for key, value in relabeling.items()}


class Prometheus:
    """A running Prometheus; a context manager. ``jobs``: its scrape configs."""

    def __init__(self, folder, jobs, rules=None, *, port=0):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._jobs, self._rules = jobs, rules
        self.url = f"http://127.0.0.1:{port}"
        self._port = port

    def __enter__(self):
        config = {
            "global": {
                "scrape_interval": f"{SCRAPE_SECONDS}s",
                "evaluation_interval": f"{SCRAPE_SECONDS}s",
                "scrape_timeout": f"{SCRAPE_SECONDS}s",
            },
            "scrape_configs": self._jobs,
        }
        if self._rules is not None:
            path = self.folder / "rules.yaml"
            path.write_text(yaml.safe_dump(self._rules))
            config["rule_files"] = [str(path)]
        path = self.folder / "prometheus.yaml"
        path.write_text(yaml.safe_dump(config))
        subprocess.run(
            [str(find_program("promtool")), "check", "config", str(path)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        self._log = (self.folder / "prometheus.log").open("w")
        self._process = subprocess.Popen(
            [
                str(find_program("prometheus")), f"--config.file={path}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=warn",
            ],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.wait_for("Prometheus to be ready", self._is_ready)
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(timeout=30)
        self._log.close()

    def _is_ready(self):
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def ask(self, path, **parameters):
        """The ``data`` of an answer of its API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expr):
        """Labels and value of every series that an expression has now."""
        return [
            (one["metric"], float(one["value"][1]))
            for one in self.ask("query", query=expr)["result"]
        ]

    def firing(self):
        """The names of the alerts that fire."""
        alerts = self.ask("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}

    def wait_for(self, what, condition, timeout_seconds=240):
        """What ``condition`` returns, once it is true."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() > deadline:
                msg = f"waited {timeout_seconds} s for {what}: {found!r}"
                raise TimeoutError(msg)
            time.sleep(0.2)
