"""``memroute doctor``: checks by tables of facts, and what may not be read."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import yaml

import crd_fields
from cluster_stub import refuse
from cluster_view import kubeconfig, memroute
from memroute_cli.doctor.checks import (
    all_findings,
    crd,
    devices,
    gateways,
    lease,
    lost_devices,
    models,
    namespaces,
    network,
    programs,
    request,
    rights,
    webhooks,
)
from memroute_cli.doctor.facts import Facts, Operator, RequestOutcome, Right, Unread
from memroute_cli.doctor.finding import State
from memroute_cli.doctor.gathering import own_fields
from memroute_operator.readings.device_metrics import DeviceReading, NodeReading
from memroute_operator.readings.fleet_view import FleetView
from operator_rig import mdep, operator_rig
from operator_rig import node as rig_node
from planned_objects import deployment as planned
from planned_objects import pod_of as pod_of_replica

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
NAMESPACE = "memroute-system"
UNREAD = Unread("you may not list these")


def node(name, **settings):
    """As the API server sends it."""
    it = rig_node(name, **settings)
    it["metadata"]["resourceVersion"] = "1"
    return it


def program(component, *, replicas=1, ready=1, image=None, args=()):
    labels = {"app.kubernetes.io/name": "memroute", "app.kubernetes.io/component": component}
    image = image or f"memroute/{component}:0.1.0"
    return {
        "metadata": {"name": f"memroute-{component}", "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"spec": {"containers": [{"image": image, "args": list(args)}]}},
        },
        "status": {"readyReplicas": ready},
    }  # fmt: skip


def pod_of(component, **status):
    labels = {"app.kubernetes.io/name": "memroute", "app.kubernetes.io/component": component}
    return {
        "metadata": {"name": f"{component}-1", "namespace": NAMESPACE, "labels": labels},
        "spec": {"containers": []}, "status": status,
    }  # fmt: skip


def waiting(reason, **more):
    return {"image": "x/y:1", "state": {"waiting": {"reason": reason}}} | more


def leased(holder="operator-1", seconds=3, **spec):
    at = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    spec = {"holderIdentity": holder, "renewTime": at, "leaseDurationSeconds": 15} | spec
    return {"metadata": {"name": "memroute-operator", "namespace": NAMESPACE}, "spec": spec}


def service(component="router", name="memroute-router", namespace=NAMESPACE, **labels):
    labels = labels or {
        "app.kubernetes.io/name": "memroute", "app.kubernetes.io/component": component,
    }  # fmt: skip
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"ports": [{"port": 80}], "selector": labels},
    }


def endpoints(name="memroute-router", namespace=NAMESPACE, ready=(True,)):
    return {
        "metadata": {
            "name": f"{name}-x", "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name},
        },
        "endpoints": [{"conditions": {"ready": one}} for one in ready],
    }  # fmt: skip


DNS = service(name="kube-dns", namespace="kube-system", **{"k8s-app": "kube-dns"})


def view(*nodes, seconds=10):
    reading = NodeReading(
        devices=(DeviceReading(uuid="GPU-1", index=0, product=None, free_bytes=1, used_bytes=1),),
        taken_at_seconds=0.0,
    )
    return FleetView(
        at=NOW - timedelta(seconds=seconds), scrape_seconds=5.0,
        readings=dict.fromkeys(nodes, reading),
    )  # fmt: skip


@pytest.fixture(scope="module")
def schema(crd):
    """The CRD of this release, as the API server has it."""
    return crd | {"status": {"conditions": [{"type": "Established", "status": "True"}]}}


@pytest.fixture
def facts(schema):
    """A cluster in which everything works."""
    return Facts(
        now=NOW, program_version="0.1.0", namespace=NAMESPACE, server_version="v1.34.1",
        crd=schema, crd_fields=own_fields(),
        deployments=(program("operator"), program("router")), daemon_sets=(), pods=(),
        nodes=(node("gpu-a", gpus=1),), leases=(leased(),), services=(service(), DNS),
        endpoint_slices=(endpoints(), endpoints("kube-dns", "kube-system")),
        runtime_classes=({"metadata": {"name": "nvidia"}},), namespaces=(), quotas=(), webhooks=(),
        model_deployments=(), pools=None, objectives=(), pool_services=(), view=view("gpu-a"),
        own_rights=dict.fromkeys(rights.own_rights(NAMESPACE), True),
        operator_rights=dict.fromkeys(rights.operator_rights(NAMESPACE), True),
    )  # fmt: skip


def states(findings):
    return [one.state.value for one in findings]


@pytest.mark.slow
def test_where_everything_works_nothing_is_said_to_be_wrong(facts):
    """A doctor that finds something in the healthy is not asked twice."""
    found = all_findings(facts)
    assert {one.state for one in found} == {State.OK}, [f for f in found if f.state != State.OK]
    assert len(found) >= 12


@pytest.mark.slow
def test_what_is_wrong_always_has_a_next_step(facts):
    """`Failed.` helps nobody at 3 a.m."""
    nothing = replace(
        facts, crd=None, deployments=(), leases=(), services=(), nodes=(), view=None,
        own_rights=UNREAD, operator_rights=UNREAD, namespaces=UNREAD, quotas=UNREAD,
        webhooks=UNREAD, model_deployments=(asking_model(),),
    )  # fmt: skip
    found = all_findings(nothing)
    assert State.FAILED in {one.state for one in found}
    for one in found:
        assert (one.next_step is None) == (one.state is State.OK), one


def test_what_may_not_be_read_is_unknown_and_never_well(facts):
    """A person with few rights must not be told that all is fine."""
    blind = replace(
        facts, crd=UNREAD, deployments=UNREAD, daemon_sets=UNREAD, pods=UNREAD, nodes=UNREAD,
        leases=UNREAD, services=UNREAD, endpoint_slices=UNREAD, runtime_classes=UNREAD,
        namespaces=UNREAD, quotas=UNREAD, webhooks=UNREAD, model_deployments=UNREAD, view=UNREAD,
        pools=UNREAD, objectives=UNREAD, pool_services=UNREAD, own_rights=UNREAD,
        operator_rights=UNREAD,
    )  # fmt: skip
    found = [one for one in all_findings(blind) if one.check != "api-server"]
    assert {one.state for one in found} == {State.UNKNOWN}


def test_where_nothing_answers_that_is_said_once(facts):
    """Fifteen checks once told the same refused connection in ninety lines."""
    silent = Unread("the API server does not answer: cannot connect to 10.0.0.1:6443")
    (finding,) = all_findings(replace(facts, server_version=silent, nodes=silent, crd=silent))
    assert finding.state is State.FAILED


@pytest.mark.slow
def test_the_fields_of_this_releases_crd_are_the_crds():
    """Compared with the file that is installed, so that no field is forgotten."""
    assert crd_fields.FIELDS.read_text() == crd_fields.text(), (
        "python tests/support/pages/crd_fields.py"
    )


def test_a_crd_of_another_release_is_told_by_its_fields(facts, schema):
    """An old CRD drops what it does not know without a word: a limit that is not kept."""
    older = json.loads(json.dumps(schema))
    spec = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["memory"]
    (finding,) = crd.check(replace(facts, crd=older))
    assert finding.state is State.FAILED
    assert "it lacks spec.memory, which" in finding.sentence
    newer = json.loads(json.dumps(schema))
    spec = newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["future"] = {"type": "string"}
    (finding,) = crd.check(replace(facts, crd=newer))
    assert finding.state is State.WARNING
    assert "spec.future" in finding.sentence
    unserved = json.loads(json.dumps(schema))
    unserved["spec"]["versions"][0]["served"] = False
    assert states(crd.check(replace(facts, crd=unserved))) == ["failed"]
    assert "not installed" in next(iter(crd.check(replace(facts, crd=None)))).sentence


@pytest.mark.parametrize(
    ("operator", "status", "state", "words"),
    [
        (program("operator", ready=0), {}, "failed", "no replica of"),
        (program("operator", replicas=0), {}, "failed", "scaled to 0"),
        (program("operator", replicas=2), {}, "warning", "1 of 2 replicas"),
        (
            program("operator", ready=0), {"containerStatuses": [waiting("ImagePullBackOff")]},
            "failed", "cannot pull x/y:1",
        ),
        (
            program("operator", ready=0),
            {"containerStatuses": [
                waiting("CrashLoopBackOff", lastState={"terminated": {"exitCode": 2}})
            ]},
            "failed", "exit code 2",
        ),
        (
            program("operator", ready=0),
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no node"}]},
            "failed", "not scheduled: no node",
        ),
        (program("operator"), {"containerStatuses": [{"restartCount": 9}]}, "warning", "9 times"),
        (
            program("operator"), {"containerStatuses": [waiting("CrashLoopBackOff")]},
            "warning", "what is to replace them does not start",
        ),
        (program("operator", image="r.io/memroute/operator:0.9.0"), {}, "warning", "release 0.9.0"),
        (program("operator", image="r.io:5000/operator"), {}, "ok", "1 of 1"),
        (program("operator", image="r.io/operator@sha256:00"), {}, "ok", "1 of 1"),
    ],
)  # fmt: skip
def test_programs(facts, operator, status, state, words):
    """What kubectl shows in four commands, in one sentence."""
    here = replace(
        facts, deployments=(operator, program("router")), pods=(pod_of("operator", **status),)
    )
    found = [one for one in programs.check(here) if one.check == "operator"]
    assert found[-1].state.value == state
    assert any(words in one.sentence for one in found)


def test_a_release_under_another_name_and_namespace_is_found(facts):
    """Charts name by release: labels say what a Deployment is."""
    other = program("operator")
    other["metadata"] |= {"name": "llm-operator", "namespace": "llm"}
    found = list(programs.check(replace(facts, deployments=(other, program("router")))))
    assert "llm/llm-operator" in found[0].sentence


@pytest.mark.parametrize(
    ("leases", "state", "words"),
    [
        ((), "failed", "none has led"),
        ((leased(holder=""),), "failed", "nobody holds"),
        ((leased(seconds=100),), "failed", "100 s ago"),
        ((leased(seconds=-5),), "ok", "0 s ago"),
        ((leased(renewTime="yesterday"),), "unknown", "not readable"),
        (UNREAD, "unknown", "you may not"),
    ],
)
def test_the_lease(facts, leases, state, words):
    """An operator that is ready and does not lead writes nothing."""
    (finding,) = lease.check(replace(facts, leases=leases))
    assert finding.state.value == state
    assert words in finding.sentence


def second(it, namespace="memroute-team-b"):
    """The same object of another release, in its own namespace."""
    it = json.loads(json.dumps(it))
    it["metadata"]["namespace"] = namespace
    return it


@pytest.fixture
def two(facts):
    """Two releases side by side, both well."""
    other = Operator(
        namespace="memroute-team-b", view=view("gpu-a"),
        rights=dict.fromkeys(rights.operator_rights("memroute-team-b", ["team-b"]), True),
    )  # fmt: skip
    return replace(
        facts, others=(other,), leases=(leased(), second(leased("operator-2"))),
        deployments=(*facts.deployments, *map(second, facts.deployments)),
    )  # fmt: skip


def test_each_of_several_operators_is_asked_for_its_lease(two):
    """The second release's operator stood still for a day: the first one's Lease was fine."""
    assert states(lease.check(two)) == ["ok", "ok"]
    still = replace(two, leases=(leased(), second(leased("operator-2", seconds=500))))
    first, other = lease.check(still)
    assert (first.state, other.state) == (State.OK, State.FAILED)
    assert "operator-2 holds Lease memroute-team-b/memroute-operator" in other.sentence
    assert "500 s ago" in other.sentence
    assert other.next_step.startswith("kubectl -n memroute-team-b logs ")
    none = replace(two, leases=(leased(),))
    assert states(lease.check(none)) == ["ok", "failed"]


def test_each_of_several_operators_is_asked_for_its_rights_and_what_it_reads(two):
    """Roles of a scope, and exporters that one of two does not hear."""
    assert {one.state for one in all_findings(two)} == {State.WARNING, State.OK}
    (other,) = two.others
    missing = Right("create", "", "pods", "team-b")
    lame = replace(other, rights=dict(other.rights) | {missing: False}, view=None)
    found = all_findings(replace(two, others=(lame,)))
    (right,) = (one for one in found if one.check == "operator-rights" and one.state != State.OK)
    assert "of the operator of memroute-team-b may not create pods in team-b" in right.sentence
    (exporters,) = (one for one in found if one.check == "exporters" and one.state != State.OK)
    assert "the operator of memroute-team-b has not told" in exporters.sentence
    (service,) = (one for one in found if one.check == "service" and one.state != State.OK)
    assert "the router memroute-team-b/memroute-router" in service.sentence


def test_a_missing_right_is_named(facts):
    missing = Right("patch", "", "configmaps", NAMESPACE, "memroute-fleet")
    granted = dict(facts.operator_rights) | {missing: False}
    found = list(rights.check(replace(facts, operator_rights=granted)))
    assert states(found) == ["ok", "failed"]
    assert "patch configmaps/memroute-fleet in memroute-system" in found[1].sentence


def granted_by(*files):
    """What roles of the operator grant."""
    return {
        Right(verb, group, resource, one["metadata"].get("namespace"), name)
        for file in files
        for one in yaml.safe_load_all(file.read_text())
        if one["kind"] in ("ClusterRole", "Role")
        and one["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"
        for rule in one["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [None])
    }


def test_the_operators_rights_are_those_of_its_roles(repository):
    """The doctor asks for what the roles grant: a rule more or less is found here."""
    base = repository / "deploy" / "base" / "operator.yaml"
    everywhere = granted_by(base)
    assert set(rights.operator_rights(NAMESPACE)) == everywhere
    scope = granted_by(repository / "deploy" / "components" / "namespaced" / "roles.yaml")
    moved = {replace(one, namespace=None) for one in scope}
    assert moved < everywhere
    assert set(rights.operator_rights(NAMESPACE, ["models"])) == (everywhere - moved) | scope


def test_an_operator_that_leads_gateways_needs_the_rights_of_its_component(repository):
    """Services of everybody are read and written only where a picker is installed."""
    component = repository / "deploy" / "components" / "endpoint-picker" / "kustomization.yaml"
    patches = yaml.safe_load(component.read_text())["patches"]
    rules = [
        step["value"]
        for one in patches
        if one.get("target", {}).get("kind") == "ClusterRole"
        for step in yaml.safe_load(one["patch"])
    ]
    added = {
        Right(verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    without = set(rights.operator_rights(NAMESPACE))
    assert set(rights.operator_rights(NAMESPACE, leads_gateways=True)) - without == added
    assert added


def asking_model(reason=None):
    """``reason``: of its GatewayNotReady; None: gateways send requests by its pool."""
    said = {"type": "GatewayNotReady", "status": "True", "reason": reason, "message": "why"}
    return {
        "metadata": {"namespace": "models", "name": "chat"},
        "spec": {"routing": {"gateway": {}}},
        "status": {"conditions": [said] if reason else []},
    }


def pool(name="chat", *, service="picker-chat", owner="chat", label=None):
    owners = [{"apiVersion": "memroute.dev/v1alpha1", "kind": "ModelDeployment", "name": owner,
               "uid": "u", "controller": True}]  # fmt: skip
    return {
        "metadata": {
            "namespace": "models", "name": name, "ownerReferences": owners if owner else [],
            "labels": {"memroute.dev/picker": label} if label else {},
        },
        "spec": {"endpointPickerRef": {"name": service, "port": {"number": 9002}}},
    }  # fmt: skip


def objective(pool_name="chat"):
    return {
        "metadata": {"namespace": "models", "name": "batch"},
        "spec": {"poolRef": {"name": pool_name}, "priority": 1},
    }


def with_picker(facts, **changed):
    """A picker, and a ModelDeployment whose pool leads to it."""
    sound = {
        "deployments": (*facts.deployments, program("picker")),
        "model_deployments": (asking_model(),),
        "pools": (pool(),),
        "pool_services": (service("", "picker-chat", "models"),),
        "endpoint_slices": (*facts.endpoint_slices, endpoints("picker-chat", "models")),
        "objectives": (objective(),),
    }
    return replace(facts, **(sound | changed))


def test_nothing_is_said_of_gateways_where_nobody_has_any(facts):
    assert list(gateways.check(facts)) == []
    foreign = pool("theirs", owner=None)
    assert list(gateways.check(replace(facts, pools=(foreign,)))) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, [("pools", "ok")]),
        ({"pools": None}, [("gateways", "failed")]),
        ({"pools": None, "model_deployments": ()}, [("gateways", "warning")]),
        ({"pools": UNREAD}, [("gateways", "unknown")]),
        ({"pool_services": UNREAD}, [("pools", "unknown")]),
        ({"deployments": ()}, [("gateways", "failed"), ("pools", "ok")]),
        (
            {"pools": (), "model_deployments": (), "objectives": ()},
            [("pools", "ok")],
        ),
        (
            {"model_deployments": (asking_model("NoGateway"),)},
            [("pools", "ok"), ("gateways", "warning")],
        ),
        (
            {"model_deployments": (asking_model("NoPickerReady"),), "endpoint_slices": ()},
            [("pools", "failed")],
        ),
        ({"pool_services": ()}, [("pools", "failed")]),
        ({"endpoint_slices": ()}, [("pools", "failed")]),
        ({"endpoint_slices": UNREAD}, [("pools", "ok")]),
        ({"objectives": (objective("gone"),)}, [("pools", "ok"), ("objectives", "warning")]),
        ({"objectives": UNREAD}, [("pools", "ok")]),
        ({"pools": (pool(owner=None, label="serve", service="x"),)}, [("pools", "failed")]),
    ],
)
def test_what_keeps_gateways_from_the_picker_is_told(facts, changed, told):
    found = list(gateways.check(with_picker(facts, **changed)))
    assert [(one.check, one.state.value) for one in found] == told
    assert all((one.next_step is None) == (one.state is State.OK) for one in found)


def test_a_picker_that_is_not_ready_is_told_and_one_that_is_not_there_is_no_fault(facts):
    broken = with_picker(facts, deployments=(*facts.deployments, program("picker", ready=0)))
    states = {one.check: one.state for one in programs.check(broken)}
    assert states["picker"] is State.FAILED
    assert "picker" not in {one.check for one in programs.check(facts)}


def test_where_a_picker_is_a_router_need_not_be(facts):
    """An installation behind gateways alone failed for ever; without either nobody is served."""
    operator = next(one for one in facts.programs("operator"))
    gateways_only = replace(facts, deployments=(operator, program("picker")))
    states = {one.check: one.state for one in programs.check(gateways_only)}
    assert states["router"] is State.OK
    neither = {one.check: one.state for one in programs.check(replace(facts, deployments=()))}
    assert neither["router"] is State.FAILED


def test_an_operator_of_some_namespaces_needs_to_write_in_those_alone():
    """A release with a scope has no right to write elsewhere, and misses none."""
    scoped = rights.operator_rights(NAMESPACE, ["team-a", "team-b"])
    written = {right.namespace for right in scoped if right.resource == "pods"}
    assert written == {None, "team-a", "team-b"}
    assert not any(
        right.namespace is None and right.verb in ("create", "patch", "delete") for right in scoped
    )


def test_an_operator_that_was_told_to_take_no_lease_is_well(facts):
    operator = program("operator", args=["--no-leader-election", "--host", "*"])
    here = replace(facts, deployments=(operator,), leases=())
    assert states(lease.check(here)) == ["ok"]


def without_plugin(it):
    it = json.loads(json.dumps(it))
    for part in ("allocatable", "capacity"):
        it["status"].get(part, {}).pop("nvidia.com/gpu", None)
    return it


PRESENT = {"nvidia.com/gpu.present": "true"}


def built_in(it):
    it["metadata"].setdefault("labels", {}).update(PRESENT)
    return it


def test_nodes_without_accelerators_are_a_warning(facts):
    found = list(devices.check(replace(facts, nodes=(), view=None)))
    assert states(found) == ["warning"]
    assert "no node has an accelerator" in found[0].sentence


def test_a_node_whose_device_plugin_is_silent_is_named(facts):
    """GPU feature discovery sees the GPU, and nobody can ask for it."""
    silent = built_in(without_plugin(whole(node("gpu-b", gpus=1))))
    found = list(devices.check(replace(facts, nodes=(whole(node("gpu-a", gpus=1)), silent))))
    (finding,) = (one for one in found if one.check == "device-plugin")
    assert finding.state is State.FAILED
    assert "gpu-b has accelerators and offers none" in finding.sentence


def whole(it):
    it = json.loads(json.dumps(it))
    it["metadata"]["labels"].pop("memroute.dev/gpu-sharing", None)
    it["status"].setdefault("allocatable", {})["nvidia.com/gpu"] = "1"
    return it


def test_a_shared_node_with_a_device_plugin_is_a_warning(facts):
    """Never both: the plugin would hand out what is taken."""
    both = node("gpu-a", gpus=1)
    both["metadata"]["labels"]["memroute.dev/gpu-sharing"] = "shared"
    both["status"].setdefault("allocatable", {})["nvidia.com/gpu"] = "1"
    found = list(devices.check(replace(facts, nodes=(both,))))
    (finding,) = (one for one in found if one.check == "device-plugin")
    assert finding.state is State.WARNING


@pytest.mark.parametrize(
    ("fleet_view", "state"),
    [(view(), "failed"), (None, "unknown"), (view("gpu-a", seconds=600), "unknown"),
     (UNREAD, "unknown"), (view("gpu-a"), "ok")],
)  # fmt: skip
def test_exporters(facts, fleet_view, state):
    """Nothing is placed on a shared device that nobody measures."""
    shared = node("gpu-a", gpus=1)
    shared["metadata"]["labels"]["memroute.dev/gpu-sharing"] = "shared"
    found = list(devices.check(replace(facts, nodes=(shared,), view=fleet_view)))
    (finding,) = (one for one in found if one.check == "exporters")
    assert finding.state.value == state, finding


@pytest.mark.parametrize(
    ("arguments", "classes", "state"),
    [((), ("nvidia",), "ok"), ((), (), "failed"), (("--shared-runtime-class=",), (), None),
     (("--shared-runtime-class", "gpu"), ("nvidia",), "failed"),
     (("--shared-runtime-class=gpu",), ("gpu",), "ok"),
     (("--shared-runtime-class=", "--exclusive-runtime-class=gpu"), ("nvidia",), "failed")],
)  # fmt: skip
def test_the_runtime_class_of_shared_replicas(facts, arguments, classes, state):
    """Without it the API server refuses every shared replica."""
    shared = node("gpu-a", gpus=1)
    shared["metadata"]["labels"]["memroute.dev/gpu-sharing"] = "shared"
    here = replace(
        facts, nodes=(shared,), deployments=(program("operator", args=arguments),),
        runtime_classes=tuple({"metadata": {"name": name}} for name in classes),
    )  # fmt: skip
    found = [one.state.value for one in devices.check(here) if one.check == "runtime-class"]
    assert found == ([] if state is None else [state])


@pytest.mark.parametrize(
    ("changes", "check", "state"),
    [
        ({"services": (DNS,)}, "service", "warning"),
        ({"endpoint_slices": ()}, "service", "failed"),
        ({"endpoint_slices": (endpoints(ready=(False,)),)}, "service", "failed"),
        ({"endpoint_slices": UNREAD}, "service", "unknown"),
        ({"services": (service(),)}, "dns", "warning"),
        ({"endpoint_slices": (endpoints(),)}, "dns", "failed"),
    ],
)
def test_the_network(facts, changes, check, state):
    found = [one for one in network.check(replace(facts, **changes)) if one.check == check]
    assert states(found) == [state]


def test_an_emulated_cluster_is_not_said_to_be_broken(facts):
    """The demo has neither EndpointSlices nor a DNS, and nobody is to look for them."""
    here = replace(facts, services=(service(),), endpoint_slices=())
    emulated = replace(here, pods=(pod_of("router", podIP="127.71.5.3"),))
    assert states(network.check(emulated)) == ["ok", "ok"]
    assert "127.71.5.3" in next(iter(network.check(emulated))).sentence
    real = replace(here, pods=(pod_of("router", podIP="10.1.2.3"),))
    assert states(network.check(real)) == ["failed", "warning"]


def test_a_full_quota_is_in_the_way(facts):
    """The pod is refused, and the ModelDeployment's status says it; here before it is made."""
    quota = {
        "metadata": {"name": "small", "namespace": "default"},
        "status": {"hard": {"pods": "2", "configmaps": "1"},
                   "used": {"pods": "2", "configmaps": "1"}},
    }  # fmt: skip
    here = replace(facts, model_deployments=(mdep("chat"),), quotas=(quota,))
    (finding,) = (one for one in namespaces.check(here) if one.check == "quota")
    assert finding.state is State.WARNING
    assert "pods 2 of 2" in finding.sentence
    quota["status"]["used"]["pods"] = "1"
    (finding,) = (one for one in namespaces.check(here) if one.check == "quota")
    assert finding.state is State.OK


