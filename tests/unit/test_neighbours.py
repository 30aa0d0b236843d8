"""Pod affinity, anti-affinity and topology spread are judged before a replica is placed."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute.placement import (
    DEVICE_TOPOLOGY,
    Inventory,
    Neighbour,
    Placed,
    PlacementMode,
    RefusedReason,
    Reservation,
    Solver,
)
from memroute.units import GIB
from memroute_operator.plan import wanted_replica
from memroute_operator.spec.deployment import read_deployment
from planned_objects import GPU, SHARED, context, deployment

ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
LABEL = "memroute.dev/model-deployment"


def node(name, zone=None, devices=1):
    labels = {HOST: name} | ({ZONE: zone} if zone else {})
    gpus = tuple(replace(GPU, node=name, index=i, uuid=f"GPU-{name}-{i}") for i in range(devices))
    return replace(SHARED, name=name, labels=labels, devices=gpus)


def model(name="m", *, labels=None, **spec):
    """A ModelDeployment of small replicas whose template has that pod spec."""
    obj = deployment(name, concurrency=1).obj
    template = {"spec": spec} | ({"metadata": {"labels": labels}} if labels else {})
    return read_deployment({**obj, "spec": {**obj["spec"], "template": template}})


def term(labels, topology=HOST, **more):
    return {"topologyKey": topology, "labelSelector": {"matchLabels": labels}, **more}


def apart(*terms):
    return {"podAntiAffinity": {REQUIRED: list(terms)}}


def place(nodes, *deployments, pods=(), number=1):
    """Where that many replicas of each go, one after the other."""
    solver = Solver(Inventory(nodes=tuple(nodes)), neighbours=pods)
    wanted = [wanted_replica(one, i, context()) for one in deployments for i in range(number)]
    return list(solver.place_all(wanted))


def where(decisions):
    return [one.node if isinstance(one, Placed) else one.reason for one in decisions]


def pod(name, node_name, labels, **facts):
    return Neighbour(
        owner=f"default/{name}", namespace="default", node=node_name, labels=labels, **facts
    )


NODES = (node("a", "x"), node("b", "x"), node("c", "y"))


def test_replicas_of_one_model_are_on_different_nodes_where_that_is_required():
    """Also when they are placed in one step; the one too many says why."""
    of = model(affinity=apart(term({LABEL: "m"})))
    decisions = place(NODES[:2], of, number=3)
    assert where(decisions) == ["a", "b", RefusedReason.NEIGHBOURS]
    assert "2 didn't match pod anti-affinity rules" in decisions[2].message


def test_replicas_of_one_model_are_in_different_zones():
    """By the labels of the nodes."""
    of = model(affinity=apart(term({LABEL: "m"}, ZONE)))
    assert where(place(NODES, of, number=3)) == ["a", "c", RefusedReason.NEIGHBOURS]


def test_a_preference_decides_among_nodes_with_room_and_refuses_nothing():
    """Different zones as long as there are some."""
    said = [{"weight": 100, "podAffinityTerm": term({LABEL: "m"}, ZONE)}]
    of = model(affinity={"podAntiAffinity": {PREFERRED: said}})
    assert where(place(NODES, of, number=3)) == ["a", "c", "a"]


def test_pods_of_others_are_kept_away_from():
    """Whoever they belong to; in this namespace unless others are named."""
    others = [pod("noisy", "a", {"app": "noisy"}), pod("else", "b", {"app": "else"})]
    of = model(affinity=apart(term({"app": "noisy"})))
    assert where(place(NODES, of, pods=others)) == ["b"]
    elsewhere = [replace(one, namespace="other") for one in others]
    assert where(place(NODES, of, pods=elsewhere)) == ["a"]
    of = model(affinity=apart(term({"app": "noisy"}, namespaces=["other"])))
    assert where(place(NODES, of, pods=elsewhere)) == ["b"]
    of = model(affinity=apart(term({"app": "noisy"}, namespaceSelector={})))
    assert where(place(NODES, of, pods=elsewhere)) == ["b"]


def test_who_is_there_and_wants_to_be_alone_is_left_alone():
    """kube-scheduler judges the terms of pods that run, too."""
    picky = model("picky", affinity=apart(term({"app": "chat"})))
    shy = model("shy", labels={"app": "chat"}, affinity={})
    assert where(place(NODES[:2], picky, shy)) == ["a", "b"]


def test_a_model_that_must_not_share_a_device_is_beside_nobody_on_one():
    """Other models' bursts cost it compute; on the other device of the node it is well."""
    alone = apart(
        {
            "topologyKey": DEVICE_TOPOLOGY,
            "labelSelector": {"matchExpressions": [{"key": LABEL, "operator": "Exists"}]},
        }
    )
    decisions = place(
        [node("a", devices=2)], model("m"), model("alone", affinity=alone), model("late"), number=1
    )
    assert [one.device_uuids for one in decisions] == [("GPU-a-0",), ("GPU-a-1",), ("GPU-a-0",)]
    full = place([node("a")], model("m"), model("alone", affinity=alone))
    assert where(full) == ["a", RefusedReason.NEIGHBOURS]
    assert "1 device(s) hold pods that it must not share with" in full[1].message


