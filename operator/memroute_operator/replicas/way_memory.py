"""Who gave way to whom, until the ones are there and the others have room again.

The claim of a replica that others give way to is written on them. Between the end of the last of
them and its creation it is remembered here, as successors' claims are (``memory``).
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from memroute_operator.replicas.giving_way import GivesWay
from memroute_operator.replicas.replica import Replica


class WayMemory:
    """Owns what pods that have gone gave way to."""

    def __init__(self) -> None:
        self._present: dict[str, Replica] = {}
        """Those that give way, by uid."""
        self._departed: dict[str, tuple[GivesWay, float]] = {}
        """By the slot that waits: its claim, and when the last of them was seen gone."""
        self._gave: dict[str, tuple[GivesWay, int]] = {}
        """By the slot that gave way: to whom, and with what priority."""

    def look(self, replicas: Iterable[Replica], *, now_seconds: float, seconds: float) -> None:
        """What there is now. ``seconds``: how long a claim is kept once nobody holds it."""
        known = list(replicas)
        uids = {one.uid for one in known}
        there = {one.slot for one in known if not one.is_terminating}
        giving = {one.uid: one for one in known if one.gives_way is not None}
        waiting = {one.gives_way.slot for one in giving.values() if one.gives_way is not None}
        for uid, victim in self._present.items():
            way = victim.gives_way
            if uid in uids or way is None:
                continue
            self._departed[way.slot] = (way, now_seconds)
            self._gave[victim.slot] = (way, victim.priority)
        self._present = giving
        self._departed = {
            slot: (way, at)
            for slot, (way, at) in self._departed.items()
            if slot not in there and now_seconds - at <= seconds
        }
        for slot in waiting:
            self._departed.pop(slot, None)
        self._gave = {slot: one for slot, one in self._gave.items() if slot not in there}

    def departed(self) -> list[tuple[GivesWay, float]]:
        """Claims for which all have given way, and since when."""
        return [one for _, one in sorted(self._departed.items())]

    def gave_way(self, deployments: Iterable[str]) -> Mapping[str, tuple[GivesWay, int]]:
        """Slot → to whom its replica gave way, and its priority then."""
        wanted = frozenset(deployments)
        self._gave = {
            slot: one for slot, one in self._gave.items() if slot.rpartition("#")[0] in wanted
        }
        return MappingProxyType(dict(self._gave))
