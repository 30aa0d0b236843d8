import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster_support import program_address
from memroute_operator.rules.hbm_quotas import QUOTAS_NAME, read_quotas
from memroute_operator.rules.name_grants import GRANTS_NAME, read_grants
from memroute_operator.settings import parse_settings as parse_operator
from memroute_router.settings import parse_settings
from memroute_simulator.emulated_cluster import find_kubectl

CHART_LABELS = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
    "app.kubernetes.io/component",
}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def by_name(text):
    """Objects of a stream of manifests, without what Helm alone adds."""
    objects = {}
    for obj in filter(None, yaml.safe_load_all(text)):
        labels = obj["metadata"].get("labels", {})
        for label in CHART_LABELS & labels.keys():
            if label != "app.kubernetes.io/component" or labels[label] == "users":
                del labels[label]
        objects[obj["kind"], obj["metadata"]["name"]] = obj
    return objects


def test_the_chart_lints(repository, helm):
    run(helm, "lint", "--strict", str(repository / "helm" / "memroute"))


def test_chart_and_kustomize_base_install_the_same_objects(repository, helm):
    chart = str(repository / "helm" / "memroute")
    ours = by_name(run(find_kubectl(), "kustomize", str(repository / "deploy" / "base")))
    theirs = by_name(
        run(helm, "template", "memroute", chart, "-n", "memroute-system", "--include-crds")
    )
    del ours["Namespace", "memroute-system"]
    for obj in theirs.values():
        for container in (
            obj.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())
        ):
            assert container.pop("imagePullPolicy") == "IfNotPresent"
        if obj["kind"] == "Service":
            assert obj["spec"].pop("type") == "ClusterIP"
    assert theirs == ours


