"""InferencePools on a real API server: what the operator writes, and what the picker decides by it.

A control plane of its own, because the picker is installed with the chart, and because kinds are
installed and removed. Pods have loopback addresses here, to which no EndpointSlice may lead: the
operator is told of a picker elsewhere, whose pods nobody runs. The picker that decides is real.
"""

import asyncio
import gzip
import json

import httpx
import pytest
import yaml

from cluster_support import (
    apply,
    condition,
    create_namespace,
    fetch,
    get_deployment,
    install_definition,
    installed_cluster,
    wait_condition,
    wait_program,
    wait_ready,
)
from gateway_rig import Gateway, Stream
from memroute_kube.resources import is_condition_true
from memroute_simulator.emulated_cluster import KubectlError
from page_blocks import Yaml, documents
from rights_used import check_rights
from router_rig import body

FLEET = [
    {"exporterSeconds": 1, "name": "gpu-a", "machine": "h100-1", "gpuSharing": "shared"},
    {"exporterSeconds": 1, "name": "gpu-b", "machine": "h100-2"},
    {"name": "plain", "machine": "plain"},
]
# A resync is no help: what is put right is put right by what is watched.
OPERATOR_ARGS = ["--scrape-seconds=1", "--resync-seconds=600", "--drain-timeout-seconds=5"]
PICKERS = "elsewhere"
VALUES = (
    "picker.enabled=true",
    "picker.replicas=1",
    "picker.settings.trustHeaders=true",
    f"operator.settings.pickerSelector={PICKERS}/app=picker",
)
POOLS, OBJECTIVES = "inferencepools", "inferenceobjectives"


@pytest.fixture(scope="module")
def cluster(repository, helm):
    chart = repository / "helm" / "memroute"
    with installed_cluster(FLEET, helm, chart, OPERATOR_ARGS, values=VALUES) as it:
        create_namespace(it, PICKERS)
        picker_pod(it, "first", "10.77.0.5")
        yield it


@pytest.fixture(scope="module")
def definitions(repository):
    """The CRDs, by the plural of their kind; objectives in the group that they have now, too."""
    folder = repository / "tests" / "data" / "gateway-api"
    found = {
        plural: gzip.decompress((folder / f"{plural}.yaml.gz").read_bytes()).decode()
        for plural in (POOLS, OBJECTIVES)
    }
    moved = yaml.load(found[OBJECTIVES], yaml.CSafeLoader)
    moved["metadata"] = {"name": f"{OBJECTIVES}.llm-d.ai"}
    moved["spec"]["group"] = "llm-d.ai"
    return found | {"moved": yaml.safe_dump(moved)}


def install(cluster, text):
    install_definition(cluster, yaml.load(text, yaml.CSafeLoader))


@pytest.fixture
def pools(cluster, definitions):
    """The kinds are there."""
    for text in definitions.values():
        install(cluster, text)


def create(cluster, **obj):
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(obj))


def patch(cluster, namespace, what, name, change, *flags):
    """What kubectl says of it."""
    return cluster.kubectl(
        "patch", what, name, "-n", namespace, "--type=merge", "-p", json.dumps(change), *flags
    )


def names(cluster, namespace):
    """What was written for gateways: (plural, name)."""
    return {
        (what, one["metadata"]["name"])
        for what in (POOLS, "services", "endpointslices")
        for one in cluster.get(what, "-n", namespace)
    }


ALL = {(POOLS, "m"), ("services", "picker-m"), ("endpointslices", "picker-m-ipv4")}


def wait_written(cluster, namespace, wanted=ALL):
    cluster.wait_for(f"{wanted} to be there", lambda: names(cluster, namespace) == wanted)


def one_of(cluster, namespace, what, name):
    return cluster.read(what, namespace, name)


