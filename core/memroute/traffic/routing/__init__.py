"""Which replica? The page to read first is ``choose``."""

from memroute.traffic.routing.cost import Choice, RandomSource, cost_seconds, wait_seconds
from memroute.traffic.routing.published import POLICY_NAMES, PUBLISHED, SEES_PREFIXES

__all__ = [
    "POLICY_NAMES",
    "PUBLISHED",
    "SEES_PREFIXES",
    "Choice",
    "RandomSource",
    "cost_seconds",
    "wait_seconds",
]