def test_network_policies_are_asked_for_and_are_the_same_from_both(repository, helm, tmp_path):
    """Off by default: one that does not name the cluster's Prometheus blinds it without a word."""
    overlay = tmp_path / "deploy" / "mine"
    overlay.mkdir(parents=True)
    for name in ("base", "components"):
        shutil.copytree(repository / "deploy" / name, tmp_path / "deploy" / name)
    shutil.copytree(repository / "crds", tmp_path / "crds")
    (overlay / "kustomization.yaml").write_text(
        "resources: [../base]\ncomponents: [../components/network-policies]\n"
    )
    ours = by_name(run(find_kubectl(), "kustomize", str(overlay)))
    flag = "networkPolicy.enabled=true"
    chart = str(repository / "helm" / "memroute")
    theirs = by_name(
        run(helm, "template", "memroute", chart, "-n", "memroute-system", "--set", flag)
    )
    names = [("NetworkPolicy", "memroute-router"), ("NetworkPolicy", "memroute-operator")]
    assert [ours[name] for name in names] == [theirs[name] for name in names]
    assert not {key for key in operator_objects(helm, repository) if key[0] == "NetworkPolicy"}
    label = r"networkPolicy.metricsNamespaces[0].kubernetes\.io/metadata\.name=monitoring"
    mine = operator_objects(helm, repository, flag, label)
    for name, at in (("memroute-router", 2), ("memroute-operator", 0)):
        admitted = mine["NetworkPolicy", name]["spec"]["ingress"][at]["from"]
        assert [each["namespaceSelector"] for each in admitted if "namespaceSelector" in each] == [
            {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
        ], "and not the default beside it: such a namespace does not have both labels"
    alone = operator_objects(helm, repository, flag, "networkPolicy.metricsNamespaces=null")
    assert alone["NetworkPolicy", "memroute-operator"]["spec"]["ingress"] == []
    empty = ("--set-json", "networkPolicy.metricsNamespaces=[]")
    command = [helm, "template", "memroute", chart, "-n", "models", "--set", flag, *empty]
    assert by_name(run(*command)) == alone
    _, _, operations = alone["NetworkPolicy", "memroute-router"]["spec"]["ingress"]
    (only,) = operations["from"]
    assert only["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"
    _, router = router_of(helm, repository)
    assert {port["name"] for port in router["ports"]} == {"http", "ops"}


def test_probes_and_scrapes_ask_the_operations_port(repository, helm):
    """The public port serves no metrics, and may speak TLS, which probes by address do not."""
    _, router = router_of(helm, repository)
    assert router["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "ops"}
    assert router["livenessProbe"]["httpGet"] == {"path": "/health", "port": "ops"}
    settings = parse_settings([])
    ports = {port["name"]: port["containerPort"] for port in router["ports"]}
    assert ports == {"http": settings.port, "ops": settings.ops_port}
    service = operator_objects(helm, repository)["Service", "memroute-router"]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]


def test_a_volume_of_tokenizers_reaches_the_router(repository, helm, tmp_path):
    values = tmp_path / "values.yaml"
    values.write_text(
        "router:\n"
        "  args: [--tokenizers, /models]\n"
        "  volumes: [{name: models, persistentVolumeClaim: {claimName: models}}]\n"
        "  volumeMounts: [{name: models, mountPath: /models, readOnly: true}]\n"
    )
    chart = str(repository / "helm" / "memroute")
    objects = by_name(run(helm, "template", "memroute", chart, "--values", str(values)))
    pod = objects["Deployment", "memroute-router"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "models"}
    (router,) = pod["containers"]
    assert router["volumeMounts"][0]["mountPath"] == "/models"
    assert router["args"][-2:] == ["--tokenizers", "/models"]


def router_of(helm, repository, *values):
    chart = str(repository / "helm" / "memroute")
    flags = [part for value in values for part in ("--set", value)]
    objects = by_name(run(helm, "template", "memroute", chart, "-n", "models", *flags))
    pod = objects["Deployment", "memroute-router"]["spec"]["template"]["spec"]
    (router,) = pod["containers"]
    return pod, router


def test_several_routers_find_each_other_and_one_looks_for_none(repository, helm):
    """With one replica nothing is opened and nobody is asked for."""
    _, one = router_of(helm, repository)
    assert "--peer-selector" not in one["args"]
    pod, several = router_of(helm, repository, "router.replicas=3", "router.peers.secretName=peers")
    given = dict(zip(several["args"][::2], several["args"][1::2], strict=True))
    assert given["--peer-namespace"] == "models"
    assert given["--peer-selector"].endswith("component=router")
    assert given["--peer-secret-file"] == "/etc/memroute/peers/key"
    assert {"name": "peers", "containerPort": 8001, "protocol": "UDP"} in several["ports"]
    assert pod["volumes"] == [{"name": "peers", "secret": {"secretName": "peers"}}]
    parse_settings([arg.replace("$(POD_IP)", "10.0.0.1") for arg in several["args"]])
    _, scaled = router_of(helm, repository, "router.peers.enabled=true")
    assert "--peer-selector" in scaled["args"]
    _, apart = router_of(helm, repository, "router.replicas=3", "router.peers.enabled=false")
    assert "--peer-selector" not in apart["args"]


def test_names_are_granted_by_values(repository, helm):
    """In the release's namespace, where no tenant may write; by default there is none."""
    chart = str(repository / "helm" / "memroute")
    command = [helm, "template", "memroute", chart, "-n", "models"]
    assert ("ConfigMap", "memroute-served-names") not in by_name(run(*command))
    granted = "servedNames.team-a={chat,org/model}"
    objects = by_name(run(*command, "--set", granted, "--set", "servedNames.team-b={chat}"))
    config_map = objects["ConfigMap", "memroute-served-names"]
    assert config_map["metadata"]["namespace"] == "models"
    assert read_grants(config_map) == {
        "chat": {"team-a", "team-b"}, "org/model": {"team-a"},
    }  # fmt: skip
    role = next(
        rule for rule in objects["Role", "memroute-operator"]["rules"]
        if rule["resources"] == ["configmaps"]
    )  # fmt: skip
    assert (role["resourceNames"], role["verbs"]) == ([GRANTS_NAME, QUOTAS_NAME], ["get"])


def test_quotas_are_set_by_values(repository, helm):
    """In the release's namespace, as quantities that the operator reads; none by default."""
    assert ("ConfigMap", QUOTAS_NAME) not in operator_objects(helm, repository)
    values = ("hbmQuotas.team-a=640Gi", "hbmQuotas._default=80Gi")
    config_map = operator_objects(helm, repository, *values)["ConfigMap", QUOTAS_NAME]
    assert config_map["metadata"]["namespace"] == "models"
    quotas = read_quotas(config_map)
    assert quotas.limit_bytes("team-a") == 640 * 2**30
    assert quotas.limit_bytes("others") == 80 * 2**30
    chart = str(repository / "helm" / "memroute")
    wrong = [helm, "template", "memroute", chart, "--set", "hbmQuotas.team-a=640GiB"]
    refused = subprocess.run(wrong, capture_output=True, text=True, check=False)
    assert refused.returncode
    assert "hbmQuotas" in refused.stderr


def operator_objects(helm, repository, *values):
    chart = str(repository / "helm" / "memroute")
    flags = [part for value in values for part in ("--set", value)]
    return by_name(run(helm, "template", "memroute", chart, "-n", "models", *flags))


def test_a_standby_operator_is_on_another_node_and_is_not_evicted_with_the_leader(repository, helm):
    """With one replica there is nothing to keep: a budget would only block drains."""
    one = operator_objects(helm, repository)
    assert ("PodDisruptionBudget", "memroute-operator") not in one
    assert "affinity" not in one["Deployment", "memroute-operator"]["spec"]["template"]["spec"]
    two = operator_objects(helm, repository, "operator.replicas=2")
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
    objects = operator_objects(helm, repository)
    role = objects["Role", "memroute-operator"]
    assert role["metadata"]["namespace"] == "models"
    leases = [rule for rule in role["rules"] if rule["resources"] == ["leases"]]
    named = [rule for rule in leases if rule["verbs"] != ["create"]]
    assert all(rule["resourceNames"] == ["memroute-operator"] for rule in named)
    nodes = objects["Role", "memroute-operator-node-leases"]
    assert nodes["metadata"]["namespace"] == "kube-node-lease"
    assert [rule["verbs"] for rule in nodes["rules"]] == [["list"]]
    everywhere = objects["ClusterRole", "memroute-operator"]["rules"]
    assert not any("leases" in rule["resources"] for rule in everywhere)
    (operator,) = objects["Deployment", "memroute-operator"]["spec"]["template"]["spec"][
        "containers"
    ]
    settings = parse_operator(
        [arg.replace("$(POD_NAMESPACE)", "models") for arg in operator["args"]]
    )
    assert settings.lease_namespace == "models"


def test_wrong_values_are_refused(repository, helm):
    chart = str(repository / "helm" / "memroute")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(helm, "template", chart, "--set", "router.replica=2")
    assert "replica" in caught.value.stderr


def test_the_demo_overlay_and_the_samples_are_valid(repository, cluster):
    """Server-side dry run: the API server itself judges them."""
    policies = repository / "deploy" / "components" / "network-policies" / "policies.yaml"
    for kind, path in (
        ("-k", repository / "deploy" / "demo"),
        ("-k", repository / "deploy" / "samples"),
        ("-f", policies),
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
        assert word in cluster.kubectl(
            "logs", "-n", "memroute-system", f"deploy/memroute-{component}"
        )


MONITORING = (
    "monitoring.podMonitors.enabled=true",
    "monitoring.rules.enabled=true",
    "monitoring.dashboards.enabled=true",
)


def monitoring_objects(helm, repository, *values, release="memroute"):
    command = [helm, "template", release, str(repository / "helm" / "memroute"), "-n", "ops"]
    for value in (*MONITORING, *values):
        command += ["--set", value]
    return [one for one in yaml.safe_load_all(run(*command)) if one]


def test_monitoring_is_asked_for(repository, helm):
    """Without the Prometheus operator's CRDs, an install with a PodMonitor fails."""
    plain = run(helm, "template", "memroute", str(repository / "helm" / "memroute"))
    assert "monitoring.coreos.com" not in plain
    assert "grafana_dashboard" not in plain


def test_rules_and_dashboards_reach_the_cluster_as_they_are(repository, helm):
    """Helm's braces are Prometheus' and Grafana's, too: what Helm renders is broken."""
    objects = monitoring_objects(helm, repository)
    (rule,) = (one for one in objects if one["kind"] == "PrometheusRule")
    folder = repository / "helm" / "memroute" / "monitoring"
    assert rule["spec"] == yaml.safe_load((folder / "alerts.yaml").read_text())
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


def test_keys_reach_the_router_by_secrets(repository, helm):
    """Without a Secret there is neither a flag nor a volume: everybody may ask."""
    pod, router = router_of(
        helm, repository, "router.keys.secretName=our-keys", "router.engineKey.secretName=engines"
    )
    given = dict(zip(router["args"][::2], router["args"][1::2], strict=True))
    assert given["--keys"] == "/etc/memroute/keys/keys.yaml"
    assert given["--engine-key-file"] == "/etc/memroute/engine-key/key"
    assert pod["volumes"] == [
        {"name": "keys", "secret": {"secretName": "our-keys"}},
        {"name": "engine-key", "secret": {"secretName": "engines"}},
    ]
    assert all(mount["readOnly"] for mount in router["volumeMounts"])
    pod, router = router_of(helm, repository, "router.replicas=1")
    assert "--keys" not in router["args"]
    assert "volumes" not in pod
