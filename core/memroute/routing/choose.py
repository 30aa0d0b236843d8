"""The replica under the least projected KV pressure.

Admission has already dropped the replicas that have no room. Of the rest, the one whose KV
cache would be least full once the request has grown, in the request's own tokens: replicas
of different size are compared by what the request does to them. Ties are broken at random,
so that no replica is favoured.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from memroute.footprint.request import RequestProfile
from memroute.pressure.ledger import ReplicaSnapshot


class RandomSource(Protocol):
    """What breaks ties: a ``random.Random``, seeded by whoever calls."""

    def random(self) -> float:
        """A number from 0 to 1."""
        ...


class Choice:
    """The chosen replica, and why it."""

    __slots__ = ("num_candidates", "projected_ratio", "replica")

    def __init__(self, *, replica: str, projected_ratio: float | None, num_candidates: int) -> None:
        self.replica = replica
        self.projected_ratio = projected_ratio
        """Its KV use once the request has grown; None when its capacity is unknown."""
        self.num_candidates = num_candidates

    @property
    def why(self) -> str:
        """A sentence, with the numbers."""
        ratio = self.projected_ratio
        told = "unknown" if ratio is None else f"{ratio:.3f}"
        return f"least projected KV use ({told}) of {self.num_candidates} candidate(s)"


def choose(
    profile: RequestProfile, candidates: Sequence[ReplicaSnapshot], *, rng: RandomSource
) -> Choice:
    """Choose one of ``candidates``, which must not be empty.

    A replica of unknown capacity is judged by its requests in flight, after all others.
    """
    expected_tokens = profile.expected_tokens
    ties: list[ReplicaSnapshot] = []
    best = math.inf
    for candidate in candidates:
        capacity = candidate.capacity_tokens
        if capacity:
            score = (candidate.projected_tokens + expected_tokens) / capacity
            if score < best:
                best = score
                ties = [candidate]
            elif score == best:
                ties.append(candidate)
    if ties:
        chosen = _any_of(ties, rng)
        return Choice(replica=chosen.replica, projected_ratio=best, num_candidates=len(candidates))
    fewest = min(candidate.num_in_flight for candidate in candidates)
    chosen = _any_of([c for c in candidates if c.num_in_flight == fewest], rng)
    return Choice(replica=chosen.replica, projected_ratio=None, num_candidates=len(candidates))


def _any_of(ties: list[ReplicaSnapshot], rng: RandomSource) -> ReplicaSnapshot:
    return ties[int(rng.random() * len(ties))] if len(ties) > 1 else ties[0]
