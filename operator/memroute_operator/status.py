"""The status of a ModelDeployment, from the facts and what the plan found."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from memroute.footprint import Calibration, CalibrationKey
from memroute.traffic.admission import AdmissionSettings, unmet_target
from memroute.units import GIB
from memroute_kube import KubeObject
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_operator.calibrations import read_calibrations, write_calibrations
from memroute_operator.conditions import (
    NO_TROUBLES,
    Condition,
    Troubles,
    available,
    footprint_drift,
    overbooked,
    placed,
    progressing,
)
from memroute_operator.deployment import INTERNAL_ERROR, Deployment, internal_error
from memroute_operator.placements import placement_fields
from memroute_operator.plan import Outcome
from memroute_operator.replica import Replica
from memroute_operator.router_metrics import TargetsReport
from memroute_operator.routing_status import Routing, is_served_name_refused, named_condition
from memroute_operator.status_writer import bounded
from memroute_operator.templates import Templates

PRESSURE_LEVELS = ((0.05, "Idle"), (0.5, "Low"), (0.8, "Moderate"), (0.95, "High"))
TARGETS_UNMET = "EngineSlowerThanTargets"


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
        conditions["Named"] = named_condition(deployment, routing)
    conditions["Ready"] = _ready(deployment, conditions, routing)
    if outcome.overbooked:
        conditions["Overbooked"] = overbooked(outcome)
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
        "kvCapacityTokens": sum(replica.kv_capacity_tokens for replica in serving),
        "kvPressure": _pressure(serving, kv_projected_ratio),
        **placement_fields(replicas, assigned_devices),
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


def _targets_met(deployment: Deployment, report: TargetsReport) -> Condition:
    """Whether its engines can meet ``spec.routing``'s targets; it serves in either case.

    A router that has not heard of a new target yet is not believed: the spec is what counts.
    """
    if report.are_unmet:
        routing = deployment.obj["spec"].get("routing") or {}
        defaults = AdmissionSettings()
        settings = AdmissionSettings(
            ttft_target_seconds=_seconds(
                routing.get("ttftTargetMilliseconds"), defaults.ttft_target_seconds
            ),
            tpot_target_seconds=_seconds(
                routing.get("tpotTargetMilliseconds"), defaults.tpot_target_seconds
            ),
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


def _seconds(milliseconds: int | None, default: float) -> float:
    return default if milliseconds is None else milliseconds / 1e3


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
    conditions["Placed"] = placed(deployment, wanted, outcome, troubles)
    conditions["Available"] = available(deployment, wanted, troubles)
    conditions["Progressing"] = progressing(wanted, outcome, troubles)
    if (drift := footprint_drift(deployment)) is not None:
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
    if routing is not None and is_served_name_refused(deployment, routing):
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
