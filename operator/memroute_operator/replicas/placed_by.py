"""What ``spec.placement`` asked for when a replica was placed: an edit of it moves what runs."""

import hashlib
import json
from functools import lru_cache

from memroute_operator.spec.deployment import Deployment


def placed_by(deployment: Deployment) -> str:
    """A short hash of the strategy and the node selector; the mode is in the revision."""
    return _hash(deployment.strategy.value, tuple(sorted(deployment.node_selector.items())))


@lru_cache(maxsize=10_000)
def _hash(strategy: str, selector: tuple[tuple[str, str], ...]) -> str:
    return hashlib.sha256(json.dumps([strategy, selector]).encode()).hexdigest()[:10]
