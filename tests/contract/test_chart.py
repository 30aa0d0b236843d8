"""The chart and the kustomize files: what they make, and what the API server says of it."""

import asyncio
import copy
import json
import re

import pytest

from charts import chart, comparable, flags, kustomized, objects_of, overlay, pod_of, run
from charts import values_files as files_of
from dry_runs import dry_runs, parsed, pods_of
from memroute_operator.settings import parse_settings as parse_operator
from memroute_picker.settings import parse_settings as parse_picker
from memroute_router.settings import parse_settings as parse_router

SEVERAL = ("--set", "operator.replicas=2,router.replicas=2")
SCOPE = ("--set", "scope.namespaces={models}")
POLICIES = ("--set", "networkPolicy.enabled=true")
PICKER = ("--set", "picker.enabled=true")
GUARDED_PICKER = ["network-policies", "endpoint-picker", "endpoint-picker-policies"]


def test_the_chart_lints(repository, helm):
    path = str(repository / "helm" / "memroute")
    run(helm, "lint", "--strict", path)
    # The rest of the matrix is rendered below, which is nearly all that a lint does.
    for file in files_of(repository)[11:16]:
        run(helm, "lint", "--strict", path, "-f", str(file))


@pytest.mark.parametrize(
    ("components", "arguments"),
    [
        ([], ()),
        (["network-policies"], POLICIES),
        (["high-availability"], SEVERAL),
        (["monitoring"], ("--set", "monitoring.podMonitors.enabled=true")),
        (["endpoint-picker"], PICKER),
        (["endpoint-picker", "high-availability"], (*SEVERAL, *PICKER)),
        (GUARDED_PICKER, (*PICKER, *POLICIES)),
        (["high-availability", "namespaced"], (*SEVERAL, *SCOPE)),
    ],
    ids=[
        "base",
        "network policies",
        "high availability",
        "monitoring",
        "picker",
        "picker and high availability",
        "picker with network policies",
        "namespaced",
    ],
)
def test_chart_and_kustomize_install_the_same_objects(
    repository, helm, tmp_path, components, arguments
):
    """Whoever changes from one to the other changes nothing that runs."""
    ours = kustomized(overlay(repository, tmp_path, components))
    theirs = chart(helm, repository, *arguments)
    del ours["Namespace", "memroute-system", None]
    if components:
        # What is not asked for is compared once, with the base.
        ours, theirs = (
            {key: obj for key, obj in some.items() if obj["kind"] != "CustomResourceDefinition"}
            for some in (ours, theirs)
        )
    assert comparable(theirs) == comparable(ours)


def test_the_overlays_are_the_base_and_their_component(repository, tmp_path):
    for name in ("high-availability", "namespaced", "endpoint-picker"):
        shipped = kustomized(repository / "deploy" / "overlays" / name)
        assert shipped == kustomized(overlay(repository, tmp_path / name, [name]))
    images = kustomized(overlay(repository, tmp_path / "images", ["images"]))
    names = [pod_of(images, program)[1]["image"] for program in ("operator", "router")]
    names += flags(pod_of(images, "operator")[1]["args"])["--fetch-image"]
    assert all(name.startswith("registry.example.com/memroute/") for name in names)
    upgraded = kustomized(overlay(repository, tmp_path / "0.1", ["selectors-of-0.1"]))
    for program in ("operator", "router"):
        spec = upgraded["Deployment", f"memroute-{program}", "memroute-system"]["spec"]
        assert (
            spec["selector"]["matchLabels"].items()
            < {
                "app.kubernetes.io/name": "memroute",
                "app.kubernetes.io/component": program,
                "app.kubernetes.io/instance": "memroute",
            }.items()
        )


def test_the_pickers_policy_names_gateways_where_its_comment_says(repository, tmp_path):
    """The operations port and what pickers tell each other stay as they are."""
    gateways = {"namespaceSelector": {"matchLabels": {"team": "gateways"}}}
    change = [{"op": "add", "path": "/spec/ingress/0/from", "value": [gateways]}]
    patch = {
        "target": {"kind": "NetworkPolicy", "name": "memroute-picker"}, "patch": json.dumps(change),
    }  # fmt: skip
    objects = kustomized(overlay(repository, tmp_path, GUARDED_PICKER, [patch]))
    of_picker = [call for call in CALLS if "picker" in call]
    assert len(of_picker) == 6
    for what, *call in of_picker:
        assert is_let_in(objects, *call), what
    for what, *call in OTHERS:
        if call[2] == "picker":
            assert not is_let_in(objects, *call), what


@pytest.fixture(scope="module")
def matrix(repository, helm):
    """Values file → the objects that the chart makes of it, its tests too."""
    path = str(repository / "helm" / "memroute")
    found = {}
    for number, file in enumerate(files_of(repository)):
        text = run(helm, "template", f"r{number}", path, "-n", "default", "-f", str(file))
        found[file.name] = objects_of(text)
    return found


