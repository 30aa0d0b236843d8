"""The status of a ModelDeployment, from the facts and what the plan found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from memroute.footprint import Calibration, CalibrationKey
from memroute.placement import RefusedReason
from memroute.traffic.admission import AdmissionSettings, unmet_target
from memroute.units import GIB
from memroute_kube import KubeObject
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_kube.routing import RoutingStatus
from memroute_operator.apply import NAME_TAKEN
from memroute_operator.backoff import Failure
from memroute_operator.calibrations import (
    MAX_DRIFT_RATIO,
    drift_ratio,
    read_calibrations,
    write_calibrations,
)
from memroute_operator.carry_out import POD_REFUSED
from memroute_operator.deployment import INTERNAL_ERROR, Deployment, internal_error
from memroute_operator.failed_pods import POD_FAILED
from memroute_operator.plan import Outcome
from memroute_operator.replica import Replica, ReplicaState
from memroute_operator.router_metrics import TargetsReport
from memroute_operator.routing_status import is_served_name_refused, named_condition
from memroute_operator.served_names import NamesDecision
from memroute_operator.status_writer import bounded
from memroute_operator.templates import Templates

PRESSURE_LEVELS = ((0.05, "Idle"), (0.5, "Low"), (0.8, "Moderate"), (0.95, "High"))
MAX_LISTED = 3
# Replicas that a message names one by one before it only counts.
TARGETS_UNMET = "EngineSlowerThanTargets"

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
    kept_nodes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Nodes that are unreachable and not given up → why."""


NO_TROUBLES = Troubles()


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """What routers are told of a deployment, and why."""

    told: RoutingStatus
    decision: NamesDecision
    grants_namespace: str
    """Where an administrator grants names: the operator's own namespace."""


def deployment_status(
    deployment: Deployment,
    replicas: list[Replica],
    outcome: Outcome,
    *,
    assigned_devices: Mapping[str, tuple[str, ...]],
    stale_nodes: frozenset[str],
    kv_projected_ratio: Mapping[str, float] | None,
    targets: TargetsReport | None = None,
    troubles: Troubles = NO_TROUBLES,
    templates: Templates | None = None,
    routing: Routing | None = None,
    now: datetime,
) -> dict[str, Any]:
    """The whole ``status``. ``assigned_devices``: pod → UUIDs that the device plugin gave it.

    ``targets``: what routers say of its latency targets; None while nobody knows.
    ``stale_nodes``: of the whole cluster.
    ``templates``: what new replicas would be; None says nothing of it.
    ``routing``: what routers are told; None says nothing of it.
    """
    wanted = [replica for replica in replicas if replica.key in outcome.kept]
    serving = [replica for replica in replicas if replica.is_ready]
    conditions = _conditions(deployment, wanted, outcome, troubles)
    conditions["DeviceMetricsFresh"] = _metrics_fresh(deployment, replicas, wanted, stale_nodes)
    if routing is not None:
        conditions["Named"] = named_condition(
            deployment, routing.decision, grants_namespace=routing.grants_namespace
        )
    conditions["Ready"] = _ready(deployment, conditions, routing)
    if outcome.overbooked:
        conditions["Overbooked"] = _overbooked(outcome)
    if targets is not None:
        conditions["TargetsMet"] = _targets_met(deployment, targets)
    template = None if templates is None else templates.condition(deployment, wanted)
    if template is not None:
        conditions["TemplateCurrent"] = template
    status: dict[str, Any] = {
        "observedGeneration": deployment.generation,
        "replicas": len(replicas),
        "readyReplicas": len(serving),
        "placedReplicas": len(wanted),
        "updatedReplicas": sum(r.revision == deployment.revision for r in wanted),
        "selector": f"{LABEL_DEPLOYMENT}={deployment.name}",
        "summary": f"{len(serving)}/{deployment.replicas}",
        "nodes": ",".join(sorted({replica.node for replica in replicas})),
        "kvCapacityTokens": sum(replica.kv_capacity_tokens for replica in serving),
        "kvPressure": _pressure(serving, kv_projected_ratio),
        "placements": [
            _placement(replica, assigned_devices.get(replica.key, ()))
            for replica in sorted(replicas, key=lambda replica: replica.index)
        ],
        "conditions": _with_times(deployment, conditions, now),
    }
    if routing is not None:
        status["routing"] = routing.told.document(deployment.generation)
    if deployment.footprint is not None:
        footprint = deployment.footprint
        total = footprint.total_bytes
        status["footprint"] = {
            "perDevice": f"{total / GIB:.1f}Gi",
            "perDeviceBytes": total,
            "weightsBytes": footprint.weights_bytes,
            "kvCacheBytes": footprint.kv_cache_bytes,
            "overheadBytes": footprint.overhead_bytes,
            "devices": footprint.num_devices,
            "kvBytesPerToken": footprint.kv_layout.bytes_per_token,
            "source": "calibrated" if deployment.calibrations else footprint.source,
        }
        status["calibrations"] = write_calibrations(
            _kept(deployment) | {one.key: one for one in deployment.calibrations.values()}
        )
    else:
        status["footprint"] = None
    return status


