"""How fast can the system move it? Step times by measured kernels, and what a token costs."""

from memroute.bandwidth.kernels import KernelRates, kernel_rates
from memroute.bandwidth.step_time import StepBatch, StepTime
from memroute.bandwidth.throughput import Bound, Throughput, throughput_of

__all__ = [
    "Bound",
    "KernelRates",
    "StepBatch",
    "StepTime",
    "Throughput",
    "kernel_rates",
    "throughput_of",
]
