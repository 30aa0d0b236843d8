"""Whether a pool's latency targets can be met, told in the log when that changes."""

import logging
from collections.abc import Sequence

from memroute.traffic.admission import (
    AdmissionSettings,
    AloneLatency,
    UnmetTarget,
    alone_latency,
    unmet_target,
)
from memroute.traffic.replica import ReplicaLedger

LOGGER = logging.getLogger(__name__)


class TargetWatch:
    """Owns the verdict on one pool's targets: metrics read it, the log tells its changes."""

    def __init__(self) -> None:
        self.alone = AloneLatency()
        """What the best replica needs with one request, as far as known."""
        self.unmet: UnmetTarget | None = None
        """The targets that it cannot meet even so; None also while nobody knows."""

    def look(
        self, model: str, ledgers: Sequence[ReplicaLedger], settings: AdmissionSettings
    ) -> None:
        """Judge anew. One line in the log when targets begin to be unmet, one when that ends."""
        before = self.unmet
        self.alone = alone_latency(ledgers)
        self.unmet = unmet_target(self.alone, settings, before=before)
        if before is None and self.unmet is not None:
            LOGGER.warning("targets unmet model=%s reason=%r", model, self.unmet.message)
        elif before is not None and self.unmet is None:
            why = "they can be met" if self.alone.is_known else "no replica has shown its speed"
            LOGGER.info("targets no longer unmet model=%s reason=%r", model, why)
