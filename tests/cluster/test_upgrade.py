import subprocess

import pytest

from audit_log import events
from cluster_support import apply, condition, pods_of, wait_ready
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_operator.replicas.replica import ANNOTATION_STARTED_WITH
from memroute_simulator.emulated_cluster import EmulatedCluster
from previous_release import unpack_previous_release
from router_objects import BeliefsRig

SYSTEM = "memroute-system"
CRD = "modeldeployments.memroute.dev"
FLEET = [
    {"name": "gpu-a", "machine": "h100-1", "gpuSharing": "shared"},
    {"name": "gpu-b", "machine": "h100-2"},
    {"name": "plain", "machine": "plain"},
]
# Emulated pods have loopback addresses alone, which EndpointSlices refuse.
WITHOUT_SERVICE = ("--set", "router.service.enabled=false")
ARGUMENTS = ["--scrape-seconds=1", "--resync-seconds=5", "--drain-timeout-seconds=5"]
MODELS = {
    # One: 0.1 starts engines so that a second one on a device finds too little free memory.
    "shared": {
        "replicas": 1,
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

    def install_0_1(self, chart):
        self.run(
            "install", "memroute", str(chart), "--create-namespace", *WITHOUT_SERVICE,
            "--set", "operator.args={" + ",".join(ARGUMENTS) + "}",
        )  # fmt: skip

    def upgrade(self, chart, *more, release="memroute", namespace=SYSTEM):
        """As docs/how-to/upgrade.md says, from 0.1 too, whose value has another name today."""
        return self.run(
            "upgrade", "--install", release, str(chart), "--create-namespace", *WITHOUT_SERVICE,
            "--reset-values", "--take-ownership", "--force-conflicts",
            "--set", "operator.extraArgs={" + ",".join(ARGUMENTS) + "}", *more,
            namespace=namespace,
        )  # fmt: skip

    def run(self, *arguments, namespace=SYSTEM, waits=("--wait", "--timeout", "600s")):
        command = [self._binary, *arguments, "-n", namespace, *waits]
        command += ["--kubeconfig", str(self._cluster.kubeconfig)]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout


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
        )


def put_crd(cluster, chart):
    """The CRD of 0.1, as the documentation of rollbacks says."""
    crd = chart / "crds" / "modeldeployments.memroute.dev.yaml"
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crd))


def is_kept(cluster):
    """Whether the CRD is of today and outlives its release."""
    crd = cluster.read("crd", "", CRD)
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    is_new = "template" in schema["properties"]["spec"]["properties"]
    return is_new and crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def apply_as_0_1(cluster, name, **spec):
    """A ModelDeployment in the words that 0.1 and its CRD know."""
    apply(cluster, "models", name, **{"placement": {"mode": "shared"}} | spec)


def status_patches(cluster, since):
    """ModelDeployment → how often its status was written since then."""
    counts = {}
    for event in events(cluster.audit_log, since=since):
        reference = event.get("objectRef", {})
        if event["verb"] == "patch" and reference.get("subresource") == "status":
            counts[reference["name"]] = counts.get(reference["name"], 0) + 1
    return counts


def test_an_upgrade_and_a_rollback_restart_no_engine(upgraded, repository, helm, tmp_path):
    """From the release before, with replicas that serve, to this one, back, and here again.

    First with the older CRD, which the operator has to stand; then the chart brings its own.
    Before the rollback the older one is put back: 0.1 needs fields that have another name today.
    Each operator must have looked at every
    replica before the uids are compared. Objects are as 0.1 stored them: it cannot read the
    words of today, so the way back ends when they are written.
    """
    cluster, release = upgraded, unpack_previous_release(repository, tmp_path / "previous")
    print(f"the release before this one: {release.name}")  # noqa: T201 - it depends on the clone
    charts = Helm(helm, cluster)
    charts.install_0_1(release.chart)
    for name, facts in MODELS.items():
        apply_as_0_1(cluster, name, **facts)
    for name in MODELS:
        wait_ready(cluster, "models", name)
    before = uids(cluster)
    assert len(before) == 2
    # Routers may be upgraded first.
    assert believed(cluster) == before.keys()

    chart = repository / "helm" / "memroute"
    charts.upgrade(chart, "--set", "crds.enabled=false")
    wait_template(cluster, MODELS, "True")
    assert uids(cluster) == before
    assert believed(cluster) == before.keys()

    # The older CRD drops what it does not know from a status: that is no reason to write it again.
    since = cluster.audit_log.stat().st_size
    apply_as_0_1(cluster, "new", memory={"maxContextTokens": 2048})
    wait_ready(cluster, "models", "new")
    assert max(status_patches(cluster, since).get(name, 0) for name in MODELS) <= 5

    charts.upgrade(chart)
    assert is_kept(cluster)
    cluster.kubectl("scale", "mdep/shared", "--replicas=3", "-n", "models")
    wait_ready(cluster, "models", "shared")
    now = uids(cluster)
    assert now | before == now
    assert len(now) == 5
    assert believed(cluster) == now.keys()

    put_crd(cluster, release.chart)
    charts.run("rollback", "memroute", "1")
    wait_template(cluster, [*MODELS, "new"], None)
    assert uids(cluster) == now
    assert believed(cluster) == now.keys()

    charts.upgrade(chart)
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