def test_a_host_path_where_pod_security_refuses_it(facts):
    model = {"name": "x/y", "source": {"hostPath": {"path": "/models"}}}
    one = mdep("chat")
    one["spec"]["model"] = model
    restricted = {
        "metadata": {
            "name": "default",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        }
    }
    here = replace(facts, model_deployments=(one,), namespaces=(restricted,))
    (finding,) = (f for f in namespaces.check(here) if f.check == "pod-security")
    assert finding.state is State.WARNING


@pytest.mark.parametrize(
    ("policy", "resources", "slices", "state"),
    [
        ("Fail", ["pods"], (), "failed"),
        ("Fail", ["*"], (endpoints("hook", "policy"),), "ok"),
        ("Ignore", ["pods"], (), "ok"),
        ("Fail", ["secrets"], (), "ok"),
        ("Fail", ["pods"], UNREAD, "ok"),
    ],
)
def test_a_webhook_that_fails_closed_with_nobody_behind_it(facts, policy, resources, slices, state):
    """Every pod of the cluster is refused while it is down."""
    configuration = {
        "metadata": {"name": "policies"},
        "webhooks": [{
            "name": "check.policy", "failurePolicy": policy,
            "clientConfig": {"service": {"namespace": "policy", "name": "hook"}},
            "rules": [{"apiGroups": ["", "*"], "resources": resources}],
        }],
    }  # fmt: skip
    here = replace(facts, webhooks=(configuration,), endpoint_slices=slices)
    assert states(webhooks.check(here)) == [state]


