"""The conditions of a ModelDeployment in words, each by what it is about.

| condition | about |
| --- | --- |
| ``Resolved`` | whether it is known how a new replica would start |
| ``Placed`` | whether every replica has devices; else why not, and what would help |
| ``Progressing`` | what is being changed |
| ``Overbooked`` | devices of which more was promised than they have |
| ``FootprintDrift`` | that engines do not need what was estimated |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from memroute.footprint import Quantization
from memroute.placement import RefusedReason
from memroute.units import GIB
from memroute_operator.actions.apply import NAME_TAKEN, QUOTA_WORDS
from memroute_operator.actions.backoff import Failure
from memroute_operator.actions.carry_out import POD_REFUSED
from memroute_operator.plan import Outcome
from memroute_operator.readings.calibrations import MAX_DRIFT_RATIO, drift_ratio
from memroute_operator.replicas.failed_pods import POD_FAILED
from memroute_operator.replicas.replica import Replica, ReplicaState
from memroute_operator.spec.deployment import INTERNAL_ERROR, Deployment
from memroute_operator.status.failing import failing, on_the_way, refused, scheduler_refusals
from memroute_operator.status.rollout_status import FAILED_PHASES, rollout_phase
from memroute_operator.status.serving_on import SERVES_ON, needs_no_start

# Replicas that a message names one by one before it only counts.
MAX_LISTED = 3
# Reasons of Progressing while the spec is not what serves.
ROLLOUT_HALTED = "RolloutHalted"
ROLLOUT_REASONS = frozenset({"RolloutBlocked", "RolloutInProgress", ROLLOUT_HALTED})
# The reason of what serves in full, some of it by the partition with the revision before.
PARTITIONED = "Partitioned"
NOTHING_CHANGES = "nothing is being changed"

Condition = tuple[str, str, str]
"""Status (True, False, Unknown), reason, message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Troubles:
    """What keeps a deployment from what it wants, beside what the plan found."""

    planning: str | None = None
    """What planning it raised, as a sentence; None when it raised nothing."""
    create: Failure | None = None
    """Why the API server refuses its pods."""
    names: tuple[str, ...] = ()
    """Names of missing replicas that other pods have, a sentence each."""
    failed_pods: tuple[Failure, ...] = ()
    """Replicas that ended before their time and are not made again yet."""
    actions: tuple[Failure, ...] = ()
    """Deletes, marks and gates that the API server refuses."""
    scheduler: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Nodes that kube-scheduler has refused of late → its own words."""
    kept_nodes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Nodes that are unreachable and not given up → why."""


NO_TROUBLES = Troubles()
# Refusals of which nobody knows whether they are right.
_UNKNOWN = frozenset({RefusedReason.DEVICES_UNKNOWN, RefusedReason.QUOTA_UNKNOWN})


def footprint_drift(deployment: Deployment) -> Condition | None:
    """That an engine has measured something else than was estimated; None while none has."""
    footprint = deployment.footprint
    if footprint is None or not deployment.calibrations:
        return None
    drifts = {
        product: drift_ratio(calibration, footprint)
        for product, calibration in deployment.calibrations.items()
    }
    product = max(drifts, key=lambda name: abs(drifts[name]))
    calibration = deployment.calibrations[product]
    message = (
        f"on {product} the engine takes {calibration.overhead_bytes / GIB:.2f} GiB beside weights "
        f"and KV cache, {calibration.expected_overhead_bytes / GIB:.2f} were expected "
        f"({drifts[product]:+.1%} of the footprint); the next placement goes by what was measured"
    )
    return ("True", "EstimateOff", message) if abs(drifts[product]) > MAX_DRIFT_RATIO else None


