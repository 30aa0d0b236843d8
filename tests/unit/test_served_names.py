"""Who serves which name: one namespace at a time, decided by the operator, told in the status.

Clients send prompts and keys to whoever serves the name that they ask for.
"""

import json

import pytest

from cluster_stub import refuse
from memroute_kube.routing import (
    ClaimedNames,
    HeldName,
    NamedReplica,
    RoutingStatus,
    read_routing_status,
)
from memroute_operator.rules.name_grants import GRANTS_NAME, read_grants
from memroute_operator.status.served_names import NameClaim, RefusedName, decide_names
from operator_rig import mdep, node, operator_rig

NOW = "2026-06-01T00:00:00Z"
OLD, YOUNG = "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"


def claim(key, served="chat", *, born=OLD, adapters=(), held=None, running=()):
    """``held``: name → since, by its status; None when nothing is decided for it."""
    before = None
    if held is not None:
        names = tuple(HeldName(name=name, since=since) for name, since in held.items())
        before = RoutingStatus(names=names)
    return NameClaim(
        key=key,
        namespace=key.partition("/")[0],
        created_at=born,
        names=served and ClaimedNames(served=served, adapters=tuple(adapters)),
        before=before,
        running=frozenset(running),
    )


def decide(*claims, grants=None, known=True):
    decided = decide_names(claims, (grants or {}) if known else None, now=NOW)
    return {
        key: None if one.held is None else {held.name: held.since for held in one.held}
        for key, one in decided.items()
    }


def test_the_oldest_deployments_namespace_has_the_name():
    first, second = claim("a/x", born=OLD), claim("b/x", born=YOUNG)
    assert decide(second, first) == {"a/x": {"chat": OLD}, "b/x": {}}
    (refused,) = decide_names([second, first], {}, now=NOW)["b/x"].refused
    assert refused == RefusedName(name="chat", holder="a/x", since=OLD)
    assert refused.told == f"'chat' belongs to a/x since {OLD}"


def test_deployments_of_one_second_are_told_apart_by_their_key():
    """Creation has a resolution of a second; operator and routers must agree all the same."""
    assert decide(claim("b/x"), claim("a/y")) == {"a/y": {"chat": OLD}, "b/x": {}}


def test_who_has_a_name_keeps_it_against_an_older_deployment():
    """A servedName can be edited: one that has existed for a year would take any name."""
    holder = claim("a/x", born=YOUNG, held={"chat": YOUNG})
    edited = claim("b/x", born=OLD, held={"mine": OLD})
    assert decide(edited, holder) == {"a/x": {"chat": YOUNG}, "b/x": {}}


def test_a_name_is_free_when_the_last_of_its_namespace_lets_it_go():
    holder, canary = (claim(f"a/{n}", held={"chat": YOUNG}) for n in ("x", "canary"))
    waiting = claim("b/x", born=YOUNG, held={})
    assert decide(holder, canary, waiting)["b/x"] == {}
    assert decide(canary, waiting)["b/x"] == {}
    renamed = claim("a/canary", "other", held={"chat": YOUNG})
    assert decide(renamed, waiting) == {"a/canary": {"other": NOW}, "b/x": {"chat": NOW}}


def test_canaries_of_one_namespace_share_a_name():
    assert decide(claim("a/x"), claim("a/canary", born=YOUNG)) == {
        "a/x": {"chat": OLD}, "a/canary": {"chat": YOUNG},
    }  # fmt: skip


@pytest.mark.parametrize("rival", [claim("b/x", born=YOUNG), claim("b/x", "m", adapters=["chat"])])
def test_a_rename_keeps_the_old_name_while_a_replica_serves_it(rival):
    """It rolls out for minutes, or for ever where the new spec does not fit."""
    renamed = claim("a/x", "better", held={"chat": OLD}, running={"chat", "better"})
    assert decide(renamed, rival)["a/x"] == {"better": NOW, "chat": OLD}
    assert decide(claim("a/x", "better", held={"chat": OLD}), rival)["b/x"]["chat"]


def test_what_a_replica_serves_takes_no_name_from_anybody():
    """Pods' annotations are anybody's who may write pods there."""
    forged = claim("b/x", "mine", held={"mine": OLD}, running={"mine", "chat"})
    assert decide(forged, claim("a/x", born=YOUNG))["b/x"] == {"mine": OLD}
    first = claim("b/x", "mine", running={"mine", "chat"})
    assert decide(first, claim("a/x", born=YOUNG))["b/x"] == {"mine": OLD}
    # Nobody's else: a rename that was under way when the operator was upgraded.
    assert decide(first)["b/x"] == {"mine": OLD, "chat": OLD}


