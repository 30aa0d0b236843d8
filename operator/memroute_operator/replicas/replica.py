"""A replica's pod as the operator reads it: what was promised, and how far it has come."""

import math
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from memroute.hierarchy.sleep import SleepLevel
from memroute.placement import PlacementMode, Reservation, SleepHold
from memroute_kube import KubeObject
from memroute_kube.resources import GROUP
from memroute_kube.sleeping import SleepState
from memroute_operator.failures import Diagnosis
from memroute_operator.replicas.giving_way import GivesWay
from memroute_operator.replicas.promises import Claim
from memroute_operator.sleeping.mark import SleepMark

ANNOTATION_REVISION = f"{GROUP}/revision"
"""What 0.1 knows a replica by: written for it, in case of a rollback."""
ANNOTATION_STARTED_WITH = f"{GROUP}/started-with"
"""The revision of the spec that the engine was started with; absent on replicas of 0.1."""
ANNOTATION_ENGINE_IMAGE = f"{GROUP}/engine-image"
"""The image as the operator asked for it: a webhook (a mirror of registries) may have written
another name of it into the container. Absent on replicas of 0.1."""
ANNOTATION_ENGINE_TYPE = f"{GROUP}/engine-type"
"""Which engine runs in it: whose words its last lines are. Absent on replicas of before."""
ANNOTATION_PLACED_BY = f"{GROUP}/placed-by"
"""What ``spec.placement`` asked for when it was placed. Absent on replicas of before."""
ANNOTATION_WEIGHTS = f"{GROUP}/weights"
"""What its node keeps of weights once they are fetched, as a hash; absent where it keeps none."""
ANNOTATION_PLACEMENT_REASON = f"{GROUP}/placement-reason"
ANNOTATION_SUCCESSOR = f"{GROUP}/successor"
"""On a pod that is about to be replaced: the room that is kept for the replica after it."""
START_GATE = f"{GROUP}/start-order"
"""The scheduling gate of a replica that waits for another engine to start on its device."""

# How long a pod may take to end after its grace period before it counts as stuck: kubelet's own
# kill, the unmounting of volumes, and the API server's deletion take some seconds. Chosen by
# hand; twice as long delays the replacement by as much and changes nothing else.
STUCK_MARGIN_SECONDS = 60.0
# A replica that has been unready for so long serves nobody: it is replaced without a drain.
# Two readiness probes fail within 2 s, and an overloaded engine recovers within some ten.
BROKEN_SECONDS = 60.0
# Kubernetes' default, where a pod does not say how long it may take to end.
DEFAULT_GRACE_SECONDS = 30.0