def picker_pod(cluster, name, address):
    """A pod of the picker as a kubelet would tell of it; no node runs it."""
    create(
        cluster, apiVersion="v1", kind="Pod",
        metadata={"name": name, "namespace": PICKERS, "labels": {"app": "picker"}},
        spec={
            "schedulingGates": [{"name": "example.com/never"}],
            "containers": [{"name": "picker", "image": "pause"}],
        },
    )  # fmt: skip
    ready = {"type": "Ready", "status": "True"}
    status = {"podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]}
    patch(cluster, PICKERS, "pod", name, {"status": status}, "--subresource=status")


def addresses(cluster, namespace, name="picker-m-ipv4"):
    found = one_of(cluster, namespace, "endpointslices", name)
    return [address for one in found["endpoints"] or () for address in one["addresses"]]


def serve(cluster, namespace, **spec):
    apply(cluster, namespace, "m", routing={"gateway": {}}, **spec)
    wait_ready(cluster, namespace, "m")


def accept(cluster, namespace, name="m", *, accepted="True", resolved="True"):
    """What a gateway's controller writes of a pool."""

    def said(kind, status):
        return {
            "type": kind, "status": status, "reason": f"{kind}Reason", "message": "its words",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }  # fmt: skip

    parent = {
        "parentRef": {"name": "main", "namespace": "gateways"},
        "controllerName": "example.com/gateway",
        "conditions": [said("Accepted", accepted), said("ResolvedRefs", resolved)],
    }
    status = {"status": {"parents": [parent]}}
    patch(cluster, namespace, POOLS, name, status, "--subresource=status")


def test_without_the_kind_a_model_serves_and_says_so_and_gets_its_pool_when_it_comes(
    cluster, namespace, definitions
):
    """The first test, before the CRDs. Nothing else is hurt, and nobody restarts anything."""
    serve(cluster, namespace)
    told = wait_condition(
        cluster, namespace, "m", "GatewayNotReady", "InferencePoolsNotInstalled"
    )  # fmt: skip
    assert "inference.networking.k8s.io/v1" in told["message"]
    assert condition(cluster, namespace, "m", "Ready")["status"] == "True"
    install(cluster, definitions[POOLS])
    wait_written(cluster, namespace)
    wait_condition(cluster, namespace, "m", "GatewayNotReady", "NoGateway")
    pool = one_of(cluster, namespace, POOLS, "m")
    assert pool["spec"]["endpointPickerRef"] == {
        "group": "", "kind": "Service", "name": "picker-m", "port": {"number": 9002},
        "failureMode": "FailClose",
    }  # fmt: skip
    (pod,) = cluster.get("pods", "-n", namespace, "-l", "memroute.dev/model-deployment=m")
    labels = pod["metadata"]["labels"]
    assert pool["spec"]["selector"]["matchLabels"].items() <= labels.items()
    ports = [port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]]
    assert [port["number"] for port in pool["spec"]["targetPorts"]] == ports
    (port,) = one_of(cluster, namespace, "services", "picker-m")["spec"]["ports"]
    assert (port["port"], port["appProtocol"]) == (9002, "kubernetes.io/h2c")
    cluster.wait_for("the picker", lambda: addresses(cluster, namespace) == ["10.77.0.5"])


@pytest.mark.usefixtures("pools")
def test_a_pool_follows_the_spec_the_pickers_pods_and_what_gateways_say(cluster, namespace):
    """Level-triggered, from the wish to the last address."""
    serve(cluster, namespace)
    wait_written(cluster, namespace)
    accept(cluster, namespace)
    cluster.wait_for(
        "the gateway's word",
        lambda: get_deployment(cluster, namespace, "m")["status"].get("gateway", {}).get("parents"),
    )
    assert get_deployment(cluster, namespace, "m")["status"]["gateway"] == {
        "pool": "m", "service": "picker-m",
        "parents": [{"gateway": "gateways/main", "accepted": "True", "resolvedRefs": "True"}],
    }  # fmt: skip
    assert condition(cluster, namespace, "m", "GatewayNotReady")["status"] is None
    accept(cluster, namespace, resolved="False")
    told = wait_condition(cluster, namespace, "m", "GatewayNotReady", "PickerNotResolved")
    assert "gateways/main says ResolvedRefsReason: its words" in told["message"]
    apply(cluster, namespace, "m", routing={"gateway": {"failureMode": "FailOpen"}})
    cluster.wait_for(
        "the other mode",
        lambda: (
            one_of(cluster, namespace, POOLS, "m")["spec"]["endpointPickerRef"]["failureMode"]
            == "FailOpen"
        ),
    )
    picker_pod(cluster, "second", "10.77.0.6")
    both = ["10.77.0.5", "10.77.0.6"]
    cluster.wait_for("the second picker", lambda: addresses(cluster, namespace) == both)
    cluster.kubectl("delete", "pod", "second", "-n", PICKERS, "--grace-period=0", "--force")
    cluster.wait_for("it to be gone", lambda: addresses(cluster, namespace) == both[:1])


def set_picker_ready(cluster, name, *, is_ready):
    condition = {"type": "Ready", "status": "True" if is_ready else "False"}
    change = {"status": {"conditions": [condition]}}
    patch(cluster, PICKERS, "pod", name, change, "--subresource=status")


