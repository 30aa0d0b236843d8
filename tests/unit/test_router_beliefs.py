"""Whom a router believes: what only the operator can write, and never what a pod says of itself.

A client's prompts and keys go to whoever is taken for a replica of the model that it names.
"""

import logging

import pytest

from router_objects import (
    CAPACITY,
    LABEL,
    SERVED,
    BeliefsRig,
    deployment,
    pod,
    told,
    told_by_0_1,
)

LATER = "2026-02-01T00:00:00Z"
FORGED = {
    "a label and an annotation, in a namespace of its own": pod("evil", "x", ownerReferences=[]),
    "an owner that does not exist there": pod("evil", "x"),
    "the victim's ModelDeployment as its owner": pod(
        "evil", "x", ownerReferences=pod()["metadata"]["ownerReferences"]
    ),
    "the victim's uid": pod("evil", "chat-0", uid="uid-a-chat-0"),
    "in the victim's namespace, by nobody": pod("a", "x", ownerReferences=[]),
    "in the victim's namespace, with the owner's uid": pod("a", "x"),
    "a label that is a path": pod("evil", "x", labels={LABEL: "../a/chat"}),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
@pytest.mark.parametrize("by", [told, told_by_0_1], ids=["routing", "0.1"])
def test_a_pod_that_no_status_names_joins_no_pool(forged, by):
    """d07: any pod with two texts got everybody's prompts, and made itself the cheapest."""
    rig = BeliefsRig(by(deployment(), pod()), pods=[pod()])
    before = rig.picture()
    rig.see_pods(forged)
    assert rig.picture() == before
    (reason,) = rig.reasons()
    assert reason in {"Pod not-named", "Pod no-deployment"}


def test_a_pod_that_takes_the_name_of_a_replica_is_none():
    """Pods are deleted and made by whoever may; a uid is given once."""
    rig = BeliefsRig(told(deployment(), pod()), pods=[pod(), pod(uid="another")])
    assert rig.replicas() == []
    assert rig.gone == ["a/chat-0"]
    assert rig.reasons() == {"Pod not-named": 1}


def test_a_pod_in_doubt_is_told_once_and_counted_until_it_is_gone(caplog):
    rig = BeliefsRig(told(deployment(), pod()), pods=[pod()])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            rig.see_pods(pod("evil", "x"))
    (line,) = [r.getMessage() for r in caplog.records]
    assert "evil/x" in line
    assert "no-deployment" in line
    assert rig.reasons() == {"Pod no-deployment": 1}
    rig.beliefs.pod_gone("evil/x")
    assert rig.reasons() == {}


def test_a_pod_that_is_not_ready_yet_is_not_told():
    """The status that names a new replica is on its way: that is no reason to warn."""
    starting = pod("a", "chat-1") | {"status": {"podIP": "10.0.0.8"}}
    rig = BeliefsRig(told(deployment(), pod()), pods=[pod(), starting])
    assert rig.reasons() == {}
    rig.see(told(deployment(), pod(), starting))
    rig.see_pods(pod("a", "chat-1", address="10.0.0.8"))
    assert rig.replicas() == ["a/chat-0", "a/chat-1"]


@pytest.mark.parametrize(
    "text", ["\u00b2", "9" * 5000, "-1", "1e3", "", "NaN", "\u0663", "4096 ", str(2**30 + 1)]
)
@pytest.mark.parametrize("by", [told, told_by_0_1], ids=["routing", "0.1"])
def test_an_annotation_that_is_no_number_hurts_nobody(text, by):
    """d07b: ``"\u00b2".isdigit()``, and one pod ended every router, again after each restart."""
    odd = pod("a", "chat-1", annotations={SERVED: "chat", CAPACITY: text}, address="10.0.0.8")
    rig = BeliefsRig(by(deployment(), pod(), odd), pods=[odd, pod()])
    assert rig.replicas() == ["a/chat-0", "a/chat-1"]
    promised = rig.pools.get("chat").replicas["a/chat-1"].info.promised_capacity_tokens
    # The operator has written down what it promised: nobody's later edit counts.
    assert promised == (4096 if by is told else None)
    assert rig.reasons() == {"Pod odd": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"status": {"podIP": "169.254.169.254"}},
        {"status": {"podIP": "0.0.0.0"}},  # noqa: S104 - refused
        {"status": {"podIP": "10.0.0.7, 10.0.0.8"}},
        {"status": {"podIP": "fe80::1%eth0"}},
        {"status": {"podIP": "evil.example"}},
        {"status": {"podIP": 7}},
        {"spec": {"containers": [{"ports": [{"name": "http", "containerPort": "8000"}]}]}},
        {"spec": {"containers": [{"ports": [{"name": "http", "containerPort": 0}]}]}},
        {"spec": {"containers": [{"ports": [{"name": "http", "containerPort": True}]}]}},
        {"metadata": {"namespace": "a", "name": "chat-0"}},
        {"metadata": []},
    ],
)
def test_a_replica_that_cannot_be_read_any_more_gets_no_new_requests(change):
    """What it answers goes on: nothing is broken off until its pod is gone."""
    other = pod("a", "chat-1", address="10.0.0.8")
    rig = BeliefsRig(told(deployment(), pod(), other), pods=[pod(), other])
    rig.beliefs.pod_seen("a/chat-0", pod() | change)
    assert rig.replicas() == ["a/chat-1"]
    assert rig.gone == []
    assert rig.reasons() == {"Pod unreadable": 1}
    rig.see_pods(pod())
    assert rig.replicas() == ["a/chat-0", "a/chat-1"]
    assert rig.reasons() == {}


