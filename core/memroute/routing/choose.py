"""The replica under the least projected KV pressure.

Admission has already dropped the replicas that have no room. Of the rest, the one whose KV
cache would be least full once the request has grown, in the request's own tokens: replicas
of different size are compared by what the request does to them. Ties are broken at random,
so that no replica is favoured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from memroute.footprint import RequestProfile
from memroute.pressure import ReplicaSnapshot


class RandomSource(Protocol):
    """What breaks ties: a ``random.Random``, seeded by whoever calls."""

    def random(self) -> float:
        """A number from 0 to 1."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen replica, and why it."""

    replica: str
    projected_ratio: float | None
    """Its KV use once the request has grown; None when its capacity is unknown."""
    why: str


def choose(
    profile: RequestProfile, candidates: Sequence[ReplicaSnapshot], *, rng: RandomSource
) -> Choice:
    """Choose one of ``candidates``, which must not be empty.

    A replica of unknown capacity is judged by its requests in flight, after all others.
    """
    scored = [(_score(candidate, profile), rng.random(), candidate) for candidate in candidates]
    _, _, best = min(scored, key=lambda item: item[:2])
    ratio = best.projected_ratio(profile.expected_tokens)
    told = "unknown" if ratio is None else f"{ratio:.3f}"
    return Choice(
        replica=best.replica,
        projected_ratio=ratio,
        why=f"least projected KV use ({told}) of {len(scored)} candidate(s)",
    )


def _score(replica: ReplicaSnapshot, profile: RequestProfile) -> tuple[int, float]:
    ratio = replica.projected_ratio(profile.expected_tokens)
    if ratio is None:
        return (1, float(replica.num_in_flight))
    return (0, ratio)
