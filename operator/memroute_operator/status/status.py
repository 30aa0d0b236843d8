"""The status of a ModelDeployment, from the facts and what the plan found."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from memroute.traffic.admission import AdmissionSettings, unmet_target
from memroute.units import GIB
from memroute_kube import KubeObject
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_operator.adapters.telling import View, failing_adapters, told_adapters
from memroute_operator.gateway.telling import NOTHING, GatewayView
from memroute_operator.plan import Outcome
from memroute_operator.pod.templates import Templates
from memroute_operator.readings.router_metrics import TargetsReport
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import INTERNAL_ERROR, Deployment, internal_error
from memroute_operator.status.condition_names import ABNORMAL, LASTING
from memroute_operator.status.conditions import (
    NO_TROUBLES,
    PARTITIONED,
    ROLLOUT_REASONS,
    Condition,
    Troubles,
    footprint_drift,
    overbooked,
    placed,
    progressing,
    resolved,
    serving,
)
from memroute_operator.status.health_conditions import (
    PAUSED,
    available,
    health,
    left_alone,
    policy_unknown,
)
from memroute_operator.status.placements import placement_fields
from memroute_operator.status.rollout_status import rollout_fields
from memroute_operator.status.routing_status import Routing, is_served_name_refused, named_condition
from memroute_operator.status.serving_on import needs_no_start
from memroute_operator.status.status_writer import bounded

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
    url: str | None = None,
    views: Mapping[str, View] = MappingProxyType({}),
    kv_tokens: Mapping[str, int] = MappingProxyType({}),
    gateway: GatewayView | None = None,
    now: datetime,
) -> dict[str, Any]:
    """The whole ``status``. ``assigned_devices``: pod → UUIDs that the device plugin gave it.

    ``targets``: what routers say of its latency targets; None while nobody knows.
    ``stale_nodes``: of the whole cluster.
    ``templates``: what new replicas would be; None says nothing of it.
    ``routing``: what routers are told; None says nothing of it.
    ``views``: which adapters replicas were seen to have, by the uid of their pod.
    ``url``: where clients find the routers; None where the operator was not told.
    ``gateway``: what gateways say of its pool; None where none is written.
    """
    wanted = [replica for replica in replicas if replica.key in outcome.kept]
    ready = [replica for replica in replicas if replica.is_ready]
    served = serving(deployment, wanted, troubles)
    conditions = _conditions(deployment, wanted, outcome, troubles)
    conditions["Available"] = available(deployment, wanted, served)
    conditions |= left_alone(deployment, wanted)
    if routing is not None:
        conditions["Named"] = named_condition(deployment, routing)
    serves_on = needs_no_start(deployment, wanted, outcome)
    conditions["Ready"] = _ready(deployment, conditions, served, routing, serves_on=serves_on)
    conditions |= health(deployment, conditions, outcome, troubles.create)
    abnormal = {
        "Overbooked": overbooked(outcome) if outcome.overbooked else None,
        "OverQuota": ("True", "QuotaLowered", outcome.over_quota) if outcome.over_quota else None,
        "FootprintDrift": footprint_drift(deployment),
        "DeviceMetricsStale": _metrics_stale(deployment, replicas, wanted, stale_nodes),
        "TargetsUnmet": None if targets is None else _targets_unmet(deployment, targets),
        "TemplateOutdated": None if templates is None else templates.condition(deployment, wanted),
        "PolicyUnknown": policy_unknown(deployment),
        "GatewayNotReady": (gateway or NOTHING).condition,
    }
    told = None
    if routing is not None:
        named = routing.told.replicas.items()
        loaded = {uid: frozenset(one.adapters or ()) for uid, one in named}
        told = told_adapters(deployment, replicas, views, loaded)
        abnormal["AdaptersFailing"] = failing_adapters(told)
    conditions |= {kind: one for kind, one in abnormal.items() if one is not None}
    status: dict[str, Any] = {
        "observedGeneration": deployment.generation,
        "url": url,
        "replicas": len(replicas),
        "readyReplicas": len(ready),
        "placedReplicas": len(wanted),
        "updatedReplicas": sum(r.revision == deployment.spec_revision for r in wanted),
        "selector": f"{LABEL_DEPLOYMENT}={deployment.name}",
        "summary": f"{len(ready)}/{deployment.replicas}",
        "kvCapacityTokens": sum(kv_tokens.get(r.uid, r.kv_capacity_tokens) for r in ready),
        "kvPressure": _pressure(ready, kv_projected_ratio),
        **placement_fields(replicas, assigned_devices, kv_tokens),
        **rollout_fields(deployment, wanted, outcome),
        "gateway": (gateway or NOTHING).part,
        "conditions": _with_times(deployment, conditions, now),
    }
    if deployment.returned_from is not None:
        pass  # what a hub has said is of the spec's revision, and stays
    elif deployment.pin is not None:
        status["model"] = deployment.pin.document()
    elif deployment.footprint is not None:
        status["model"] = None  # known without a hub
    if routing is not None:
        status["routing"] = routing.told.document(deployment.generation)
        status["adapters"] = told
    footprint = deployment.footprint or deployment.known_footprint
    if footprint is not None:
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
    elif not serves_on:
        status["footprint"] = None  # else of what serves: it stays
    return status


def broken_status(deployment: Deployment, error: Exception, now: datetime) -> dict[str, Any]:
    """What is told when the status itself could not be made; the rest of it stays as it was."""
    ready = ("Unknown", INTERNAL_ERROR, internal_error(error))
    (told,) = _with_times(deployment, {"Ready": ready}, now)
    others = [c for kind, c in _previous(deployment).items() if kind != "Ready"]
    # Not the generation of the whole: what routers are told of would be out of date by it.
    return {"conditions": [told, *others]}


def _targets_unmet(deployment: Deployment, report: TargetsReport) -> Condition | None:
    """That its engines cannot meet ``spec.routing``'s targets; None where they can.

    It serves in either case.

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
            return "True", TARGETS_UNMET, unmet.message
        previous = _previous(deployment).get("TargetsUnmet")
        if previous is not None and previous.get("observedGeneration") == deployment.generation:
            # The router has not taken it back: too close to the target.
            return "True", TARGETS_UNMET, previous["message"]
    return None


