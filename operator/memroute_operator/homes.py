"""Where replicas ran, by what the status of their ModelDeployment says.

Only the operator writes a status. It outlives the operator: one that starts learns from it where
replicas were whose pods went while nobody looked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memroute.placement import Home


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
    placements = (status or {}).get("placements")
    for placement in placements if isinstance(placements, list) else ():
        if not isinstance(placement, Mapping):
            continue
        index, node = placement.get("replica"), placement.get("node")
        devices = placement.get("devices") or ()
        if isinstance(index, int) and isinstance(node, str) and isinstance(devices, list | tuple):
            held = placement.get("hbmBytes")
            held = held if isinstance(held, int) and held > 0 else None
            uuids = [str(uuid) for uuid in devices]
            homes[index] = RanThere(node=node, device_bytes=dict.fromkeys(uuids, held))
    return homes