def test_a_replica_with_a_new_address_leaves_the_old_one():
    """d25: what had been sent there was waited for, and counted, until its time-out."""
    rig = BeliefsRig(told(deployment(), pod()), pods=[pod()])
    rig.see_pods(pod(address="10.0.0.9"))
    assert rig.gone == ["a/chat-0"]
    assert rig.replicas() == ["a/chat-0"]
    assert rig.pools.get("chat").replicas["a/chat-0"].info.endpoint.host == "10.0.0.9"


@pytest.mark.parametrize(
    "conditions", [{"type": "Ready", "status": "True"}, "True", [["Ready", "True"]], [None], 7]
)
def test_conditions_that_are_no_conditions_say_nothing(conditions):
    rig = BeliefsRig(told(deployment(), pod()))
    rig.see_pods(pod() | {"status": {"podIP": "10.0.0.7", "conditions": conditions}})
    assert rig.replicas() == []


def test_a_name_belongs_to_who_has_it_by_a_status_whatever_anybody_asks_for():
    """A ModelDeployment that is older can be edited to any name; its status cannot."""
    old = deployment("evil", "old", born="2020-01-01T00:00:00Z", routing={"weight": 1000})
    theirs = pod("evil", "old-0", of="old", address="10.6.6.6")
    rig = BeliefsRig(told(deployment(), pod()), pods=[pod(), theirs])
    for hostile in (old, told(old, theirs, names=[]), told_by_0_1(old, theirs)):
        rig.see(hostile)
        assert rig.replicas() == ["a/chat-0"]
        settings = rig.pools.get("chat").settings
        assert (settings.namespace, settings.shares) == ("a", {})
        assert rig.reasons()["ModelDeployment name-taken"] == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_of_several_with_an_adapters_name_the_oldest_has_it_in_every_router(order):
    """Two routers that saw them in another order would send one client to two models."""
    made = [
        deployment("a", "zeta", served="one", adapters=["sql"]),
        deployment("a", "alpha", served="two", born=LATER, adapters=["sql", "mine"]),
        deployment("a", "beta", served="three", born=LATER, adapters=["sql"]),
    ]
    rig = BeliefsRig(*(made[position] for position in order))
    assert rig.pools.get("sql").model == "one"
    assert rig.pools.get("mine").model == "two"
    rig.beliefs.deployment_seen("a/beta", made[2])
    assert rig.pools.get("sql").model == "one", "an event of another takes nothing"
    rig.beliefs.deployment_gone("a/zeta")
    assert rig.pools.get("sql").model == "two", "of one age the first by name"
    for key in ("a/alpha", "a/beta"):
        rig.beliefs.deployment_gone(key)
    assert rig.pools.get("sql") is None