def test_a_successor_may_be_where_its_predecessor_is():
    """The two are never there at once: a rollout on one node must not wait for a second one."""
    of = model(affinity=apart(term({LABEL: "m"})))
    held = Reservation(
        owner="default/m-0", deployment="default/m", node="a",
        device_bytes={"GPU-a-0": 60 * GIB}, ready_seconds=600.0,
    )  # fmt: skip
    there = pod("m-0", "a", {LABEL: "m"}, device_uuids=("GPU-a-0",))
    inventory = Inventory(nodes=NODES[:1], reservations=(held,))
    solver = Solver(inventory, neighbours=[there])
    assert isinstance(solver.replace("default/m-0", wanted_replica(of, 0, context())), Placed)
    solver = Solver(inventory, neighbours=[replace(there, owner="default/m-1")])
    assert not isinstance(solver.replace("default/m-0", wanted_replica(of, 0, context())), Placed)


def test_what_must_be_beside_others_is_or_waits():
    """The first of those that want to be together may go anywhere."""
    near = {"podAffinity": {REQUIRED: [term({"app": "cache"}, ZONE)]}}
    of = model(affinity=near)
    assert where(place(NODES, of)) == [RefusedReason.NEIGHBOURS]
    assert where(place(NODES, of, pods=[pod("cache", "c", {"app": "cache"})])) == ["c"]
    itself = model(affinity={"podAffinity": {REQUIRED: [term({LABEL: "m"}, ZONE)]}})
    small = [node("a", "x"), node("c", "y"), node("d", "y")]
    assert where(place(small, itself, number=2)) == ["a", "a"]


def constraint(**facts):
    defaults = {"topologyKey": ZONE, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
    return [{**defaults, **facts}]


def test_a_spread_keeps_the_skew_and_counts_this_models_replicas():
    """Three in two zones: two and one; a zone without room bounds the other."""
    of = model(topologySpreadConstraints=constraint())
    assert where(place(NODES, of, number=4)) == ["a", "c", "a", "c"]
    full = replace(NODES[2], unusable_reason="Cordoned")
    decisions = place([*NODES[:2], full], of, number=2)
    assert where(decisions) == ["a", RefusedReason.NEIGHBOURS]
    assert "topology spread" in decisions[1].message


def test_a_soft_spread_goes_where_fewest_are():
    """And refuses nothing."""
    of = model(topologySpreadConstraints=constraint(whenUnsatisfiable="ScheduleAnyway"))
    assert where(place(NODES, of, number=3)) == ["a", "c", "a"]


def test_pods_that_end_count_for_affinity_and_no_more_for_spreads():
    """As kube-scheduler counts them."""
    ending = [pod("m-9", "a", {LABEL: "m"}, is_ending=True)]
    assert where(place(NODES, model(topologySpreadConstraints=constraint()), pods=ending)) == ["a"]
    of = model(affinity=apart(term({LABEL: "m"})))
    assert where(place(NODES, of, pods=ending)) == ["b"]


def test_a_node_without_the_label_is_no_domain():
    """It violates no anti-affinity, and meets no affinity and no spread."""
    bare = [node("a")]
    of = model(affinity=apart(term({LABEL: "m"}, ZONE)))
    assert where(place(bare, of, number=2)) == ["a", "a"]
    of = model(topologySpreadConstraints=constraint())
    assert where(place(bare, of)) == [RefusedReason.NEIGHBOURS]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            {"affinity": apart(term({}, namespaceSelector={"matchLabels": {"a": "b"}}))},
            "reads no labels of namespaces",
        ),
        (
            {"affinity": {"podAffinity": {REQUIRED: [term({}, DEVICE_TOPOLOGY)]}}},
            "no node has such a label",
        ),
        (
            {"topologySpreadConstraints": constraint(topologyKey=DEVICE_TOPOLOGY)},
            "no node has such a label",
        ),
        ({"affinity": apart({"labelSelector": {}})}, "cannot be read"),
        ({"topologySpreadConstraints": [{"topologyKey": ZONE}]}, "cannot be read"),
    ],
)
def test_what_cannot_be_judged_is_refused(spec, words):
    """Better than a replica that waits for what nobody looks at."""
    of = model(**spec)
    assert of.failure.reason == "TemplateRefused"
    assert words in of.failure.message


@pytest.mark.slow
@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(st.sampled_from(["x", "y", "z", None]), min_size=1, max_size=6),
    st.integers(1, 8),
    st.sampled_from([ZONE, HOST]),
)
def test_never_two_in_one_domain_and_never_one_fewer_than_could_be(zones, number, topology):
    """Required anti-affinity to itself: as many as there are domains."""
    nodes = [node(f"n{i}", zone) for i, zone in enumerate(zones)]
    of = model(affinity=apart(term({LABEL: "m"}, topology)))
    placed = [one.node for one in place(nodes, of, number=number) if isinstance(one, Placed)]
    domains = [one.labels.get(topology) for one in nodes for n in placed if n == one.name]
    known = [one for one in domains if one is not None]
    assert len(known) == len(set(known))
    if all(zones):
        wanted = len({one.labels[topology] for one in nodes})
        assert len(placed) == min(number, wanted)


def test_whole_devices_are_judged_alike():
    """The rules are about nodes, whoever hands out the devices."""
    nodes = [replace(one, mode=PlacementMode.EXCLUSIVE, num_allocatable=1) for one in NODES[:2]]
    obj = model(affinity=apart(term({"app": "noisy"}))).obj
    spec = {**obj["spec"], "placement": {"mode": "Exclusive", "strategy": "Pack"}}
    of = read_deployment({**obj, "spec": spec})
    assert where(place(nodes, of, pods=[pod("noisy", "a", {"app": "noisy"})])) == ["b"]
