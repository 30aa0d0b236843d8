"""What is odd in the cluster, in the log: once as it begins, and once as it ends."""

import logging

from memroute_operator.gather import Facts
from memroute_operator.replicas.lost_nodes import NodeLoss

LOGGER = logging.getLogger(__name__)


class Oddities:
    """Owns what was told last."""

    def __init__(self) -> None:
        self._told: frozenset[str] = frozenset()

    def tell(self, facts: Facts, loss: NodeLoss) -> None:
        """Log what has begun, and what has ended."""
        odd = {f"{name}: {why}" for name, why in facts.unreadable_objects.items()}
        odd |= {f"node {name} is unreachable and kept: {why}" for name, why in loss.kept.items()}
        odd |= {f"node {name} is given up" for name in loss.given_up}
        for text in sorted(odd - self._told):
            LOGGER.warning("odd what=%.500s", text)
        for text in sorted(self._told - odd):
            LOGGER.info("no longer odd what=%.500s", text)
        self._told = frozenset(odd)
