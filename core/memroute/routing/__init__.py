"""Which replica? The page to read first is ``choose``."""

from memroute.routing.choose import Choice, RandomSource, cost_seconds, wait_seconds
from memroute.routing.published import POLICY_NAMES, PUBLISHED, SEES_PREFIXES, Hits

__all__ = [
    "POLICY_NAMES",
    "PUBLISHED",
    "SEES_PREFIXES",
    "Choice",
    "Hits",
    "RandomSource",
    "cost_seconds",
    "wait_seconds",
]