class ReplicaState(StrEnum):
    """How far a replica has come; the value is in ``status.placements``."""

    QUEUED = "Queued"
    """Reserved; waits for another engine to finish starting on the same device."""
    PENDING = "Pending"
    DOWNLOADING = "Downloading"
    """Its weights are being fetched; its engine has not been started yet."""
    STARTING = "Starting"
    SERVING = "Serving"
    ASLEEP = "Asleep"
    """Its engine sleeps, or is on the way to or from it; it is ready, and wakes when asked."""
    DRAINING = "Draining"
    TERMINATING = "Terminating"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """For how long this operator has seen a replica be so, in seconds; None while it is not.

    Measured by the operator's own monotonic clock: times that others have written are of clocks
    that may differ by minutes.
    """

    serving_seconds: float | None = None
    """Since its engine became ready; a flap of readiness does not count, a restart does."""
    unready_seconds: float | None = None
    draining_seconds: float | None = None
    unschedulable_seconds: float | None = None
    terminating_seconds: float | None = None
    sleep_seconds: float | None = None
    """In the state of its sleep that it is in; None for one that has never slept."""
    resting_seconds: float | None = None
    """Since it began to fall asleep; None while it is awake, or wakes."""
    starting_seconds: float | None = None
    """On its node, and not ready yet: what a deadline is about. Restarts do not begin anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica pod."""

    namespace: str
    pod_name: str
    uid: str
    deployment_name: str
    owner_uid: str | None
    index: int
    """Its slot, by its label: a number that tells it from the others and means no order."""
    revision: str
    placed_by: str | None = None
    """What ``spec.placement`` asked for when it was placed (``placement_wishes``); None where
    nobody says."""
    node: str
    mode: PlacementMode
    device_bytes: dict[str, int]
    num_devices: int
    bytes_per_device: int
    resource: str | None = None
    """What it asked the device plugin for; None when it is on shared devices."""
    occupancy_ratio: float | None
    """Share of a shared device's time that its engine takes, as predicted; None: not known."""
    kv_capacity_tokens: int
    """Tokens that its KV cache was expected to hold when it was placed."""
    state: ReplicaState
    is_ready: bool
    ready_since: datetime | None = None
    """Since when, by its kubelet's clock; None while it is not, or where it does not say."""
    is_gated: bool
    is_terminal: bool
    is_scheduled: bool = True
    """Whether kube-scheduler has bound it to its node."""
    is_down: bool = False
    """Whether its container waits or has ended: no process, no requests."""
    has_run: bool = False
    """Whether its engine's container has ever been started in this pod."""
    has_started: bool = False
    """Whether the container that runs has passed its startup probe."""
    num_restarts: int = 0
    draining_since: datetime | None
    """When it was marked, by the clock of the operator that marked it; None when it is not."""
    drains_for: str | None
    """The claim that it drains for (``leaving``); None for another reason, or in older pods."""
    unschedulable_since: datetime | None
    """By kube-scheduler's clock; None when it has not refused it."""
    scheduler_message: str | None = None
    """Why kube-scheduler does not bind it, in its own words."""
    grace_seconds: float = DEFAULT_GRACE_SECONDS
    """How long it may take to end once it is deleted."""
    created_at: str
    failure: str | None
    """Why its engine does not run: what happened, what helps, and the words behind it."""
    diagnosis: Diagnosis | None = None
    """The same in parts."""
    last_end: Diagnosis | None = None
    """Why the container that runs now was started again; None where it is the first."""
    on_the_way: str | None = None
    """What it is at, or what is wrong though it has not failed, by its Events; None without."""
    why: str
    engine_image: str | None = None
    """The image that its engine was started with, as it was asked for; None when nobody says."""
    successor: Claim | None = None
    """What is kept for the replica that takes its place."""
    gives_way: GivesWay | None = None
    """To which replica of higher priority it gives way; None when to none."""
    priority: int = 0
    """Its pod's own, as the API server computed it."""
    rest_bytes: int | None = None
    """Of each device, what it keeps while it sleeps; None for one that never sleeps."""
    sleep_level: SleepLevel | None = None
    """How deep its engine was made to sleep; None for one that never sleeps."""
    wake_seconds: int | None = None
    """How long a wake is expected to take; None where nobody knows."""
    sleep_mark: SleepMark | None = None
    """What was last written of its sleep; None for one that has never slept."""
    is_waking_told: bool = False
    """Whether it may have been marked to wake, though nobody has seen that: it counts in full."""
    host_bytes: int = 0
    """Of its node's memory, what its pod asks for, or was promised."""
    seen: Seen = Seen()
    fetch: str | None = None
    """How far its weights are, in words; None when nobody knows, or nothing is fetched."""
    weights_key: str | None = None
    """What its node keeps of weights once they are fetched; None where it keeps none."""
    has_fetched: bool = False
    """Whether its weights were fetched, or found in the cache."""
    is_out_of_disk: bool = False
    """Whether its node's disk has no space for its weights."""
    obj: KubeObject = field(repr=False)

    @property
    def deployment(self) -> str:
        """``namespace/name`` of its ModelDeployment."""
        return f"{self.namespace}/{self.deployment_name}"

    @property
    def slot(self) -> str:
        """``namespace/name#index``: what stays the same when another pod takes its place."""
        return f"{self.deployment}#{self.index}"

    @property
    def key(self) -> str:
        """``namespace/name`` of the pod."""
        return f"{self.namespace}/{self.pod_name}"

    @property
    def is_terminating(self) -> bool:
        """Whether it has been deleted, and its node has not confirmed that yet."""
        return self.state is ReplicaState.TERMINATING

    @property
    def is_draining(self) -> bool:
        """Whether routers have been told to send nothing more to it."""
        return self.draining_since is not None

    @property
    def is_stuck(self) -> bool:
        """Whether it should have ended long ago: a process in the kernel, a silent kubelet."""
        seconds = self.seen.terminating_seconds
        return seconds is not None and seconds > self.grace_seconds + STUCK_MARGIN_SECONDS

    @property
    def is_broken(self) -> bool:
        """Whether it serves nobody and is not on the way to: there is nothing to drain."""
        if self.is_terminal or self.failure is not None or self.is_down:
            return True
        if not self.is_scheduled:
            return True
        unready = self.seen.unready_seconds
        return not self.is_ready and unready is not None and unready > BROKEN_SECONDS

    @property
    def may_sleep(self) -> bool:
        """Whether its engine was started so that it can."""
        return self.sleep_level is not None and self.rest_bytes is not None

    @property
    def sleep_state(self) -> SleepState | None:
        """Where its engine is between waking and sleeping; None while it is awake.

        One whose container was started anew is awake, whatever was written before.
        """
        mark = self.sleep_mark
        if not self.may_sleep or mark is None or mark.restarts != self.num_restarts:
            return None
        return mark.state.told

    @property
    def is_resting(self) -> bool:
        """Whether its devices are lent to others: its engine has confirmed that it sleeps."""
        is_asleep = self.sleep_state is SleepState.ASLEEP
        return is_asleep and not self.is_down and not self.is_waking_told

    def present_bytes(self, uuid: str) -> int:
        """What it has of a device now: all that it was promised, but for one that sleeps."""
        size = self.device_bytes.get(uuid, 0)
        return min(size, self.rest_bytes or 0) if self.is_resting else size

    @property
    def changes_sleep(self) -> bool:
        """Whether its engine falls asleep or wakes: memory on its devices moves."""
        return self.sleep_state in (SleepState.FALLING_ASLEEP, SleepState.WAKING)

    @property
    def occupies_start(self) -> bool:
        """Whether its engine is starting or ending: memory on its devices moves."""
        return self.is_starting or (
            self.is_terminating and not (self.is_gated or self.is_terminal or self.is_stuck)
        )

    @property
    def is_starting(self) -> bool:
        """Whether its engine is on the way to serve: it measures memory that must not move."""
        settled = self.is_ready or self.is_gated or self.is_terminal or self.failure is not None
        # One that has served and is unready for a moment has measured already.
        settled = settled or self.seen.serving_seconds is not None
        return not settled and not self.is_terminating

    def reservation(self) -> Reservation:
        """What it was promised, for the ledger."""
        shared = self.mode is PlacementMode.SHARED
        return Reservation(
            owner=self.key,
            deployment=self.deployment,
            node=self.node,
            device_bytes=self.device_bytes,
            num_exclusive_devices=0 if shared else self.num_devices,
            exclusive_bytes=0 if shared else self.bytes_per_device,
            resource=self.resource,
            # An engine that sleeps takes none of a device's time.
            occupancy_ratio=0.0 if self.is_resting else self.occupancy_ratio,
            ready_seconds=self.seen.serving_seconds,
            is_moving=self.occupies_start
            or self.changes_sleep
            or (self.is_gated and not self.is_terminating),
            is_stuck=self.is_stuck,
            sleep=self._sleep_hold(),
            host_bytes=self.host_bytes,
        )

    def _sleep_hold(self) -> SleepHold | None:
        if self.rest_bytes is None or not self.may_sleep:
            return None
        settled: float | None = math.inf
        if self.sleep_mark is not None:
            settled = None if self.changes_sleep else self.seen.sleep_seconds
        return SleepHold(
            rest_bytes=self.rest_bytes, is_asleep=self.is_resting, settled_seconds=settled
        )

    def reservations(self) -> tuple[Reservation, ...]:
        """What it was promised, and what is claimed for its successor."""
        if self.is_terminal:
            own: tuple[Reservation, ...] = ()
        else:
            own = (self.reservation(),)
        if self.successor is not None:
            own = (*own, self.successor.reservation(self.key, self.deployment))
        if self.gives_way is not None:
            own = (*own, self.gives_way.reservation(self.key))
        return own