def test_models_that_do_not_serve_lead_to_explain(facts):
    one = mdep("chat")
    one["status"] = {"conditions": [{"type": "Ready", "status": "False", "reason": "NoRoom"}]}
    (finding,) = models.check(replace(facts, model_deployments=(one,)))
    assert finding.sentence == "default/chat does not serve: NoRoom"
    assert finding.next_step == "memroute explain default/chat"
    one["status"]["conditions"].append({"type": "Available", "status": "True"})
    (finding,) = models.check(replace(facts, model_deployments=(one,)))
    assert finding.sentence == "default/chat serves, but is not Ready: NoRoom"


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [(200, "ok", "answered in 0.5 s by default/chat-0"), (401, "failed", "refuses the key"),
     (404, "failed", "no model chat"), (429, "failed", "answered 429"),
     (None, "failed", "does not answer")],
)  # fmt: skip
def test_a_request(facts, status, state, words):
    outcome = RequestOutcome(
        url="http://r", model="chat", status=status, seconds=0.5, message="why",
        replica="default/chat-0",
    )  # fmt: skip
    (finding,) = request.check(replace(facts, request=outcome))
    assert finding.state.value == state
    assert words in finding.sentence


@pytest.mark.slow
async def test_the_command_on_a_cluster_that_is_half_there(tmp_path):
    """Kinds that the server does not know are unknown: the command ends with an answer."""
    async with operator_rig(nodes=[node("gpu-a", gpus=1)], mdeps=[]) as rig:
        rig.cluster.fault = lambda call: (
            refuse(403, "Forbidden", "no") if call.plural == "nodes" else None
        )
        config = kubeconfig(rig, tmp_path / "config")
        status, output, errors = await memroute("doctor", "--kubeconfig", str(config))
        assert errors == ""
        assert status in (0, 1)
        assert max(map(len, output.splitlines())) <= 80
        assert "you may not list nodes" in output
        status, output, _ = await memroute(
            "doctor", "--kubeconfig", str(config), "-o", "yaml", "--request", "chat",
            "--router", "http://127.0.0.1:9",
        )  # fmt: skip
        document = yaml.safe_load(output)
        assert status == 1
        assert not document["works"]
        assert document["checks"][-1]["check"] == "request"