def broken_status(deployment: Deployment, error: Exception, now: datetime) -> dict[str, Any]:
    """What is told when the status itself could not be made; the rest of it stays as it was."""
    ready = ("Unknown", INTERNAL_ERROR, internal_error(error))
    (told,) = _with_times(deployment, {"Ready": ready}, now)
    others = [c for kind, c in _previous(deployment).items() if kind != "Ready"]
    # Not the generation of the whole: what routers are told of would be out of date by it.
    return {"conditions": [told, *others]}


def _kept(deployment: Deployment) -> dict[CalibrationKey, Calibration]:
    """What its status already holds, of other flags and images too.

    What cannot be read of it is written anew: whoever may edit the status may have been there.
    """
    try:
        return read_calibrations([deployment.obj])
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}


def _drift(deployment: Deployment) -> Condition | None:
    """Whether an engine has measured something else than was estimated; None before one has."""
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
    if abs(drifts[product]) > MAX_DRIFT_RATIO:
        return "True", "EstimateOff", message
    return "False", "EstimateHolds", message


def _targets_met(deployment: Deployment, report: TargetsReport) -> Condition:
    """Whether its engines can meet ``spec.routing``'s targets; it serves in either case.

    A router that has not heard of a new target yet is not believed: the spec is what counts.
    """
    if report.are_unmet:
        routing = deployment.obj["spec"].get("routing") or {}
        defaults = AdmissionSettings()
        settings = AdmissionSettings(
            ttft_target_seconds=routing.get("ttftTargetSeconds", defaults.ttft_target_seconds),
            tpot_target_seconds=routing.get("tpotTargetSeconds", defaults.tpot_target_seconds),
        )
        unmet = unmet_target(report.alone, settings)
        if unmet is not None:
            return "False", TARGETS_UNMET, unmet.message
        previous = _previous(deployment).get("TargetsMet")
        if (
            previous is not None
            and previous["reason"] == TARGETS_UNMET
            and previous.get("observedGeneration") == deployment.generation
        ):
            # The router has not taken it back: too close to the target.
            return "False", TARGETS_UNMET, previous["message"]
    return "True", "EngineFastEnough", "one request alone is served within the targets"


def _placement(replica: Replica, assigned: tuple[str, ...]) -> dict[str, Any]:
    return {
        "replica": replica.index,
        "pod": replica.pod_name,
        "node": replica.node,
        "devices": sorted(replica.device_bytes) or list(assigned),
        "hbmBytes": replica.bytes_per_device,
        "kvCapacityTokens": replica.kv_capacity_tokens,
        "state": replica.state.value,
        "why": replica.why,
    }


def _pressure(serving: list[Replica], ratios: Mapping[str, float] | None) -> str:
    known = [ratios[r.key] for r in serving if r.key in ratios] if ratios is not None else []
    if not known:
        return "Unknown"
    fullest = max(known)
    return next((level for limit, level in PRESSURE_LEVELS if fullest < limit), "Full")


