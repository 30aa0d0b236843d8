"""Since when nobody has asked for a model: what routers have counted, look by look.

A gauge shows who waits at the moment of a look; a request that came and went between two looks
leaves nothing in it. So each router's counter of arrivals is compared with the look before:

| seen | means |
| --- | --- |
| its counter has grown, or began anew above 0 | somebody has asked since the look before |
| requests wait, or are at a replica | somebody asks now |
| a router does not answer, or does not count | nothing falls asleep; what others show still wakes |

A router that was not there at the look before has counted from 0: what it shows came since. Not so
before an operator has seen all of them answer once: they may have run for weeks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# What was asked for longer ago is forgotten, in seconds: above the longest
# ``spec.sleep.afterSeconds``, which is a week.
MAX_SECONDS = 8 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is known of requests at one moment. All times are ages in seconds."""

    read_seconds: float
    """Since routers were asked last."""
    known_seconds: float
    """Since when every router has answered each time, and counts arrivals; 0 while one does not."""
    is_complete: bool = True
    """Whether every router has answered the last time, and counts arrivals. Where not, what is not
    in here may be so all the same: nobody is known to be idle."""
    asked_seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """ModelDeployment → since a request of it was last seen to come or wait."""
    busy_seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """``namespace/pod`` → since a request was last seen at it."""
    waiting_seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """ModelDeployment → for how long routers have held requests of it without a break."""
    in_flight: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """``namespace/pod`` → requests at it now."""


class DemandLog:
    """Owns what was seen at the looks before. Times are those of its caller's clock."""

    def __init__(self) -> None:
        self._counted: dict[str, Mapping[str, int]] = {}
        """Router → its arrivals by ModelDeployment, as it last said."""
        self._has_known = False
        """Whether all routers have ever answered at once."""
        self._known_since: float | None = None
        self._read_at: float | None = None
        self._asked: dict[str, float] = {}
        self._busy: dict[str, float] = {}
        self._waiting_since: dict[str, float] = {}
        self._in_flight: dict[str, int] = {}

    def look(
        self,
        arrivals: Mapping[str, Mapping[str, int] | None],
        *,
        waiting: Mapping[str, int],
        in_flight: Mapping[str, int],
        is_known: bool,
        at_seconds: float,
    ) -> None:
        """Take what all routers have said. ``arrivals``: by router; None of one that counts none.

        ``is_known``: whether all of them have answered.
        """
        before = self._counted
        for router, counts in arrivals.items():
            known = before.get(router)
            if counts is None or (known is None and not self._has_known):
                continue
            for deployment, count in counts.items():
                if count and count != (known or {}).get(deployment, 0):
                    self._asked[deployment] = at_seconds
        told = {router: counts for router, counts in arrivals.items() if counts is not None}
        # One that does not answer now has said something: it counts on from there.
        self._counted = told if is_known else before | told
        for deployment, count in waiting.items():
            if count:
                self._asked[deployment] = at_seconds
        self._waiting_since = {
            one: self._waiting_since.get(one, at_seconds) for one, count in waiting.items() if count
        }
        self._busy |= {pod: at_seconds for pod, count in in_flight.items() if count}
        self._in_flight = dict(in_flight)
        self._read_at = at_seconds
        if is_known and arrivals and len(told) == len(arrivals):
            self._has_known = True
            self._known_since = at_seconds if self._known_since is None else self._known_since
        else:
            self._known_since = None
        for times in (self._asked, self._busy):
            old = [key for key, at in times.items() if at_seconds - at > MAX_SECONDS]
            for key in old:
                del times[key]

    def demand(self, now_seconds: float) -> Demand | None:
        """What is known now; None before the first look."""
        if self._read_at is None:
            return None
        since = self._known_since
        return Demand(
            read_seconds=now_seconds - self._read_at,
            known_seconds=0.0 if since is None else now_seconds - since,
            is_complete=since is not None,
            asked_seconds={key: now_seconds - at for key, at in self._asked.items()},
            busy_seconds={pod: now_seconds - at for pod, at in self._busy.items()},
            waiting_seconds={key: now_seconds - at for key, at in self._waiting_since.items()},
            in_flight=dict(self._in_flight),
        )

    def last_asked(self) -> Mapping[str, float]:
        """ModelDeployment → when a request of it was last seen to come or wait."""
        return dict(self._asked)
