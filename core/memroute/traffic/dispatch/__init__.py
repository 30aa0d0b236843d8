"""What becomes of the requests of one pool, over time: admission and routing in one step."""

from memroute.traffic.dispatch.dispatcher import (
    AdmissionMode,
    Assignment,
    Dispatcher,
    DispatchSettings,
)
from memroute.traffic.dispatch.request_pool import Lease, RequestPool, Waiter
from memroute.traffic.dispatch.retries import RetryRule
from memroute.traffic.dispatch.waiting_line import Ticket
from memroute.traffic.replica.backend import Backend

__all__ = [
    "AdmissionMode",
    "Assignment",
    "Backend",
    "DispatchSettings",
    "Dispatcher",
    "Lease",
    "RequestPool",
    "RetryRule",
    "Ticket",
    "Waiter",
]