@pytest.mark.usefixtures("pools")
def test_a_model_whose_gateway_fails_open_does_not_sleep_while_no_picker_is_ready(
    cluster, namespace
):
    """Its gateway would send requests to an engine that sleeps, and nobody would wake it."""
    apply(
        cluster, namespace, "m", routing={"gateway": {"failureMode": "FailOpen"}},
        sleep={"afterSeconds": 10},
    )  # fmt: skip
    wait_ready(cluster, namespace, "m")

    def wait_for(reason):
        cluster.wait_for(
            f"m to be {reason}",
            lambda: condition(cluster, namespace, "m", "Ready")["reason"] == reason,
        )

    wait_for("Asleep")
    set_picker_ready(cluster, "first", is_ready=False)
    try:
        wait_for("Serving")
    finally:
        set_picker_ready(cluster, "first", is_ready=True)
    wait_for("Asleep")


def written(cluster, namespace):
    """Of what was written for gateways: all that somebody may change, by (plural, name)."""
    found = {}
    for what, name in names(cluster, namespace):
        try:
            obj = one_of(cluster, namespace, what, name)
        except KubectlError:
            continue  # it went meanwhile
        # A Service that is made anew has another address.
        spec = {k: v for k, v in obj.get("spec", {}).items() if not k.startswith("clusterIP")}
        labels = obj["metadata"].get("labels", {})
        found[what, name] = [spec, obj.get("ports"), obj.get("endpoints"), labels]
    return found


WITHOUT_LABEL = {"metadata": {"labels": {"memroute.dev/picker-service": None}}}
CHANGES = (
    (POOLS, "m", {"spec": {
        "targetPorts": [{"number": 8000}, {"number": 8001}],
        "selector": {"matchLabels": {"app": "other"}},
        "endpointPickerRef": {"name": "somebody"}}}),
    ("services", "picker-m", {"spec": {
        "selector": {"app": "other"},
        "ports": [{"name": "grpc", "port": 9002}, {"name": "more", "port": 9003}]}}),
    ("services", "picker-m", WITHOUT_LABEL),
    ("endpointslices", "picker-m-ipv4", {"endpoints": [{"addresses": ["10.9.9.9"]}]}),
    ("endpointslices", "picker-m-ipv4", WITHOUT_LABEL),
)  # fmt: skip


@pytest.mark.usefixtures("pools")
def test_what_somebody_changes_or_deletes_is_put_right_and_no_right_is_left_over(
    cluster, namespace
):
    """Within seconds: a gateway without its Service refuses every request.

    All that the operator may do to these objects is done here, and the picker follows them: the
    API server's audit log tells whether they could do with less.
    """
    serve(cluster, namespace)
    wait_written(cluster, namespace)
    cluster.wait_for("the picker", lambda: addresses(cluster, namespace) == ["10.77.0.5"])
    right = written(cluster, namespace)
    for what, name, change in CHANGES:
        told = patch(cluster, namespace, what, name, change)
        assert "no change" not in told, "it has another state to come back from"
        cluster.wait_for(
            f"{what} to be right after {change}", lambda: written(cluster, namespace) == right
        )
    for what, name in sorted(ALL):
        uid = one_of(cluster, namespace, what, name)["metadata"]["uid"]
        cluster.kubectl("delete", what, name, "-n", namespace)

        def is_another(what=what, name=name, uid=uid):
            found = {one["metadata"]["name"]: one for one in cluster.get(what, "-n", namespace)}
            return name in found and found[name]["metadata"]["uid"] != uid

        cluster.wait_for(f"another of {what}", is_another)
        wait_written(cluster, namespace)
    apply(cluster, namespace, "m", routing={})
    cluster.wait_for("nothing to be left", lambda: not names(cluster, namespace))
    check_rights(cluster, "picker")
    of_gateways = {POOLS, "services", "endpointslices"}
    check_rights(cluster, "operator", is_about=lambda resource: resource in of_gateways)


def foreign_pool(namespace, name="own", *, label="serve"):
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {
            "name": name, "namespace": namespace, "labels": {"memroute.dev/picker": label},
        },
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": f"{name}-picker", "port": {"number": 9002}},
        },
    }  # fmt: skip