def test_an_adapters_name_can_be_taken_no_more_than_a_models():
    adapters = ["chat", "sql", "mine"]
    theirs = deployment("evil", "m", served="other", born=LATER, adapters=adapters)
    ours = deployment(adapters=["sql"])
    rig = BeliefsRig(told(ours, pod(), names=["chat", "sql"]), theirs, pods=[pod()])
    assert rig.pools.get("sql") is rig.pools.get("chat")
    assert rig.pools.get("mine") is rig.pools.get("other")
    assert rig.pools.get("other").settings.adapters == ("mine",)


def test_canaries_of_one_namespace_share_a_name_by_their_weights():
    canary = deployment("a", "canary", born=LATER, routing={"weight": 5})
    stable = deployment("a", "chat", routing={"weight": 95})
    theirs = pod("a", "canary-0", of="canary", address="10.0.0.9")
    rig = BeliefsRig(told(stable, pod()), told(canary, theirs), pods=[pod(), theirs])
    assert rig.replicas() == ["a/canary-0", "a/chat-0"]
    assert rig.pools.get("chat").settings.shares == {"a/chat": 95.0, "a/canary": 5.0}


def test_a_new_canary_is_known_before_the_operator_has_looked_at_it():
    canary = deployment("a", "canary", born=LATER, routing={"weight": 5})
    rig = BeliefsRig(told(deployment(), pod()), canary, pods=[pod()])
    assert rig.pools.get("chat").settings.shares == {"a/chat": 100.0, "a/canary": 5.0}


def test_a_granted_name_is_served_by_both_namespaces():
    theirs = pod("b", "chat-0", address="10.0.0.9")
    young = deployment("b", "chat", born=LATER)
    rig = BeliefsRig(told(deployment(), pod()), told(young, theirs), pods=[pod(), theirs])
    assert rig.replicas() == ["a/chat-0", "b/chat-0"]


def test_a_name_that_is_taken_away_gets_no_new_requests_and_breaks_nothing_off():
    rig = BeliefsRig(told(deployment(), pod()), pods=[pod()])
    theirs = pod("b", "chat-0", address="10.0.0.9")
    rig.see(told(deployment(), pod(), names=[]), told(deployment("b"), theirs))
    rig.see_pods(theirs)
    assert rig.replicas() == ["b/chat-0"]
    assert "a/chat-0" in rig.pools.get("chat").replicas
    assert rig.gone == []
    assert rig.reasons() == {"Pod name-taken": 1, "ModelDeployment name-taken": 1}


def test_a_rename_that_rolls_out_serves_the_old_name_to_its_end():
    """The replica was started with the old name, and the status says that it may have both."""
    renamed = deployment(served="better")
    after = pod("a", "chat-1", served="better", address="10.0.0.8")
    status = told(renamed, pod(), after, names=["better", "chat"])
    rig = BeliefsRig(status, pods=[pod(), after])
    assert (rig.replicas("chat"), rig.replicas("better")) == (["a/chat-0"], ["a/chat-1"])


LATE = {
    "no status": deployment(),
    "no replicas": told(deployment()),
    "of 0.1, without it": told_by_0_1(deployment()),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE.keys())
def test_a_replica_once_named_stays_one_while_it_is_the_same(late):
    """A status may be restored from a backup, cut by a schema, or written by another release."""
    rig = BeliefsRig(told(deployment(), pod()), pods=[pod()])
    rig.see(late)
    assert rig.replicas() == ["a/chat-0"]
    rig.see_pods(pod(uid="another"))
    assert rig.replicas() == []
    assert rig.gone == ["a/chat-0"]


