"""How fast can the system move it? Step times by measured kernels, and what a token costs."""

from memroute.bandwidth.batch import StepBatch
from memroute.bandwidth.kernels import KernelRates, kernel_rates
from memroute.bandwidth.links import Link, LinkSource, is_link, link_names, link_of, usual_link
from memroute.bandwidth.sharing import (
    CardShare,
    EngineLoad,
    SharingMechanism,
    card_share,
    engine_load,
    fair_shares,
    kept_ratios,
    shared_step_seconds,
)
from memroute.bandwidth.step_time import StepTime
from memroute.bandwidth.throughput import Bound, Throughput, throughput_of

__all__ = [
    "Bound",
    "CardShare",
    "EngineLoad",
    "KernelRates",
    "Link",
    "LinkSource",
    "SharingMechanism",
    "StepBatch",
    "StepTime",
    "Throughput",
    "card_share",
    "engine_load",
    "fair_shares",
    "is_link",
    "kept_ratios",
    "kernel_rates",
    "link_names",
    "link_of",
    "shared_step_seconds",
    "throughput_of",
    "usual_link",
]