async def test_a_cluster_that_does_not_answer_is_one_failure_and_not_twelve(tmp_path):
    config = tmp_path / "config"
    config.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }))  # fmt: skip
    status, output, _ = await memroute("doctor", "--kubeconfig", str(config))
    assert status == 1
    assert "the API server does not answer" in " ".join(output.split())
    assert "1 failed" in output


@pytest.mark.slow
async def test_a_cluster_without_memroute_is_told_to_have_none(tmp_path):
    """Before the first `helm install`, and after a kubeconfig of the wrong cluster."""
    async with operator_rig(nodes=[node("gpu-a", gpus=1)], mdeps=[]) as rig:
        gone = ("modeldeployments", "configmaps")
        rig.cluster.fault = lambda call: (
            refuse(404, "NotFound", "the server could not find it") if call.plural in gone else None
        )
        config = kubeconfig(rig, tmp_path / "config")
        status, output, errors = await memroute("doctor", "--kubeconfig", str(config))
        assert (status, errors) == (1, "")
        flat = " ".join(output.split())
        assert "is not installed: memroute is not here next: helm install memroute" in flat
        status, output, _ = await memroute(
            "plan", "Qwen/Qwen3-8B", "--cluster", "--kubeconfig", str(config)
        )
        assert "memroute is not installed in it" in " ".join(output.split())
        assert max(map(len, output.splitlines())) <= 80