def test_a_replica_of_a_deployment_that_is_gone_finishes_what_it_has():
    rig = BeliefsRig(told(deployment(), pod()), pods=[pod()])
    rig.beliefs.deployment_gone("a/chat")
    assert rig.replicas() == []
    assert rig.gone == []
    new = deployment()
    new["metadata"]["uid"] = "made anew"
    rig.see(told(new))
    assert rig.replicas() == []
    rig.beliefs.pod_gone("a/chat-0")
    assert rig.gone == ["a/chat-0"]


def test_routers_before_the_operator_go_by_what_0_1_writes():
    """Placements name pods and nodes, and the oldest ModelDeployment's namespace has the name."""
    young = deployment("b", "chat", born=LATER)
    theirs = pod("b", "chat-0", address="10.0.0.9")
    rig = BeliefsRig(
        told_by_0_1(deployment(), pod()), told_by_0_1(young, theirs), pods=[pod(), theirs]
    )
    assert rig.replicas() == ["a/chat-0"]
    moved = pod("a", "chat-1", address="10.0.0.8") | {"spec": {"nodeName": "n2"}}
    rig.see(told_by_0_1(deployment(), pod(), pod("a", "chat-1")))
    rig.see_pods(moved)
    assert rig.replicas() == ["a/chat-0"]


@pytest.mark.parametrize("generation", [1, 2])
def test_replicas_that_an_older_operator_makes_after_a_newer_one_are_believed(generation):
    """0.1 after a rollback leaves ``routing`` as it was, and writes its placements.

    ``generation``: 2 after an edit, with which ``routing`` is out of date.
    """
    new = pod("a", "chat-1", address="10.0.0.8")
    stale = told(deployment(), pod())
    stale["status"] |= told_by_0_1(deployment(), new)["status"] | {"observedGeneration": generation}
    rig = BeliefsRig(stale, pods=[new])
    assert rig.replicas() == ["a/chat-1"]


def test_a_status_cut_by_an_old_schema_falls_back_to_who_controls_the_pod():
    """Without ``routing`` and with placements left out, nothing else says who the others are."""
    other = pod("a", "chat-1", address="10.0.0.8")
    forged = pod("a", "x", ownerReferences=[], address="10.6.6.6")
    rig = BeliefsRig(told_by_0_1(deployment(), pod(), cut=1), pods=[pod(), other, forged])
    assert rig.replicas() == ["a/chat-0", "a/chat-1"]
    rig.see(told(deployment(), pod()))
    assert rig.replicas() == ["a/chat-0"]


def test_settings_of_a_newer_release_are_their_defaults_and_said():
    newer = deployment(
        adapters=[7, "sql"],
        routing={
            "policy": "oracle", "admission": "politely", "kvWatermarkPercent": 10**5000,
            "ttftTargetMilliseconds": float("nan"), "weight": "half",
            "overloadObjective": {},
        }
    )  # fmt: skip
    rig = BeliefsRig(told(newer, pod(), names=["chat", "sql"]), pods=[pod()])
    settings = rig.pools.get("chat").settings
    assert (settings.policy, settings.admission.value) == ("memroute", "enforce")
    assert (settings.watermark_ratio, settings.ttft_target_seconds) == (0.95, 1.0)
    assert (settings.adapters, settings.shares) == (("sql",), {})
    assert rig.replicas() == ["a/chat-0"]
    assert rig.reasons() == {"ModelDeployment odd": 1}


@pytest.mark.parametrize(
    "broken",
    [
        {"spec": None},
        {"spec": {"model": {"name": ["m"]}}},
        {"spec": {"model": {"name": "org/m", "servedName": "m\nlevel=info forged=line"}}},
        {"metadata": {}},
        {},
    ],
)
def test_a_deployment_that_cannot_be_read_any_more_is_as_it_was(broken):
    rig = BeliefsRig(told(deployment(), pod()), pods=[pod()])
    before = rig.picture()
    obj = {} if broken == {} else told(deployment(), pod()) | broken
    rig.beliefs.deployment_seen("a/chat", obj)
    assert rig.picture() == before
    assert rig.reasons() == {"ModelDeployment unreadable": 1}
