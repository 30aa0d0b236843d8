"""How fast can the system move it? Step times by measured kernels, and what a token costs."""

from memroute.bandwidth.batch import StepBatch
from memroute.bandwidth.kernels import KernelRates, kernel_rates
from memroute.bandwidth.links import Link, LinkSource, is_link, link_names, link_of, usual_link
from memroute.bandwidth.step_time import StepTime
from memroute.bandwidth.throughput import Bound, Throughput, throughput_of

__all__ = [
    "Bound",
    "KernelRates",
    "Link",
    "LinkSource",
    "StepBatch",
    "StepTime",
    "Throughput",
    "is_link",
    "kernel_rates",
    "link_names",
    "link_of",
    "throughput_of",
    "usual_link",
]
