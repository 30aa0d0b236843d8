"""What each kind of engine says of itself, as a ``ReplicaReading``.

``read_metrics`` tells the engines apart by their pages: nobody has to say which one a replica runs.
"""

from memroute_router.engines.adapters import is_worth_reading, read_metrics
from memroute_router.engines.vllm import FULL_TARGET, NARROW_TARGET, LineHints, parse_vllm_metrics

__all__ = [
    "FULL_TARGET",
    "NARROW_TARGET",
    "LineHints",
    "is_worth_reading",
    "parse_vllm_metrics",
    "read_metrics",
]
