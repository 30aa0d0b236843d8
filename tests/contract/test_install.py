"""What is installed, and what of it the chart's values change."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from charts import chart, flags, objects_of, pod_of, run
from cluster_support import program_address, wait_log
from memroute_operator.rules.hbm_quotas import QUOTAS_NAME, read_quotas
from memroute_operator.rules.name_grants import GRANTS_NAME, read_grants
from memroute_operator.settings import parse_settings as parse_operator
from memroute_router.settings import parse_settings


def objects(helm, repository, *values):
    """(kind, name) → object, of a release in the namespace models."""
    arguments = [part for value in values for part in ("--set", value)]
    made = chart(helm, repository, *arguments, namespace="models")
    return {(kind, name): obj for (kind, name, _), obj in made.items()}


def router_of(helm, repository, *values):
    return pod_of(objects(helm, repository, *values), "router")


def test_network_policies_are_asked_for_and_name_who_scrapes(repository, helm):
    """Off by default: one that does not name the cluster's Prometheus blinds it without a word."""
    flag = "networkPolicy.enabled=true"
    assert not {key for key in objects(helm, repository) if key[0] == "NetworkPolicy"}
    label = r"networkPolicy.metricsNamespaces[0].kubernetes\.io/metadata\.name=monitoring"
    mine = objects(helm, repository, flag, label)
    for name, at in (("memroute-router", 2), ("memroute-operator", 0)):
        admitted = mine["NetworkPolicy", name]["spec"]["ingress"][at]["from"]
        assert [each["namespaceSelector"] for each in admitted if "namespaceSelector" in each] == [
            {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
        ], "and not the default beside it: such a namespace does not have both labels"
    alone = objects(helm, repository, flag, "networkPolicy.metricsNamespaces=null")
    assert alone["NetworkPolicy", "memroute-operator"]["spec"]["ingress"] == []
    _, _, operations = alone["NetworkPolicy", "memroute-router"]["spec"]["ingress"]
    (only,) = operations["from"]
    assert only["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"


def test_probes_and_scrapes_ask_the_operations_port(repository, helm):
    """The public port serves no metrics, and may speak TLS, which probes by address do not."""
    _, router = router_of(helm, repository)
    assert router["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "ops"}
    assert router["livenessProbe"]["httpGet"] == {"path": "/health", "port": "ops"}
    settings = parse_settings([])
    ports = {port["name"]: port["containerPort"] for port in router["ports"]}
    assert ports == {"http": settings.port, "ops": settings.ops_port}
    service = objects(helm, repository)["Service", "memroute-router"]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]


def test_several_routers_find_each_other_and_one_looks_for_none(repository, helm):
    """With one replica nothing is opened and nobody is asked for."""
    _, one = router_of(helm, repository)
    assert "--peer-selector" not in one["args"]
    pod, several = router_of(helm, repository, "router.replicas=3", "router.peers.secretName=peers")
    given = flags(several["args"])
    assert given["--peer-namespace"] == ["models"]
    assert given["--peer-secret-file"] == ["/etc/memroute/peers/key"]
    assert {"name": "peers", "containerPort": 8001, "protocol": "UDP"} in several["ports"]
    assert {"name": "peers", "secret": {"secretName": "peers"}} in pod["volumes"]
    for value in ("router.peers.enabled=true", "router.autoscaling.enabled=true"):
        _, scaled = router_of(helm, repository, value)
        assert "--peer-selector" in scaled["args"], value
    _, apart = router_of(helm, repository, "router.replicas=3", "router.peers.enabled=false")
    assert "--peer-selector" not in apart["args"]


def test_who_scales_the_routers_is_left_to_do_so(repository, helm):
    """A number in the chart would be put back at each upgrade."""
    scaled = objects(helm, repository, "router.autoscaling.enabled=true")
    assert "replicas" not in scaled["Deployment", "memroute-router"]["spec"]
    scaler = scaled["HorizontalPodAutoscaler", "memroute-router"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == "memroute-router"
    assert ("PodDisruptionBudget", "memroute-router") in scaled


def test_names_and_quotas_are_given_by_values(repository, helm):
    """In the release's namespace, where no tenant may write; by default there are none."""
    plain = objects(helm, repository)
    assert not {key for key in plain if key[0] == "ConfigMap"}
    given = objects(
        helm, repository, "servedNames.team-a={chat,org/model}", "servedNames.team-b={chat}",
        "hbmQuotas.team-a=640Gi", "hbmQuotas._default=80Gi",
    )  # fmt: skip
    names, sizes = given["ConfigMap", GRANTS_NAME], given["ConfigMap", QUOTAS_NAME]
    assert {one["metadata"]["namespace"] for one in (names, sizes)} == {"models"}
    assert read_grants(names) == {"chat": {"team-a", "team-b"}, "org/model": {"team-a"}}
    quotas = read_quotas(sizes)
    assert quotas.limit_bytes("team-a") == 640 * 2**30
    assert quotas.limit_bytes("others") == 80 * 2**30
    role = next(
        rule for rule in given["Role", "memroute-operator"]["rules"]
        if rule["resources"] == ["configmaps"]
    )  # fmt: skip
    assert (role["resourceNames"], role["verbs"]) == ([GRANTS_NAME, QUOTAS_NAME], ["get"])


def test_a_standby_operator_is_on_another_node_and_is_not_evicted_with_the_leader(repository, helm):
    """With one replica there is nothing to keep: a budget would only block drains."""
    one = objects(helm, repository)
    assert ("PodDisruptionBudget", "memroute-operator") not in one
    assert "affinity" not in pod_of(one, "operator")[0]
    two = objects(helm, repository, "operator.replicas=2")
    budget = two["PodDisruptionBudget", "memroute-operator"]["spec"]
    deployment = two["Deployment", "memroute-operator"]["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= labels
    affinity = deployment["template"]["spec"]["affinity"]["podAntiAffinity"]
    (term,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"].items() <= labels


def test_the_lease_may_be_written_in_the_operators_own_namespace_alone(repository, helm):
    """Leases of nodes are read alone; nobody else's are any of the operator's business."""
    made = chart(helm, repository, namespace="models")
    role = made["Role", "memroute-operator", "models"]
    leases = [rule for rule in role["rules"] if rule["resources"] == ["leases"]]
    named = [rule for rule in leases if rule["verbs"] != ["create"]]
    assert all(rule["resourceNames"] == ["memroute-operator"] for rule in named)
    nodes = made["Role", "memroute-operator-models", "kube-node-lease"]
    assert [rule["verbs"] for rule in nodes["rules"]] == [["list"]]
    everywhere = made["ClusterRole", "memroute-operator-models", None]["rules"]
    assert not any("leases" in rule["resources"] for rule in everywhere)
    _, operator = pod_of(made, "operator")
    settings = parse_operator(
        [arg.replace("$(POD_NAMESPACE)", "models") for arg in operator["args"]]
    )
    assert settings.lease_namespace == "models"


REFUSED = {
    "router.replica=2": "replica",
    "operator.args={--offline}": "operator.args is called operator.settings, or operator.extraArgs",
    "image.prefix=registry.example.com": "image.prefix is called image.registry",
    "router.volumes[0].name=x": "router.volumes is called router.extraVolumes",
    "hbmQuotas.team-a=640GiB": "hbmQuotas",
    "router.settings.accessLog=loud": "'all', 'failed', 'off'",
    "router.settings.maxQueuedTokens=many": "maxQueuedTokens",
    "operator.replicas=2,operator.leaderElection=false": "lets all of them write",
    "router.httpRoute.enabled=true": "names no gateway",
    "router.ingress.enabled=true,router.service.enabled=false": "need the router and its Service",
}


@pytest.mark.parametrize("value", REFUSED)
def test_what_cannot_be_meant_is_refused_with_a_sentence(repository, helm, value):
    path = str(repository / "helm" / "memroute")
    command = [helm, "template", "memroute", path, "--set", value]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode
    assert REFUSED[value] in refused.stderr


def test_the_demo_overlay_and_the_samples_are_valid(repository, cluster):
    """Server-side dry run: the API server itself judges them."""
    components = repository / "deploy" / "components"
    for kind, path in (
        ("-k", repository / "deploy" / "demo"),
        ("-k", repository / "deploy" / "samples"),
        ("-f", components / "network-policies" / "policies.yaml"),
        ("-f", components / "endpoint-picker-policies" / "policies.yaml"),
    ):
        cluster.kubectl(
            "apply", "--server-side", "--force-conflicts", "--dry-run=server", kind, str(path)
        )


def test_dockerfiles_lint(repository):
    hadolint = Path(sys.executable).parent / "hadolint"
    run(str(hadolint), str(repository / "deploy" / "images" / "Dockerfile"))


def test_helm_installed_what_runs(cluster, helm):
    config = str(cluster.kubeconfig)
    listed = run(helm, "list", "-n", "memroute-system", "-o", "json", "--kubeconfig", config)
    assert json.loads(listed)[0]["status"] == "deployed"
    for component in ("operator", "router"):
        assert cluster.wait_for(component, lambda c=component: program_address(cluster, c))
    for component, word in (("operator", "kopf"), ("router", "listening")):
        wait_log(cluster, "memroute-system", f"deploy/memroute-{component}", word)


def asked_to_install(helm, repository, cluster, *values):
    """What Helm says of a release for some namespaces, without installing it."""
    command = [
        helm, "install", "scoped", str(repository / "helm" / "memroute"), "-n", "scoped",
        "--create-namespace", "--dry-run=server", "--kubeconfig", str(cluster.kubeconfig),
    ]  # fmt: skip
    for value in values:
        command += ["--set", value]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_namespace_of_the_scope_that_is_not_there_is_told_before_anything_is_installed(
    repository, helm, cluster, namespace
):
    """Helm stopped half-way, at the first Role, with a CRD and a Deployment left behind.

    The release's own namespace is made by Helm itself, after it has asked for the others.
    """
    scope = f"scope.namespaces={{{namespace},nowhere,elsewhere,scoped}}"
    refused = asked_to_install(helm, repository, cluster, scope)
    assert refused.returncode
    assert (
        "the cluster has no namespace nowhere, elsewhere, and scope.namespaces names it; nothing "
        "was installed. Make it first: kubectl create namespace nowhere && kubectl create "
        "namespace elsewhere"
    ) in " ".join(refused.stderr.split())
    there = asked_to_install(helm, repository, cluster, f"scope.namespaces={{{namespace},scoped}}")
    assert there.returncode == 0, there.stderr
    assert "memroute doctor --operator-namespace scoped\n" in there.stdout, "what to do next"
    assert f"kubectl apply -n {namespace} -f -" in there.stdout
    # Whoever may not ask the cluster says so, and has Helm's own words.
    unasked = asked_to_install(helm, repository, cluster, scope, "clusterChecks=false")
    assert "has no namespace" not in unasked.stderr


MONITORING = (
    "monitoring.podMonitors.enabled=true",
    "monitoring.rules.enabled=true",
    "monitoring.dashboards.enabled=true",
)


def monitoring_objects(helm, repository, *values, release="memroute"):
    command = [helm, "template", release, str(repository / "helm" / "memroute"), "-n", "ops"]
    for value in (*MONITORING, *values):
        command += ["--set", value]
    return objects_of(run(*command))


def test_monitoring_is_asked_for(repository, helm):
    """Without the Prometheus operator's CRDs, an install with a PodMonitor fails."""
    plain = run(helm, "template", "memroute", str(repository / "helm" / "memroute"))
    assert "monitoring.coreos.com" not in plain
    assert "grafana_dashboard" not in plain


def test_no_service_asks_to_be_scraped(repository, helm):
    """Pods do: the chart's other job, of services' endpoints, would scrape them a second time."""
    for one in monitoring_objects(helm, repository):
        if one["kind"] == "Service":
            assert "prometheus.io/scrape" not in one["metadata"].get("annotations", {})


def test_rules_and_dashboards_reach_the_cluster_as_they_are(repository, helm):
    """Helm's braces are Prometheus' and Grafana's, too: what Helm renders is broken."""
    objects = monitoring_objects(helm, repository)
    (rule,) = (one for one in objects if one["kind"] == "PrometheusRule")
    folder = repository / "helm" / "memroute" / "monitoring"
    assert rule["spec"] == yaml.load((folder / "alerts.yaml").read_text(), yaml.CSafeLoader)
    shown = {}
    for one in objects:
        if one["kind"] == "ConfigMap" and "grafana_dashboard" in one["metadata"]["labels"]:
            shown |= {name: json.loads(text) for name, text in one["data"].items()}
    told = {path.name: json.loads(path.read_text()) for path in folder.glob("dashboards/*.json")}
    assert shown == told


def test_an_alert_can_be_left_out_and_labelled(repository, helm):
    objects = monitoring_objects(
        helm,
        repository,
        "monitoring.rules.disabled={MemrouteRetries}",
        "monitoring.rules.alertLabels.team=llm",
        "monitoring.rules.runbookUrl=https://wiki/alerts",
    )
    (rule,) = (one for one in objects if one["kind"] == "PrometheusRule")
    rules = [one for group in rule["spec"]["groups"] for one in group["rules"]]
    assert "MemrouteRetries" not in {one["alert"] for one in rules}
    assert {one["labels"]["team"] for one in rules} == {"llm"}
    urls = {one["alert"]: one["annotations"]["runbook_url"] for one in rules}
    assert urls["MemrouteSafeMode"] == "https://wiki/alerts#memroutesafemode"


def test_monitors_select_what_is_installed(repository, helm):
    """A selector without a pod, or a port without its name, is a target that nobody misses."""
    objects = monitoring_objects(helm, repository)
    templates = [one["spec"]["template"] for one in objects if one["kind"] == "Deployment"]
    monitors = [one for one in objects if one["kind"] == "PodMonitor"]
    assert len(monitors) == 3
    for monitor in monitors:
        labels = monitor["spec"]["selector"].get("matchLabels")
        if labels is None:
            continue  # engines: their pods are the operator's
        (template,) = (
            one for one in templates if labels.items() <= one["metadata"]["labels"].items()
        )
        (container,) = template["spec"]["containers"]
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        number = {one["name"]: one["containerPort"] for one in container["ports"]}[endpoint["port"]]
        assert str(number) == template["metadata"]["annotations"]["prometheus.io/port"]


def test_service_monitors_find_the_metrics_of_both_programs_and_nothing_is_scraped_twice(
    repository, helm
):
    """From the monitor by labels to a Service, by its selector to pods, by a name to their port.

    Where both kinds of monitors are asked for, engines alone keep a PodMonitor.
    """
    objects = monitoring_objects(helm, repository, "monitoring.serviceMonitors.enabled=true")
    templates = [one["spec"]["template"] for one in objects if one["kind"] == "Deployment"]
    services = [one for one in objects if one["kind"] == "Service"]
    monitors = [one for one in objects if one["kind"] == "ServiceMonitor"]
    reached = set()
    for monitor in monitors:
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = (one for one in services if wanted <= one["metadata"]["labels"].items())
        chosen = service["spec"]["selector"].items()
        (template,) = (one for one in templates if chosen <= one["metadata"]["labels"].items())
        (endpoint,) = monitor["spec"]["endpoints"]
        (port,) = (one for one in service["spec"]["ports"] if one["name"] == endpoint["port"])
        (container,) = template["spec"]["containers"]
        number = {one["name"]: one["containerPort"] for one in container["ports"]}
        assert number[port["targetPort"]] == port["port"]
        assert str(port["port"]) == template["metadata"]["annotations"]["prometheus.io/port"]
        reached.add(template["metadata"]["labels"]["app.kubernetes.io/component"])
    assert reached == {"operator", "router"}
    pods = [one["metadata"]["name"] for one in objects if one["kind"] == "PodMonitor"]
    assert pods == ["memroute-engines"]


def test_two_releases_have_monitors_and_dashboards_of_their_own(repository, helm):
    names = [
        {
            (one["kind"], one["metadata"]["name"])
            for one in monitoring_objects(helm, repository, release=release)
            if one["kind"] in ("PodMonitor", "PrometheusRule")
            or "-dashboard" in str(one["metadata"])
        }
        for release in ("memroute", "team-a")
    ]
    assert len(names[0]) == len(names[1]) == 8
    assert not names[0] & names[1]


def test_keys_and_certificates_reach_the_router_by_secrets(repository, helm):
    """Without a Secret there is neither a flag nor a volume: everybody may ask, in the clear."""
    pod, router = router_of(
        helm, repository, "router.keys.secretName=our-keys", "router.engineKey.secretName=engines",
        "router.tls.secretName=ours", "router.tls.requireClientCertificate=true",
    )  # fmt: skip
    given = flags(router["args"])
    assert given["--keys"] == ["/etc/memroute/keys/keys.yaml"]
    assert given["--engine-key-file"] == ["/etc/memroute/engine-key/key"]
    assert given["--tls-client-ca"] == ["/etc/memroute/tls/ca.crt"]
    _, *secrets = pod["volumes"]
    assert [one["secret"]["secretName"] for one in secrets] == ["our-keys", "engines", "ours"]
    _, *mounts = router["volumeMounts"]
    assert all(mount["readOnly"] for mount in mounts)
    made = objects(helm, repository, "router.tls.secretName=ours")
    (url,) = flags(pod_of(made, "operator")[1]["args"])["--router-url"]
    assert url == "https://memroute-router.$(POD_NAMESPACE).svc:80/v1"
    pod, router = router_of(helm, repository)
    assert not {"--keys", "--engine-key-file", "--tls-cert"} & set(router["args"])
    assert [one["name"] for one in pod["volumes"]] == ["tmp"]