@pytest.mark.usefixtures("pools")
def test_turning_it_off_removes_what_was_written_and_nothing_else(cluster, namespace):
    serve(cluster, namespace)
    wait_written(cluster, namespace)
    create(cluster, **foreign_pool(namespace, label="no"))
    spec = {"ports": [{"port": 1}], "selector": {"a": "b"}}
    create(cluster, apiVersion="v1", kind="Service", spec=spec,
           metadata={"name": "mine", "namespace": namespace})  # fmt: skip
    theirs = {(POOLS, "own"), ("services", "mine")}

    def without_slice_of_mine():
        # Kubernetes' own controller writes one for the Service.
        return {one for one in names(cluster, namespace) if not one[1].startswith("mine-")}

    apply(cluster, namespace, "m", routing={})
    cluster.wait_for("it to be gone", lambda: without_slice_of_mine() == theirs)
    cluster.wait_for(
        "the status to say nothing of it",
        lambda: "gateway" not in get_deployment(cluster, namespace, "m")["status"],
    )
    assert condition(cluster, namespace, "m", "GatewayNotReady")["status"] is None
    apply(cluster, namespace, "m", routing={"gateway": {}})
    cluster.wait_for("it to be back", lambda: without_slice_of_mine() == theirs | ALL)
    cluster.kubectl("delete", "mdep", "m", "-n", namespace)
    cluster.wait_for("it to be collected", lambda: without_slice_of_mine() == theirs)


@pytest.mark.usefixtures("pools")
def test_names_that_others_have_are_told_and_left_alone(cluster, namespace):
    """Written over, somebody else's route would lead to our pods."""
    create(cluster, **foreign_pool(namespace, "m", label="no"))
    serve(cluster, namespace)
    told = wait_condition(cluster, namespace, "m", "GatewayNotReady", "PoolNameTaken")
    assert f"InferencePool {namespace}/m" in told["message"]
    assert names(cluster, namespace) == {(POOLS, "m")}
    cluster.kubectl("delete", POOLS, "m", "-n", namespace)
    wait_written(cluster, namespace)
    apply(cluster, namespace, "m", routing={})
    cluster.wait_for("nothing", lambda: not names(cluster, namespace))
    spec = {"clusterIP": "None", "ports": [{"port": 1}]}
    create(cluster, apiVersion="v1", kind="Service", spec=spec,
           metadata={"name": "picker-m", "namespace": namespace})  # fmt: skip
    apply(cluster, namespace, "m", routing={"gateway": {}})
    told = wait_condition(cluster, namespace, "m", "GatewayNotReady", "PoolNameTaken")
    assert f"Service {namespace}/picker-m" in told["message"]
    assert one_of(cluster, namespace, "services", "picker-m")["spec"]["clusterIP"] == "None"
    cluster.kubectl("delete", "service", "picker-m", "-n", namespace)
    wait_written(cluster, namespace)


@pytest.mark.usefixtures("pools")
def test_a_pool_that_somebody_else_wrote_gets_its_service_while_it_asks(cluster, namespace):
    create(cluster, **foreign_pool(namespace))
    before = one_of(cluster, namespace, POOLS, "own")
    own = {(POOLS, "own"), ("services", "own-picker"), ("endpointslices", "own-picker-ipv4")}
    wait_written(cluster, namespace, own)
    assert one_of(cluster, namespace, POOLS, "own")["spec"] == before["spec"]
    patch(cluster, namespace, POOLS, "own", {"metadata": {"labels": {"memroute.dev/picker": None}}})
    wait_written(cluster, namespace, {(POOLS, "own")})
    patch(
        cluster, namespace, POOLS, "own", {"metadata": {"labels": {"memroute.dev/picker": "serve"}}}
    )
    wait_written(cluster, namespace, own)
    cluster.kubectl("delete", POOLS, "own", "-n", namespace)
    cluster.wait_for("Kubernetes to collect it", lambda: not names(cluster, namespace))


def engine_pod(cluster, namespace, name, *, app="own"):
    """An engine that somebody runs without memroute, on a whole device; its address."""
    create(
        cluster, apiVersion="v1", kind="Pod",
        metadata={"name": name, "namespace": namespace, "labels": {"app": app}},
        spec={
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "engine", "image": "memroute/simulator:0",
                "args": ["engine", "--model=Qwen/Qwen3-0.6B", "--served-model-name=theirs",
                         "--host=$(IP)", "--port=8000"],
                "env": [{"name": "IP",
                         "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "resources": {"limits": {"nvidia.com/gpu": 1}},
                "readinessProbe": {"httpGet": {"path": "/health", "port": 8000},
                                   "periodSeconds": 1},
            }],
        },
    )  # fmt: skip

    def is_ready():
        (pod,) = (
            one for one in cluster.get("pods", "-n", namespace) if one["metadata"]["name"] == name
        )
        return pod["status"]["podIP"] if is_condition_true(pod, "Ready") else None

    return cluster.wait_for(f"{name} to be ready", is_ready)