def test_the_api_server_takes_every_object_of_the_matrix_and_restricted_every_pod(
    cluster, namespace, matrix
):
    """A field that it does not know, or a pod that Pod Security refuses, would be told to users."""
    cluster.kubectl(
        "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    # The definition is the same in all of them: once is enough.
    first = next(iter(matrix))
    objects = {
        file: [one for one in these if file == first or one["kind"] != "CustomResourceDefinition"]
        for file, these in matrix.items()
    }
    refused, number = asyncio.run(dry_runs(cluster, objects, namespace))
    assert refused == []
    assert len(matrix) >= 20
    assert number > 250
    loose = {"x": [copy.deepcopy(pod) for pod in pods_of(matrix[first])]}
    loose["x"][0]["spec"]["securityContext"] = {}
    refused, _ = asyncio.run(dry_runs(cluster, loose, namespace))
    assert refused, "the namespace is restricted indeed"


def test_programs_take_every_flag_of_the_matrix(matrix):
    """A value that becomes a flag which nobody knows is a pod that crashes."""
    for file, objects in matrix.items():
        for pod in pods_of(objects):
            program = pod["metadata"]["labels"]["app.kubernetes.io/component"]
            (container,) = pod["spec"]["containers"]
            if program == "test":
                continue
            settings = parsed(program, container["args"])
            if file.startswith("16-") and program == "router":
                assert (settings.max_queued_tokens, settings.max_queue_seconds) == (5_000_000, 0)
                assert pod["spec"]["terminationGracePeriodSeconds"] == 300
            if file.startswith("16-") and program == "operator":
                assert settings.shared_runtime_class is None
                assert len(settings.exporter_selector) == 2


def test_releases_share_no_name_and_select_their_own_pods(repository, helm):
    """Two releases, also of one name in two namespaces, stand side by side."""
    made = [
        chart(helm, repository, *SEVERAL, *POLICIES, "--set", "userRoles=false,crds.enabled=false",
              release=release, namespace=namespace)
        for release, namespace in (("memroute", "a"), ("memroute", "b"), ("other", "c"))
    ]  # fmt: skip
    assert len({key for each in made for key in each}) == sum(map(len, made))
    first, _, other = made
    for program in ("operator", "router"):
        labels = pod_labels(other, program)
        for key, obj in first.items():
            for selector in selectors(obj):
                assert not selector.items() <= labels.items(), (key, selector)
    told = flags(pod_of(other, "operator")[1]["args"])
    peers = flags(pod_of(other, "router")[1]["args"])
    for text in (told["--router-selector"][0], peers["--peer-selector"][0]):
        assert selects(text, pod_labels(other, "router"))
        assert not selects(text, pod_labels(first, "router"))


def selects(text, labels):
    """Whether a selector in one line (``a=b``, ``a in (b,c)``) is true of labels."""
    found = re.findall(r"([^,]+?)(?:=| in )(\([^)]*\)|[^,]*)(?:,|$)", text)
    assert found, text
    return all(labels.get(name) in values.strip("()").split(",") for name, values in found)


def pod_labels(objects, program):
    (found,) = (
        obj["spec"]["template"]["metadata"]["labels"]
        for obj in objects.values()
        if obj["kind"] == "Deployment"
        and obj["metadata"]["labels"]["app.kubernetes.io/component"] == program
    )
    return found


def selectors(obj):
    """Every selector of pods in an object."""
    text = [obj.get("spec", {})]
    while text:
        part = text.pop()
        if isinstance(part, dict):
            if "matchLabels" in part and "memroute.dev/metrics" not in part["matchLabels"]:
                yield part["matchLabels"]
            if obj["kind"] == "Service" and "selector" in part:
                yield part["selector"]
            text += part.values()
        elif isinstance(part, list):
            text += part


def rules(objects, kind, *, program="operator"):
    """(namespace, group, resource, verb) that roles of a kind grant."""
    return {
        (obj["metadata"].get("namespace"), group, resource, verb)
        for obj in objects.values()
        if obj["kind"] == kind
        and obj["metadata"]["labels"]["app.kubernetes.io/component"] == program
        for rule in obj["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_a_scope_makes_roles_of_what_is_written(repository, helm):
    """Only what is read of the whole cluster stays a ClusterRole; the router has none at all."""
    everywhere = chart(helm, repository)
    scoped = chart(helm, repository, "--set", "scope.namespaces={a,b}")
    told = flags(pod_of(scoped, "operator")[1]["args"])
    assert told["--watch-namespace"] == flags(pod_of(scoped, "router")[1]["args"])["--namespace"]
    assert told["--watch-namespace"] == ["a", "b"]
    assert {verb for *_, verb in rules(scoped, "ClusterRole")} == {"list", "watch"}
    assert rules(scoped, "ClusterRole", program="router") == set()
    for namespace in ("a", "b"):
        moved = {(None, *one[1:]) for one in rules(scoped, "Role") if one[0] == namespace}
        assert moved | rules(scoped, "ClusterRole") == rules(everywhere, "ClusterRole")
    of_router = rules(scoped, "Role", program="router")
    own = {one[1:] for one in of_router if one[0] not in ("a", "b")}
    assert own == {("", "configmaps", "get")}, "of its own namespace: the map that it shows"
    read = {one[1:] for one in of_router if one[0] in ("a", "b")}
    assert read == {one[1:] for one in rules(everywhere, "ClusterRole", program="router")}


# Who really calls whom: the caller's labels (and those of its namespace, if not the release's),
# and program and port that it calls. What a policy says of the rest is below.
MONITORING = {"kubernetes.io/metadata.name": "monitoring", "memroute.dev/metrics": "allowed"}
CALLS = [
    ("a client's request", {}, {"team": "chat"}, "router", ("TCP", 8000)),
    ("in-flight requests and pressure", "operator", None, "router", ("TCP", 8002)),
    ("what routers tell each other", "router", None, "router", ("UDP", 8001)),
    ("a scrape of the router", {}, MONITORING, "router", ("TCP", 8002)),
    ("a scrape of the operator", {}, MONITORING, "operator", ("TCP", 8080)),
    ("helm test", "test", None, "router", ("TCP", 8000)),
    ("a gateway's question", {}, {"team": "gateways"}, "picker", ("TCP", 9002)),
    ("what pickers tell each other", "picker", None, "picker", ("UDP", 8001)),
    ("what a router tells pickers", "router", None, "picker", ("UDP", 8001)),
    ("what a picker tells routers", "picker", None, "router", ("UDP", 8001)),
    ("a scrape of the picker", {}, MONITORING, "picker", ("TCP", 8002)),
    ("what a picker has in flight", "operator", None, "picker", ("TCP", 8002)),
]
OTHERS = [
    ("a tenant who looks at others' requests", {}, {"team": "chat"}, "router", ("TCP", 8002)),
    ("a tenant who tells lies to routers", {}, {"team": "chat"}, "router", ("UDP", 8001)),
    ("a tenant who reads the fleet's metrics", {}, {"team": "chat"}, "operator", ("TCP", 8080)),
    ("health, which kubelets alone ask", {}, MONITORING, "operator", ("TCP", 8081)),
    ("another namespace's client", {}, {"team": "other"}, "router", ("TCP", 8000)),
    ("a tenant who asks where prompts go", {}, {"team": "chat"}, "picker", ("TCP", 9002)),
    ("a tenant who looks at decisions", {}, {"team": "gateways"}, "picker", ("TCP", 8002)),
]


def is_let_in(objects, caller, namespace, program, port):
    """Whether the policies of a pod let a call in, as the API describes them."""
    labels = caller if isinstance(caller, dict) else pod_labels_of(objects, caller)
    pod = pod_labels(objects, program)
    _, container = pod_of(objects, program)
    names = {one["name"]: one["containerPort"] for one in container["ports"]}
    policies = [
        obj["spec"] for obj in objects.values()
        if obj["kind"] == "NetworkPolicy"
        and obj["spec"]["podSelector"]["matchLabels"].items() <= pod.items()
    ]  # fmt: skip
    assert policies
    return any(
        any((one["protocol"], names.get(one["port"], one["port"])) == port for one in rule["ports"])
        and ("from" not in rule or any(admits(peer, labels, namespace) for peer in rule["from"]))
        for policy in policies
        for rule in policy.get("ingress", ())
    )


def pod_labels_of(objects, program):
    if program != "test":
        return pod_labels(objects, program)
    return pod_labels(objects, "router") | {"app.kubernetes.io/component": "test"}


def admits(peer, labels, namespace):
    """``namespace``: labels of the caller's; None for the release's own."""
    if "namespaceSelector" in peer:
        wanted = peer["namespaceSelector"].get("matchLabels", {})
        if namespace is None or not wanted.items() <= namespace.items():
            return False
    elif namespace is not None:
        return False
    return peer.get("podSelector", {}).get("matchLabels", {}).items() <= labels.items()


def test_network_policies_let_in_the_calls_that_are_made_and_no_others(repository, helm):
    """By the rules of the API: the emulated network has no policies."""
    allowed = []
    for who, team in (("clients", "chat"), ("gateways", "gateways")):
        peers = json.dumps([{"namespaceSelector": {"matchLabels": {"team": team}}}])
        allowed += ["--set-json", f"networkPolicy.{who}={peers}"]
    objects = chart(
        helm, repository, *SEVERAL, *POLICIES, "--set", "picker.enabled=true,picker.replicas=2",
        *allowed,
    )  # fmt: skip
    for what, *call in CALLS:
        assert is_let_in(objects, *call), what
    for what, *call in OTHERS:
        assert not is_let_in(objects, *call), what
    router, operator = parse_router([]), parse_operator([])
    ports = {port for *_, (_, port) in CALLS}
    picker = parse_picker([]).router
    assert (picker.ops_port, picker.peer_port) == (router.ops_port, router.peer_port)
    assert ports == {
        router.port, router.ops_port, router.peer_port, operator.metrics_port, picker.port,
    }  # fmt: skip
