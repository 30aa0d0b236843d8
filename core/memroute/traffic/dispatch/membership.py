"""A pool's replicas: which of them a request may go to now, and whether any could ever hold it.

```text
known      all replicas that discovery has named: in, out, draining, asleep, of any version
available  the known ones that are routable and in; where all are out, those: one may be back
possible   the available ones that are large enough, of the version that the request has drawn, that
           have its LoRA adapter loaded, and on which the request has not failed before

asleep     the known ones that would be possible if they were awake: what a request waits for that
           has none that is possible
```

*Never fits* is judged against ``known``: a replica that is out for a moment, drains, or is of
another version is no reason to tell a client that its request is wrong.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from memroute.traffic.admission import (
    Reject,
    RejectReason,
    adapter_not_loaded,
    model_asleep,
    never_fits,
    no_ready_replica,
)
from memroute.traffic.admission.refusals import DEFAULT_RETRY_AFTER_SECONDS
from memroute.traffic.replica.backend import Backend
from memroute.traffic.replica.sleep import ReplicaSleep
from memroute.traffic.request import RequestProfile

# Limit of a replica that names none: more than any request holds.
# Unit: tokens. Source: a stand-in for infinity in an int.
UNBOUNDED_TOKENS: Final = 2**60


class Possible:
    """The replicas that one request may go to: not empty."""

    __slots__ = ("backends", "lane", "version")

    def __init__(self, backends: list[Backend], version: str, lane: str) -> None:
        self.backends = backends
        self.version = version
        """The version that the request has drawn; empty where all versions compete."""
        self.lane = lane
        """Equal for any two requests that may go to the same replicas."""


class Available:
    """The replicas that may be tried at one moment."""

    __slots__ = ("_by_version", "_least_limit", "_shares", "backends", "versions")

    def __init__(
        self, backends: list[Backend], shares: Mapping[str, float], least_limit: int
    ) -> None:
        """``least_limit``: the least that any replica holds of one request, in tokens."""
        self.backends = backends
        self._shares = shares
        self._least_limit = least_limit
        self._by_version: dict[str, list[Backend]] = {}
        self.versions: tuple[str, ...] = ()
        """Of the model, where they have shares; empty where all compete."""
        if shares:
            for backend in backends:
                self._by_version.setdefault(backend.version, []).append(backend)
            self.versions = tuple(sorted(self._by_version))

    def of_version(self, version: str) -> list[Backend]:
        """The replicas of a version; all of them where all versions compete."""
        return self._by_version.get(version, []) if self._shares else self.backends

    def has_slot(self, version: str, adapter: str) -> bool:
        """Whether a replica of the version uses the LoRA adapter or has a slot for it."""
        for backend in self.of_version(version):
            ledger = backend.ledger
            if ledger.has_adapter(adapter) or ledger.has_adapter_slot():
                return True
        return False

    def possible(self, profile: RequestProfile, tried: Collection[str]) -> Possible | None:
        """The replicas that could hold the request, of the version that it draws; None: none."""
        least = profile.least_tokens
        lane = profile.adapter
        backends, by_version = self.backends, self._by_version
        only = profile.only
        if least > self._least_limit or tried or lane or only is not None:
            backends = [
                backend
                for backend in backends
                if could_hold(backend, least)
                and backend.ledger.replica not in tried
                and has_loaded(backend, lane)
                and (only is None or backend.ledger.replica in only)
            ]
            # Limits differ by what replicas are: as many hold it, so the same ones do.
            lane = f"{lane} {len(backends)} {' '.join(tried)}"
            if only is not None:
                lane = f"{lane} {' '.join(sorted(only))}"
            by_version = {}
            if self._shares:
                for backend in backends:
                    by_version.setdefault(backend.version, []).append(backend)
        if not backends:
            return None
        if not self._shares:
            return Possible(backends, "", lane)
        version = self._drawn(by_version, profile.draw)
        return None if version is None else Possible(by_version[version], version, lane)

    def _drawn(self, versions: Iterable[str], draw: float) -> str | None:
        """The version that a number from 0 to 1 draws by the shares; None: no version has one."""
        there = sorted(versions)
        left = draw * sum(self._shares.get(version, 0.0) for version in there)
        for version in there:
            left -= self._shares.get(version, 0.0)
            if left < 0:
                return version
        return None


class Membership:
    """Owns which replicas a pool has."""

    def __init__(self) -> None:
        self.known: dict[str, Backend] = {}
        self.shares: Mapping[str, float] = {}
        """Shares of the traffic by version; empty: all versions compete."""

    def available(self, *, now_seconds: float) -> Available:
        """The replicas that may be tried now."""
        found: list[Backend] = []
        out: list[Backend] = []
        least_limit = UNBOUNDED_TOKENS
        for backend in self.known.values():
            if backend.is_routable:
                limit = backend.ledger.limit_tokens
                if limit is not None and limit < least_limit:
                    least_limit = limit
                if backend.health.may_try(now_seconds=now_seconds):
                    found.append(backend)
                else:
                    out.append(backend)
        # With every replica out, trying one is better than refusing all: they may be back.
        return Available(found or out, self.shares, least_limit)

    @property
    def num_asleep(self) -> int:
        """Replicas that sleep, whatever they could hold."""
        count = 0
        for backend in self.known.values():
            if backend.sleep is not None:
                count += 1
        return count

    def asleep(self, profile: RequestProfile, tried: Collection[str]) -> list[Backend]:
        """The sleeping replicas that could take the request if they were awake."""
        least, adapter, only, shares = (
            profile.least_tokens,
            profile.adapter,
            profile.only,
            self.shares,
        )
        return [
            backend
            for backend in self.known.values()
            if backend.sleep is not None
            and could_hold(backend, least)
            and has_loaded(backend, adapter)
            and backend.ledger.replica not in tried
            and (only is None or backend.ledger.replica in only)
            and (not shares or shares.get(backend.version, 0.0) > 0.0)
        ]

    def why_none(
        self, profile: RequestProfile, tried: Collection[str], *, now_seconds: float
    ) -> Reject:
        """The refusal of a request that none of the available replicas may take.

        ``tried``: replicas on which it has failed.
        """
        known = self.known.values()
        if not known:
            return no_ready_replica()
        least = profile.least_tokens
        for backend in known:
            if could_hold(backend, least):
                break
        else:
            return never_fits(profile, [backend.ledger for backend in known])
        adapter = profile.adapter
        if adapter and not any(has_loaded(backend, adapter) for backend in known):
            return adapter_not_loaded(adapter)
        asleep = self.asleep(profile, tried)
        first = first_awake(asleep, now_seconds=now_seconds)
        if first is not None:
            return model_asleep(len(asleep), first.expected_seconds(now_seconds=now_seconds))
        if any(backend.is_routable for backend in known):
            return Reject(
                reason=RejectReason.NO_READY_REPLICA,
                message="no replica of this model that could hold the request is ready",
                retry_after_seconds=DEFAULT_RETRY_AFTER_SECONDS,
            )
        return no_ready_replica()


def first_awake(asleep: Iterable[Backend], *, now_seconds: float) -> ReplicaSleep | None:
    """The sleep of that replica which should be the first awake; None: none of them sleeps."""
    first, least = None, math.inf
    for backend in asleep:
        sleep = backend.sleep
        if sleep is not None:
            seconds = sleep.expected_seconds(now_seconds=now_seconds)
            if seconds < least:
                first, least = sleep, seconds
    return first


def has_loaded(backend: Backend, adapter: str) -> bool:
    """Whether the replica has the LoRA adapter; unknown counts as yes. Empty: none is wanted."""
    loaded = backend.adapters
    return loaded is None or not adapter or adapter in loaded


def could_hold(backend: Backend, least_tokens: int) -> bool:
    """Whether the replica could hold so many tokens when it is empty; unknown counts as yes."""
    limit = backend.ledger.limit_tokens
    return limit is None or least_tokens <= limit
