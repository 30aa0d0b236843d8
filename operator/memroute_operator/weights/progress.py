"""How far a fetcher is, from its page to the words of a status.

The page comes from a pod of a tenant: whatever it says is a value here, bounded, and concerns
that replica alone.
"""

import json
import math
from dataclasses import dataclass

from memroute.units import GIB
from memroute_kube.shapes import mapping
from memroute_operator.failures.quoting import without_secrets
from memroute_operator.failures.signature import shown

# No model has more bytes, and no network that many a second: a bound on what is read.
MAX_BYTES = 2**60
# How long no byte may come before it is said, in seconds: chosen by hand. A source that limits
# requests lets one wait for a minute.
STANDING_SECONDS = 120.0
MB = 1e6
SECONDS_PER_MINUTE = 60
# Minutes past which hours are told.
MAX_MINUTES = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """One page of ``/progress``; numbers are None where it does not say them."""

    phase: str
    bytes_done: int | None = None
    bytes_total: int | None = None
    bytes_from_cache: int | None = None
    bytes_read_from_source: int | None = None
    bytes_per_second: float | None = None
    message: str = ""

    @property
    def position(self) -> tuple[str, int | None, int | None]:
        """What moves while something is done."""
        return self.phase, self.bytes_done, self.bytes_read_from_source


def read_progress(page: str) -> FetchProgress | None:
    """A page, as far as it makes sense; None when it is none. Raises nothing."""
    try:
        said = json.loads(page)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("phase"), str):
        return None
    fields = mapping(said)
    message = fields.get("message")
    return FetchProgress(
        phase=shown(fields["phase"])[:32],
        bytes_done=_bytes(fields.get("bytes_done")),
        bytes_total=_bytes(fields.get("bytes_total")),
        bytes_from_cache=_bytes(fields.get("bytes_from_cache")),
        bytes_read_from_source=_bytes(fields.get("bytes_read_from_source")),
        bytes_per_second=_rate(fields.get("bytes_per_second")),
        message=shown(without_secrets(message)) if isinstance(message, str) else "",
    )


def told(progress: FetchProgress, *, standing_seconds: float) -> str:
    """How far it is, for a person: ``41 of 142 GiB (310 MB/s, about 6 min left)``.

    ``standing_seconds``: for how long nothing has moved. No time is told that grows by itself.
    """
    words = _PHASES.get(progress.phase, f"({progress.phase})")
    if standing_seconds >= STANDING_SECONDS and progress.phase != _WAITING:
        words = (
            f"(nothing has moved for more than {STANDING_SECONDS / SECONDS_PER_MINUTE:.0f} min: "
            f"can the node reach the source? it gives up by itself and tries again)"
        )
    elif not words and (pace := _pace(progress)):
        words = f"({pace})"
    return " ".join(part for part in (_size(progress), words) if part)


_PHASES = {
    "downloading": "",
    "waiting": "(waits for another replica that downloads the same weights)",
    "checking": "(looks what is there already)",
    "evicting": "(makes room in the cache)",
    "verifying": "(verifies what has come)",
    "complete": "(all there)",
    "failed": "(failed, and tries again)",
}
"""The fetcher's phases, in words behind ``Downloading``."""
_WAITING = "waiting"


def _size(progress: FetchProgress) -> str:
    done, total = progress.bytes_done, progress.bytes_total
    if done is None:
        return ""
    if total is None or total < done:
        return f"{_gib(done)} GiB"
    return f"{_gib(done)} of {_gib(total)} GiB"


def _gib(size: int) -> str:
    """Whole GiB; of little, a digit more."""
    return f"{size / GIB:.1f}" if size < 10 * GIB else f"{size // GIB}"


def _pace(progress: FetchProgress) -> str:
    rate = progress.bytes_per_second
    if not rate:
        return ""
    said = f"{rate / MB:.0f} MB/s" if rate >= MB else f"{rate / MB:.1f} MB/s"
    done, total = progress.bytes_done, progress.bytes_total
    if done is None or total is None or total <= done:
        return said
    minutes = math.ceil((total - done) / rate / SECONDS_PER_MINUTE)
    if minutes > MAX_MINUTES:
        return f"{said}, about {round(minutes / 60)} h left"
    return f"{said}, about {minutes} min left"


def _bytes(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_BYTES:
        return None
    return value


def _rate(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        rate = float(value)
    except OverflowError:
        return None
    return rate if 0 <= rate <= MAX_BYTES else None