def reading(*devices):
    """What an operator hears of gpu-a: devices by index, with what is odd about them."""
    told = tuple(
        DeviceReading(
            **{
                "uuid": f"GPU-{index}", "index": index, "product": None, "free_bytes": 1,
                "used_bytes": 1,
            } | odd
        )
        for index, odd in devices
    )  # fmt: skip
    it = view("gpu-a")
    return replace(it, readings={"gpu-a": NodeReading(devices=told, taken_at_seconds=0.0)})


def eight(*, allocatable=8, capacity=8, **labels):
    """A node that was labelled when it had eight devices."""
    it = whole(node("gpu-a", gpus=1))
    it["metadata"]["labels"] |= {"nvidia.com/gpu.count": "8"} | labels
    it["status"] |= {
        "allocatable": {"nvidia.com/gpu": str(allocatable)},
        "capacity": {"nvidia.com/gpu": str(capacity)},
    }
    return it


ALL = [(index, {}) for index in range(8)]


@pytest.mark.parametrize(
    ("it", "told", "words"),
    [
        (eight(), reading(*ALL), None),
        (eight(), None, None),
        (eight(), reading(*ALL[:2], *ALL[3:]), "reports 7 of 8 accelerators: index 2 has fallen"),
        (eight(allocatable=6), reading(*ALL), "hands out 6 of 8 nvidia.com/gpu"),
        (eight(), reading((0, {"xid": 79}), *ALL[1:]), "device 0 (GPU-0) reports driver error XID"),
        (eight(), reading((0, {"xid": 31}), *ALL[1:]), None),
        (
            eight(), reading((0, {"free_bytes": None, "used_bytes": None}), *ALL[1:]),
            "reads no memory of device 0",
        ),
        # Time slices: 32 are handed out, and 8 devices are there.
        (
            eight(allocatable=32, capacity=32, **{"nvidia.com/gpu.replicas": "4"}),
            reading(*ALL), None,
        ),
        # Slices of one device each carry the UUID of the device.
        (
            eight(),
            reading(
                *ALL[1:], (0, {"slice_id": "1", "slice_profile": "1g.10gb"}),
                (0, {"slice_id": "2", "slice_profile": "1g.10gb"}),
            ),
            None,
        ),
    ],
)  # fmt: skip
def test_a_device_that_is_lost_is_told_by_whoever_misses_it(facts, it, told, words):
    """A GPU that fell off the bus made a fleet smaller, and nothing said so."""
    found = list(lost_devices.check(replace(facts, nodes=(it,), view=told)))
    assert states(found) == ["ok" if words is None else "warning"]
    assert words is None or words in found[0].sentence
    assert words is None or "gpu-a" in found[0].sentence


