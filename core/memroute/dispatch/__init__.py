"""What becomes of the requests of one pool, over time: admission and routing in one step."""

from memroute.dispatch.candidates import Candidate
from memroute.dispatch.dispatcher import (
    AdmissionMode,
    Dispatcher,
    DispatchSettings,
    Placement,
)
from memroute.dispatch.waiting import Ticket

__all__ = [
    "AdmissionMode",
    "Candidate",
    "DispatchSettings",
    "Dispatcher",
    "Placement",
    "Ticket",
]
