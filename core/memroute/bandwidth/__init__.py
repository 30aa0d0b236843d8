"""How fast can the system move it? Rooflines, step times by measured kernels, cost of a token."""

from memroute.bandwidth.kernels import KernelRates, kernel_rates
from memroute.bandwidth.roofline import Bound, Roofline, Throughput
from memroute.bandwidth.step_time import StepBatch, StepTime

__all__ = [
    "Bound",
    "KernelRates",
    "Roofline",
    "StepBatch",
    "StepTime",
    "Throughput",
    "kernel_rates",
]
