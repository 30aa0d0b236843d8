"""Adapters that are wanted in a cache, and how far each is. Pure: a worker fetches, a server asks.

```text
wanted ──due──► fetching ──► complete          a source that failed is due again later,
                    └──────► failed ──wait──┘  twice as late each time
```

``KeptAdapters`` owns the states. It is used by two threads, and every method holds its lock.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# How long a source that failed is left alone, in seconds, doubling to the longest. Chosen by hand:
# a person who mends a Secret looks on, and a hub that is down is asked 12 times an hour.
FIRST_WAIT_SECONDS = 5.0
MAX_WAIT_SECONDS = 300.0
# As many as a ModelDeployment may have, and what a source may be long.
MAX_ADAPTERS = 256
MAX_SOURCE_CHARACTERS = 2048
# How long all that is wanted has to be there before what was wanted earlier is given up, in
# seconds. An engine may serve an old source until it is told of the new one. Chosen by hand.
SETTLED_SECONDS = 600.0


class AdapterState(StrEnum):
    """How far one is; the value is in the answer."""

    WAITING = "waiting"
    FETCHING = "fetching"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A complete adapter."""

    source: str
    """With the commit that it was."""
    directory: str
    """In the cache: ``adapters/…``."""
    rank: int | None = None
    """Of its ``adapter_config.json``; None where that does not say."""
    base_model: str | None = None


@dataclass(slots=True)
class _Kept:
    state: AdapterState = AdapterState.WAITING
    fetched: Fetched | None = None
    code: int = 0
    message: str = ""
    failures: int = 0
    due_seconds: float = 0.0


class KeptAdapters:
    """The sources that are wanted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock``: monotonic seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._names: dict[str, str] = {}
        self._is_told = False
        self._settling_since: float | None = None
        """When the list was last changed; None before it is told, and once that was seen to."""
        self.news = threading.Event()
        """Set when something may be due."""

    def want(self, sources: Mapping[str, str]) -> None:
        """All that is wanted, by name; nothing is begun anew that was wanted before."""
        with self._lock:
            if not self._is_told or self._names != sources:
                self._settling_since, self._is_told = self._clock(), True
            before = self._kept
            # A branch that was fetched, and is asked for by its commit from now on.
            done = {one.fetched.source: one for one in before.values() if one.fetched is not None}
            self._names = dict(sources)
            self._kept = {
                one: before.get(one) or done.get(one) or _Kept() for one in self._names.values()
            }
        self.news.set()

    def next_due(self) -> tuple[str | None, float | None]:
        """A source to fetch now, marked so; else in how many seconds there is one (None: none)."""
        with self._lock:
            now = self._clock()
            waits = []
            for source, one in self._kept.items():
                if one.state in (AdapterState.COMPLETE, AdapterState.FETCHING):
                    continue
                if one.due_seconds <= now:
                    one.state = AdapterState.FETCHING
                    return source, None
                waits.append(one.due_seconds - now)
            return None, min(waits, default=None)

    def settled(self) -> frozenset[str] | None:
        """The folders that are in use, once after each change when all is there; else None.

        What is not among them is no longer wanted, and the engine has long been told so.
        """
        with self._lock:
            since, now = self._settling_since, self._clock()
            kept = self._kept.values()
            if since is None or any(one.state is not AdapterState.COMPLETE for one in kept):
                return None
            if now - since < SETTLED_SECONDS:
                return None
            self._settling_since = None
            return frozenset(one.fetched.directory for one in kept if one.fetched is not None)

    def complete(self, source: str, fetched: Fetched) -> None:
        """It is in the cache."""
        with self._lock:
            one = self._kept.get(source)
            if one is not None:
                self._settling_since = self._clock()
                one.state, one.fetched = AdapterState.COMPLETE, fetched
                one.code, one.message, one.failures = 0, "", 0

    def failed(self, source: str, code: int, message: str) -> None:
        """It is not, and why."""
        with self._lock:
            one = self._kept.get(source)
            if one is not None:
                wait = min(MAX_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(one.failures, 30))
                one.state, one.code, one.message = AdapterState.FAILED, code, message
                one.failures += 1
                one.due_seconds = self._clock() + wait

    def document(self) -> dict[str, Any]:
        """As the answer has it."""
        with self._lock:
            return {
                "adapters": {
                    name: self._told(source, self._kept[source])
                    for name, source in self._names.items()
                }
            }

    def _told(self, source: str, one: _Kept) -> dict[str, Any]:
        said: dict[str, Any] = {"wanted": source, "state": one.state.value}
        if one.fetched is not None:
            fetched = one.fetched
            said |= {
                "source": fetched.source,
                "directory": fetched.directory,
                "rank": fetched.rank,
                "baseModel": fetched.base_model,
            }
        if one.message:
            wait = max(0.0, one.due_seconds - self._clock())
            said |= {"code": one.code, "message": one.message, "retrySeconds": round(wait)}
        return said


def read_wanted(document: object) -> dict[str, str] | None:
    """Sources by name, of what was sent; None where it is something else."""
    if not isinstance(document, Mapping) or len(document) > MAX_ADAPTERS:
        return None
    for name, source in document.items():
        if not (isinstance(name, str) and name and isinstance(source, str)):
            return None
        if len(source) > MAX_SOURCE_CHARACTERS:
            return None
    return dict(document)
