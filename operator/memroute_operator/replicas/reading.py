"""A replica from its pod: what it was promised, and how far its containers have come. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from memroute_kube import KubeObject
from memroute_kube.memory_words import ENGINE_TYPES
from memroute_kube.resources import (
    ANNOTATION_DRAINING,
    ANNOTATION_KV_CAPACITY_TOKENS,
    ANNOTATION_OCCUPANCY,
    ANNOTATION_RESERVATION,
    LABEL_DEPLOYMENT,
    LABEL_REPLICA,
    is_condition_true,
)
from memroute_kube.shapes import is_terminal
from memroute_kube.sleeping import wake_seconds_of
from memroute_operator.failures import failure_of, last_end_of
from memroute_operator.pod.pod_defaults import ENGINE_CONTAINER
from memroute_operator.pod.pod_resources import requested_devices, requested_memory
from memroute_operator.replicas.giving_way import ANNOTATION_GIVES_WAY, read_gives_way
from memroute_operator.replicas.leaving import ANNOTATION_DRAINING_FOR
from memroute_operator.replicas.promises import read_claim, read_promise
from memroute_operator.replicas.replica import (
    ANNOTATION_ENGINE_IMAGE,
    ANNOTATION_ENGINE_TYPE,
    ANNOTATION_PLACED_BY,
    ANNOTATION_PLACEMENT_REASON,
    ANNOTATION_REVISION,
    ANNOTATION_STARTED_WITH,
    ANNOTATION_SUCCESSOR,
    ANNOTATION_WEIGHTS,
    DEFAULT_GRACE_SECONDS,
    START_GATE,
    Replica,
    ReplicaState,
)
from memroute_operator.sleeping.mark import (
    ANNOTATION_SLEEP,
    ANNOTATION_SLEEPS,
    ANNOTATION_WAKE_SECONDS,
    SLEEP_LEVELS,
    MarkedState,
    read_mark,
)
from memroute_operator.weights.container import has_fetched, is_fetching, is_out_of_disk

# No replica has more tokens, restarts or an index above this: a bound on what is read.
MAX_COUNT = 2**53
# Stands for a time that cannot be read.
LONG_AGO = datetime.fromtimestamp(0, UTC)


def read_replica(pod: KubeObject) -> Replica | None:
    """A replica from its pod; None when the pod does not carry a reservation that we wrote."""
    metadata = pod["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    promise = read_promise(annotations.get(ANNOTATION_RESERVATION))
    index = read_slot(labels)
    deployment_name = labels.get(LABEL_DEPLOYMENT)
    if promise is None or index is None or not isinstance(deployment_name, str):
        return None
    owners = metadata.get("ownerReferences") or ()
    engine = ENGINE_TYPES.meaning(annotations.get(ANNOTATION_ENGINE_TYPE))
    diagnosis = failure_of(pod, engine)
    failure = None if diagnosis is None else diagnosis.message
    refused_at, refusal = _scheduler_refusal(pod)
    grace = metadata.get("deletionGracePeriodSeconds")
    if grace is None:
        grace = pod["spec"].get("terminationGracePeriodSeconds")
    return Replica(
        namespace=metadata["namespace"],
        pod_name=metadata["name"],
        uid=metadata["uid"],
        deployment_name=deployment_name,
        owner_uid=next((owner["uid"] for owner in owners if owner.get("controller")), None),
        index=index,
        placed_by=annotations.get(ANNOTATION_PLACED_BY),
        revision=annotations.get(ANNOTATION_STARTED_WITH)
        or annotations.get(ANNOTATION_REVISION, ""),
        node=promise.node,
        mode=promise.mode,
        device_bytes=dict(promise.device_bytes),
        num_devices=promise.num_devices,
        bytes_per_device=promise.bytes_per_device,
        # Reservations of 0.1 do not say it, and the pod does.
        resource=promise.resource or next(iter(requested_devices(pod)), None),
        occupancy_ratio=_ratio(annotations.get(ANNOTATION_OCCUPANCY)),
        kv_capacity_tokens=_count(annotations.get(ANNOTATION_KV_CAPACITY_TOKENS)) or 0,
        rest_bytes=promise.rest_bytes,
        sleep_level=SLEEP_LEVELS.get(annotations.get(ANNOTATION_SLEEPS) or ""),
        wake_seconds=wake_seconds_of(_count(annotations.get(ANNOTATION_WAKE_SECONDS))),
        sleep_mark=read_mark(annotations.get(ANNOTATION_SLEEP)),
        host_bytes=max(promise.host_bytes, requested_memory(pod)),
        state=_state(pod, failure),
        is_ready=is_condition_true(pod, "Ready"),
        ready_since=_ready_since(pod),
        is_gated=_is_gated(pod),
        is_terminal=is_terminal(pod),
        is_scheduled=bool(pod["spec"].get("nodeName")),
        is_down=_is_down(pod),
        has_run=_has_run(pod),
        has_started=any(container.get("started") is True for container in _containers(pod)),
        num_restarts=_num_restarts(pod),
        draining_since=_draining_since(annotations.get(ANNOTATION_DRAINING)),
        drains_for=annotations.get(ANNOTATION_DRAINING_FOR),
        unschedulable_since=refused_at,
        scheduler_message=refusal,
        grace_seconds=DEFAULT_GRACE_SECONDS if grace is None else float(grace),
        created_at=metadata["creationTimestamp"],
        failure=failure,
        diagnosis=diagnosis,
        last_end=last_end_of(pod, engine),
        why=annotations.get(ANNOTATION_PLACEMENT_REASON, ""),
        engine_image=annotations.get(ANNOTATION_ENGINE_IMAGE) or _container_image(pod),
        successor=read_claim(annotations.get(ANNOTATION_SUCCESSOR)),
        gives_way=read_gives_way(annotations.get(ANNOTATION_GIVES_WAY)),
        priority=_priority(pod),
        weights_key=annotations.get(ANNOTATION_WEIGHTS),
        has_fetched=has_fetched(pod),
        is_out_of_disk=is_out_of_disk(pod),
        obj=pod,
    )


def read_slot(labels: Mapping[str, Any]) -> int | None:
    """The slot that a pod's labels name; None where they name none."""
    return _count(labels.get(LABEL_REPLICA))


