"""The endpoint picker as the chart installs it, and what the operator is given beside it."""

import pytest

from charts import chart, flags, pod_of
from memroute_cli.doctor.checks.rights import GATEWAYS
from memroute_kube.gateway import INFERENCE_OBJECTIVES, INFERENCE_POOLS, PICKER_PORT
from memroute_operator.readings.sources import parse_pod_selector
from memroute_picker.settings import parse_settings

ON = ("--set", "picker.enabled=true")


def rules(objects, program, *kinds):
    """(verb, group, resource) of every rule."""
    return {
        (verb, group, resource)
        for (kind, *_), obj in objects.items()
        if kind in kinds and obj["metadata"]["labels"]["app.kubernetes.io/component"] == program
        for rule in obj["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_nobody_gets_a_picker_or_rights_for_it_without_asking(repository, helm):
    """Reading every Service of a cluster is too much for who has no gateway."""
    objects = chart(helm, repository)
    assert not [
        key for key, obj in objects.items()
        if obj["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "picker"
    ]  # fmt: skip
    assert "--picker-selector" not in pod_of(objects, "operator")[1]["args"]
    assert not rules(objects, "operator", "ClusterRole") & set(GATEWAYS)


def test_the_operator_finds_the_picker_and_may_lead_gateways_to_it(repository, helm):
    """By labels of the release's own pods, on the port that they serve."""
    for more, port in (((), PICKER_PORT), (("--set", "picker.ports.grpc=9100"), 9100)):
        objects = chart(helm, repository, *ON, *more)
        (given,) = flags(pod_of(objects, "operator")[1]["args"])["--picker-selector"]
        selector = parse_pod_selector(given, own_namespace="memroute-system")
        assert (selector.port or PICKER_PORT) == port
        template = objects["Deployment", "memroute-picker", "memroute-system"]["spec"]["template"]
        metadata = template["metadata"] | {"namespace": "memroute-system"}
        assert selector.matches({"metadata": metadata})
        ports = {one["name"]: one["containerPort"] for one in
                 pod_of(objects, "picker")[1]["ports"]}  # fmt: skip
        assert ports["grpc"] == port
    plain = chart(helm, repository)
    added = rules(objects, "operator", "ClusterRole") - rules(plain, "operator", "ClusterRole")
    assert added == set(GATEWAYS)


def test_a_picker_of_another_release_is_named_by_a_value(repository, helm):
    told = "operator.settings.pickerSelector=elsewhere/app=picker"
    objects = chart(helm, repository, "--set", told)
    assert flags(pod_of(objects, "operator")[1]["args"])["--picker-selector"] == [
        "elsewhere/app=picker"
    ]
    assert set(GATEWAYS) <= rules(objects, "operator", "ClusterRole")
    both = chart(helm, repository, *ON, "--set", told)
    assert flags(pod_of(both, "operator")[1]["args"])["--picker-selector"] == [
        "elsewhere/app=picker"
    ]


def test_the_picker_may_read_what_it_follows_and_write_nothing(repository, helm):
    objects = chart(helm, repository, *ON)
    wanted = {
        (verb, group, resource)
        for group, resource in (
            ("", "pods"), ("memroute.dev", "modeldeployments"),
            (INFERENCE_POOLS.group, INFERENCE_POOLS.plural),
            *((one.group, one.plural) for one in INFERENCE_OBJECTIVES),
        )
        for verb in ("list", "watch")
    }  # fmt: skip
    assert rules(objects, "picker", "ClusterRole", "Role") == wanted
    scoped = chart(helm, repository, *ON, "--set", "scope.namespaces={a,b}")
    assert rules(scoped, "picker", "ClusterRole") == set()
    assert rules(scoped, "picker", "Role") == wanted
    assert flags(pod_of(scoped, "picker")[1]["args"])["--namespace"] == ["a", "b"]
    where = {
        key[2] for key, obj in scoped.items()
        if key[0] == "Role" and {("create", "", "services")} <= {
            (verb, group, resource) for rule in obj["rules"] for verb in rule["verbs"]
            for group in rule["apiGroups"] for resource in rule["resources"]
        }
    }  # fmt: skip
    assert where == {"a", "b"}
    assert not rules(scoped, "operator", "ClusterRole") & set(GATEWAYS)


def test_its_image_has_its_program_and_it_follows_pools(repository, helm):
    pod, container = pod_of(chart(helm, repository, *ON), "picker")
    assert container["command"] == ["memroute-picker"]
    assert container["image"].startswith("memroute/router:")
    settings = parse_settings(container["args"])
    assert settings.inference_pools
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "ops"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/health", "port": "ops"}
    assert pod["terminationGracePeriodSeconds"] > settings.router.shutdown_timeout_seconds


def test_several_pickers_tell_each_other_and_are_not_drained_together(repository, helm):
    """Each has a ledger of its own; there is no leader."""
    one = chart(helm, repository, *ON, "--set", "router.enabled=false")
    assert "--peer-selector" not in pod_of(one, "picker")[1]["args"]
    one = chart(helm, repository, *ON)
    assert ("PodDisruptionBudget", "memroute-picker", "memroute-system") not in one
    several = chart(helm, repository, *ON, "--set", "picker.replicas=2,router.enabled=false")
    peers = flags(pod_of(several, "picker")[1]["args"])["--peer-selector"]
    assert "app.kubernetes.io/component in (picker,router)" in peers[0]
    assert ("PodDisruptionBudget", "memroute-picker", "memroute-system") in several


def test_routers_and_pickers_tell_each_other(repository, helm):
    """They send to the same replicas: one of each, too. Neither may send where it is not heard."""
    found = chart(helm, repository, *ON, "--set", "networkPolicy.enabled=true")
    for component, other in (("router", "picker"), ("picker", "router")):
        _, container = pod_of(found, component)
        given = flags(container["args"])
        assert given["--host"] == ["$(POD_IP)"]
        (selector,) = given["--peer-selector"]
        assert selector.startswith("app.kubernetes.io/component in (picker,router),")
        (own,) = (port for port in container["ports"] if port["name"] == "peers")
        policy = found["NetworkPolicy", f"memroute-{component}", "memroute-system"]
        (rule,) = (
            rule for rule in policy["spec"]["ingress"]
            if {"port": own["containerPort"], "protocol": "UDP"} in rule["ports"]
        )  # fmt: skip
        heard = {
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for peer in rule["from"]
        }
        assert heard == {component, other}


@pytest.mark.parametrize(
    "apart",
    ["router.peers.enabled=false", "picker.peers.enabled=false", "picker.peers.port=8101",
     "picker.peers.secretName=other", "router.enabled=false"],
)  # fmt: skip
def test_routers_and_pickers_that_cannot_hear_each_other_look_for_none(repository, helm, apart):
    """A peer that is known and silent makes a router guess what it has sent."""
    one = chart(helm, repository, *ON, "--set", apart)
    assert "--peer-selector" not in pod_of(one, "picker")[1]["args"]
    several = chart(helm, repository, *ON, "--set", f"{apart},picker.replicas=2,router.replicas=2")
    for component in ("router", "picker"):
        if apart == f"{component}.enabled=false":
            continue
        args = pod_of(several, component)[1]["args"]
        if apart == f"{component}.peers.enabled=false":
            assert "--peer-selector" not in args
            continue
        (selector,) = flags(args)["--peer-selector"]
        alone = "in (picker,router)" if apart == "router.enabled=false" else f"={component}"
        assert f"app.kubernetes.io/component{'' if alone[0] == '=' else ' '}{alone}" in selector


def test_services_have_one_port_and_say_how_it_is_spoken_to(repository, helm):
    """A Service with several is none for kgateway; with TLS, HTTP/2 is agreed upon there."""
    key = "Service", "memroute-picker", "memroute-system"
    (port,) = chart(helm, repository, *ON)[key]["spec"]["ports"]
    assert (port["port"], port["appProtocol"]) == (PICKER_PORT, "kubernetes.io/h2c")
    secure = chart(helm, repository, *ON, "--set", "picker.tls.secretName=cert")
    (port,) = secure[key]["spec"]["ports"]
    assert "appProtocol" not in port
    assert "--picker-tls" in pod_of(secure, "operator")[1]["args"]
    assert flags(pod_of(secure, "picker")[1]["args"])["--tls-cert"] == ["/etc/memroute/tls/tls.crt"]


def test_metrics_of_the_picker_are_found_as_the_routers_are(repository, helm):
    for kind in ("PodMonitor", "ServiceMonitor"):
        name = f"monitoring.{kind[0].lower()}{kind[1:]}s.enabled=true"
        objects = chart(helm, repository, *ON, "--set", name)
        assert (kind, "memroute-picker", "memroute-system") in objects
