"""Where the replicas are, as a status tells it, and as the planner reads it back.

An object of 1.5 MB is refused by etcd, and a status is written whole for each change of it. So:

| field | what | how many |
| --- | --- | --- |
| ``pods`` | the name of every replica's pod, in ranges: whom the operator stands behind | all |
| ``placements`` | one by one, with state and reason: for people | the first 100 |
| ``placementsLeftOut`` | how many of them are not listed | |
| ``homes`` | where those are, by node and device: a replica that comes back goes there | 256 KiB |

A replica past all of these is placed again like a new one, and is named in ``pods`` all the same.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from memroute.placement import Home, PlacementMode
from memroute_kube.pod_names import number_ranges, short_names
from memroute_operator.replica import Replica

# Placements that are told one by one: chosen by hand, more than anybody reads, and 40 KB.
MAX_PLACEMENTS = 100
# What is told of placements, and again of homes, in bytes of JSON: a third of what etcd takes
# (1.5 MB) together. 2,000 devices of shared nodes, or 4,000 nodes, fit into the homes.
MAX_BYTES = 262_144
# Of one placement's reason, in characters: ours have 200 at the most, but it is read from an
# annotation that whoever may edit pods can make as long as they like.
MAX_WHY = 1_000
# Nodes in the column of ``kubectl get``: chosen by hand, a line of a wide terminal.
MAX_NODES = 10
# Replicas of which a home is read: more are nonsense that somebody wrote.
MAX_HOMES = 100_000
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)


def placement_fields(
    replicas: Sequence[Replica], assigned: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    """The fields of a status that say where replicas are; None is a field that is to go.

    ``assigned``: pod → UUIDs that the device plugin gave it.
    """
    ordered = _one_per_index(replicas)
    entries = (_placement(one, assigned.get(one.key, ())) for one in ordered[:MAX_PLACEMENTS])
    placements = list(_within_bytes(entries))
    return {
        "nodes": _node_names(replicas),
        "pods": short_names(replica.pod_name for replica in replicas),
        "placements": placements,
        "placementsLeftOut": len(replicas) - len(placements) or None,
        "homes": list(_within_bytes(_homes(ordered[len(placements) :]))) or None,
    }


def ran_before(status: Mapping[str, Any]) -> dict[int, Home]:
    """Where the replicas of a status ran, by index; what cannot be read is left out."""
    homes: dict[int, Home] = {}
    for entry in _entries(status, "homes"):
        home = _home(entry)
        if home is not None:
            indexes = islice(_numbers(entry.get("replicas")), max(0, MAX_HOMES - len(homes)))
            homes |= dict.fromkeys(indexes, home)
    for entry in _entries(status, "placements"):
        number, home = entry.get("replica"), _home(entry)
        if isinstance(number, int) and home is not None:
            homes[number] = home
    return homes


def _one_per_index(replicas: Sequence[Replica]) -> list[Replica]:
    """In order of their index; of a pod that hangs and the one in its place, the latter.

    ``placements`` has one entry for an index: the API server refuses two.
    """
    latest: dict[int, Replica] = {}
    for replica in sorted(replicas, key=lambda replica: (replica.index, replica.attempt)):
        latest[replica.index] = replica
    return list(latest.values())


def _placement(replica: Replica, assigned: tuple[str, ...]) -> dict[str, Any]:
    return {
        "replica": replica.index,
        "pod": replica.pod_name,
        "node": replica.node,
        "devices": sorted(replica.device_bytes) or list(assigned),
        "hbmBytes": replica.bytes_per_device,
        "kvCapacityTokens": replica.kv_capacity_tokens,
        "state": replica.state.value,
        "why": replica.why[:MAX_WHY],
    }


def _homes(replicas: Iterable[Replica]) -> Iterator[dict[str, Any]]:
    """Where replicas are, together with those that are in the same place.

    Of a replica on whole devices the node says enough: it comes back to any devices of it.
    """
    together: dict[tuple[str, tuple[str, ...], int], list[int]] = {}
    for replica in replicas:
        shared = replica.mode is PlacementMode.SHARED
        devices = tuple(sorted(replica.device_bytes)) if shared else ()
        place = (replica.node, devices, replica.bytes_per_device)
        together.setdefault(place, []).append(replica.index)
    for (node, devices, held_bytes), indexes in together.items():
        ranges = number_ranges(indexes)
        text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
        home: dict[str, Any] = {"node": node, "hbmBytes": held_bytes, "replicas": text}
        yield home | ({"devices": list(devices)} if devices else {})


def _node_names(replicas: Iterable[Replica]) -> str:
    """The nodes for a column, past a line of them only their number."""
    names = sorted({replica.node for replica in replicas})
    more = [] if len(names) <= MAX_NODES else [f"+{len(names) - MAX_NODES}"]
    return ",".join(names[:MAX_NODES] + more)


def _within_bytes(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The first of them, as many as ``MAX_BYTES`` hold."""
    left = MAX_BYTES
    for entry in entries:
        left -= len(json.dumps(entry, separators=(",", ":"))) + 1
        if left < 0:
            return
        yield entry


def _entries(status: Mapping[str, Any], field: str) -> Iterator[Mapping[str, Any]]:
    listed = status.get(field)
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, Mapping):
            yield entry


def _home(entry: Mapping[str, Any]) -> Home | None:
    node, devices, held = entry.get("node"), entry.get("devices") or (), entry.get("hbmBytes")
    if not isinstance(node, str) or not isinstance(devices, list | tuple):
        return None
    return Home(
        node=node,
        device_uuids=tuple(str(uuid) for uuid in devices),
        held_bytes=held if isinstance(held, int) else 0,
    )


def _numbers(text: object) -> Iterator[int]:
    """The numbers of ``0-3,17``, as many as a reader asks for."""
    for part in text.split(",") if isinstance(text, str) else ():
        match = _RANGE.fullmatch(part)
        if match is not None:
            yield from range(int(match[1]), int(match[2] or match[1]) + 1)
