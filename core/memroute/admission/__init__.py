"""Now, later or never? In tokens, per candidate replica, never on a pool average."""

from memroute.admission.policy import Admit, Hold, Reject, RejectReason, decide
from memroute.admission.queue import HoldingQueue, QueueLimits, QueueRefusal

__all__ = [
    "Admit",
    "Hold",
    "HoldingQueue",
    "QueueLimits",
    "QueueRefusal",
    "Reject",
    "RejectReason",
    "decide",
]
