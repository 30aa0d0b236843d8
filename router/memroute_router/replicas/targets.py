"""Whether a pool's latency targets can be met, told in the log when that changes."""

import logging
from collections.abc import Sequence
from typing import Final

from memroute.traffic.admission import (
    AdmissionSettings,
    AloneLatency,
    UnmetTarget,
    alone_latency,
    unmet_target,
)
from memroute.traffic.replica import ReplicaLedger

LOGGER = logging.getLogger(__name__)
# Targets must have looked out of reach for so long (seconds) before it is said. What a replica
# needs alone is learned from above: the first tokens of a busy one say too much. Chosen by hand:
# answers of any engine end in that time, and nobody reads a condition sooner.
CONFIRMED_SECONDS: Final = 30.0


class TargetWatch:
    """Owns the verdict on one pool's targets: metrics read it, the log tells its changes."""

    def __init__(self) -> None:
        self.alone = AloneLatency()
        """What the fastest replica needs with one request, as far as known."""
        self.are_met: bool | None = None
        """Whether the targets can be met; None while nobody knows."""
        self._unmet: UnmetTarget | None = None
        self._since_seconds = 0.0

    def look(
        self,
        model: str,
        ledgers: Sequence[ReplicaLedger],
        settings: AdmissionSettings,
        *,
        now_seconds: float,
    ) -> None:
        """Judge anew. One line in the log when targets begin to be unmet, one when that ends."""
        self.alone = alone_latency(ledgers)
        before, unmet = self._unmet, unmet_target(self.alone, settings, before=self._unmet)
        self._unmet = unmet
        if unmet is None:
            are_met = True if self.alone.is_known else None
            if self.are_met is False:
                why = "they can be met" if are_met else "no replica has shown its speed"
                LOGGER.info("targets no longer unmet model=%s reason=%r", model, why)
            self.are_met = are_met
            return
        if before is None:
            self._since_seconds = now_seconds
        if self.are_met is not False and now_seconds - self._since_seconds >= CONFIRMED_SECONDS:
            self.are_met = False
            LOGGER.warning("targets unmet model=%s reason=%r", model, unmet.message)
