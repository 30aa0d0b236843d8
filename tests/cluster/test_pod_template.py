"""What a real API server and a real kube-scheduler say of replica pods, and who hears of it."""

import json

import pytest

from cluster_support import (
    apply,
    condition,
    get_deployment,
    pods_of,
    wait_condition,
    wait_quotas,
    wait_ready,
)
from memroute_simulator.emulated_cluster import KubectlError

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def template(**spec):
    return {"spec": spec}


def engine(**fields):
    return template(containers=[{"name": "engine"} | fields])


def refused(cluster, namespace, name="m"):
    """What its owner reads once the API server has refused its pod."""
    found = wait_condition(cluster, namespace, name, "Ready", "PodRefused")
    assert "tried again in" in found["message"]
    assert "\n" not in found["message"]
    return found["message"]


def wait_refused(cluster, namespace, word):
    """Return once no pod is taken: what the API server refuses by, it hears of a moment later."""

    def is_refused():
        try:
            cluster.kubectl("run", "x", "--image=pause", "--dry-run=server", "-n", namespace)
        except KubectlError as error:
            return word in str(error)
        return False

    cluster.wait_for(f"{word} to refuse pods", is_refused)


def test_restricted_pod_security_asks_only_what_the_image_decides(cluster, namespace):
    """All the rest is the operator's default; a user that the image knows makes it whole."""
    cluster.kubectl(
        "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    wait_refused(cluster, namespace, "PodSecurity")
    apply(cluster, namespace, "m")
    told = refused(cluster, namespace)
    assert 'violates PodSecurity "restricted:latest": runAsNonRoot != true' in told
    for other in ("seccompProfile", "capabilities", "allowPrivilegeEscalation", "volume"):
        assert other not in told
    user = {"runAsNonRoot": True, "runAsUser": 2000}
    apply(cluster, namespace, "m", template=template(securityContext=user))
    wait_ready(cluster, namespace, "m")


def test_a_quota_on_requests_takes_replicas_as_they_are(cluster, namespace):
    """Pods without requests are refused wherever such a quota is."""
    cluster.kubectl(
        "create", "quota", "host", "--hard=requests.cpu=1,requests.memory=8Gi", "-n", namespace
    )
    wait_quotas(cluster, namespace)
    apply(cluster, namespace, "m")
    wait_ready(cluster, namespace, "m")
    cluster.kubectl("scale", "mdep/m", "--replicas=2", "-n", namespace)
    told = refused(cluster, namespace)
    assert "exceeded quota: host, requested: requests.cpu=1" in told


def test_a_quota_on_limits_names_what_to_set(cluster, namespace):
    cluster.kubectl("create", "quota", "host", "--hard=limits.memory=64Gi", "-n", namespace)
    wait_quotas(cluster, namespace)
    apply(cluster, namespace, "m")
    assert "failed quota: host: must specify limits.memory" in refused(cluster, namespace)
    apply(cluster, namespace, "m", template=engine(resources={"limits": {"memory": "16Gi"}}))
    wait_ready(cluster, namespace, "m")


def test_the_default_of_a_limit_range_is_told_before_it_kills_the_engine(cluster, namespace):
    """A default of 512Mi ended every load in an OOM-kill while pods asked for nothing."""
    limits = {
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"},
        "spec": {"limits": [{"type": "Container", "default": {"memory": "512Mi"}}]},
    }  # fmt: skip
    cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(limits))
    apply(cluster, namespace, "m")
    told = refused(cluster, namespace)
    assert "must be less than or equal to memory limit of 512Mi" in told
    apply(cluster, namespace, "m", template=engine(resources={"limits": {"memory": "16Gi"}}))
    wait_ready(cluster, namespace, "m")


def test_the_most_of_a_limit_range_is_told(cluster, namespace):
    limits = {
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "most"},
        "spec": {"limits": [{"type": "Container", "max": {"memory": "2Gi"}}]},
    }  # fmt: skip
    cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(limits))
    apply(cluster, namespace, "m")
    told = refused(cluster, namespace)
    assert "2Gi" in told
    requests = {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}
    apply(cluster, namespace, "m", template=engine(resources=requests))
    wait_ready(cluster, namespace, "m")


def test_a_policy_that_does_not_answer_is_named(cluster, namespace):
    """Fail-closed: no pod of the namespace can be made until it is back, and it is retried."""
    hook = {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [{
            "name": "pods.policy.example.com", "failurePolicy": "Fail", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 1,
            "clientConfig": {"url": "https://127.0.0.1:9/"},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                       "resources": ["pods"]}],
        }],
    }  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(hook))
    try:
        wait_refused(cluster, namespace, "pods.policy.example.com")
        apply(cluster, namespace, "m")
        assert 'failed calling webhook "pods.policy.example.com"' in refused(cluster, namespace)
    finally:
        cluster.kubectl("delete", "validatingwebhookconfiguration", namespace)
    wait_ready(cluster, namespace, "m")


