"""Now or never? In tokens, per candidate replica, never on a pool average."""

from memroute.admission.policy import Admit, Reject, RejectReason, decide

__all__ = ["Admit", "Reject", "RejectReason", "decide"]