def resolved(deployment: Deployment, wanted: list[Replica], outcome: Outcome) -> Condition:
    """``Resolved``: whether it is known how a new replica would start, or why not."""
    failure = deployment.failure
    if failure is None:
        pin = deployment.pin
        of = "" if pin is None else f" of {pin.name.repository} at commit {pin.commit[:12]}"
        message = f"computed from the architecture{of}{_as_published(deployment)}"
        return "True", "FootprintKnown", message
    message = failure.message
    if needs_no_start(deployment, wanted, outcome):
        message = f"{message}; {SERVES_ON}"
    return "False" if failure.is_lasting else "Unknown", failure.reason, message


def _as_published(deployment: Deployment) -> str:
    """What the checkpoint brings along, as clauses: its quantization, what its bytes contradict."""
    shape, footprint = deployment.shape, deployment.footprint
    if shape is None or footprint is None:
        return ""
    told = []
    estimate = footprint.weights_estimate
    if shape.quantization is Quantization.NONE and shape.architecture.quantization_config:
        told.append(f"its weights are {estimate.format_name}")
    if shape.is_cache_published:
        told.append(f"its KV cache is {shape.cache_dtype} by its checkpoint")
    if estimate.note:
        told.append(estimate.note.removesuffix("."))
    return "".join(f"; {one}" for one in told)


def placed(
    deployment: Deployment, wanted: list[Replica], outcome: Outcome, troubles: Troubles
) -> Condition:
    """``Placed``: whether every replica has devices, or what keeps the next one from them."""
    if deployment.failure is not None:
        return _placed_before(deployment, wanted, outcome)
    if troubles.planning is not None:
        return "Unknown", INTERNAL_ERROR, troubles.planning
    total = deployment.replicas
    so_far = f"{min(len(wanted), total)} of {total} replica(s) placed{_held_by_stuck(outcome)}"
    if len(wanted) < total and (hindrance := _hindrance(troubles)) is not None:
        reason, message = hindrance
        return "False", reason, f"{so_far}; {message}"
    if not outcome.refused:
        if len(wanted) >= total:
            return "True", "AllPlaced", f"{so_far}{_contended(outcome)}"
        return "Unknown", "Placing", f"{so_far}{_stands_aside(outcome)}"
    first = outcome.refused[min(outcome.refused)]
    status = "Unknown" if first.reason in _UNKNOWN else "False"
    said = scheduler_refusals(troubles.scheduler)
    return status, first.reason.value, f"{so_far}; the next {first.message}{said}"


def _placed_before(deployment: Deployment, wanted: list[Replica], outcome: Outcome) -> Condition:
    """``Placed`` of what cannot be resolved now: only replicas from before have devices."""
    if needs_no_start(deployment, wanted, outcome):
        return (
            "True",
            "AllPlaced",
            f"{deployment.replicas} of {deployment.replicas} replica(s) placed",
        )
    return "False", "FootprintUnknown", "nothing is placed before the footprint is known"


def _stands_aside(outcome: Outcome) -> str:
    """The end of a sentence: which sleeper wakes first; often nothing."""
    owner = outcome.stands_aside_for
    if owner is None:
        return ""
    return f"; the next once {owner} has woken, whose room the one before it had, and did not start"


def _contended(outcome: Outcome) -> str:
    """The end of a sentence: how much engines on one device slow each other; often nothing."""
    wanted = round(outcome.contention, 1)
    if wanted <= 1:
        return ""
    return (
        f"; engines on one of its devices want {wanted} times the device's time while all have work"
    )


def _held_by_stuck(outcome: Outcome) -> str:
    """The end of a sentence: who hangs in Terminating, and holds what others could have."""
    if not outcome.stuck:
        return ""
    listed = ", ".join(f"{r.pod_name} on node {r.node}" for r in outcome.stuck[:MAX_LISTED])
    return (
        f"; hanging in Terminating, and holding their devices until they end: {listed} (see which "
        "process does not end on the node, or restart the node)"
    )


def overbooked(outcome: Outcome) -> Condition:
    """``Overbooked``, for an outcome that has some: which devices, and who leaves them."""
    told = "; ".join(one.message for one in outcome.overbooked[:MAX_LISTED])
    return "True", "DevicePromisedTwice", told


