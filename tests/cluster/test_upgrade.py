import json
import subprocess

import pytest

from cluster_support import apply, condition, pods_of, wait_ready
from memroute_operator.replicas.replica import ANNOTATION_STARTED_WITH
from memroute_simulator.emulated_cluster import EmulatedCluster
from previous_release import unpack_previous_release
from router_objects import BeliefsRig

SYSTEM = "memroute-system"
FLEET = [
    {"name": "gpu-a", "machine": "h100-1", "gpuSharing": "shared"},
    {"name": "gpu-b", "machine": "h100-2"},
    {"name": "plain", "machine": "plain"},
]
ARGUMENTS = ["--scrape-seconds=1", "--resync-seconds=5", "--drain-timeout-seconds=5"]
MODELS = {
    "shared": {
        "replicas": 2,
        "engine": {
            "args": ["--seed=1"],
            "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}],
        },
    },
    "whole": {"placement": {"mode": "exclusive"}},
}


@pytest.fixture(scope="module")
def upgraded():
    """A control plane of its own: the other tests' one keeps the chart that they test."""
    with EmulatedCluster(FLEET) as it:
        it.kubectl("create", "namespace", "models")
        yield it
        it.check_alive()


class Helm:
    """Installs charts on one cluster."""

    def __init__(self, binary, cluster):
        self._binary, self._cluster = binary, cluster

    def upgrade(self, chart):
        self._run(
            "upgrade", "--install", "memroute", str(chart), "--create-namespace",
            "--set", "router.service.enabled=false",
            "--set", "operator.args={" + ",".join(ARGUMENTS) + "}",
        )  # fmt: skip

    def roll_back(self):
        self._run("rollback", "memroute")

    def _run(self, *arguments):
        command = [self._binary, *arguments, "-n", SYSTEM, "--wait", "--timeout", "120s"]
        command += ["--kubeconfig", str(self._cluster.kubeconfig)]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def all_pods(cluster):
    return pods_of(cluster, "models")


def is_marked(pod):
    """Whether it says what its engine was started with."""
    return ANNOTATION_STARTED_WITH in pod["metadata"]["annotations"]


def uids(cluster):
    """Pod → its uid and restarts: an engine that was started anew is another one too."""
    return {
        pod["metadata"]["name"]: (
            pod["metadata"]["uid"],
            [status["restartCount"] for status in pod["status"]["containerStatuses"]],
        )
        for pod in all_pods(cluster)
    }


def believed(cluster):
    """The pods that a router of this release, started now, sends requests to."""
    rig = BeliefsRig(*cluster.get("mdep", "-n", "models"), pods=all_pods(cluster))
    models = {key.partition("/")[2] for model in rig.pools.names() for key in rig.replicas(model)}
    assert not rig.reasons(), rig.reasons()
    return models


def wait_template(cluster, names, status):
    """Until the operator of now has looked at each of them: 0.1 does not know the condition."""
    for name in names:
        cluster.wait_for(
            f"{name}: TemplateOutdated {status}",
            lambda name=name: (
                condition(cluster, "models", name, "TemplateOutdated")["status"] == status
            ),
            timeout_seconds=60,
        )


def put_crd(cluster, chart):
    """The CRD of a release, as its documentation says."""
    crd = chart / "crds" / "modeldeployments.memroute.dev.yaml"
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crd))


def apply_as_0_1(cluster, name, **spec):
    """A ModelDeployment in the words that 0.1 and its CRD know."""
    apply(cluster, "models", name, **{"placement": {"mode": "shared"}} | spec)


def status_patches(cluster, since):
    """ModelDeployment → how often its status was written since then."""
    counts = {}
    with cluster.audit_log.open() as log:
        log.seek(since)
        for line in log:
            event = json.loads(line)
            reference = event.get("objectRef", {})
            if event["verb"] == "patch" and reference.get("subresource") == "status":
                counts[reference["name"]] = counts.get(reference["name"], 0) + 1
    return counts


@pytest.mark.timeout(600)
def test_an_upgrade_and_a_rollback_restart_no_engine(upgraded, repository, helm, tmp_path):
    """From the release before, with replicas that serve, to this one, back, and here again.

    First with the older CRD, as Helm leaves it. Before the rollback the older CRD is put back:
    0.1 needs fields that have another name today. Each operator must have looked at every
    replica before the uids are compared. Objects are as 0.1 stored them: it cannot read the
    words of today, so the way back ends when they are written.
    """
    cluster, release = upgraded, unpack_previous_release(repository, tmp_path / "previous")
    print(f"the release before this one: {release.name}")  # noqa: T201 - it depends on the clone
    charts = Helm(helm, cluster)
    charts.upgrade(release.chart)
    for name, facts in MODELS.items():
        apply_as_0_1(cluster, name, **facts)
    for name in MODELS:
        wait_ready(cluster, "models", name, timeout_seconds=90)
    before = uids(cluster)
    assert len(before) == 3
    # Routers may be upgraded first.
    assert believed(cluster) == before.keys()

    charts.upgrade(repository / "helm" / "memroute")
    wait_template(cluster, MODELS, "True")
    assert uids(cluster) == before
    assert believed(cluster) == before.keys()

    # The older CRD drops what it does not know from a status: that is no reason to write it again.
    since = cluster.audit_log.stat().st_size
    apply_as_0_1(cluster, "new", memory={"maxContextTokens": 2048})
    wait_ready(cluster, "models", "new", timeout_seconds=90)
    assert max(status_patches(cluster, since).get(name, 0) for name in MODELS) <= 5

    put_crd(cluster, repository / "helm" / "memroute")
    cluster.kubectl("scale", "mdep/shared", "--replicas=3", "-n", "models")
    wait_ready(cluster, "models", "shared", timeout_seconds=90)
    now = uids(cluster)
    assert now | before == now
    assert len(now) == 5
    assert believed(cluster) == now.keys()

    put_crd(cluster, release.chart)
    charts.roll_back()
    wait_template(cluster, [*MODELS, "new"], None)
    assert uids(cluster) == now
    assert believed(cluster) == now.keys()

    put_crd(cluster, repository / "helm" / "memroute")
    charts.upgrade(repository / "helm" / "memroute")
    wait_template(cluster, MODELS, "True")
    assert uids(cluster) == now

    # Today's words are the same, and so are variables in another order, once 0.1's replicas have
    # been marked: neither restarts an engine.
    cluster.wait_for("every replica to be marked", lambda: all(map(is_marked, all_pods(cluster))))
    engine = MODELS["shared"]["engine"]
    apply(
        cluster, "models", "shared",
        replicas=3, engine=engine | {"env": engine["env"][::-1]},
    )  # fmt: skip
    apply(cluster, "models", "whole", placement={"mode": "Exclusive"})
    apply(cluster, "models", "new", memory={"maxContextTokens": 2048})
    for name in (*MODELS, "new"):
        wait_ready(cluster, "models", name)
    assert uids(cluster) == now
