"""How those who were refused were told: how soon, and whether the time to come back was right.

The truth of a ``Retry-After`` is how long what waited at the refusal then took to be given room.
HTTP says it in whole seconds, one at the least, so the truth is rounded up likewise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from memroute_simulator.virtual.outcome import LatencyTarget, Outcome, OutcomeStatus

AT_ONCE_SECONDS = 0.1
RIGHT_FACTOR = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """Of one run; ratios 0 to 1, None where nothing was refused."""

    at_once_ratio: float | None
    """Told within 100 ms."""
    in_time_ratio: float | None
    """Told within 100 ms, or by the time their first token was due."""
    retry_after_right_ratio: float | None
    """Told to come back within a factor of two of the truth."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], target: LatencyTarget) -> "Refusals":
        """What the refused ones of some outcomes were told."""
        refused = [o for o in outcomes if o.status is OutcomeStatus.SHED]
        waited = [(o.ended_seconds or o.sent_seconds) - o.sent_seconds for o in refused]
        judged = [right for o in refused if (right := _is_right(o)) is not None]
        due = max(AT_ONCE_SECONDS, target.ttft_seconds)
        return cls(
            at_once_ratio=_share([seconds <= AT_ONCE_SECONDS for seconds in waited]),
            in_time_ratio=_share([seconds <= due for seconds in waited]),
            retry_after_right_ratio=_share(judged),
        )


def _is_right(outcome: Outcome) -> bool | None:
    """None where nobody will know: what waited was never given room before the run ended."""
    if outcome.retry_after_seconds is None or outcome.drained_seconds is None:
        return None
    truth = max(1, math.ceil(outcome.drained_seconds))
    return 1 / RIGHT_FACTOR <= outcome.retry_after_seconds / truth <= RIGHT_FACTOR


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
