"""A real Prometheus scrapes an emulated fleet by the usual jobs: nothing is empty or mistaken.

Opt-in (``make prometheus``). Three of them at once: the annotation job of the community's chart
with ``honor_labels`` and without, and what the Prometheus operator makes of our PodMonitors.
"""

import contextlib
import copy
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.request
from pathlib import Path

import pytest
import yaml

from cluster_support import apply
from memroute_kube.resources import ANNOTATION_RESERVATION
from memroute_router.lifecycle.outcomes import Outcome
from monitoring.__main__ import ALERTS, DASHBOARDS, GROUPS
from monitoring.alerts import groups
from prometheus_rig import Prometheus, pod_job, pod_monitor_job
from watched_fleet import DEPLOYMENTS, SYSTEM, apply_large, replicas_of, watched_fleet

pytestmark = pytest.mark.timeout(600)
MODES = ("honoured", "not honoured", "pod monitors")
FAULT = "simulator.memroute.dev"
VARIABLES = {
    "$__rate_interval": "30s",
    "$node_name": ".*",
    "$model_namespace": ".*",
    "$model_deployment": ".*",
}
HAS_RATES = "sum(rate(memroute_router_output_tokens_total[30s])) > 0 and count(up) >= 6"


@pytest.fixture(scope="module")
def fleet(repository, helm, tmp_path_factory):
    chart = repository / "helm" / "memroute"
    with watched_fleet(helm, chart, tmp_path_factory.mktemp("fleet")) as it:
        yield it


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def jobs_of(mode, repository, helm, targets):
    """The scrape configs of a way to install Prometheus."""
    if mode != "pod monitors":
        return [pod_job("kubernetes-pods", honor_labels=mode == "honoured", path=targets)]
    command = [helm, "template", "memroute", str(repository / "helm" / "memroute"), "-n", SYSTEM]
    command += ["--set", "monitoring.podMonitors.enabled=true"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    monitors = [one for one in yaml.safe_load_all(text) if one and one["kind"] == "PodMonitor"]
    return [job for monitor in monitors for job in pod_monitor_job(monitor, targets)]


@pytest.fixture(scope="module")
def prometheis(fleet, repository, helm, tmp_path_factory):
    """By mode; once each has seen traffic for long enough to have rates."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        found = {}
        for mode in MODES:
            folder = tmp_path_factory.mktemp("prometheus")
            jobs = jobs_of(mode, repository, helm, fleet.targets)
            rules = drilled(groups(GROUPS)) if mode == MODES[0] else None
            server = Prometheus(folder, jobs, rules, port=free_port())
            found[mode] = stack.enter_context(server)
        for mode, server in found.items():
            server.wait_for(f"rates, {mode}", lambda s=server: s.query(HAS_RATES))
        yield found


def drilled(rules):
    """The rules with waits and windows of seconds, so that a drill takes no hour."""
    rules = copy.deepcopy(rules)
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["for"] = "0s"
            rule["expr"] = re.sub(r"\[\d+m\]", "[20s]", rule["expr"])
    return rules


@pytest.fixture(params=MODES)
def prometheus(request, prometheis):
    return prometheis[request.param]


def settled(expr):
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


QUERIES = sorted(
    {settled(expr) for one in DASHBOARDS for expr in one.expressions()}
    | {alert.value for alert in ALERTS}
)


def test_all_targets_are_up(prometheus):
    """Operator, two routers, three engines; a port by the wrong name is found by nobody."""
    prometheus.wait_for("six pages", lambda: [v for _, v in prometheus.query("up")] == [1.0] * 6)


def test_every_query_of_every_dashboard_and_alert_has_series(prometheus):
    """An empty panel says nothing, and an alert without series is one that never fires."""

    def empty():
        return [expr for expr in QUERIES if not prometheus.query(expr)]

    prometheus.wait_for("every query to have series", lambda: not empty() or None) if empty() else 0
    assert empty() == []
    assert len(QUERIES) > 120


def test_nothing_is_attributed_to_another(prometheus, fleet):
    """first-day: all six GPUs were the operator's node, all replicas the router's pod."""
    pods = fleet.pods()
    replicas = replicas_of(pods)
    nodes = {name for there in replicas.values() for name in there.values()}
    nodes |= {node["metadata"]["name"] for node in fleet.cluster.get("nodes")}
    scraped = {
        (pod["metadata"]["namespace"], pod["metadata"]["name"]): pod["status"].get("podIP")
        for pod in pods
    }
    seen = 0
    for expr in (*QUERIES, '{__name__=~"memroute_.+"}', '{__name__=~"vllm:.+"}'):
        for labels, _ in prometheus.query(expr):
            assert not [name for name in labels if name.startswith("exported_")], labels
            if labels.get("__name__", "").startswith("vllm:"):
                assert labels["pod"] in {name for one in replicas.values() for name in one}, labels
            else:
                check_model(labels, replicas)
            if "node_name" in labels:
                assert labels["node_name"] in nodes, labels
            if "node_name" in labels and "device" in labels:
                assert device_nodes(fleet)[labels["device"]] == labels["node_name"], labels
            if "pod" in labels:
                address = scraped[labels["namespace"], labels["pod"]]
                assert labels["instance"].rpartition(":")[0] == address, labels
            seen += 1
    assert seen > 1000


def check_model(labels, replicas):
    """The ModelDeployment is one of the cluster's, the replica one of its own, on its node."""
    model = (labels.get("model_namespace"), labels.get("model_deployment"))
    if None in model:
        return
    assert model in DEPLOYMENTS, labels
    if "replica" in labels:
        assert labels["replica"] in replicas[model], labels
        node = replicas[model][labels["replica"]]
        assert labels.get("node_name", node) == node, labels
    if "namespace" in labels:  # who was scraped, and not whom it speaks of
        assert labels["namespace"] == SYSTEM, labels


_DEVICES = {}


def device_nodes(fleet):
    """UUID → node, as the exporters themselves say."""
    if not _DEVICES:
        view = fleet.cluster.wait_for("the operator's readings", lambda: _view(fleet))
        for node, reading in view["nodes"].items():
            _DEVICES.update({device[0]: node for device in reading["devices"]})
    return _DEVICES


def _view(fleet):
    for one in fleet.cluster.get("configmaps", "-n", SYSTEM):
        if one["metadata"]["name"] == "memroute-fleet":
            return json.loads(one["data"]["view"])
    return None


def test_two_routers_are_two_and_a_replica_is_one(prometheus, fleet):
    """Sums of what each counts are the truth; what both say of a replica is said once."""
    by_router = "sum by (instance) (memroute_router_requests_total)"
    prometheus.wait_for("two routers", lambda: len(prometheus.query(by_router)) == 2)
    capacity = (
        "max by (model_namespace, model_deployment, replica) (memroute_router_kv_capacity_tokens)"
    )
    told = {labels["replica"] for labels, _ in prometheus.query(capacity)}
    there = replicas_of(fleet.pods())
    assert told == {name for model in there.values() for name in model}
    outcomes = prometheus.query(
        'memroute_router_requests_total{model_namespace="team-b",model_deployment="chat"}'
    )
    assert len(outcomes) == 2 * len(Outcome)


def test_what_is_counted_is_what_was_asked(prometheus, fleet):
    """Of both routers together, neither twice nor half; before a drill restarts one."""
    with fleet.quiet():
        for expr, truth in (
            ('sum(memroute_router_requests_total{outcome="served"})', fleet.served),
            ("sum(memroute_router_requests_total)", fleet.num_asked),
            ('sum(memroute_router_tenant_requests_total{tenant="search"})', None),
        ):
            told = prometheus.wait_for(
                expr, lambda e=expr, n=truth: [v for _, v in prometheus.query(e) if n in (None, v)]
            )
            assert told[0] > 50


# Alert → the fault, and a label of the alert that it is about.
DRILLS = {
    "MemrouteForeignMemory": ("foreign", ("node_name", "gpu-a")),
    "MemrouteExporterStale": ("exporter", ("node_name", "gpu-b")),
    "MemrouteDeviceUnusable": ("xid", ("node_name", "gpu-d")),
    "MemrouteConfigRefused": ("keys", ("file", "keys")),
    "MemrouteReplicaHung": ("hang", ("model_namespace", "team-b")),
    "MemrouteReplicaAvoided": ("errors", ("model_namespace", "team-b")),
    "MemrouteTargetsMissed": ("slow", ("model_namespace", "team-b")),
    "MemrouteRefusals": ("push-back", ("model_namespace", "team-b")),
    "MemrouteRetries": ("one-pushes-back", ("model_namespace", "default")),
    "MemroutePreemptions": ("past-the-routers", ("model_namespace", "team-b")),
    "MemrouteOverbooked": ("promised-twice", ("model_namespace", "default")),
    "MemrouteOperatorRefused": ("quota", ("status", "403")),
    "MemrouteRouterSlow": ("throttled", ("severity", "warning")),
    "MemroutePeersUnheard": ("deaf", ("severity", "warning")),
    "MemrouteNodeUnreachable": ("gone", ("severity", "critical")),
    "MemrouteOperatorNotLeading": ("operator", ("severity", "critical")),
    "MemrouteRouterGone": ("router", ("severity", "critical")),
}


def annotate(fleet, node, name, value):
    fleet.cluster.kubectl("annotate", "node", node, "--overwrite", f"{FAULT}/{name}{value}")


def scale(fleet, component, replicas):
    fleet.cluster.kubectl(
        "scale", f"deployment/memroute-{component}", "-n", SYSTEM, f"--replicas={replicas}"
    )


def engine_address(fleet, namespace="team-b"):
    """Of the first replica of the namespace's chat."""
    name = min(replicas_of(fleet.pods())[namespace, "chat"])
    (pod,) = (one for one in fleet.pods() if one["metadata"]["name"] == name)
    return f"http://{pod['status']['podIP']}:8000"


def post_fault(fleet, namespace="team-b", **faults):
    url = f"{engine_address(fleet, namespace)}/simulator/faults"
    urllib.request.urlopen(url, json.dumps(faults).encode(), timeout=30).close()


def processes_of(address):
    """Those of the pod that has it: emulated pods are processes of this machine."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
            if f"POD_IP={address}".encode() in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)


def signal_router(fleet, number):
    """To one of the two."""
    for process in processes_of(min(fleet.routers().values())):
        os.kill(process, number)


def break_file(fleet):
    path = fleet.keys
    whole = path.read_text()
    path.write_text("{broken")
    return lambda: path.write_text(whole)


NODE_FAULTS = {
    "foreign": ("gpu-a", "foreign-hbm", '{"0": 21474836480}'),
    "exporter": ("gpu-b", "exporter-down", "true"),
    "xid": ("gpu-d", "xid", '{"0": 79}'),
    "gone": ("gpu-d", "gone", "true"),
}
# Of the one replica of team-b: what is wrong, and what mends it.
ENGINE_FAULTS = {
    "hang": ("is_hanging", True, False),
    "errors": ("error_ratio", 1.0, 0.0),
    "slow": ("slowdown_ratio", 30.0, 1.0),
}


def one_pushes_back(fleet):
    """Of two replicas one is often full: it answers a third of the requests with 503."""
    post_fault(fleet, "default", error_ratio=0.34, error_status=503)
    return lambda: post_fault(fleet, "default", error_ratio=0.0, error_status=500)


def push_back(fleet):
    post_fault(fleet, error_ratio=1.0, error_status=503)
    return lambda: post_fault(fleet, error_ratio=0.0, error_status=500)


def past_the_routers(fleet):
    """Long answers that nobody has admitted fill the KV cache of an engine."""
    stopping = threading.Event()
    url = f"{engine_address(fleet)}/v1/completions"
    document = {
        "model": "b/chat", "prompt": "on and on " * 20, "max_tokens": 7000, "ignore_eos": True,
    }  # fmt: skip

    def flood():
        while not stopping.is_set():
            request = urllib.request.Request(
                url, json.dumps(document).encode(), {"content-type": "application/json"}
            )
            with contextlib.suppress(OSError, http.client.HTTPException):
                urllib.request.urlopen(request, timeout=20).read()

    threads = [threading.Thread(target=flood, daemon=True) for _ in range(24)]
    for thread in threads:
        thread.start()
    return stopping.set


def promised_twice(fleet):
    """A pod says that it was promised more than its device has, as one placed by hand may."""
    name = min(replicas_of(fleet.pods())["default", "chat"])
    told = json.loads(fleet.cluster.kubectl("get", "pod", name, "-n", "default", "-o", "json"))
    before = told["metadata"]["annotations"][ANNOTATION_RESERVATION]
    promised = json.loads(before)
    promised["devices"] = dict.fromkeys(promised["devices"], 200 * 2**30)
    note = f"{ANNOTATION_RESERVATION}={json.dumps(promised)}"
    fleet.cluster.kubectl("annotate", "pod", name, "-n", "default", "--overwrite", note)
    # It leaves by itself, and another one is made; where it is still there it says what it said.
    note = f"{ANNOTATION_RESERVATION}={before}"

    def mend():
        with contextlib.suppress(subprocess.CalledProcessError):
            fleet.cluster.kubectl("annotate", "pod", name, "-n", "default", "--overwrite", note)

    return mend


def quota(fleet):
    """A quota without room for any of twelve replicas."""
    kubectl = fleet.cluster.kubectl
    kubectl("create", "namespace", "full")
    kubectl("create", "quota", "none", "--hard=pods=0", "-n", "full")
    apply(fleet.cluster, "full", "many", replicas=12,
          model={"name": "Qwen/Qwen3-0.6B", "servedName": "many"})  # fmt: skip
    return lambda: kubectl("delete", "namespace", "full", "--wait=false")


def throttled(fleet):
    """A core that a router has a third of: stopped and let go, again and again."""
    stopping = threading.Event()

    def throttle():
        while not stopping.is_set():
            signal_router(fleet, signal.SIGSTOP)
            stopping.wait(0.6)
            signal_router(fleet, signal.SIGCONT)
            stopping.wait(0.3)

    thread = threading.Thread(target=throttle, daemon=True)
    thread.start()

    def mend():
        stopping.set()
        thread.join()

    return mend


def deaf(fleet):
    """One of two routers says nothing any more."""
    signal_router(fleet, signal.SIGSTOP)
    return lambda: signal_router(fleet, signal.SIGCONT)


OTHER_FAULTS = {
    "push-back": push_back, "one-pushes-back": one_pushes_back,
    "past-the-routers": past_the_routers, "promised-twice": promised_twice, "quota": quota,
    "throttled": throttled, "deaf": deaf,
}  # fmt: skip


def cause(fleet, fault):
    """Make it happen; what mends it."""
    if fault in NODE_FAULTS:
        node, name, value = NODE_FAULTS[fault]
        annotate(fleet, node, name, f"={value}")
        return lambda: annotate(fleet, node, name, "-")
    if fault == "keys":
        return break_file(fleet)
    if fault in ENGINE_FAULTS:
        name, wrong, right = ENGINE_FAULTS[fault]
        post_fault(fleet, **{name: wrong})
        return lambda: post_fault(fleet, **{name: right})
    if fault in OTHER_FAULTS:
        return OTHER_FAULTS[fault](fleet)
    scale(fleet, fault, 0)
    return lambda: scale(fleet, fault, {"operator": 1, "router": 2}[fault])


@pytest.mark.parametrize("alert", DRILLS)
def test_an_alert_fires_by_a_fault_and_resolves_without_it(alert, fleet, prometheis):
    """What was never seen to fire is a hope."""
    prometheus, (fault, label) = prometheis[MODES[0]], DRILLS[alert]

    def fires():
        told = prometheus.ask("alerts")["alerts"]
        return [
            one
            for one in told
            if one["labels"]["alertname"] == alert and label in one["labels"].items()
        ]

    prometheus.wait_for(f"no {alert}", lambda: not fires(), 120)
    mend = cause(fleet, fault)
    try:
        for one in prometheus.wait_for(f"{alert} to fire", fires, 120):
            told = json.dumps(one["annotations"])
            assert "<no value>" not in told
            assert "error expanding" not in told
    finally:
        mend()
    prometheus.wait_for(f"{alert} to resolve", lambda: not fires(), 120)


FITS_NOWHERE = {
    "MemrouteModelUnavailable", "MemrouteReplicasMissing", "MemrouteModelStalled",
    "MemrouteFailures",
}  # fmt: skip


def test_the_page_says_which_alerts_are_drilled_here():
    """The others are drilled by series, in promtool alone."""
    told = {alert.name for alert in ALERTS if alert.drill.startswith("Fault on the emulated fleet")}
    assert told == DRILLS.keys() | FITS_NOWHERE


def test_a_model_that_fits_nowhere_is_told_until_it_is_deleted(fleet, prometheis):
    """Four alerts at once, about the one ModelDeployment and no other."""
    prometheus, wanted = prometheis[MODES[0]], FITS_NOWHERE

    def about_large():
        return {
            one["labels"]["alertname"]
            for one in prometheus.ask("alerts")["alerts"]
            if one["state"] == "firing" and one["labels"].get("model_deployment") == "large"
        }

    prometheus.wait_for("the alerts", lambda: not (wanted - about_large()) or None, 120)
    fleet.cluster.kubectl("delete", "mdep", "large", "-n", "default")
    prometheus.wait_for("them to resolve", lambda: not wanted & about_large(), 120)
    apply_large(fleet.cluster)
