"""How fast can the system move it? Rooflines of prefill and decode, and what a token costs."""

from memroute.bandwidth.roofline import Bound, Roofline, Throughput

__all__ = ["Bound", "Roofline", "Throughput"]
