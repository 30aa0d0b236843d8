"""What becomes of the requests of one pool, over time: admission and routing in one step."""

from memroute.traffic.dispatch.ask import Ticket
from memroute.traffic.dispatch.dispatcher import Dispatcher
from memroute.traffic.dispatch.request_pool import Lease, RequestPool, Waiter
from memroute.traffic.dispatch.retries import RetryRule
from memroute.traffic.dispatch.selection import Assignment
from memroute.traffic.dispatch.settings import AdmissionMode, DispatchSettings
from memroute.traffic.dispatch.suspects import Suspects, request_name
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
    "Suspects",
    "Ticket",
    "Waiter",
    "request_name",
]