async def pick(host, called, model, **more):
    """What a picker decides for one request of a gateway that has called it by this name."""
    async with Gateway(9002, host=host) as gateway:
        stream = Stream(gateway, called=called.encode())
        return await stream.routed(body(model=model), **more)


@pytest.mark.usefixtures("pools")
def test_the_picker_decides_for_a_modeldeployment_and_for_engines_of_somebody_elses(
    cluster, namespace
):
    """The chart's own, under its own ServiceAccount, by the pools as they are written."""
    serve(cluster, namespace)
    (replica,) = cluster.get("pods", "-n", namespace, "-l", "memroute.dev/model-deployment=m")
    create(cluster, **foreign_pool(namespace))
    both = [f"{engine_pod(cluster, namespace, name)}:8000" for name in ("own-0", "own-1")]
    host = wait_program(cluster, "picker")
    own, ours = f"own-picker.{namespace}.svc:9002", f"picker-m.{namespace}.svc:9002"
    model = "Qwen/Qwen3-0.6B"

    def decided(called, model, **more):
        return asyncio.run(pick(host, called, model, **more))

    cluster.wait_for("the foreign pool", lambda: decided(own, "theirs").endpoint)
    cluster.wait_for(
        "both of its pods",
        lambda: {decided(own, "theirs").endpoint for _ in range(20)} == set(both),
    )
    cluster.wait_for("the ModelDeployment's", lambda: decided(ours, model).endpoint)
    assert decided(ours, model).endpoint == f"{replica['status']['podIP']}:8000"
    assert decided(ours, "theirs").status == 404
    assert decided("", "theirs").status == 404
    # A pod that serves on none of the pool's ports any more, by its own word.
    active = {"metadata": {"annotations": {"inference.networking.k8s.io/active-ports": ""}}}
    patch(cluster, namespace, "pod", "own-0", active)
    cluster.wait_for(
        "the other one",
        lambda: {decided(own, "theirs").endpoint for _ in range(10)} == {both[1]},
    )
    cluster.kubectl("delete", POOLS, "own", "-n", namespace)
    cluster.wait_for("the pool to be nobody's", lambda: decided(own, "theirs").status == 404)
    cluster.kubectl("delete", "pod", "own-0", "own-1", "-n", namespace, "--grace-period=1")


def metric(cluster, program, name):
    """Of its page; None while it cannot be asked."""
    try:
        page = fetch(f"http://{wait_program(cluster, program)}:8002/metrics")
    except httpx.HTTPError:
        return None
    lines = page.text.splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)


@pytest.mark.usefixtures("pools")
def test_router_and_picker_of_an_installation_hear_each_other(cluster, namespace):
    """They find each other by their labels; what follows is ``unit/test_picker_and_router.py``."""
    serve(cluster, namespace)
    wait_written(cluster, namespace)
    for program in ("router", "picker"):
        cluster.wait_for(
            f"the {program} to know the other and to hear it",
            lambda program=program: (
                metric(cluster, program, "memroute_router_peers") == 1
                and metric(cluster, program, "memroute_router_peers_heard") == 1
            ),
        )


PAGE = "docs/how-to/behind-a-gateway-picker.md"


@pytest.mark.usefixtures("pools")
def test_the_api_server_takes_every_object_of_the_page(cluster, namespace, repository):
    """The shared control plane of other pages does not have the kinds of gateways.

    Nor has this one Gateways: ``gateway/test_operator.py`` follows the page with Istio's.
    """
    packed = repository / "tests" / "data" / "gateway-api" / "httproutes.yaml.gz"
    install(cluster, gzip.decompress(packed.read_bytes()).decode())
    found = [
        one for block, one in documents(Yaml.OBJECT)
        if block.page == PAGE and one["kind"] != "Gateway"
    ]  # fmt: skip
    kinds = {one["kind"] for one in found}
    assert kinds == {"ModelDeployment", "HTTPRoute", "InferencePool", "InferenceObjective"}
    for one in found:
        text = json.dumps(one | {"metadata": one["metadata"] | {"namespace": namespace}})
        cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)


@pytest.mark.usefixtures("pools")
def test_pools_that_are_no_kind_any_more_hurt_nothing(cluster, namespace):
    """The last test: what other tests have written goes with the kind."""
    serve(cluster, namespace)
    wait_written(cluster, namespace)
    cluster.kubectl("delete", "crd", "inferencepools.inference.networking.k8s.io")
    wait_condition(cluster, namespace, "m", "GatewayNotReady", "InferencePoolsNotInstalled")
    apply(cluster, namespace, "m", replicas=2, routing={"gateway": {}})
    wait_ready(cluster, namespace, "m")
