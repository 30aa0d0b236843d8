"""What pods and ModelDeployments say to a router."""

import pytest

from memroute.traffic.admission import OverloadObjective, QueueLimits
from memroute.traffic.dispatch import AdmissionMode
from memroute_router.discovery import complete_shares, read_pool_settings, read_replica_info
from memroute_router.pools import CommonSettings

DEPLOYMENT = {
    "metadata": {"namespace": "models", "name": "chat"},
    "spec": {
        "model": {"name": "org/m", "servedName": "m"},
        "routing": {
            "kvWatermarkRatio": 0.9, "assumedOutputTokens": 100, "policy": "lmetric",
            "admission": "observe", "adapters": ["sql"], "weight": 5,
        },
    },
    "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Starting"}]},
}  # fmt: skip


def pod(**metadata):
    return {
        "metadata": {
            "namespace": "models", "name": "chat-0",
            "labels": {"memroute.dev/model-deployment": "chat"},
            "annotations": {
                "memroute.dev/served-model": "m", "memroute.dev/kv-capacity-tokens": "4096",
            },
            **metadata,
        },
        "spec": {"containers": []},
        "status": {"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip


def test_a_deployment_says_how_its_pool_admits():
    model, settings = read_pool_settings(DEPLOYMENT)
    assert (model, settings.deployment, settings.policy) == ("m", "chat", "lmetric")
    assert (settings.watermark_ratio, settings.assumed_output_tokens) == (0.9, 100)
    assert settings.admission is AdmissionMode.OBSERVE
    assert settings.adapters == ("sql",)
    assert settings.unready_reason == "Starting"


@pytest.mark.parametrize(
    ("given", "objective"),
    [("sizes", OverloadObjective.SIZES), ("tokens", OverloadObjective.TOKENS),
     (None, OverloadObjective.REQUESTS), ("later", OverloadObjective.REQUESTS)],
)  # fmt: skip
def test_a_deployment_says_who_is_late_under_overload(given, objective):
    """One that a newer custom resource knows and this router does not is the default: no crash."""
    routing = DEPLOYMENT["spec"]["routing"] | (
        {} if given is None else {"overloadObjective": given}
    )
    _, settings = read_pool_settings(
        DEPLOYMENT | {"spec": DEPLOYMENT["spec"] | {"routing": routing}}
    )
    assert settings.overload_objective is objective
    common = CommonSettings(queue_limits=QueueLimits())
    assert settings.dispatch(common).limits.objective is objective


def test_a_pod_is_a_replica_of_its_deployments_version():
    info = read_replica_info(pod())
    assert (info.key, info.served_model, info.version) == ("models/chat-0", "m", "models/chat")
    assert info.promised_capacity_tokens == 4096
    assert info.is_routable
    going = read_replica_info(pod(deletionTimestamp="2026-01-01T00:00:00Z"))
    assert not going.is_routable


def ready(status, containers, reason=None):
    said = {"type": "Ready", "status": status} | ({"reason": reason} if reason else {})
    return [said, {"type": "ContainersReady", "status": containers}]


@pytest.mark.parametrize(
    ("conditions", "is_routable"),
    [
        (ready("True", "True"), True),
        # As kube-controller-manager leaves it when the node does not report.
        (ready("False", "True"), True),
        (ready("False", "True", "ReadinessGatesNotReady"), False),
        (ready("False", "False", "ContainersNotReady"), False),
        (ready("False", "False"), False),
        (ready("Unknown", "Unknown"), False),
        ([{"type": "ContainersReady", "status": "True"}], False),
        ([], False),
        (None, False),
    ],
)
def test_a_replica_whose_node_is_silent_is_sent_to_as_before(conditions, is_routable):
    """All nodes may fall silent at once: every request got a 503 while every engine served."""
    info = read_replica_info(pod() | {"status": {"podIP": "::1", "conditions": conditions}})
    assert info.is_routable is is_routable


def test_a_pod_without_an_address_or_a_model_is_none():
    assert read_replica_info(pod() | {"status": {}}) is None
    assert read_replica_info(pod(annotations={})) is None


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({"a": None}, {}),
        ({"a": None, "b": None}, {}),
        ({"a": 95.0, "b": 5.0}, {"a": 95.0, "b": 5.0}),
        ({"a": None, "b": 5.0}, {"a": 100.0, "b": 5.0}),
        ({"a": None, "b": 0.0}, {"a": 100.0, "b": 0.0}),
    ],
)
def test_weights_are_shares_once_one_is_said(weights, shares):
    assert complete_shares(weights) == shares