def calls_of(cluster, account, since):
    """(verb, resource, namespace) that an account has written, and what it was refused."""
    written, refused = set(), []
    for event in events(cluster.audit_log, since=since):
        if event["user"]["username"] != f"system:serviceaccount:{account}":
            continue
        reference = event.get("objectRef", {})
        call = event["verb"], reference.get("resource"), reference.get("namespace")
        if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid":
            refused.append(call)
        if event["verb"] not in ("get", "list", "watch"):
            written.add(call)
    return written, refused


def all_stay(cluster, namespace):
    """Whether no pod of the namespace is on its way out."""
    pods = cluster.get("pods", "-n", namespace)
    return not any("deletionTimestamp" in pod["metadata"] for pod in pods)


def left_behind(cluster):
    """Everything of the cluster whose name has memroute in it, as kind/name, and engines."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    kinds = [kind for kind in kinds if "event" not in kind and "endpoints" not in kind]
    names = cluster.kubectl("get", ",".join(kinds), "-A", "-o", "name").split()
    return {name for name in names if "memroute" in name}


def serve(cluster, namespace):
    apply(cluster, namespace, "mine", model={"name": "Qwen/Qwen3-0.6B", "servedName": namespace})
    wait_ready(cluster, namespace, "mine")


def test_two_releases_stand_side_by_side_and_leave_nothing_but_what_is_said(
    upgraded, repository, helm
):
    """Each looks after its own namespaces with its own rights, and answers `helm test`.

    Engines outlive them both. What is left then is what docs/how-to/uninstall.md says, no more.
    """
    cluster, charts, chart = upgraded, Helm(helm, upgraded), repository / "helm" / "memroute"
    releases = {"memroute": (SYSTEM, "team-a"), "other": ("others", "team-b")}
    since = {}
    for release, (namespace, models) in releases.items():
        cluster.kubectl("create", "namespace", models)
        scope = ("--set", f"scope.namespaces={{{models}}},router.replicas=2")
        charts.upgrade(chart, *scope, release=release, namespace=namespace)
        (url, *_) = (
            f"http://{pod['status']['podIP']}:8000"
            for pod in cluster.get("pods", "-n", namespace)
            if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "router"
            and "deletionTimestamp" not in pod["metadata"]
        )
        told = charts.upgrade(
            chart, *scope, "--set", f"helmTest.url={url}", release=release, namespace=namespace
        )
        assert ("belongs to release memroute" in told) == (release == "other")
        # One of the whole cluster that still ends may ask for what is no longer granted.
        cluster.wait_for("the pods before to be gone", lambda ns=namespace: all_stay(cluster, ns))
        since[release] = cluster.audit_log.stat().st_size
        serve(cluster, models)
        words = charts.run("test", release, "--logs", namespace=namespace, waits=())
        assert "serves" in words
    with pytest.raises(AssertionError, match="two of one namespace share a Lease"):
        charts.upgrade(chart, release="third")
    told = charts.upgrade(chart, *scope, release="other", namespace="others")
    assert "1 ModelDeployment(s): team-b/mine." in told, "the notes name what outlives the release"

    for release, (namespace, models) in releases.items():
        name = release if release == "memroute" else f"{release}-memroute"
        for program in ("operator", "router"):
            written, refused = calls_of(cluster, f"{namespace}:{name}-{program}", since[release])
            assert refused == []
            assert (("create", "pods", models) in written) == (program == "operator")
            assert {where for *_, where in written} <= {models, namespace}

    before = {pod["metadata"]["uid"] for pod in pods_of(cluster, "team-b")}
    assert before
    for release, (namespace, _) in releases.items():
        told = charts.run("uninstall", release, namespace=namespace)
        assert CRD in told, "Helm says that it stays"
        if release == "memroute":
            # Who is left looks after the CRD from now on.
            charts.upgrade(chart, *scope, release="other", namespace="others")
            owner = cluster.read("crd", "", CRD)["metadata"]
            assert owner["annotations"]["meta.helm.sh/release-name"] == "other"
    assert {pod["metadata"]["uid"] for pod in pods_of(cluster, "team-b")} == before

    cluster.kubectl("delete", "mdep", "--all", "-A")
    cluster.wait_for(
        "engines to go", lambda: not cluster.get("pods", "-l", LABEL_DEPLOYMENT),
    )  # fmt: skip
    books = [f"configmap/memroute-{name}" for name in ("calibrations", "fleet", "map", "weights")]
    lease = "lease.coordination.k8s.io/memroute-operator"
    definition = {
        f"customresourcedefinition.apiextensions.k8s.io/{CRD}",
        "apiservice.apiregistration.k8s.io/v1alpha1.memroute.dev",
    }
    # Programs have their grace; the rest is there or not.
    cluster.wait_for(
        "pods of the programs to go",
        lambda: not any(name.startswith("pod/") for name in left_behind(cluster)),
    )
    # What an owner leaves is collected a moment later.
    said = {*definition, lease, *books, f"namespace/{SYSTEM}"}
    cluster.wait_for("no more than that to be left", lambda: left_behind(cluster) <= said)
    cluster.kubectl("delete", "crd", CRD)
    for namespace, _ in releases.values():
        cluster.kubectl("delete", "-n", namespace, "--ignore-not-found", lease, *books)
    cluster.wait_for("nothing to be left", lambda: left_behind(cluster) == {f"namespace/{SYSTEM}"})
