"""A replica's pod as the operator reads it: what was promised, and how far it has come."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from memroute.placement import Placed, PlacementMode, Reservation
from memroute_kube import KubeObject
from memroute_kube.resources import (
    ANNOTATION_DRAINING,
    ANNOTATION_KV_CAPACITY_TOKENS,
    ANNOTATION_RESERVATION,
    GROUP,
    LABEL_DEPLOYMENT,
    LABEL_REPLICA,
    is_condition_true,
)

ANNOTATION_REVISION = f"{GROUP}/revision"
"""What 0.1 knows a replica by: written for it, in case of a rollback."""
ANNOTATION_STARTED_WITH = f"{GROUP}/started-with"
"""The revision of the spec that the engine was started with; absent on replicas of 0.1."""
ANNOTATION_PLACEMENT_REASON = f"{GROUP}/placement-reason"
START_GATE = f"{GROUP}/start-order"
"""The scheduling gate of a replica that waits for another engine to start on its device."""
RESERVATION_VERSION = 1


class ReplicaState(StrEnum):
    """How far a replica has come; the value is in ``status.placements``."""

    QUEUED = "Queued"
    """Reserved; waits for another engine to finish starting on the same device."""
    PENDING = "Pending"
    STARTING = "Starting"
    SERVING = "Serving"
    DRAINING = "Draining"
    TERMINATING = "Terminating"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica pod."""

    namespace: str
    pod_name: str
    uid: str
    deployment_name: str
    owner_uid: str | None
    index: int
    revision: str
    node: str
    mode: PlacementMode
    device_bytes: dict[str, int]
    num_devices: int
    bytes_per_device: int
    kv_capacity_tokens: int
    state: ReplicaState
    is_ready: bool
    is_gated: bool
    is_terminal: bool
    draining_since: datetime | None
    unschedulable_since: datetime | None
    created_at: str
    failure: str | None
    """Why its engine does not run, in the words of the container's status."""
    why: str
    obj: KubeObject = field(repr=False)

    @property
    def deployment(self) -> str:
        """``namespace/name`` of its ModelDeployment."""
        return f"{self.namespace}/{self.deployment_name}"

    @property
    def key(self) -> str:
        """``namespace/name`` of the pod."""
        return f"{self.namespace}/{self.pod_name}"

    @property
    def occupies_start(self) -> bool:
        """Whether its engine is starting or ending: memory on its devices moves."""
        return self.is_starting or (
            self.state is ReplicaState.TERMINATING and not (self.is_gated or self.is_terminal)
        )

    @property
    def is_starting(self) -> bool:
        """Whether its engine is on the way to serve: it measures memory that must not move."""
        settled = self.is_ready or self.is_gated or self.is_terminal or self.failure is not None
        return not settled and self.state is not ReplicaState.TERMINATING

    def reservation(self) -> Reservation:
        """What it was promised, for the ledger."""
        shared = self.mode is PlacementMode.SHARED
        return Reservation(
            owner=self.key,
            deployment=self.deployment,
            node=self.node,
            device_bytes=self.device_bytes,
            num_exclusive_devices=0 if shared else self.num_devices,
            is_ready=self.is_ready,
        )


def encode_reservation(placed: Placed, *, generation: int) -> str:
    """The annotation that makes a pod a reservation."""
    document: dict[str, object] = {
        "v": RESERVATION_VERSION,
        "mode": placed.mode.value,
        "node": placed.node,
        "count": placed.num_devices,
        "bytesPerDevice": placed.bytes_per_device,
        "generation": generation,
    }
    if placed.device_uuids:
        document["devices"] = dict.fromkeys(placed.device_uuids, placed.bytes_per_device)
    return json.dumps(document, separators=(",", ":"))


def is_known_version(document: dict[str, object]) -> bool:
    """Whether a reservation means to us what its writer meant.

    A newer one that still does says so: ``minReader`` is the oldest version that may read it.
    """
    oldest = document.get("minReader", document.get("v"))
    return (
        isinstance(oldest, int)
        and not isinstance(oldest, bool)
        and 1 <= oldest <= RESERVATION_VERSION
    )


def read_replica(pod: KubeObject) -> Replica | None:
    """A replica from its pod; None when the pod does not carry a reservation that we wrote."""
    metadata = pod["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    try:
        document = json.loads(annotations[ANNOTATION_RESERVATION])
        if not is_known_version(document):
            return None
        mode = PlacementMode(document["mode"])
        index = int(labels[LABEL_REPLICA])
        device_bytes = {str(k): int(v) for k, v in document.get("devices", {}).items()}
        count, size = int(document["count"]), int(document["bytesPerDevice"])
        node = str(document["node"])
    except (KeyError, ValueError, TypeError):
        return None
    owners = metadata.get("ownerReferences") or ()
    failure = _container_failure(pod)
    return Replica(
        namespace=metadata["namespace"],
        pod_name=metadata["name"],
        uid=metadata["uid"],
        deployment_name=labels[LABEL_DEPLOYMENT],
        owner_uid=next((owner["uid"] for owner in owners if owner.get("controller")), None),
        index=index,
        revision=annotations.get(ANNOTATION_STARTED_WITH)
        or annotations.get(ANNOTATION_REVISION, ""),
        node=node,
        mode=mode,
        device_bytes=device_bytes,
        num_devices=count,
        bytes_per_device=size,
        kv_capacity_tokens=int(annotations.get(ANNOTATION_KV_CAPACITY_TOKENS, 0)),
        state=_state(pod, failure),
        is_ready=is_condition_true(pod, "Ready"),
        is_gated=_is_gated(pod),
        is_terminal=is_terminal(pod),
        draining_since=_time(annotations.get(ANNOTATION_DRAINING)),
        unschedulable_since=_unschedulable_since(pod),
        created_at=metadata["creationTimestamp"],
        failure=failure,
        why=annotations.get(ANNOTATION_PLACEMENT_REASON, ""),
        obj=pod,
    )


def is_terminal(pod: KubeObject) -> bool:
    """Whether the pod's containers have ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _is_gated(pod: KubeObject) -> bool:
    return any(gate["name"] == START_GATE for gate in pod["spec"].get("schedulingGates") or ())


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
        return ReplicaState.SERVING
    return ReplicaState.STARTING if pod["spec"].get("nodeName") else ReplicaState.PENDING


def _container_failure(pod: KubeObject) -> str | None:
    status = pod.get("status", {})
    if status.get("phase") == "Failed":
        return f"{status.get('reason', 'Failed')}: {status.get('message', 'the pod has failed')}"
    for container in status.get("containerStatuses") or ():
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting["reason"] not in ("ContainerCreating", "PodInitializing"):
            ended = container.get("lastState", {}).get("terminated")
            code = f" (last exit code {ended['exitCode']})" if ended else ""
            return f"{waiting['reason']}{code}: {waiting.get('message', '')}".strip(": ")
    return None


def _unschedulable_since(pod: KubeObject) -> datetime | None:
    for condition in pod.get("status", {}).get("conditions") or ():
        if (
            condition["type"] == "PodScheduled"
            and condition["status"] == "False"
            and condition.get("reason") == "Unschedulable"
        ):
            return _time(condition.get("lastTransitionTime"))
    return None


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
