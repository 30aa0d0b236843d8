"""Nodes that kube-scheduler would refuse are not chosen, and those it would take are looked at."""

from dataclasses import replace

import pytest

from memroute.placement import (
    ANYWHERE,
    Device,
    Inventory,
    LabelOperator,
    LabelRequirement,
    Node,
    NodeTerm,
    Placed,
    PlacementMode,
    Refused,
    RefusedReason,
    SchedulingNeeds,
    Taint,
    TaintEffect,
    Toleration,
    plan,
)
from memroute.units import GIB
from memroute_operator.plan import wanted_replica
from memroute_operator.spec.deployment import read_deployment
from operator_rig import mdep
from planned_objects import context, deployment

SKU = Taint(key="sku", value="gpu", effect=TaintEffect.NO_SCHEDULE)
SPOT = Taint(key="spot", effect=TaintEffect.NO_EXECUTE)


def node(name, *taints, gib=79, **labels):
    device = Device(
        node=name, index=0, uuid=f"GPU-{name}", product="H100", usable_bytes=gib * GIB,
        usable_source="dcgm",
    )  # fmt: skip
    return Node(
        name=name, mode=PlacementMode.EXCLUSIVE, devices=(device,), num_allocatable=1,
        taints=taints, labels=labels,
    )  # fmt: skip


def decide(scheduling, *nodes):
    of = deployment(mode="Exclusive")
    replica = replace(wanted_replica(of, 0, context()), scheduling=scheduling)
    return plan(Inventory(nodes=nodes), [replica])[0]


def tolerating(*tolerations):
    return SchedulingNeeds(tolerations=tolerations)


@pytest.mark.parametrize(
    ("toleration", "tolerates"),
    [
        ({"key": "sku", "value": "gpu", "effect": "NoSchedule"}, True),
        ({"key": "sku", "value": "gpu"}, True),
        ({"key": "sku", "is_any_value": True}, True),
        ({"is_any_value": True}, True),
        ({"key": "sku", "value": "cpu"}, False),
        ({"key": "sku"}, False),
        ({"value": "gpu"}, False),
        ({"key": "sku", "value": "gpu", "effect": "NoExecute"}, False),
        ({"key": "other", "is_any_value": True}, False),
    ],
)
def test_a_taint_is_tolerated_as_kube_scheduler_has_it(toleration, tolerates):
    assert Toleration(**toleration).tolerates(SKU) is tolerates
    decision = decide(tolerating(Toleration(**toleration)), node("a", SKU))
    assert isinstance(decision, Placed) is tolerates


def test_every_taint_of_a_node_must_be_tolerated():
    needs = tolerating(Toleration(key="sku", is_any_value=True))
    decision = decide(needs, node("a", SKU, SPOT), node("b", SKU))
    assert decision.node == "b"


def test_the_refusal_names_the_taint_and_what_opens_the_node():
    """Told as a mere count, nobody knows which."""
    decision = decide(ANYWHERE, node("a", SKU), node("b", SKU), node("c", SPOT))
    assert isinstance(decision, Refused)
    assert decision.reason is RefusedReason.NO_ELIGIBLE_NODE
    assert "1 untolerated taint spot:NoExecute" in decision.message
    assert "2 untolerated taint sku=gpu:NoSchedule" in decision.message
    assert "tolerate the taint in spec.template.spec.tolerations" in decision.message


def test_nodes_that_are_left_out_are_told_beside_those_without_room():
    """The only one that may take it is too small; the one that would do is tainted."""
    decision = decide(ANYWHERE, node("small", gib=8), node("large", SKU))
    assert decision.reason is RefusedReason.NO_DEVICE_LARGE_ENOUGH
    assert "other nodes are left out (1 untolerated taint sku=gpu:NoSchedule)" in decision.message


def requirement(operator, *values):
    return LabelRequirement(key="zone", operator=LabelOperator(operator), values=values)


@pytest.mark.parametrize(
    ("demand", "zones"),
    [
        (requirement("In", "1", "2"), {"1", "2"}),
        (requirement("NotIn", "1"), {"2", "3", None}),
        (requirement("Exists"), {"1", "2", "3"}),
        (requirement("DoesNotExist"), {None}),
        (requirement("Gt", "1"), {"2", "3"}),
        (requirement("Lt", "2"), {"1"}),
        (requirement("Lt", "b"), set()),
    ],
)
def test_labels_are_compared_as_kube_scheduler_has_it(demand, zones):
    term = NodeTerm(labels=(demand,))
    found = {
        zone for zone in ("1", "2", "3", None)
        if term.matches("a", {} if zone is None else {"zone": zone})
    }  # fmt: skip
    assert found == zones


def test_terms_are_alternatives_and_an_empty_one_matches_nothing():
    by_zone = NodeTerm(labels=(requirement("In", "1"),))
    named = LabelRequirement(key="metadata.name", operator=LabelOperator.IN, values=("b",))
    needs = SchedulingNeeds(terms=(by_zone, NodeTerm(names=(named,)), NodeTerm()))
    assert decide(needs, node("a"), node("b"), node("c", zone="2")).node == "b"
    assert decide(needs, node("a", zone="1"), node("c")).node == "a"
    refused = decide(needs, node("a"), node("c"))
    assert "2 didn't match Pod's node affinity/selector" in refused.message
    assert "spec.template.spec asks for labels" in refused.message


def test_what_a_template_asks_of_nodes_reaches_placement():
    """Its tolerations, its node selector and its required affinity: all must hold."""
    obj = mdep("m", mode="Exclusive")
    terms = [{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["2"]}]}]
    obj["spec"]["template"] = {
        "spec": {
            "tolerations": [{"key": "sku", "operator": "Exists"}],
            "nodeSelector": {"pool": "serving"},
            "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
            }},
        }
    }  # fmt: skip
    replica = wanted_replica(read_deployment(obj), 0, context())
    nodes = (
        node("spot", SPOT, pool="serving"),
        node("elsewhere", SKU, pool="serving", zone="2"),
        node("batch", SKU, pool="batch"),
        node("right", SKU, pool="serving", zone="1"),
    )
    for order in (nodes, nodes[::-1]):
        assert plan(Inventory(nodes=order), [replica])[0].node == "right"
