"""What tools and pagers make of a status: one table, for kstatus and for Argo CD.

The statuses are made by the operator's own plan, not by hand.
"""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import yaml

from kstatus import kstatus
from memroute.units import GIB
from memroute_operator.actions.backoff import Failure
from memroute_operator.failures import Diagnosis
from memroute_operator.plan import Outcome, plan_step
from memroute_operator.replicas.reading import read_replica
from memroute_operator.replicas.replica import ReplicaState
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.revisions import FailedRevision, last_good_document
from memroute_operator.spec.target_revision import as_targeted, with_history
from memroute_operator.status.condition_names import ABNORMAL, LASTING
from memroute_operator.status.conditions import NO_TROUBLES, Troubles
from memroute_operator.status.status import broken_status, deployment_status
from planned_objects import GPU, NOW, SHARED, context, deployment, facts, pod_of

FULL = replace(SHARED, devices=(replace(GPU, live_free_bytes=GIB),))


def edited(of, generation=2, **spec):
    """The deployment after an edit."""
    obj = copy.deepcopy(of.obj)
    obj["spec"] |= spec
    obj["metadata"]["generation"] = generation
    return read_deployment(obj)


def told(of, pods=(), *, nodes=(SHARED,), troubles=NO_TROUBLES, change=None):
    """The object with the status that the operator would write.

    ``change``: what is different in each of its replicas.
    """
    found = facts([of], list(pods), nodes=nodes)
    replicas = list(found.replicas)
    if change is not None:
        replicas = [replace(one, **change) for one in replicas]
        found = replace(found, replicas=tuple(replicas))
    outcome = plan_step(found, context()).outcomes[of.key]
    status = deployment_status(
        of,
        replicas,
        outcome,
        assigned_devices={},
        stale_nodes=frozenset(),
        kv_projected_ratio=None,
        troubles=troubles,
        now=NOW,
    )
    return of.obj | {"status": status}


@dataclass(frozen=True)
class Case:
    """A ModelDeployment, and what others must make of it."""

    obj: dict[str, Any]
    kstatus: str
    argo: str
    ready: str | None
    """Of the condition Ready: its reason."""
    abnormal: set[str] = field(default_factory=set)
    available: str | None = None


ONE, TWO = deployment(), deployment(replicas=2)
PAUSED = edited(ONE, generation=1, paused=True)
NEWER = edited(ONE, memory=ONE.obj["spec"]["memory"] | {"maxContextTokens": 4096})
CRASHED = {"failure": "CrashLoopBackOff (last exit code 137)", "state": ReplicaState.FAILED}
QUOTA = Failure(
    reason="Forbidden", message="exceeded quota: gpu", retry_seconds=8.0, count=1, due_seconds=8.0
)
POLICY = replace(QUOTA, message='violates PodSecurity "restricted:latest": runAsNonRoot != true')
NEWER_OF_TWO = edited(TWO, memory=TWO.obj["spec"]["memory"] | {"maxContextTokens": 4096})


def failed(name):
    """What is different in a replica whose engine has failed so."""
    diagnosis = Diagnosis(name=name, sentence="it failed", next_step="mend it")
    return {"failure": "it failed", "diagnosis": diagnosis, "state": ReplicaState.FAILED}


def refused_flag(pod):
    """The pod, as its engine ends at a flag that it does not know."""
    last = {"exitCode": 2, "message": "error: unrecognized arguments: --no-such-flag"}
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    told = {"name": "engine", "restartCount": 1, "state": state, "lastState": {"terminated": last}}
    pod["status"] |= {"containerStatuses": [told], "conditions": []}
    return pod


def back(of, good):
    """The deployment once its revision has failed, and the last good one takes its place."""
    note = FailedRevision(revision=of.revision, reason="FlagUnknown", message="no such flag")
    status = {
        "lastGood": last_good_document(good.obj, good.revision),
        "rollout": {"failed": note.document()},
    }
    obj = of.obj | {"status": status}
    return as_targeted(with_history(read_deployment(obj), read_deployment))