def _conditions(
    deployment: Deployment, wanted: list[Replica], outcome: Outcome, troubles: Troubles
) -> dict[str, Condition]:
    conditions: dict[str, Condition] = {}
    if deployment.failure is not None:
        conditions["Resolved"] = ("False", deployment.failure.reason, deployment.failure.message)
    else:
        conditions["Resolved"] = ("True", "FootprintKnown", "computed from the architecture")
    conditions["Placed"] = _placed(deployment, wanted, outcome, troubles)
    conditions["Available"] = _available(deployment, wanted, troubles)
    conditions["Progressing"] = _progressing(wanted, outcome, troubles)
    if (drift := _drift(deployment)) is not None:
        conditions["FootprintDrift"] = drift
    return conditions


def _metrics_fresh(
    deployment: Deployment,
    replicas: list[Replica],
    wanted: list[Replica],
    stale_nodes: frozenset[str],
) -> Condition:
    """Whether the nodes that concern it report: its own, and all of them while it looks for room.

    Nodes are not named: one late exporter would change the status of every deployment.
    """
    promises = (
        "placement goes by labels and promises there, and does not see other processes "
        "(memroute_node_metrics_fresh says which nodes)"
    )
    if not stale_nodes.isdisjoint(replica.node for replica in replicas):
        return "False", "DeviceMetricsStale", f"a node of its replicas does not report: {promises}"
    if stale_nodes and len(wanted) < deployment.replicas:
        return "False", "DeviceMetricsStale", f"some nodes do not report: {promises}"
    return "True", "Fresh", "every node of its replicas reports"


def _ready(
    deployment: Deployment, conditions: Mapping[str, Condition], routing: Routing | None
) -> Condition:
    needed = ["Resolved", "Placed", "Available"]
    if routing is not None and is_served_name_refused(deployment, routing.decision):
        needed.insert(1, "Named")
    for kind in needed:
        status, reason, message = conditions[kind]
        if status != "True":
            return status, reason, message
    _, reason, message = conditions["Progressing"]
    if reason in ("RolloutBlocked", "RolloutInProgress"):
        return "False", reason, message
    if deployment.replicas == 0:
        return "True", "ScaledToZero", "no replica is wanted"
    return "True", "Serving", f"all {deployment.replicas} replica(s) serve the current spec"


def _placed(
    deployment: Deployment, wanted: list[Replica], outcome: Outcome, troubles: Troubles
) -> Condition:
    if deployment.failure is not None:
        return "False", "FootprintUnknown", "nothing is placed before the footprint is known"
    if troubles.planning is not None:
        return "Unknown", INTERNAL_ERROR, troubles.planning
    total = deployment.replicas
    so_far = f"{len(wanted)} of {total} replica(s) placed{_held_by_stuck(outcome)}"
    if len(wanted) < total and (hindrance := _hindrance(troubles)) is not None:
        reason, message = hindrance
        return "False", reason, f"{so_far}; {message}"
    if not outcome.refused:
        if len(wanted) == total:
            return "True", "AllPlaced", so_far
        return "Unknown", "Placing", so_far
    first = outcome.refused[min(outcome.refused)]
    status = "Unknown" if first.reason is RefusedReason.DEVICES_UNKNOWN else "False"
    return status, first.reason.value, f"{so_far}; the next {first.message}"


def _held_by_stuck(outcome: Outcome) -> str:
    """The end of a sentence: who hangs in Terminating, and holds what others could have."""
    if not outcome.stuck:
        return ""
    listed = ", ".join(f"{r.pod_name} on node {r.node}" for r in outcome.stuck[:MAX_LISTED])
    return f"; hanging in Terminating, and holding their devices until they end: {listed}"


def _overbooked(outcome: Outcome) -> Condition:
    told = "; ".join(one.message for one in outcome.overbooked[:MAX_LISTED])
    return "True", "DevicePromisedTwice", told


def _hindrance(troubles: Troubles) -> tuple[str, str] | None:
    """What keeps pods that have room from being made: reason and sentence."""
    if troubles.names:
        return NAME_TAKEN, "; ".join(troubles.names[:MAX_LISTED])
    if troubles.create is not None:
        return POD_REFUSED, f"the API server refused a pod: {troubles.create.told}"
    if troubles.failed_pods:
        told = "; ".join(failure.told for failure in troubles.failed_pods[:MAX_LISTED])
        return POD_FAILED, f"{told}, elsewhere if there is room"
    return None


