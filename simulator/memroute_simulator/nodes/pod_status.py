"""The status of a pod, as its node writes it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from memroute_simulator.nodes.container import ContainerState, now_rfc3339


def phase_of(states: Sequence[ContainerState]) -> str:
    """``Running`` once every container has been started, for a pod that has not ended."""
    begun = all(
        "running" in state.state or state.last_state or "terminated" in state.state
        for state in states
    )
    return "Running" if begun else "Pending"


def pod_status(
    *,
    phase: str,
    uid: str,
    ip: str | None,
    host_ip: str,
    started_at: str,
    is_initialized: bool,
    states: Sequence[ContainerState],
    init_states: Sequence[ContainerState],
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole of it. ``before``: as it was written last, for the times of its conditions."""
    ready = all(state.is_ready for state in states)
    flags = {
        "PodReadyToStartContainers": ip is not None,
        "Initialized": is_initialized,
        "ContainersReady": ready,
        "Ready": ready,
    }
    status: dict[str, Any] = {
        "phase": phase,
        "hostIP": host_ip,
        "startTime": started_at,
        "conditions": _conditions(flags, before),
        "containerStatuses": [state.to_status(uid) for state in states],
    }
    if init_states:
        status["initContainerStatuses"] = [state.to_status(uid) for state in init_states]
    if ip:
        status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    return status


def _conditions(flags: Mapping[str, bool], before: Mapping[str, Any]) -> list[dict[str, str]]:
    previous = {c["type"]: c for c in before.get("conditions", ())}
    conditions = []
    for kind, flag in flags.items():
        text = "True" if flag else "False"
        known = previous.get(kind)
        changed = known is None or known["status"] != text
        at = now_rfc3339() if changed or known is None else known["lastTransitionTime"]
        conditions.append({"type": kind, "status": text, "lastTransitionTime": at})
    return conditions