CASES = {
    "nobody has looked at it": Case(
        ONE.obj | {"status": {"observedGeneration": -1}}, "InProgress", "Progressing", None
    ),
    "it serves": Case(told(ONE, [pod_of(ONE)]), "Current", "Healthy", "Serving", available="True"),
    "it was edited since": Case(
        NEWER.obj | {"status": told(ONE, [pod_of(ONE)])["status"]},
        "InProgress", "Progressing", "Serving", available="True",
    ),
    "its engine starts": Case(
        told(ONE, [pod_of(ONE, ready=False)]),
        "InProgress", "Progressing", "ReplicasNotServing", {"Reconciling"}, "False",
    ),
    "one of two serves, the other starts": Case(
        told(TWO, [pod_of(TWO), pod_of(TWO, 1, ready=False)]),
        "InProgress", "Progressing", "ReplicasNotServing", {"Reconciling"}, "True",
    ),
    "its engine crashes": Case(
        told(ONE, [pod_of(ONE, ready=False)], change=CRASHED),
        "InProgress", "Progressing", "EngineFailing", {"Reconciling", "Degraded"}, "False",
    ),
    "it waits for room": Case(
        told(ONE, nodes=(FULL,)),
        "InProgress", "Progressing", "InsufficientHBM", {"Reconciling", "Degraded"}, "False",
    ),
    "no device is large enough": Case(
        told(deployment(model="meta-llama/Llama-3.1-70B-Instruct")),
        "Failed", "Degraded", "NoDeviceLargeEnough", {"Stalled", "Degraded"}, "False",
    ),
    "a model that nobody knows": Case(
        told(deployment(model="acme/unheard-of")),
        "Failed", "Degraded", "ModelUnknown", {"Stalled", "Degraded"}, "False",
    ),
    "longer requests than the model takes": Case(
        told(deployment(maxContextTokens=10_000_000)),
        "Failed", "Degraded", "ContextTooLong", {"Stalled", "Degraded"}, "False",
    ),
    "a quota refuses its pods": Case(
        told(ONE, nodes=(SHARED,), troubles=Troubles(create=QUOTA)),
        "InProgress", "Progressing", "PodRefused", {"Reconciling", "Degraded"}, "False",
    ),
    "nobody is wanted": Case(
        told(deployment(replicas=0)), "Current", "Healthy", "ScaledToZero", available="True"
    ),
    "it is rolled out": Case(
        told(NEWER, [pod_of(ONE)]),
        "InProgress", "Progressing", "RolloutInProgress", {"Reconciling"}, "True",
    ),
    "the new spec fits nowhere": Case(
        told(edited(ONE, memory=ONE.obj["spec"]["memory"] | {"concurrency": 400}), [pod_of(ONE)]),
        "Failed", "Degraded", "RolloutBlocked", {"Stalled", "Degraded"}, "True",
    ),
    "its pods are refused for what is in them": Case(
        told(ONE, nodes=(SHARED,), troubles=Troubles(create=POLICY)),
        "Failed", "Degraded", "PodRefused", {"Stalled", "Degraded"}, "False",
    ),
    "its model is gated": Case(
        told(ONE, [pod_of(ONE, ready=False)], change=failed("ModelGated")),
        "Failed", "Degraded", "ModelGated", {"Stalled", "Degraded"}, "False",
    ),
    "its hub does not answer": Case(
        told(ONE, [pod_of(ONE, ready=False)], change=failed("HubUnreachable")),
        "InProgress", "Progressing", "HubUnreachable", {"Reconciling", "Degraded"}, "False",
    ),
    "its new revision has failed": Case(
        told(NEWER_OF_TWO, [pod_of(TWO), pod_of(TWO, 1), refused_flag(pod_of(NEWER_OF_TWO, 2))]),
        "Failed", "Degraded", "RolloutHalted", {"Stalled", "Degraded"}, "True",
    ),
    "its last good revision is back": Case(
        told(back(NEWER_OF_TWO, TWO), [pod_of(TWO), pod_of(TWO, 1)]),
        "Failed", "Degraded", "RolloutHalted", {"Stalled", "Degraded"}, "True",
    ),
    "a canary is out": Case(
        told(edited(NEWER_OF_TWO, rollout={"partition": 1}),
             [pod_of(TWO), pod_of(NEWER_OF_TWO, 1)]),
        "Current", "Healthy", "Partitioned", set(), "True",
    ),
    "paused while it serves": Case(
        told(PAUSED, [pod_of(ONE)]), "Current", "Suspended", "Serving", {"Paused"}, "True"
    ),
    "paused before it was placed": Case(
        told(PAUSED), "InProgress", "Suspended", "Paused", {"Paused"}, "False"
    ),
    "paused and edited": Case(
        told(edited(NEWER, paused=True), [pod_of(ONE)]),
        "InProgress", "Suspended", "Paused", {"Paused"}, "True",
    ),
    "a policy that no router knows": Case(
        told(edited(ONE, generation=1, routing={"policy": "oracle"}), [pod_of(ONE)]),
        "Current", "Healthy", "Serving", {"PolicyUnknown"}, "True",
    ),
}  # fmt: skip


