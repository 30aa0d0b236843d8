"""Where replicas ran, by what the status of their ModelDeployment says.

Only the operator writes a status. It outlives the operator: one that starts learns from it where
replicas were whose pods went while nobody looked.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from memroute.placement import Home, PlacementMode
from memroute_operator.replicas.replica import Replica

# Replicas of which a home is read: more are nonsense that somebody wrote.
MAX_HOMES = 100_000
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class RanThere:
    """One replica that ran, or was about to."""

    node: str
    device_bytes: Mapping[str, int | None]
    """Bytes by device UUID, None where the status does not say; empty for whole devices."""

    def home(self) -> Home:
        """Where a replica of that index goes back to."""
        return Home(node=self.node, device_uuids=tuple(self.device_bytes))


def read_homes(status: Mapping[str, Any] | None) -> dict[int, RanThere]:
    """Where the replicas of a status ran, by index; what cannot be read is left out."""
    homes: dict[int, RanThere] = {}
    for entry in _entries(status, "homes"):
        ran = _ran_there(entry)
        if ran is not None:
            numbers = islice(read_numbers(entry.get("replicas")), max(0, MAX_HOMES - len(homes)))
            homes |= dict.fromkeys(numbers, ran)
    for entry in _entries(status, "placements"):
        index, ran = entry.get("replica"), _ran_there(entry)
        if isinstance(index, int) and ran is not None:
            homes[index] = ran
    return homes


def write_homes(replicas: Iterable[Replica]) -> Iterator[dict[str, Any]]:
    """The same for a status, in short: those that are in one place together.

    Of a replica on whole devices the node says enough: it comes back to any devices of it.
    """
    together: dict[tuple[str, tuple[str, ...], int], list[int]] = {}
    for replica in replicas:
        shared = replica.mode is PlacementMode.SHARED
        devices = tuple(sorted(replica.device_bytes)) if shared else ()
        place = (replica.node, devices, replica.bytes_per_device)
        together.setdefault(place, []).append(replica.index)
    for (node, devices, held_bytes), indexes in together.items():
        home: dict[str, Any] = {
            "node": node,
            "hbmBytes": held_bytes,
            "replicas": write_numbers(indexes),
        }
        yield home | ({"devices": list(devices)} if devices else {})


def write_numbers(numbers: Iterable[int]) -> str:
    """``0-3,17``: numbers as ranges, in order."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def read_numbers(text: object) -> Iterator[int]:
    """The numbers of ``0-3,17``, as many as a reader asks for; what is no number is left out."""
    for part in text.split(",") if isinstance(text, str) else ():
        match = _RANGE.fullmatch(part)
        if match is not None:
            yield from range(int(match[1]), int(match[2] or match[1]) + 1)


def _entries(status: Mapping[str, Any] | None, field: str) -> Iterator[Mapping[str, Any]]:
    listed = (status or {}).get(field)
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, Mapping):
            yield entry


def _ran_there(entry: Mapping[str, Any]) -> RanThere | None:
    node, devices, held = entry.get("node"), entry.get("devices") or (), entry.get("hbmBytes")
    if not isinstance(node, str) or not isinstance(devices, list | tuple):
        return None
    held = held if isinstance(held, int) and held > 0 else None
    return RanThere(node=node, device_bytes=dict.fromkeys((str(uuid) for uuid in devices), held))
