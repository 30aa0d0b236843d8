"""Whether a request goes now, later or never: in tokens and seconds, for each replica by itself."""

from memroute.traffic.admission.gates import GATES, ClosedReason, reason_closed
from memroute.traffic.admission.hanging import hangs
from memroute.traffic.admission.lateness import PrefillRate, QueuedRequest
from memroute.traffic.admission.queue import FairQueue, QueueLimits, QueueRefusal
from memroute.traffic.admission.refusals import (
    NotNow,
    Reject,
    RejectReason,
    adapter_not_loaded,
    model_asleep,
    never_fits,
    no_ready_replica,
    not_now,
)
from memroute.traffic.admission.settings import AdmissionSettings, OverloadObjective
from memroute.traffic.admission.targets import (
    AloneLatency,
    UnmetTarget,
    alone_latency,
    unmet_target,
)

__all__ = [
    "GATES",
    "AdmissionSettings",
    "AloneLatency",
    "ClosedReason",
    "FairQueue",
    "NotNow",
    "OverloadObjective",
    "PrefillRate",
    "QueueLimits",
    "QueueRefusal",
    "QueuedRequest",
    "Reject",
    "RejectReason",
    "UnmetTarget",
    "adapter_not_loaded",
    "alone_latency",
    "hangs",
    "model_asleep",
    "never_fits",
    "no_ready_replica",
    "not_now",
    "reason_closed",
    "unmet_target",
]
