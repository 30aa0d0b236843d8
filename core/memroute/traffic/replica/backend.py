"""A replica that requests can be sent to, and how fast it is beside the others."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from memroute.traffic.replica.health import ReplicaHealth
from memroute.traffic.replica.ledger import ReplicaLedger
from memroute.traffic.replica.sleep import ReplicaSleep

# Samples from which on a replica's own prefill speed counts; before, the mean of the others' does.
# Unit: samples. Source: chosen by hand.
MIN_SAMPLES: Final = 8
# Replicas whose speeds one replica is compared with.
# Unit: replicas. Source: a bound of the work, chosen by hand.
MAX_COMPARED: Final = 32


class Backend:
    """A replica that requests can be sent to."""

    __slots__ = ("adapters", "health", "is_routable", "ledger", "sleep", "version")

    def __init__(
        self, ledger: ReplicaLedger, *, is_routable: bool = True, version: str = ""
    ) -> None:
        self.ledger = ledger
        self.version = version
        """The version of the model: traffic is split between versions."""
        self.health = ReplicaHealth()
        self.is_routable = is_routable
        """Ready, awake, not draining, not terminating."""
        self.sleep: ReplicaSleep | None = None
        """While its engine sleeps, or is about to; None: it is awake."""
        self.adapters: frozenset[str] | None = None
        """The LoRA adapters that its engine has loaded; None: nobody knows, so any may be."""


class FastestReplica:
    """Which replica of a pool computes long prompts fastest, of those whose speed is known.

    Kept up to date reading by reading, so that asking costs nothing: all replicas are compared only
    when the fastest one leaves, or turns out to be slower than it was.
    """

    __slots__ = ("_ledger", "_token_seconds")

    def __init__(self) -> None:
        self._ledger: ReplicaLedger | None = None
        self._token_seconds = 0.0

    def prefill_seconds(self, num_tokens: int) -> float | None:
        """What a prompt of so many uncached tokens takes there alone; None: nobody knows yet."""
        ledger = self._ledger
        return None if ledger is None else ledger.speed.prefill_seconds(1, num_tokens)

    def learned(self, ledger: ReplicaLedger, backends: Iterable[Backend]) -> None:
        """What is known of the speed of one of ``backends`` may have changed."""
        token_seconds = ledger.speed.token_seconds
        if ledger is self._ledger and token_seconds > self._token_seconds:
            self._find(backends)
        elif ledger.speed.num_samples >= MIN_SAMPLES and (
            self._ledger is None or token_seconds <= self._token_seconds
        ):
            self._ledger, self._token_seconds = ledger, token_seconds

    def gone(self, ledger: ReplicaLedger, backends: Iterable[Backend]) -> None:
        """It has left; ``backends`` are those that remain."""
        if ledger is self._ledger:
            self._find(backends)

    def _find(self, backends: Iterable[Backend]) -> None:
        self._ledger = None
        for backend in backends:
            speed = backend.ledger.speed
            if speed.num_samples >= MIN_SAMPLES and (
                self._ledger is None or speed.token_seconds < self._token_seconds
            ):
                self._ledger, self._token_seconds = backend.ledger, speed.token_seconds


def usable(
    backends: Iterable[Backend],
    *,
    tried: Collection[str],
    shares: Mapping[str, float],
    draw: float,
    now_seconds: float,
) -> list[Backend]:
    """The replicas that may be tried now, of the version that the request has drawn.

    ``tried``: replicas on which the request has failed. ``shares``: of the traffic, by version;
    empty: all versions compete. ``draw``: the request's number from 0 to 1.
    """
    found: list[Backend] = []
    out: list[Backend] = []
    for backend in backends:
        if not backend.is_routable or (tried and backend.ledger.replica in tried):
            continue
        if backend.health.may_try(now_seconds=now_seconds):
            found.append(backend)
        else:
            out.append(backend)
    # With every replica out, trying one is better than refusing all: they may be back.
    there = found or out
    return _of_version(there, shares, draw) if shares else there


def _of_version(backends: list[Backend], shares: Mapping[str, float], draw: float) -> list[Backend]:
    """The replicas of the version that ``draw`` selects among those present."""
    there = {backend.version: shares.get(backend.version, 0.0) for backend in backends}
    left = draw * sum(there.values())
    for version in sorted(there):
        left -= there[version]
        if left < 0:
            return [backend for backend in backends if backend.version == version]
    return []


def compare_speed(ledger: ReplicaLedger, backends: Iterable[Backend]) -> None:
    """Compare a replica's speed with the others'. One that has shown little counts as fast as they.

    Else the first replica that is learned to be faster than the prior would get all requests.
    """
    prompt, token, tokens, count = 0.0, 0.0, 0.0, 0
    for backend in backends:
        speed = backend.ledger.speed
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