def condition_of(case, kind):
    found = {one["type"]: one for one in case.obj["status"].get("conditions", ())}
    return found.get(kind, {})


@pytest.mark.parametrize("what", CASES)
def test_tools_that_wait_and_pagers_read_it_rightly(what):
    """Helm's --wait and Flux go by kstatus, a pager by Available, kubectl wait by Ready."""
    case = CASES[what]
    assert kstatus(case.obj) == case.kstatus
    assert condition_of(case, "Ready").get("reason") == case.ready
    assert condition_of(case, "Available").get("status") == case.available
    if case.ready is not None and case.obj["status"]["observedGeneration"] > 0:
        conditions = case.obj["status"]["conditions"]
        assert {one["type"] for one in conditions} - set(LASTING) == case.abnormal


@pytest.mark.parametrize("what", CASES)
def test_argo_cd_reads_it_rightly(what, repository):
    """The check that is shipped, in a real Lua."""
    lua = pytest.importorskip("lupa.lua54").LuaRuntime()
    shipped = yaml.safe_load((repository / "deploy" / "argocd" / "health.yaml").read_text())
    (check,) = shipped["data"].values()
    run = lua.eval(f"function(obj)\n{check}\nend")
    health = run(lua.table_from(CASES[what].obj, recursive=True))
    assert health["status"] == CASES[what].argo
    assert health["message"]


@pytest.mark.parametrize("what", CASES)
def test_abnormal_conditions_are_there_only_while_they_are_true(what):
    """An alert on a condition that is True must not need to know which ones are good news."""
    conditions = CASES[what].obj["status"].get("conditions", [])
    kinds = [one["type"] for one in conditions]
    assert [kind for kind in (*LASTING, *ABNORMAL) if kind in kinds] == kinds
    assert all(one["status"] == "True" for one in conditions if one["type"] in ABNORMAL)
    assert not {"Reconciling", "Stalled"} <= set(kinds)
    generation = CASES[what].obj["status"]["observedGeneration"]
    assert all(one["observedGeneration"] == generation for one in conditions)


def test_a_status_that_could_not_be_made_is_not_done_either():
    """The generation that is observed stays: what the status says of the rest is older."""
    before = told(ONE, [pod_of(ONE)])
    of = read_deployment(edited(ONE).obj | {"status": before["status"]})
    after = before["status"] | broken_status(of, ValueError("odd"), NOW)
    assert kstatus(of.obj | {"status": after}) == "InProgress"


def test_pausing_changes_nothing_and_forgets_nothing():
    """Neither an edit, nor a crash, nor a cordon, nor fewer replicas: until it goes on."""
    of = edited(TWO, paused=True, replicas=1, memory=TWO.obj["spec"]["memory"] | {"concurrency": 2})
    pods = [pod_of(TWO), pod_of(TWO, 1, ready=False), pod_of(TWO, 2, gated=True)]
    pods[1]["status"] = {"phase": "Failed", "reason": "Evicted"}
    cordoned = replace(SHARED, unusable_reason="Cordoned")
    step = plan_step(facts([of], pods, nodes=(cordoned,)), context(lost_nodes=frozenset({"b"})))
    assert step.actions == []
    assert len(plan_step(facts([edited(of, paused=False)], pods), context()).actions) > 1


def test_pausing_keeps_no_pod_of_a_deployment_that_was_deleted():
    """Delete works while it is paused: the pods belong to nobody then, or to the one before."""
    pod = pod_of(ONE)
    assert len(plan_step(facts([], [pod]), context()).actions) == 1
    again = read_deployment(PAUSED.obj | {"metadata": PAUSED.obj["metadata"] | {"uid": "u2"}})
    assert len(plan_step(facts([again], [pod]), context()).actions) == 1


def test_a_deployment_says_where_clients_find_it():
    status = deployment_status(
        ONE,
        [read_replica(pod_of(ONE))],
        Outcome(),
        assigned_devices={},
        stale_nodes=frozenset(),
        kv_projected_ratio=None,
        url="http://memroute-router.memroute-system.svc:80/v1",
        now=NOW,
    )
    assert status["url"] == "http://memroute-router.memroute-system.svc:80/v1"