def test_an_adapter_is_a_name_like_any_other():
    first = claim("a/x", adapters=["sql"], held={"chat": OLD, "sql": OLD})
    assert decide(first, claim("b/x", "sql", born=OLD))["b/x"] == {}
    assert decide(first, claim("b/x", "m", adapters=["sql", "chat", "b"]))["b/x"] == {
        "m": OLD, "b": OLD,
    }  # fmt: skip


def test_who_gets_no_requests_for_its_adapter_is_told_who_does():
    """Its adapter is loaded, its condition is well, and no request ever comes."""

    def told(*claims, grants=None):
        decided = decide_names(claims, grants or {}, now=NOW)
        return {key: one.elsewhere for key, one in decided.items() if one.elsewhere}

    old = claim("a/z", "one", adapters=["sql"])
    young = claim("a/b", "two", born=YOUNG, adapters=["sql", "mine"])
    canary = claim("a/a", "one", born=YOUNG, adapters=["sql"])
    assert told(young, canary, old) == {"a/b": (("sql", "a/z"),)}
    model = claim("a/m", "sql", born=YOUNG)
    assert told(old, young, model) == {"a/b": (("sql", "a/m"),), "a/z": (("sql", "a/m"),)}
    assert told(young, claim("b/x", "three", born="2026-02-01T00:00:00Z", adapters=["mine"])) == {}
    granted = claim("b/x", "three", adapters=["sql"])
    assert told(young, granted, grants={"sql": frozenset({"a", "b"})}) == {"a/b": (("sql", "b/x"),)}


def test_who_shares_a_name_is_told_with_whom():
    """A copied manifest serves half of another's requests, and nothing looked wrong."""

    def told(*claims, grants=None):
        decided = decide_names(claims, grants or {}, now=NOW)
        return {
            key: (one.shared_with, one.is_shared_by_more)
            for key, one in decided.items()
            if one.shared_with
        }

    first, second, third = (claim(f"a/{n}", born=f"2026-0{n}-01T00:00:00Z") for n in (1, 2, 3))
    assert told(first) == {}
    assert told(second, first) == {"a/1": ("a/2", False), "a/2": ("a/1", False)}
    assert told(third, second, first) == {
        "a/1": ("a/2", True), "a/2": ("a/1", True), "a/3": ("a/1", True),
    }  # fmt: skip
    # Another namespace's has no right to the name, and an adapter has its own sentence.
    assert told(first, claim("b/x"), claim("a/z", "other", adapters=["chat"])) == {}
    both = {"chat": frozenset({"a", "b"})}
    assert told(first, claim("b/x", born=YOUNG), grants=both)["b/x"] == ("a/1", False)


def test_an_administrators_grant_goes_before_everything():
    holder, other = claim("a/x", held={"chat": OLD}), claim("b/x", born=YOUNG)
    both = {"chat": frozenset({"a", "b"})}
    assert decide(holder, other, grants=both) == {"a/x": {"chat": OLD}, "b/x": {"chat": YOUNG}}
    assert decide(holder, other, grants={"chat": frozenset({"b"})})["a/x"] == {}
    reserved = {"chat": frozenset({"c"})}
    assert decide(other, grants=reserved) == {"b/x": {}}
    (refused,) = decide_names([other], reserved, now=NOW)["b/x"].refused
    assert refused.told == "'chat' is granted to: c"


def test_nothing_changes_while_the_grants_cannot_be_read():
    holder, new = claim("a/x", "other", held={"chat": OLD}), claim("b/x")
    assert decide(holder, new, known=False) == {"a/x": {"chat": OLD}, "b/x": None}


def test_a_deployment_that_cannot_be_read_keeps_its_names_and_gets_none():
    unreadable = claim("a/x", None, held={"chat": OLD}, running={"other"})
    assert decide(unreadable, claim("b/x")) == {"a/x": {"chat": OLD}, "b/x": {}}


