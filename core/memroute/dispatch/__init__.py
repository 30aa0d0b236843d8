"""What becomes of the requests of one pool, over time: admission and routing in one step."""

from memroute.dispatch.dispatcher import (
    AdmissionMode,
    Candidate,
    Dispatcher,
    DispatchSettings,
    Placement,
    Ticket,
)

__all__ = [
    "AdmissionMode",
    "Candidate",
    "DispatchSettings",
    "Dispatcher",
    "Placement",
    "Ticket",
]
