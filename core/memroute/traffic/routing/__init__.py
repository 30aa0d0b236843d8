"""Which replica a request goes to. The page to read first is ``cost``."""

from memroute.traffic.routing.chooser import Chooser, MemrouteChooser, PublishedChooser
from memroute.traffic.routing.cost import Choice, RandomSource, cost_seconds, wait_seconds
from memroute.traffic.routing.published import (
    POLICY_NAMES,
    PUBLISHED,
    SEES_PREFIXES,
    published_policy,
)
from memroute.traffic.routing.shortlist import Shortlist

__all__ = [
    "POLICY_NAMES",
    "PUBLISHED",
    "SEES_PREFIXES",
    "Choice",
    "Chooser",
    "MemrouteChooser",
    "PublishedChooser",
    "RandomSource",
    "Shortlist",
    "cost_seconds",
    "published_policy",
    "wait_seconds",
]
