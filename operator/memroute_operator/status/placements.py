"""Where the replicas are, as a status tells it.

An object of 1.5 MB is refused by etcd, and a status is written whole for each change of it. So:

| field | what | how many |
| --- | --- | --- |
| ``placements`` | one by one, with state and reason: for people | the first 100 |
| ``placementsLeftOut`` | how many of them are not listed | |
| ``homes`` | where those are, by node and device: a replica that comes back goes there | 128 KiB |

A replica past all of these is placed again like a new one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from memroute_operator.replicas.homes import write_homes
from memroute_operator.replicas.replica import Replica

# Placements that are told one by one: chosen by hand, more than anybody reads, and 40 KB.
MAX_PLACEMENTS = 100
# What is told of placements, and again of homes, in bytes of JSON. Together a sixth of what etcd
# takes: the conditions may have 300 KB, and what routers are told needs 200 for each replica.
# 1,000 devices of shared nodes, or 2,000 nodes, fit into the homes.
MAX_BYTES = 131_072
# Of an entry beside its texts: names of fields, numbers, commas; 160 at the most.
ENTRY_BYTES = 160
# Of a character of a reason, in UTF-8.
CHARACTER_BYTES = 4
# Of one placement's reason, in characters: ours have 200 at the most, but it is read from an
# annotation that whoever may edit pods can make as long as they like.
MAX_WHY = 1_000
# Of how far its weights are, in characters: ours have less, with the words of a fetcher in it.
MAX_PROGRESS = 400
# Nodes in the column of ``kubectl get``: chosen by hand, a line of a wide terminal.
MAX_NODES = 10


def placement_fields(
    replicas: Sequence[Replica],
    assigned: Mapping[str, tuple[str, ...]],
    kv_tokens: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """The fields of a status that say where replicas are; None is a field that is to go.

    ``assigned``: pod → UUIDs that the device plugin gave it. ``kv_tokens``: what KV caches really
    hold, by the uid of the pod, where that is known.
    """
    ordered = _one_per_index(replicas)
    entries = (
        _placement(one, assigned.get(one.key, ()), kv_tokens) for one in ordered[:MAX_PLACEMENTS]
    )
    placements = list(_within_bytes(entries))
    return {
        "nodes": _node_names(replicas),
        "placements": placements,
        "placementsLeftOut": len(replicas) - len(placements) or None,
        "homes": list(_within_bytes(write_homes(ordered[len(placements) :]))) or None,
    }


def _one_per_index(replicas: Sequence[Replica]) -> list[Replica]:
    """In order of their slot; of two pods in one (earlier releases, two operators) the latter.

    ``placements`` has one entry for a slot: the API server refuses two.
    """
    latest: dict[int, Replica] = {}
    for replica in sorted(replicas, key=lambda one: (one.index, one.created_at, one.key)):
        latest[replica.index] = replica
    return list(latest.values())


def _placement(
    replica: Replica, assigned: tuple[str, ...], kv_tokens: Mapping[str, int]
) -> dict[str, Any]:
    progress = {} if replica.fetch is None else {"progress": replica.fetch[:MAX_PROGRESS]}
    return {
        "replica": replica.index,
        "pod": replica.pod_name,
        "node": replica.node,
        "devices": sorted(replica.device_bytes) or list(assigned),
        "hbmBytes": replica.bytes_per_device,
        "kvCapacityTokens": kv_tokens.get(replica.uid, replica.kv_capacity_tokens),
        "state": replica.state.value,
        "why": replica.why[:MAX_WHY],
        **progress,
    }


def _node_names(replicas: Iterable[Replica]) -> str:
    """The nodes for a column, past a line of them only their number."""
    names = sorted({replica.node for replica in replicas})
    more = [] if len(names) <= MAX_NODES else [f"+{len(names) - MAX_NODES}"]
    return ",".join(names[:MAX_NODES] + more)


def _within_bytes(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The first of them, as many as ``MAX_BYTES`` hold."""
    left = MAX_BYTES
    for entry in entries:
        left -= _num_bytes(entry)
        if left < 0:
            return
        yield entry


def _num_bytes(entry: Mapping[str, Any]) -> int:
    """What it takes as JSON at the most: a sum, because thousands are measured at every step."""
    texts = ("node", "pod", "state", "replicas")
    size = ENTRY_BYTES + sum(len(entry.get(name, "")) for name in texts)
    size += sum(len(uuid) + 3 for uuid in entry.get("devices", ()))
    words = len(entry.get("why", "")) + len(entry.get("progress", ""))
    return size + CHARACTER_BYTES * words
