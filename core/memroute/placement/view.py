"""A ledger as a second look sees it: units by position, and back to devices by name."""

from collections.abc import Iterable, Sequence

from memroute.placement.inventory import Node, PlacementMode, Reservation
from memroute.placement.ledger import Ledger
from memroute.placement.packing import UNIT_BYTES, Place, Room
from memroute.placement.pools import Candidate
from memroute.placement.problem import Placed, WantedReplica


class LedgerView:
    """What is free once the given promises of this plan are taken back."""

    def __init__(self, ledger: Ledger, taken_back: Sequence[Reservation]) -> None:
        self._nodes: Sequence[Node] = ledger.nodes
        self._ledger = ledger
        self._position = {node.key: n for n, node in enumerate(ledger.nodes)}
        back_bytes: dict[str, int] = {}
        back_devices: dict[str, int] = {}
        for one in taken_back:
            for uuid, size in one.device_bytes.items():
                back_bytes[uuid] = back_bytes.get(uuid, 0) + size
            key = ledger.key_of(one)
            back_devices[key] = back_devices.get(key, 0) + one.num_exclusive_devices
        shared = {
            n: node for n, node in enumerate(ledger.nodes) if node.mode is PlacementMode.SHARED
        }
        self.room = Room(
            products=[tuple(device.product for device in node.devices) for node in ledger.nodes],
            has_slices=[any(d.is_slice for d in node.devices) for node in ledger.nodes],
            free={
                n: [
                    0
                    # Who is placed behind a pod that hangs waits for somebody to mend the node.
                    if device.uuid is None or device.uuid in ledger.stuck_devices
                    else (ledger.free_bytes(device) + back_bytes.get(device.uuid, 0)) // UNIT_BYTES
                    for device in node.devices
                ]
                if n in shared
                else []
                for n, node in enumerate(ledger.nodes)
            },
            whole={
                n: ledger.num_free_devices(node) + back_devices.get(node.key, 0)
                for n, node in enumerate(ledger.nodes)
            },
            whole_units={
                n: 0 if n in shared else ledger.exclusive_bytes(node) // UNIT_BYTES
                for n, node in enumerate(ledger.nodes)
            },
        )
        products = {device.product for node in ledger.nodes for device in node.devices}
        self.products: list[str | None] = [*products, *({None} - products)]

    def positions(self, keys: Iterable[str]) -> frozenset[int]:
        """Of nodes, by their keys."""
        return frozenset(self._position[key] for key in keys)

    def place_of(self, placed: Placed) -> Place:
        """Where a replica was placed, by position."""
        n = self._position[self._ledger.key_of(placed.reservation())]
        by_uuid = {device.uuid: index for index, device in enumerate(self._nodes[n].devices)}
        return n, tuple(by_uuid[uuid] for uuid in placed.device_uuids)

    def candidate(self, ledger: Ledger, replica: WantedReplica, place: Place) -> Candidate:
        """The place, as the solver speaks of it. ``ledger``: as it is when the replica comes."""
        n, chosen = place
        node = self._nodes[n]
        devices = tuple(node.devices[index] for index in chosen) or node.devices
        footprint = max(
            (replica.footprint_on(device.product) for device in devices),
            key=lambda one: one.total_bytes,
        )
        need = footprint.total_bytes
        free = (
            min(ledger.free_bytes(device) for device in devices)
            if chosen
            else ledger.exclusive_bytes(node)
        )
        return Candidate(
            node=node,
            devices=devices,
            footprint=footprint,
            bytes_per_device=need if chosen else free,
            leftover_bytes=free - need,
        )