def _container_image(pod: KubeObject) -> str | None:
    for container in pod["spec"].get("containers") or ():
        if container.get("name") == ENGINE_CONTAINER:
            image = container.get("image")
            return image if isinstance(image, str) else None
    return None


def _is_gated(pod: KubeObject) -> bool:
    return any(gate["name"] == START_GATE for gate in pod["spec"].get("schedulingGates") or ())


def _priority(pod: KubeObject) -> int:
    """What the API server computed from the pod's class; 0 where it did not say."""
    found = pod["spec"].get("priority")
    return found if isinstance(found, int) and not isinstance(found, bool) else 0


def _state(pod: KubeObject, failure: str | None) -> ReplicaState:
    metadata = pod["metadata"]
    if "deletionTimestamp" in metadata:
        return ReplicaState.TERMINATING
    if is_terminal(pod) or failure is not None:
        return ReplicaState.FAILED
    if ANNOTATION_DRAINING in (metadata.get("annotations") or {}):
        return ReplicaState.DRAINING
    if _is_gated(pod):
        return ReplicaState.QUEUED
    if is_condition_true(pod, "Ready"):
        return ReplicaState.ASLEEP if _is_not_awake(pod) else ReplicaState.SERVING
    return _state_of_start(pod)


def _is_not_awake(pod: KubeObject) -> bool:
    annotations = pod["metadata"].get("annotations") or {}
    mark = read_mark(annotations.get(ANNOTATION_SLEEP))
    if mark is None or ANNOTATION_SLEEPS not in annotations:
        return False
    return mark.state is not MarkedState.AWAKE and mark.restarts == _num_restarts(pod)


def _state_of_start(pod: KubeObject) -> ReplicaState:
    """How far one has come that does not serve yet."""
    if not pod["spec"].get("nodeName"):
        return ReplicaState.PENDING
    return ReplicaState.DOWNLOADING if is_fetching(pod) else ReplicaState.STARTING


def _containers(pod: KubeObject) -> list[dict[str, Any]]:
    """What is told of the engine's container: a sidecar that starts anew ends no engine.

    Of all of them where none is called so.
    """
    found = list(pod.get("status", {}).get("containerStatuses") or ())
    return [one for one in found if one.get("name") == ENGINE_CONTAINER] or found


def _is_down(pod: KubeObject) -> bool:
    """Whether its engine waits or has ended; a pod that says nothing is not known to be down."""
    states = [container.get("state") or {} for container in _containers(pod)]
    return any(state.get("waiting") or state.get("terminated") for state in states)


def _has_run(pod: KubeObject) -> bool:
    """Whether its engine runs or has ended."""
    states = [
        container.get(name) or {}
        for container in _containers(pod)
        for name in ("state", "lastState")
    ]
    return any("running" in state or "terminated" in state for state in states)


def _num_restarts(pod: KubeObject) -> int:
    return sum(_count(container.get("restartCount")) or 0 for container in _containers(pod))


def _ready_since(pod: KubeObject) -> datetime | None:
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("status") == "True":
            return _time(condition.get("lastTransitionTime"))
    return None


def _scheduler_refusal(pod: KubeObject) -> tuple[datetime | None, str | None]:
    """Since when, and why, kube-scheduler does not bind the pod; None, None when it does.

    A pod that has its node is bound, whatever its conditions still say.
    """
    if pod["spec"].get("nodeName"):
        return None, None
    for condition in pod.get("status", {}).get("conditions") or ():
        if (
            condition.get("type") == "PodScheduled"
            and condition.get("status") == "False"
            and condition.get("reason") == "Unschedulable"
        ):
            since = _time(condition.get("lastTransitionTime")) or LONG_AGO
            return since, condition.get("message") or None
    return None, None


def _draining_since(text: str | None) -> datetime | None:
    """When it was marked; a mark that cannot be read is a mark all the same."""
    if text is None:
        return None
    return _time(text) or LONG_AGO


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, TypeError):
        return None


def _ratio(text: object) -> float | None:
    """A share from 0 to 1; None for anything else."""
    try:
        ratio = float(text) if isinstance(text, str) else -1.0
    except ValueError:
        return None
    return ratio if 0 <= ratio <= 1 else None


def _count(value: object) -> int | None:
    """A number of things; None for what is no such number."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        number = int(value)
    except ValueError:
        return None
    return number if 0 <= number <= MAX_COUNT else None
