"""Now, later or never? In tokens and in seconds, per candidate replica, never on a pool average."""

from memroute.admission.hanging import hangs
from memroute.admission.policy import (
    AdmissionSettings,
    Closed,
    Hold,
    Reject,
    RejectReason,
    closed_to,
    never_fits,
    no_ready_replica,
    not_now,
)
from memroute.admission.queue import FairQueue, Held, QueueLimits, QueueRefusal

__all__ = [
    "AdmissionSettings",
    "Closed",
    "FairQueue",
    "Held",
    "Hold",
    "QueueLimits",
    "QueueRefusal",
    "Reject",
    "RejectReason",
    "closed_to",
    "hangs",
    "never_fits",
    "no_ready_replica",
    "not_now",
]
