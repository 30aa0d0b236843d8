"""Whether waiting is of any use to requests that are late.

When more requests come than can be served in time, most late requests wait in vain. A late request
that does get a turn takes room from requests that could have been in time. So under overload a late
request is refused at once, instead of at the end of its time. Overload is either of two things:

* for half of ``--max-queue-seconds`` there have been late requests, and only requests that are in
  time have had turns; or
* more late requests were refused than served, and refusals exceed a tenth of the requests that were
  given room. With fewer refusals the load is bursty, and late requests are served soon.
"""

import math
from typing import Final

from memroute.traffic.replica import RateMeter

# Share of --max-queue-seconds in which there have been late requests and only requests that are in
# time have had turns, after which late requests wait in vain.
# Unit: ratio of the queue's time. Source: chosen by hand.
HOPELESS_RATIO: Final = 0.5
# Refusals of late requests per admitted request above which the load is an overload, not a burst.
# Unit: ratio of the admitted requests. Source: chosen by hand.
OVERLOAD_RATIO: Final = 0.1


class OverloadDetector:
    """Owns what became of late requests; the caller brings the clock."""

    def __init__(self) -> None:
        self._num_placed = RateMeter()
        self._num_served_late = RateMeter()
        self._num_in_vain = RateMeter()
        self._turn_at_seconds = self._late_turn_at_seconds = -1.0
        self._late_since_seconds = math.inf
        """Since when there have been late requests, without a break."""
        self._in_vain_at_seconds = -math.inf

    def late_wait(self, *, is_any: bool, max_seconds: float, now_seconds: float) -> None:
        """Whether late requests wait now. ``max_seconds``: as in ``is_hopeless``.

        Those that are refused at once do not wait: so none ends what was begun only some time after
        the last refusal.
        """
        if is_any:
            self._late_since_seconds = min(self._late_since_seconds, now_seconds)
        elif now_seconds - self._in_vain_at_seconds >= HOPELESS_RATIO * max_seconds:
            self._late_since_seconds = math.inf

    def placed(self, *, now_seconds: float) -> None:
        """A request was given room, whether it had to wait or not."""
        self._num_placed.add(1, now_seconds=now_seconds)

    def turn_taken(self, *, now_seconds: float) -> None:
        """A request was given room while others wait."""
        self._turn_at_seconds = now_seconds

    def served_late(self, *, now_seconds: float) -> None:
        """A late request was given room."""
        self._late_turn_at_seconds = now_seconds
        self._num_served_late.add(1, now_seconds=now_seconds)

    def in_vain(self, *, now_seconds: float) -> None:
        """A late request is refused: it has waited in vain, or would."""
        self._in_vain_at_seconds = now_seconds
        self._num_in_vain.add(1, now_seconds=now_seconds)

    def is_hopeless(self, *, since_seconds: float, max_seconds: float, now_seconds: float) -> bool:
        """Whether late requests wait in vain.

        ``since_seconds``: when the backlog began; ``max_seconds``: how long requests may wait.
        """
        since = max(since_seconds, self._late_turn_at_seconds, self._late_since_seconds)
        if self._turn_at_seconds - since >= HOPELESS_RATIO * max_seconds:
            return True
        in_vain = self._num_in_vain.amount(now_seconds=now_seconds)
        if in_vain <= self._num_served_late.amount(now_seconds=now_seconds):
            return False
        return in_vain >= OVERLOAD_RATIO * self._num_placed.amount(now_seconds=now_seconds)