def _available(deployment: Deployment, wanted: list[Replica], troubles: Troubles) -> Condition:
    serving = [replica for replica in wanted if replica.is_ready]
    total = deployment.replicas
    if len(serving) >= total:
        return "True", "ReplicasServing", f"{len(serving)} of {total} replica(s) serve"
    cut_off = [r for r in wanted if not r.is_ready and r.node in troubles.kept_nodes]
    if cut_off:
        listed = ", ".join(f"{r.pod_name} on node {r.node}" for r in cut_off[:MAX_LISTED])
        why = troubles.kept_nodes[cut_off[0].node]
        message = f"{len(serving)} of {total} replica(s) serve; unreachable: {listed}; kept: {why}"
        return "False", "NodesUnreachable", message
    broken = [r for r in wanted if r.state is ReplicaState.FAILED and r.failure]
    if broken:
        listed = "; ".join(f"{r.pod_name}: {r.failure}" for r in broken[:MAX_LISTED])
        return (
            "False",
            "EngineFailing",
            (
                f"{len(serving)} of {total} replica(s) serve; {listed} "
                f"(kubectl logs -n {deployment.namespace} {broken[0].pod_name})"
            ),
        )
    waiting = [r for r in wanted if not r.is_ready]
    listed = ", ".join(_state_of(replica) for replica in waiting[:MAX_LISTED])
    message = f"{len(serving)} of {total} replica(s) serve" + (f"; {listed}" if listed else "")
    return "False", "ReplicasNotServing", message


def _state_of(replica: Replica) -> str:
    said = replica.scheduler_message
    told = f" (kube-scheduler: {said})" if said else ""
    return f"{replica.pod_name} {replica.state.value}{told}"


def _progressing(wanted: list[Replica], outcome: Outcome, troubles: Troubles) -> Condition:
    if troubles.actions:
        told = "; ".join(failure.told for failure in troubles.actions[:MAX_LISTED])
        return "Unknown", "ActionRefused", f"the API server refused: {told}"
    if outcome.rollout_blocked is not None:
        return (
            "False",
            "RolloutBlocked",
            f"the new spec {outcome.rollout_blocked.message}; the old replicas go on serving",
        )
    if outcome.rollout is not None:
        return "True", "RolloutInProgress", outcome.rollout
    if outcome.moves:
        return "True", "ReplicasMoving", "; ".join(outcome.moves[:MAX_LISTED])
    moving = [r for r in wanted if not r.is_ready or r.state is not ReplicaState.SERVING]
    if moving:
        listed = ", ".join(f"{r.pod_name} {r.state.value}" for r in moving[:MAX_LISTED])
        return "True", "ReplicasStarting", listed
    return "False", "Complete", "nothing is being changed"


def _previous(deployment: Deployment) -> dict[str, KubeObject]:
    """The conditions that its status has now, by type."""
    status = deployment.obj.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    if not isinstance(conditions, list):
        return {}
    # Whoever may edit the status may have left anything there.
    needed = ("type", "status", "reason", "message", "lastTransitionTime")
    return {
        condition["type"]: condition
        for condition in conditions
        if isinstance(condition, dict)
        and all(isinstance(condition.get(name), str) for name in needed)
    }


def _with_times(
    deployment: Deployment, conditions: Mapping[str, Condition], now: datetime
) -> list[dict[str, Any]]:
    """Conditions as the API wants them; the time moves only when the status flips."""
    before = _previous(deployment)
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    order = (
        "Ready", "Resolved", "Named", "Placed", "Available", "Progressing", "DeviceMetricsFresh",
        "Overbooked", "FootprintDrift", "TargetsMet", "TemplateCurrent",
    )  # fmt: skip
    listed = []
    for kind in order:
        if kind not in conditions:
            continue
        status, reason, message = conditions[kind]
        previous = before.get(kind)
        unchanged = previous is not None and previous["status"] == status
        listed.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": bounded(message),
                "observedGeneration": deployment.generation,
                "lastTransitionTime": previous["lastTransitionTime"]
                if unchanged and previous is not None
                else stamp,
            }
        )
    return listed
