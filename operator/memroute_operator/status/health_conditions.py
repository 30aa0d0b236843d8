"""The conditions that sum up for others: tools that wait, and people who are paged.

| condition | for whom |
| --- | --- |
| ``Ready`` | Helm's ``--wait``, Flux, ``kubectl wait``: all replicas serve the current spec |
| ``Reconciling`` | kstatus: it is on the way, or waits for what comes by itself, such as room |
| ``Stalled`` | kstatus takes it for failed: a person must change something first |
| ``Available`` | pagers: ``False`` while nobody serves |
| ``Degraded`` | a ticket: less is served than wanted, and not because something is starting |
| ``Paused`` | ``spec.paused``; Argo CD shows it as suspended |

``Reconciling``, ``Stalled``, ``Degraded`` and ``Paused`` are there only while they are true; the
first two are never there together. The rules: ``pkg/kstatus/status`` of sigs.k8s.io/cli-utils.
"""

from collections.abc import Mapping

from memroute.placement import RefusedReason
from memroute.traffic.routing import POLICY_NAMES
from memroute_kube.shapes import mapping
from memroute_operator.actions.backoff import Failure
from memroute_operator.actions.carry_out import POD_REFUSED
from memroute_operator.failures import refusal_of
from memroute_operator.failures.lasting import is_lasting
from memroute_operator.plan import Outcome
from memroute_operator.replicas.replica import Replica
from memroute_operator.sleeping.telling import not_awake
from memroute_operator.spec.deployment import Deployment
from memroute_operator.status.conditions import ROLLOUT_HALTED, Condition

# The reason of what waits until spec.paused is false again.
PAUSED = "Paused"
# Not ready because something is under way: nothing to warn of.
EXPECTED_REASONS = frozenset(
    {"ReplicasNotServing", "Placing", "Preempting", "RolloutInProgress", "ModelResolving", PAUSED}
)
# No device of the cluster is large enough: room that becomes free does not help.
NEVER = RefusedReason.NO_DEVICE_LARGE_ENOUGH


def available(deployment: Deployment, wanted: list[Replica], served: Condition) -> Condition:
    """``Available``: whether anybody serves. ``served``: whether all do, and why not."""
    serving = sum(replica.is_ready for replica in wanted)
    if serving:
        message = f"{serving} of {deployment.replicas} replica(s) serve"
        if asleep := len(not_awake(wanted)):
            message += f", {asleep} of them once a request has woken them"
        return "True", "ReplicasServing", message
    if not deployment.replicas:
        return "True", "ScaledToZero", "no replica is wanted"
    return served


def left_alone(deployment: Deployment, wanted: list[Replica]) -> dict[str, Condition]:
    """``Placed`` and ``Progressing`` of what is paused, where something would be done else."""
    if not deployment.paused or deployment.footprint is None:
        return {}
    found: dict[str, Condition] = {}
    waits = "nothing is done while spec.paused is true"
    there = f"{len(wanted)} replica(s) are there, {deployment.replicas} are wanted"
    if len(wanted) < deployment.replicas:
        found["Placed"] = "Unknown", PAUSED, f"{there}: {waits}"
    outdated = sum(replica.revision != deployment.revision for replica in wanted)
    if outdated:
        found["Progressing"] = "False", PAUSED, f"{outdated} run an older spec: {waits}"
    elif len(wanted) != deployment.replicas:
        found["Progressing"] = "False", PAUSED, f"{there}: {waits}"
    return found


def health(
    deployment: Deployment,
    conditions: Mapping[str, Condition],
    outcome: Outcome,
    create: Failure | None = None,
) -> dict[str, Condition]:
    """``Reconciling`` or ``Stalled``, ``Degraded`` and ``Paused``, as far as they are true.

    ``conditions``: all that are always there, ``Ready`` among them. ``create``: why the API server
    refuses its pods; None when it does not.
    """
    found: dict[str, Condition] = {}
    status, reason, message = conditions["Ready"]
    if deployment.paused:
        found["Paused"] = "True", "PausedBySpec", _paused(conditions)
    if status == "True":
        return found
    if _is_stalled(conditions, outcome) or _is_refused(reason, create):
        found["Stalled"] = "True", reason, message
    elif not deployment.paused:
        found["Reconciling"] = "True", reason, message
    if reason not in EXPECTED_REASONS:
        found["Degraded"] = "True", reason, message
    return found


def policy_unknown(deployment: Deployment) -> Condition | None:
    """``PolicyUnknown``: routers of this release do not know ``spec.routing.policy``."""
    policy = mapping(mapping(deployment.obj.get("spec")).get("routing")).get("policy")
    if policy is None or policy in POLICY_NAMES:
        return None
    known = ", ".join(POLICY_NAMES)
    message = f"routing.policy {policy!r:.80} is not known: memroute is taken. Known are {known}"
    return "True", "PolicyUnknown", message


def _is_stalled(conditions: Mapping[str, Condition], outcome: Outcome) -> bool:
    """Whether nothing that comes by itself would make it ready.

    A person must act: what is wrong is in the spec, in what it names (a Secret, a gate of a hub,
    an image), or in who else has the name.
    """
    resolved = conditions["Resolved"]
    if resolved[0] == "False" and resolved[:2] == conditions["Ready"][:2]:
        return True
    named = conditions.get("Named")
    if named is not None and named[:2] == conditions["Ready"][:2] and named[0] == "False":
        return True
    reason = conditions["Ready"][1]
    if reason == ROLLOUT_HALTED or is_lasting(reason):
        return True
    if outcome.rollout_blocked is not None and outcome.rollout_blocked.reason is NEVER:
        return True
    return conditions["Placed"][1] == NEVER.value


def _is_refused(reason: str, create: Failure | None) -> bool:
    """Whether its pods are refused for what is in them, and not for what others hold."""
    if create is None or reason not in (POD_REFUSED, "RolloutBlocked"):
        return False
    meant = refusal_of(create.message)
    return meant is not None and is_lasting(meant.name)


def _paused(conditions: Mapping[str, Condition]) -> str:
    told = "memroute changes nothing of its replicas while spec.paused is true"
    status, _, message = conditions["Ready"]
    return told if status == "True" else f"{told}; not ready: {message}"
