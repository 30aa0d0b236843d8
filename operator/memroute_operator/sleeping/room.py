"""Who makes room on which devices for a replica that is to wake. Pure.

```text
short        what a device lacks for the wake, by the ledger
coming       what replicas that fall asleep there will have left, and all of those that end
late         replicas that do not start there: they serve nobody, and are ended first
candidates   other models that are awake there and may be put to sleep: idle for longest first
```
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from memroute.placement import Device, Ledger
from memroute.units import format_gib
from memroute_kube.sleeping import SleepState
from memroute_operator.replicas.replica import Replica
from memroute_operator.sleeping.models import Model

# Models that a message names one by one.
MAX_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Another model on the devices, and why it stays; None where it may be put to sleep."""

    model: Model
    idle_seconds: float
    why_not: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """A replica that does not start, and why it is taken not to."""

    replica: Replica
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What comes of it: room now, room soon, or none."""

    is_there: bool = False
    is_coming: bool = False
    """Whether it will be there once those fall asleep that do already, or are chosen here."""
    chosen: tuple[Model, ...] = ()
    """Who is to fall asleep for it."""
    ended: tuple[Late, ...] = ()
    """Who is to be ended for it."""
    waits: str | None = None
    """What it waits for, as a sentence without its subject; None where room is there."""


@dataclass(slots=True)
class Shortage:
    """What devices lack, by UUID; only those that lack something."""

    devices: Mapping[str, Device]
    lacks: Counter[str] = field(default_factory=Counter)

    @property
    def is_over(self) -> bool:
        """Whether nothing is lacking."""
        return not any(size > 0 for size in self.lacks.values())

    def less(self, replica: Replica) -> None:
        """Take off what a replica leaves that falls asleep."""
        for uuid, size in replica.device_bytes.items():
            if uuid in self.lacks:
                self.lacks[uuid] -= size - min(size, replica.rest_bytes or 0)

    def is_on(self, replica: Replica) -> bool:
        """Whether it has a device that lacks something."""
        return any(uuid in self.lacks for uuid in replica.device_bytes)

    def without(self, replica: Replica) -> None:
        """Take off what a replica has that ends."""
        for uuid in replica.device_bytes.keys() & self.lacks.keys():
            self.lacks[uuid] -= replica.present_bytes(uuid)

    @property
    def told(self) -> str:
        """The device that lacks most."""
        uuid = max(self.lacks, key=lambda one: (self.lacks[one], one))
        return f"{format_gib(max(0, self.lacks[uuid]))} on {self.devices[uuid].display_name}"


def grows(replica: Replica) -> dict[str, int]:
    """What a sleeping replica takes of each device when it wakes, beyond what it has there."""
    return {
        uuid: size - min(size, replica.rest_bytes or 0)
        for uuid, size in replica.device_bytes.items()
    }


def shortage_of(
    replica: Replica, ledger: Ledger, devices: Mapping[str, Device], kept: Mapping[str, int]
) -> Shortage | None:
    """What its devices lack; None where one of them is not there, or may not be used.

    ``kept``: what of them is kept for others.
    """
    known = {uuid: devices[uuid] for uuid in replica.device_bytes if uuid in devices}
    if len(known) < len(replica.device_bytes) or not all(map(ledger.is_usable, known.values())):
        return None
    found = Shortage(known)
    for uuid, size in grows(replica).items():
        free = ledger.wakeable_bytes(known[uuid]) - kept.get(uuid, 0)
        if free < size:
            found.lacks[uuid] = size - free
    return found


def find_room(
    shortage: Shortage,
    *,
    falling: Iterable[Replica],
    candidates: Sequence[Candidate],
    ending: Sequence[Replica] = (),
    late: Sequence[Late] = (),
) -> Room:
    """How what is lacking can be had. Nobody sleeps or ends where that would not be enough."""
    if shortage.is_over:
        return Room(is_there=True)
    waits = shortage.told
    going = [one.deployment for one in ending if shortage.is_on(one)]
    for one in ending:
        shortage.without(one)
    coming = []
    for other in falling:
        if other.sleep_state is SleepState.FALLING_ASLEEP and shortage.is_on(other):
            shortage.less(other)
            coming.append(other.deployment)
    ended = _ended(shortage, late)
    chosen = _chosen(shortage, candidates)
    if not shortage.is_over:
        reasons = [
            f"{one.model.key} {one.why_not}" for one in candidates if one.why_not is not None
        ]  # fmt: skip
        why = "; ".join(reasons[:MAX_NAMED]) or "nobody there can be put to sleep for it"
        return Room(waits=f"waits for {waits}: {why}")
    told = []
    if names := _names([*going, *(one.replica.deployment for one in ended)]):
        told.append(f"{names} did not start, and ends")
    if names := _names([*coming, *(one.key for one in chosen)]):
        told.append(f"{names} falls asleep")
    return Room(
        is_coming=True,
        chosen=tuple(chosen),
        ended=tuple(ended),
        waits=f"waits for {waits}: {'; '.join(told)}",
    )


def _ended(shortage: Shortage, late: Sequence[Late]) -> list[Late]:
    """Who ends, as far as something is lacking."""
    found = []
    for one in late:
        if not shortage.is_over and shortage.is_on(one.replica):
            shortage.without(one.replica)
            found.append(one)
    return found


def _chosen(shortage: Shortage, candidates: Sequence[Candidate]) -> list[Model]:
    """Who falls asleep, as far as something is lacking: idle for longest first."""
    found: list[Model] = []
    for one in sorted(candidates, key=lambda one: (-one.idle_seconds, one.model.key)):
        awake = [replica for replica in one.model.awake if shortage.is_on(replica)]
        if one.why_not is None and awake and not shortage.is_over:
            found.append(one.model)
            for replica in awake:
                shortage.less(replica)
    return found


def _names(keys: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(keys))