def _seconds(milliseconds: int | None, default: float) -> float:
    return default if milliseconds is None else milliseconds / 1e3


def _pressure(ready: list[Replica], ratios: Mapping[str, float] | None) -> str:
    known = [ratios[r.key] for r in ready if r.key in ratios] if ratios is not None else []
    if not known:
        return "Unknown"
    fullest = max(known)
    return next((level for limit, level in PRESSURE_LEVELS if fullest < limit), "Full")


def _conditions(
    deployment: Deployment, wanted: list[Replica], outcome: Outcome, troubles: Troubles
) -> dict[str, Condition]:
    conditions: dict[str, Condition] = {}
    conditions["Resolved"] = resolved(deployment, wanted, outcome)
    conditions["Placed"] = placed(deployment, wanted, outcome, troubles)
    conditions["Progressing"] = progressing(deployment, wanted, outcome, troubles)
    return conditions


def _metrics_stale(
    deployment: Deployment,
    replicas: list[Replica],
    wanted: list[Replica],
    stale_nodes: frozenset[str],
) -> Condition | None:
    """That a node that concerns it does not report: its own, or any while it looks for room.

    Nodes are not named: one late exporter would change the status of every deployment.
    """
    promises = (
        "placement goes by labels and promises there, and does not see other processes "
        "(memroute_node_metrics_fresh says which nodes)"
    )
    if not stale_nodes.isdisjoint(replica.node for replica in replicas):
        return "True", "ExporterSilent", f"a node of its replicas does not report: {promises}"
    if stale_nodes and len(wanted) < deployment.replicas:
        return "True", "ExporterSilent", f"some nodes do not report: {promises}"
    return None


def _ready(
    deployment: Deployment,
    conditions: Mapping[str, Condition],
    served: Condition,
    routing: Routing | None,
    *,
    serves_on: bool,
) -> Condition:
    """``Ready``: the first thing that is missing. ``served``: whether every replica serves.

    ``serves_on``: what is not resolved is needed by new replicas alone, and none has to start.
    """
    needed = [conditions["Placed"], served]
    if routing is not None and is_served_name_refused(deployment, routing):
        needed.insert(0, conditions["Named"])
    if not serves_on:
        needed.insert(0, conditions["Resolved"])
    for status, reason, message in needed:
        if status != "True":
            return status, reason, message
    _, reason, message = conditions["Progressing"]
    if reason in (PAUSED, *ROLLOUT_REASONS):
        return "False", reason, message
    if deployment.replicas == 0:
        return "True", "ScaledToZero", "no replica is wanted"
    if reason == PARTITIONED:
        return "True", PARTITIONED, f"all {deployment.replicas} replica(s) serve; {message}"
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
    listed = []
    for kind in (*LASTING, *ABNORMAL):
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
