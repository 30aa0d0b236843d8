"""Workloads: what clients send, when, and what of it they share.

``request`` says what a workload is, ``lengths`` and ``arrivals`` draw from published
distributions, the generators put them together, ``traces`` reads recorded files, ``catalogue``
knows them all by name. Everything is seeded and needs no files.
"""

from memroute_simulator.workloads.catalogue import GENERATORS, WorkloadError, workload_by_name
from memroute_simulator.workloads.request import Session, Workload, WorkloadRequest
from memroute_simulator.workloads.traces import read_trace

__all__ = [
    "GENERATORS",
    "Session",
    "Workload",
    "WorkloadError",
    "WorkloadRequest",
    "read_trace",
    "workload_by_name",
]