def test_grants_are_lines_of_names_by_namespace():
    data = {"a": "chat\n org/m \n\n# a comment\n", "b": "chat", "c": "", "d": "x" * 300, "e": None}
    granted = read_grants({"data": data})
    assert granted["chat"] == {"a", "b"}
    assert granted["org/m"] == {"a"}
    assert set(granted) == {"chat", "org/m"}
    assert read_grants({}) == read_grants({"data": []}) == {}


def test_what_is_written_is_read_again_and_5000_replicas_fit_into_a_status():
    """An object of 1.5 MB is too large for etcd, and placements have a third of that."""
    held = HeldName(name="chat", since=OLD)
    replicas = [
        NamedReplica(
            pod=f"a-deployment-with-a-long-name-{number}",
            uid=f"0b6d9a4e-4f3c-4d8e-9a51-{number:012}",
            served_name=f"org/model-{number % 2}",
            kv_capacity_tokens=86_016 + number % 3,
            max_context_tokens=8192 if number % 2 else None,
        )
        for number in range(5000)
    ]
    told = RoutingStatus(names=(held,), replicas={one.uid: one for one in replicas})
    status = {"observedGeneration": 3, "routing": told.document(3)}
    assert len(json.dumps(status["routing"])) < 400_000
    assert read_routing_status({"status": status}) == told
    assert read_routing_status({"status": status | {"observedGeneration": 4}}) is None
    undecided = RoutingStatus(names=None)
    status |= {"routing": undecided.document(3)}
    assert read_routing_status({"status": status}) == undecided


# -- with the operator's loop ---------------------------------------------------------------------

TEAMS = ("team-a", "team-b")


def two_teams():
    """The same model in two namespaces, team-a's the older one."""
    found = [mdep("m", team) for team in TEAMS]
    for obj in found:
        del obj["spec"]["model"]["servedName"]
    found[1]["metadata"]["creationTimestamp"] = "2026-03-01T00:00:00Z"
    return found


def routing_of(rig, key):
    return rig.cluster.objects["modeldeployments"][key]["status"]["routing"]


@pytest.mark.slow
async def test_who_comes_second_is_told_by_whom_since_when_and_what_to_do():
    async with operator_rig(nodes=[node(gpus=2)], mdeps=two_teams()) as rig:
        await rig.list_and_step()
        await rig.until("both to be told", lambda: rig.is_ready("team-a/m"))
        ready, named = (rig.condition("team-b/m", kind) for kind in ("Ready", "Named"))
        assert (ready["status"], ready["reason"]) == ("False", "NameTaken")
        assert ready["message"] == named["message"]
        for part in (
            "team-a/m", "2026-01-01T00:00:00Z", "servedName", "namespace team-b",
            f"memroute-system/{GRANTS_NAME}",
        ):  # fmt: skip
            assert part in named["message"]
        assert rig.condition("team-a/m", "Named")["reason"] == "NameHeld"
        assert rig.events("NameTaken")
        assert [one["name"] for one in routing_of(rig, "team-a/m")["names"]] == ["Qwen/Qwen3-0.6B"]
        assert routing_of(rig, "team-b/m")["names"] == []
        (started,) = routing_of(rig, "team-a/m")["replicas"]
        pod = rig.cluster.objects["pods"][rig.pod("team-a/m")]
        assert started["pods"] == {pod["metadata"]["name"]: pod["metadata"]["uid"]}
        assert started["servedName"] == "Qwen/Qwen3-0.6B"
        assert started["kvCapacityTokens"] > 8192
        assert started["maxContextTokens"] == 8192


async def test_a_name_that_would_forge_lines_is_none():
    """It goes into logs and into messages for people, and an engine takes any text."""
    obj = mdep("m")
    obj["spec"]["model"]["servedName"] = "m\n2026 INFO all is well"
    async with operator_rig(nodes=[node()], mdeps=[obj]) as rig:
        await rig.list_and_step()
        await rig.until("it to be told", lambda: rig.condition("default/m", "Named"))
        assert rig.condition("default/m", "Named")["reason"] == "NameInvalid"
        await rig.until(
            "the replica", lambda: rig.condition("default/m")["reason"] == "NameInvalid"
        )
        assert routing_of(rig, "default/m")["names"] == []


