"""What a router does not go by: logged once for each object, counted by reason."""

import logging
from collections import Counter

from memroute_router.discovery.belief import Disbelief

LOGGER = logging.getLogger(__name__)


class Doubts:
    """Owns which objects are in doubt now, and why."""

    def __init__(self) -> None:
        self._reasons: dict[tuple[str, str], Disbelief] = {}

    def note(self, kind: str, key: str, reason: Disbelief, why: str) -> None:
        """An object is not gone by, or not wholly. The same of the same object is said once."""
        if self._reasons.get((kind, key)) is reason:
            return
        self._reasons[kind, key] = reason
        LOGGER.warning("in doubt kind=%s key=%r reason=%s why=%.500r", kind, key, reason, why)

    def clear(self, kind: str, key: str) -> None:
        """It is gone, or there is nothing odd about it any more."""
        reason = self._reasons.pop((kind, key), None)
        if reason is not None:
            LOGGER.info("no longer in doubt kind=%s key=%r reason=%s", kind, key, reason)

    def counts(self) -> Counter[tuple[str, Disbelief]]:
        """How many objects of each kind are in doubt now, by reason."""
        return Counter((kind, reason) for (kind, _), reason in self._reasons.items())
