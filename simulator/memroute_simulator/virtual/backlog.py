"""How long what waited ahead of each refused request took: what Retry-After foretells."""

import heapq
from collections.abc import Callable

from memroute_simulator.virtual.outcome import Outcome


class Backlog:
    """The requests that a router has refused. Owns them until what waited ahead has its place."""

    def __init__(self, held_tokens: Callable[[], int]) -> None:
        """``held_tokens``: tokens of the requests that wait for room now."""
        self._held_tokens = held_tokens
        self._placed_tokens = 0
        self._refused: list[tuple[int, int, Outcome]] = []

    def refused(self, outcome: Outcome) -> None:
        """A request was told to come back."""
        ahead = self._placed_tokens + self._held_tokens()
        heapq.heappush(self._refused, (ahead, outcome.number, outcome))

    def placed(self, num_tokens: int, *, now_seconds: float) -> None:
        """So many tokens were given room."""
        self._placed_tokens += num_tokens
        while self._refused and self._refused[0][0] <= self._placed_tokens:
            _, _, outcome = heapq.heappop(self._refused)
            if outcome.ended_seconds is not None:
                outcome.drained_seconds = now_seconds - outcome.ended_seconds
