"""What replicas of ours held of shared devices when the fleet's view was written.

A kubeconfig shows the pods of now, and the readings of a while ago. A replica that has ended since
is in those readings and in no pod: so the view says what was promised on each device then, and
what had ended so lately that a reading may still show it. Bytes only, as a fleet has ten thousand
devices and a ConfigMap a mebibyte.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memroute.placement import Departed
from memroute_operator.readings.device_metrics import NodeReading
from memroute_operator.replicas.replica import Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPromises:
    """What replicas held, and what those held that had just ended."""

    device_bytes: Mapping[str, int] = field(default_factory=dict)
    """By UUID."""
    departed: tuple[Departed, ...] = ()

    def departed_since(self, replicas: Iterable[Replica], at: datetime) -> tuple[Departed, ...]:
        """All that a reading may show of replicas that are not there. ``at``: when this was so.

        ``replicas``: those of now; those that were created later had no part in it.
        """
        old = (one for one in replicas if datetime.fromisoformat(one.created_at) <= at)
        gone = Counter(self.device_bytes)
        gone.subtract(promised_bytes(old))
        left = {uuid: size for uuid, size in gone.items() if size > 0}
        since = (Departed(device_bytes=left, ended_seconds=0.0),) if left else ()
        return (*self.departed, *since)

    def without(self, device_bytes: Mapping[str, int]) -> "OwnPromises":
        """As if that had never been promised."""
        left = {
            uuid: max(0, size - device_bytes.get(uuid, 0))
            for uuid, size in self.device_bytes.items()
        }
        return OwnPromises(device_bytes=left, departed=self.departed)


def promised_bytes(replicas: Iterable[Replica]) -> Counter[str]:
    """What replicas hold of shared devices, by UUID."""
    held = Counter[str]()
    for one in replicas:
        if not one.is_terminal:
            held.update(one.device_bytes)
    return held


def written_promises(own: OwnPromises, reading: NodeReading) -> dict[str, Any]:
    """The part of it that is about a node, by positions in the list of its devices."""
    uuids = [device.uuid for device in reading.devices]
    return {
        "promised": [own.device_bytes.get(uuid, 0) for uuid in uuids],
        "ended": [
            [position, one.device_bytes[uuid], round(one.ended_seconds, 1)]
            for one in own.departed
            for position, uuid in enumerate(uuids)
            if uuid in one.device_bytes
        ],
    }


def read_promises(
    nodes: Mapping[str, Mapping[str, Any]], readings: Mapping[str, NodeReading]
) -> OwnPromises:
    """What the nodes of a view say; nothing of one that an older operator wrote."""
    held: dict[str, int] = {}
    departed: list[Departed] = []
    for node, entry in nodes.items():
        uuids: Sequence[str] = [device.uuid for device in readings[node].devices]
        for uuid, size in zip(uuids, entry.get("promised", ()), strict=False):
            if size:
                held[uuid] = int(size)
        departed += (
            Departed(device_bytes={uuids[position]: int(size)}, ended_seconds=float(seconds))
            for position, size, seconds in entry.get("ended", ())
        )
    return OwnPromises(device_bytes=held, departed=tuple(departed))
