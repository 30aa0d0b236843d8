"""The replicas that a request may be sent to, and how fast each is beside the others."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from memroute.pressure import ReplicaHealth, ReplicaLedger

MIN_SAMPLES: Final = 8
MAX_COMPARED: Final = 32
# A replica's own speed counts from so many times on; before, that of so many others.


class Candidate:
    """A replica that requests can be sent to."""

    __slots__ = ("health", "is_routable", "ledger", "version")

    def __init__(
        self, ledger: ReplicaLedger, *, is_routable: bool = True, version: str = ""
    ) -> None:
        self.ledger = ledger
        self.version = version
        """Of the model: what shares of the traffic are given to."""
        self.health = ReplicaHealth()
        self.is_routable = is_routable
        """Ready, not draining, not terminating."""


def usable(
    candidates: Iterable[Candidate],
    *,
    tried: Collection[str],
    shares: Mapping[str, float],
    draw: float,
    now_seconds: float,
) -> list[Candidate]:
    """Those that may be tried now, of the version that the request has drawn.

    ``tried``: replicas that it has failed on. ``shares``: of the traffic, by version; none: all
    versions compete. ``draw``: the request's number from 0 to 1.
    """
    found: list[Candidate] = []
    out: list[Candidate] = []
    for candidate in candidates:
        if not candidate.is_routable or (tried and candidate.ledger.replica in tried):
            continue
        if candidate.health.may_try(now_seconds=now_seconds):
            found.append(candidate)
        else:
            out.append(candidate)
    # With every replica out, trying one is better than refusing all: they may be back.
    there = found or out
    return _of_version(there, shares, draw) if shares else there


def _of_version(
    candidates: list[Candidate], shares: Mapping[str, float], draw: float
) -> list[Candidate]:
    """Those of the version that was drawn, of the versions that are there."""
    there = {candidate.version: shares.get(candidate.version, 0.0) for candidate in candidates}
    left = draw * sum(there.values())
    for version in sorted(there):
        left -= there[version]
        if left < 0:
            return [candidate for candidate in candidates if candidate.version == version]
    return []


def compare_speed(ledger: ReplicaLedger, candidates: Iterable[Candidate]) -> None:
    """How fast it is, seen beside the others; one that has shown little is as they are.

    Else one that is faster than what learning starts from would keep all the requests.
    """
    prompt, token, tokens, count = 0.0, 0.0, 0.0, 0
    for candidate in candidates:
        speed = candidate.ledger.speed
        if speed.num_samples >= MIN_SAMPLES:
            prompt += speed.own_prompt_seconds
            token += speed.own_token_seconds
            tokens += speed.typical_tokens
            count += 1
            if count >= MAX_COMPARED:
                break
    if not count:
        return
    if ledger.speed.num_samples < MIN_SAMPLES:
        ledger.speed.assume(prompt_seconds=prompt / count, token_seconds=token / count)
    else:
        ledger.speed.compare(
            prompt_seconds=prompt / count,
            token_seconds=token / count,
            typical_tokens=tokens / count,
        )
