"""How far a fetch is: counted by threads, read by /progress, by those who wait, and by the log.

``Progress`` owns the counts. Unknown numbers are None: the total before every list was read, the
pace before two readings.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from memroute.units import format_gib

# Seconds over which the pace is taken, chosen by hand: short enough to show a stall.
PACE_SECONDS = 20.0
# Readings of it that are kept: one a second at the most.
PACE_READINGS = 21


class Phase(StrEnum):
    """What the program does just now; the value is in /progress."""

    WAITING = "waiting"
    """Another program fetches the same model."""
    CHECKING = "checking"
    """What is on the disk already is compared, or the source's list is read."""
    DOWNLOADING = "downloading"
    EVICTING = "evicting"
    VERIFYING = "verifying"
    """All bytes are there; the last files reach the disk."""
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReading:
    """All counts at one moment."""

    phase: Phase
    bytes_done: int
    """Of files that are wanted, on the disk: from the cache or from the source."""
    bytes_total: int | None
    bytes_from_cache: int
    bytes_read_from_source: int
    """Of files alone, with those that were read twice; lists are not counted."""
    bytes_per_second: float | None
    message: str

    def document(self) -> dict[str, Any]:
        """As /progress has it."""
        return {
            "phase": self.phase.value,
            "bytes_done": self.bytes_done,
            "bytes_total": self.bytes_total,
            "bytes_from_cache": self.bytes_from_cache,
            "bytes_read_from_source": self.bytes_read_from_source,
            "bytes_per_second": self.bytes_per_second,
            "message": self.message,
        }


class Progress:
    """Counts of one run, of all its models and adapters. Every method is safe in threads."""

    def __init__(self, clock: Callable[[], float], num_models: int = 1) -> None:
        """``clock``: seconds that never go back. ``num_models``: whose totals are to come."""
        self._clock = clock
        self._lock = threading.Lock()
        self._phase = Phase.CHECKING
        self._message = ""
        self._totals: list[int] = []
        self._num_models = num_models
        self._done: dict[tuple[str, str], int] = {}
        self._from_cache: dict[tuple[str, str], int] = {}
        self._read_bytes = 0
        self._pace: deque[tuple[float, int]] = deque(maxlen=PACE_READINGS)

    def phase(self, phase: Phase, message: str) -> None:
        """What is done from now on, and a sentence about it."""
        with self._lock:
            self._phase, self._message = phase, message

    def planned(self, total_bytes: int) -> None:
        """One more model's size is known."""
        with self._lock:
            self._totals.append(total_bytes)

    def kept(self, model: str, path: str, num_bytes: int) -> None:
        """Bytes of a file that were in the cache already (0 when they turned out to be wrong)."""
        with self._lock:
            self._done[model, path] = num_bytes
            self._from_cache[model, path] = num_bytes

    def written(self, model: str, path: str, num_bytes: int) -> None:
        """Bytes of a file that are on the disk now, altogether."""
        with self._lock:
            self._done[model, path] = num_bytes

    def read(self, num_bytes: int) -> None:
        """Bytes that came from the source just now."""
        with self._lock:
            self._read_bytes += num_bytes
            now = self._clock()
            if not self._pace or now - self._pace[-1][0] >= 1:
                self._pace.append((now, self._read_bytes))

    def reading(self) -> ProgressReading:
        """The counts now."""
        with self._lock:
            is_known = len(self._totals) >= self._num_models
            return ProgressReading(
                phase=self._phase,
                bytes_done=sum(self._done.values()),
                bytes_total=sum(self._totals) if is_known else None,
                bytes_from_cache=sum(self._from_cache.values()),
                bytes_read_from_source=self._read_bytes,
                bytes_per_second=self._bytes_per_second(),
                message=self._message,
            )

    def _bytes_per_second(self) -> float | None:
        if self._phase is not Phase.DOWNLOADING:
            return None
        now = self._clock()
        start = next((one for one in self._pace if now - one[0] <= PACE_SECONDS), None)
        if start is None:
            # Nothing came for as long as the pace is taken over: that is none, when it had begun.
            return 0.0 if self._pace else None
        seconds = now - start[0]
        return (self._read_bytes - start[1]) / seconds if seconds >= 1 else None


def sentence(reading: ProgressReading) -> str:
    """``downloading: 41.0 of 142.0 GiB, 512 MiB/s``, for a log."""
    total = "" if reading.bytes_total is None else f" of {format_gib(reading.bytes_total)}"
    pace = reading.bytes_per_second
    speed = "" if pace is None else f", {pace / 2**20:.0f} MiB/s"
    words = f": {reading.message}" if reading.message else ""
    return f"{reading.phase.value}, {format_gib(reading.bytes_done)}{total}{speed}{words}"
