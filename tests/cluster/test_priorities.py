"""Priorities and quotas, with a real API server's PriorityClasses and a real kube-scheduler."""

import json

import pytest

from cluster_support import (
    apply,
    condition,
    get_deployment,
    pods_of,
    wait_condition,
    wait_event,
    wait_ready,
)
from memroute_operator.rules.hbm_quotas import QUOTAS_NAME

SYSTEM = "memroute-system"


@pytest.fixture
def classes(cluster, namespace):
    """A low and a high PriorityClass."""
    names = {kind: f"{kind}-{namespace}" for kind in ("low", "high")}
    cluster.kubectl("create", "priorityclass", names["low"], "--value=-10")
    cluster.kubectl("create", "priorityclass", names["high"], "--value=1000")
    yield names
    cluster.kubectl("delete", "priorityclass", *names.values())


def is_about(name):
    """Whether ``kubectl describe`` shows an Event of a ModelDeployment."""
    return lambda event: event["involvedObject"]["name"] == name


def test_a_lower_replica_gives_way_and_a_quota_keeps_a_third_waiting(cluster, namespace, classes):
    """The whole way: class resolved, mark, drain, claim, creation, words, Events; then a quota."""
    placement = {"mode": "Exclusive", "nodeSelector": {"kubernetes.io/hostname": "gpu-d"}}
    low = {"spec": {"priorityClassName": classes["low"]}}
    high = {"spec": {"priorityClassName": classes["high"]}}
    apply(cluster, namespace, "low", placement=placement, template=low)
    wait_ready(cluster, namespace, "low")
    (pod,) = pods_of(cluster, namespace, "low")
    assert pod["spec"]["priority"] == -10
    apply(cluster, namespace, "vip", placement=placement, template=high)
    wait_condition(cluster, namespace, "vip", "Placed", "InsufficientHBM")
    assert pods_of(cluster, namespace, "low")[0]["metadata"]["uid"] == pod["metadata"]["uid"]
    asking = placement | {"preemption": "LowerPriority"}
    apply(cluster, namespace, "vip", placement=asking, template=high)
    wait_ready(cluster, namespace, "vip")
    told = wait_condition(cluster, namespace, "low", "Placed", "InsufficientHBM")["message"]
    assert f"gave way to {namespace}/vip (priority 1000 > -10) and needs" in told
    event = wait_event(cluster, namespace, "GivesWay", is_about("low"))
    assert "(priority 1000 > -10)" in event["message"]
    wait_event(cluster, namespace, "Preempts", is_about("vip"))

    quota = {
        "apiVersion": "v1", "kind": "ConfigMap", "data": {namespace: "1Gi"},
        "metadata": {"name": QUOTAS_NAME, "namespace": SYSTEM},
    }  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(quota))
    try:
        told = wait_condition(cluster, namespace, "vip", "OverQuota", "QuotaLowered")["message"]
        assert "a quota of 1.0 GiB: nothing is evicted for that" in told
        apply(cluster, namespace, "third")
        told = wait_condition(cluster, namespace, "third", "Placed", "QuotaExceeded")["message"]
        assert f"namespace {namespace} has" in told
        assert condition(cluster, namespace, "vip", "Ready")["status"] == "True"
        assert get_deployment(cluster, namespace, "vip")["status"]["readyReplicas"] == 1
    finally:
        cluster.kubectl("delete", "configmap", QUOTAS_NAME, "-n", SYSTEM)
    wait_ready(cluster, namespace, "third")