def _hindrance(troubles: Troubles) -> tuple[str, str] | None:
    """What keeps pods that have room from being made: reason and sentence."""
    if troubles.names:
        told = "; ".join(troubles.names[:MAX_LISTED])
        return (
            NAME_TAKEN,
            f"{told}; delete what has the name, or name the ModelDeployment otherwise",
        )
    if troubles.create is not None:
        return POD_REFUSED, f"the API server refused a pod: {refused(troubles.create)}"
    if troubles.failed_pods:
        told = "; ".join(failure.told for failure in troubles.failed_pods[:MAX_LISTED])
        return POD_FAILED, f"{told}, elsewhere if there is room"
    return None


def serving(deployment: Deployment, wanted: list[Replica], troubles: Troubles) -> Condition:
    """Whether every replica serves, or who does not, and why: what ``Ready`` says of it."""
    num_serving = sum(replica.is_ready for replica in wanted)
    total = deployment.replicas
    so_far = f"{min(num_serving, total)} of {total} replica(s) serve"
    if num_serving >= deployment.replicas:
        return "True", "ReplicasServing", so_far
    cut_off = [r for r in wanted if not r.is_ready and r.node in troubles.kept_nodes]
    if cut_off:
        listed = ", ".join(f"{r.pod_name} on node {r.node}" for r in cut_off[:MAX_LISTED])
        why = troubles.kept_nodes[cut_off[0].node]
        message = f"{so_far}; unreachable: {listed}; kept: {why}"
        return "False", "NodesUnreachable", message
    broken = [r for r in wanted if r.state is ReplicaState.FAILED and r.failure]
    if broken:
        reason, told = failing(broken)
        return "False", reason, f"{so_far}; {told}"
    waiting = [r for r in wanted if not r.is_ready]
    footprint = deployment.footprint
    weights = None if footprint is None else footprint.weights.expected * footprint.num_devices
    listed = ", ".join(_state_of(replica, weights) for replica in waiting[:MAX_LISTED])
    return "False", "ReplicasNotServing", so_far + (f"; {listed}" if listed else "")


def _state_of(replica: Replica, weights_bytes: int | None) -> str:
    return f"{replica.pod_name} {replica.state.value}{on_the_way(replica, weights_bytes)}"


def progressing(
    deployment: Deployment, wanted: list[Replica], outcome: Outcome, troubles: Troubles
) -> Condition:
    """``Progressing``: whether something is being changed, and what."""
    if troubles.actions:
        told = "; ".join(failure.told for failure in troubles.actions[:MAX_LISTED])
        return "Unknown", "ActionRefused", f"the API server refused: {told}"
    phase, message = rollout_phase(deployment, wanted, outcome)
    if phase in FAILED_PHASES or outcome.rollout_blocked is not None:
        return "False", ROLLOUT_HALTED if phase in FAILED_PHASES else "RolloutBlocked", message
    if outcome.rollout is not None:
        return _rolling_out(outcome.rollout, troubles)
    if outcome.moves:
        return "True", "ReplicasMoving", "; ".join(outcome.moves[:MAX_LISTED])
    settled = (ReplicaState.SERVING, ReplicaState.ASLEEP)
    moving = [r for r in wanted if not r.is_ready or r.state not in settled]
    if moving:
        listed = ", ".join(f"{r.pod_name} {r.state.value}" for r in moving[:MAX_LISTED])
        return "True", "ReplicasStarting", listed
    is_kept = phase == PARTITIONED
    return "False", *((PARTITIONED, message) if is_kept else ("Complete", NOTHING_CHANGES))


def _rolling_out(told: str, troubles: Troubles) -> Condition:
    """What a rollout does, or that its pods are refused. A quota only keeps it from a surge."""
    create = troubles.create
    if create is None or QUOTA_WORDS in create.message:
        return "True", "RolloutInProgress", told
    why = f"the API server refuses the pod of the new spec: {refused(create)}"
    return "False", "RolloutBlocked", f"{why}; the old replicas go on serving"