def test_what_was_told_long_ago_says_nothing_of_a_loss(facts):
    """A stale reading of seven devices is no proof that the eighth is gone."""
    old = replace(reading(*ALL[:7]), at=NOW - timedelta(seconds=900))
    found = list(lost_devices.check(replace(facts, nodes=(eight(),), view=old)))
    assert states(found) == ["ok"]
    assert "by labels and device plugins" in found[0].sentence


def test_of_a_fleet_with_one_cause_a_few_are_told(facts):
    nodes = tuple(eight(allocatable=7) for _ in range(40))
    found = list(lost_devices.check(replace(facts, nodes=nodes, view=None)))
    assert len(found) == lost_devices.MAX_TOLD + 1
    assert "32 more devices" in found[-1].sentence


def test_a_replica_whose_shared_device_is_gone_is_told_with_what_moves_it(facts):
    """Its engine is dead or on another device: bytes are promised where there are none."""
    shared = node("a", gpus=1)
    shared["metadata"]["labels"]["memroute.dev/gpu-sharing"] = "shared"
    told = reading((0, {}))
    told = replace(told, readings={"a": told.readings["gpu-a"]})
    here = replace(facts, nodes=(shared,), pods=(pod_of_replica(planned("chat")),), view=told)
    (finding,) = (one for one in lost_devices.check(here) if one.state is State.FAILED)
    assert "replica default/chat-0 was promised GPU-" in finding.sentence
    assert finding.next_step == "kubectl -n default delete pod chat-0 has it placed anew"