@pytest.mark.slow
async def test_two_of_a_namespace_with_one_name_are_told_each_of_the_other():
    """A manifest was copied and applied: clients got answers of two models by turns."""
    found = [mdep("m"), mdep("copy")]
    for obj in found:
        obj["spec"]["model"]["servedName"] = "chat"
    async with operator_rig(nodes=[node(gpus=2)], mdeps=found) as rig:
        await rig.list_and_step()
        await rig.until(
            "both to serve", lambda: all(rig.is_ready(f"default/{n}") for n in ("m", "copy"))
        )
        for name, other in (("m", "copy"), ("copy", "m")):
            named = rig.condition(f"default/{name}", "Named")
            assert (named["status"], named["reason"]) == ("True", "NameShared")
            for part in (f"default/{other}", "'chat'", "routing.weight", "servedName"):
                assert part in named["message"]
        assert len(rig.events("NameShared")) == 2, "one each"
        await rig.steps(2)
        assert len(rig.events("NameShared")) == 2


@pytest.mark.slow
async def test_a_grant_lets_both_serve_and_is_seen_without_a_restart():
    async with operator_rig(nodes=[node(gpus=2)], mdeps=two_teams()) as rig:
        await rig.list_and_step()
        await rig.until(
            "the refusal", lambda: rig.condition("team-b/m").get("reason") == "NameTaken"
        )
        metadata = {"name": GRANTS_NAME, "namespace": "memroute-system"}
        data = dict.fromkeys(TEAMS, "Qwen/Qwen3-0.6B\n")
        rig.cluster.put("configmaps", {"metadata": metadata, "data": data})
        await rig.reconciler.list_guarded()
        await rig.until("both to serve", lambda: all(rig.is_ready(f"{t}/m") for t in TEAMS))
        assert routing_of(rig, "team-b/m")["names"]


@pytest.mark.slow
async def test_grants_that_cannot_be_read_change_nothing_and_are_told():
    """An operator that was upgraded without its new role must not take names from anybody."""
    async with operator_rig(nodes=[node(gpus=2)], mdeps=two_teams()) as rig:
        rig.cluster.fault = lambda call: (
            refuse(403, "Forbidden") if call.plural == "configmaps" else None
        )
        await rig.list_and_step()
        await rig.until("both to serve", lambda: all(rig.is_ready(f"{t}/m") for t in TEAMS))
        named = rig.condition("team-a/m", "Named")
        assert (named["status"], named["reason"]) == ("Unknown", "GrantsUnknown")
        assert "names" not in routing_of(rig, "team-a/m")
        assert routing_of(rig, "team-a/m")["replicas"]


async def test_what_was_said_of_a_replica_at_first_stays_whatever_its_pod_says_later():
    """Annotations of pods are anybody's who may edit pods there; the status is the operator's."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        await rig.list_and_step()
        await rig.until("it to serve", lambda: rig.is_ready("default/m"))
        before = routing_of(rig, "default/m")

        def forge(pod):
            pod["metadata"]["annotations"] |= {
                "memroute.dev/served-model": "victim", "memroute.dev/kv-capacity-tokens": "\u00b2",
            }  # fmt: skip

        rig.cluster.change("pods", rig.pod("default/m"), forge)
        await rig.steps(3)
        assert routing_of(rig, "default/m") == before


async def test_pods_of_others_are_not_named():
    """d07, and a pod whose owner is another ModelDeployment of that name."""
    labels = {"memroute.dev/model-deployment": "m", "memroute.dev/replica": "7"}
    forged = {
        "metadata": {
            "namespace": "default", "name": "x", "labels": labels,
            "annotations": {"memroute.dev/served-model": "Qwen/Qwen3-0.6B"},
        },
        "spec": {"nodeName": "a", "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip
    owner = {
        "apiVersion": "memroute.dev/v1alpha1", "kind": "ModelDeployment", "name": "m",
        "uid": "of-one-that-is-gone", "controller": True,
    }  # fmt: skip
    orphan = {**forged, "metadata": forged["metadata"] | {"name": "y", "ownerReferences": [owner]}}
    # Two GPUs: what cannot be read keeps its node.
    nodes = [node("a"), node("b")]
    async with operator_rig(nodes=nodes, mdeps=[mdep("m")], pods=[forged, orphan]) as rig:
        await rig.list_and_step()
        await rig.until("it to serve", lambda: rig.is_ready("default/m"))
        (started,) = routing_of(rig, "default/m")["replicas"]
        assert [f"default/{name}" for name in started["pods"]] == [rig.pod("default/m")]