def test_a_field_that_no_pod_has_is_told_with_its_path(cluster, namespace):
    """The schema of the CRD ends at the third level: below it the API server's own word counts."""
    volumes = [{"name": "cache", "emptyDirr": {}}]
    apply(cluster, namespace, "m", template=template(volumes=volumes))
    assert 'unknown field "spec.volumes[1].emptyDirr"' in refused(cluster, namespace)
    mounts = engine(volumeMounts=[{"name": "cache", "mountPath": "/cache"}])
    apply(cluster, namespace, "m", template=mounts)
    told = wait_condition(cluster, namespace, "m", "Ready", "PodRefused")["message"]

    def names_the_mount():
        return (
            'volumeMounts[1].name: Not found: "cache"'
            in (condition(cluster, namespace, "m", "Ready")["message"])
        )

    cluster.wait_for(f"the second refusal after: {told}", names_the_mount)


@pytest.fixture
def tainted(cluster):
    """A node that only those may use who say so."""
    cluster.kubectl("taint", "node", "gpu-d", "sku=gpu:NoSchedule")
    yield "gpu-d"
    cluster.kubectl("taint", "node", "gpu-d", "sku-")


def test_a_taint_is_named_and_a_toleration_opens_the_node(cluster, namespace, tainted):
    placement = {"mode": "Exclusive", "nodeSelector": {"kubernetes.io/hostname": tainted}}
    apply(cluster, namespace, "m", placement=placement)
    told = wait_condition(cluster, namespace, "m", "Placed", "NoEligibleNode")["message"]
    assert "1 untolerated taint sku=gpu:NoSchedule" in told
    assert "spec.template.spec.tolerations" in told
    toleration = {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}
    apply(cluster, namespace, "m", placement=placement, template=template(tolerations=[toleration]))
    wait_ready(cluster, namespace, "m")
    (pod,) = pods_of(cluster, namespace)
    assert pod["spec"]["nodeName"] == tainted


def test_replicas_that_keep_apart_are_put_on_other_nodes(cluster, namespace):
    """Judged before placing, by kube-scheduler's own rules: it agrees with each choice."""
    apart = {
        REQUIRED: [
            {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"memroute.dev/model-deployment": "m"}},
            }
        ]
    }
    apply(
        cluster, namespace, "m", replicas=2,
        template=template(affinity={"podAntiAffinity": apart}),
    )  # fmt: skip
    wait_ready(cluster, namespace, "m")
    assert len({pod["spec"]["nodeName"] for pod in pods_of(cluster, namespace)}) == 2


def test_an_edit_of_the_template_replaces_the_replica(cluster, namespace):
    """Another value of an annotation is how replicas are started anew."""
    apply(cluster, namespace, "m", template={"metadata": {"annotations": {"restarted": "1"}}})
    wait_ready(cluster, namespace, "m")
    (before,) = pods_of(cluster, namespace)
    assert before["metadata"]["annotations"]["restarted"] == "1"
    apply(cluster, namespace, "m", template={"metadata": {"annotations": {"restarted": "2"}}})

    def replaced():
        pods = pods_of(cluster, namespace)
        return [one["metadata"]["annotations"]["restarted"] for one in pods] == ["2"]

    cluster.wait_for("another pod", replaced)
    wait_ready(cluster, namespace, "m")


def test_what_only_the_operator_sees_is_told_in_the_status(cluster, namespace):
    """CEL does not look into what the schema leaves open."""
    directive = engine(lifecycle=None, livenessProbe={"exec": {"command": ["true"]}})
    apply(cluster, namespace, "m", template=directive)
    told = wait_condition(cluster, namespace, "m", "Resolved", "TemplateRefused")["message"]
    assert "spec.template.spec.containers[0].livenessProbe.exec must not be set" in told
    assert condition(cluster, namespace, "m", "Stalled")["status"] == "True"
    assert get_deployment(cluster, namespace, "m")["status"]["replicas"] == 0


def test_an_edit_that_the_api_server_would_refuse_takes_nothing_down(cluster, namespace):
    """A replica is drained before its successor is made: the successor is tried out first."""
    apply(cluster, namespace, "m")
    wait_ready(cluster, namespace, "m")
    (before,) = pods_of(cluster, namespace)
    volumes = [{"name": "cache", "emptyDirr": {}}]
    first = {"rollout": {"maxSurge": 0}}
    apply(cluster, namespace, "m", template=template(volumes=volumes), **first)
    told = wait_condition(cluster, namespace, "m", "Progressing", "ActionRefused")["message"]
    assert "so the old one stays" in told
    assert 'unknown field "spec.volumes[1].emptyDirr"' in told
    (after,) = pods_of(cluster, namespace)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert condition(cluster, namespace, "m", "Available")["status"] == "True"
