"""What is free while a policy places: the bench's own count, which believes no policy."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from bench.placement.instance import Instance
from memroute.placement import Device, Node, PlacementMode, WantedReplica


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a replica goes."""

    node: str
    device_uuids: tuple[str, ...] = ()
    """The shared devices; empty where the device plugin hands out whole ones."""


class IllegalChoiceError(Exception):
    """A policy put a replica where it may not be: the bench, or the policy, is wrong."""


class Books:
    """Free bytes of shared devices, and free whole devices of exclusive nodes.

    ``promised`` is what a scheduler knows that counts its own promises alone; ``free`` is the
    truth, with what processes of others use.
    """

    def __init__(self, instance: Instance) -> None:
        self.nodes = {node.name: node for node in instance.inventory.nodes}
        self.devices = {
            device.uuid: device
            for node in instance.inventory.nodes
            for device in node.devices
            if device.uuid is not None
        }
        self.promised_bytes: dict[str, int] = defaultdict(int)
        self.num_promised: dict[str, int] = defaultdict(int)
        """Replicas that hold a share of a device, by its UUID."""
        self.num_whole: dict[str, int] = {
            node.name: node.num_allocatable - node.num_foreign_devices
            for node in instance.inventory.nodes
        }
        self.num_placed = 0
        self.occupancies: dict[str, list[float]] = defaultdict(list)
        """Shares of a shared device's time that the engines on it take, by its UUID."""
        self.num_never_starts = 0
        self.placed_bytes = 0

    def free_bytes(self, device: Device) -> int:
        """Bytes that a replica would really find."""
        live = device.live_free_bytes
        room = device.usable_bytes if live is None else live
        return room - self.promised_bytes[device.uuid or ""]

    def whole_bytes(self, node: Node) -> int:
        """Bytes of the least free of an exclusive node's devices that nobody holds."""
        return min(
            (d.live_free_bytes or 0 for d in node.devices if d.assigned_pod is None), default=0
        )

    def may(self, node: Node, replica: WantedReplica) -> bool:
        """Whether mode and node selector allow it."""
        selector = replica.node_selector.items()
        return node.mode is replica.mode and all(
            node.labels.get(key) == value for key, value in selector
        )

    def take(self, replica: WantedReplica, choice: Choice) -> None:
        """Book a choice. What cannot start holds its promise, and counts as not placed."""
        node = self.nodes[choice.node]
        need = replica.footprint.total_bytes
        count = replica.footprint.num_devices
        if not self.may(node, replica):
            msg = f"{replica.key}: {node.name} may not take it"
            raise IllegalChoiceError(msg)
        if node.mode is PlacementMode.EXCLUSIVE:
            if self.num_whole[node.name] < count:
                msg = f"{replica.key}: {node.name} has no {count} whole devices"
                raise IllegalChoiceError(msg)
            self.num_whole[node.name] -= count
            starts = self.whole_bytes(node) >= need
        else:
            starts = self._take_shared(replica, choice)
        if starts:
            self.num_placed += 1
            self.placed_bytes += need * count
        else:
            self.num_never_starts += 1

    def _take_shared(self, replica: WantedReplica, choice: Choice) -> bool:
        need = replica.footprint.total_bytes
        chosen = [self.devices[uuid] for uuid in choice.device_uuids]
        if (
            len(set(choice.device_uuids)) != replica.footprint.num_devices
            or {device.node for device in chosen} != {choice.node}
            or len({device.product for device in chosen}) != 1
        ):
            msg = f"{replica.key}: {choice} is no group of one product on one node"
            raise IllegalChoiceError(msg)
        starts = all(self.free_bytes(device) >= need for device in chosen)
        for device in chosen:
            uuid = device.uuid or ""
            if self.promised_bytes[uuid] + need > device.usable_bytes:
                msg = f"{replica.key}: {uuid} is promised more than it has"
                raise IllegalChoiceError(msg)
            self.promised_bytes[uuid] += need
            self.num_promised[uuid] += 1
            self.occupancies[uuid].append(replica.occupancy_on(device.product) or 0.0)
        return starts

    def contention(self) -> float | None:
        """What engines want of the time of a shared device that has any: the mean over devices."""
        sums = [sum(shares) for shares in self.occupancies.values() if shares]
        return sum(sums) / len(sums) if sums else None

    def lost_engines(self) -> float:
        """Engines' worth of time that devices do not have when all engines have work at once."""
        return sum(max(0.0, sum(shares) - 1) for shares in self.occupancies.values())

    def usable_bytes(self) -> int:
        """Of all devices, when nothing runs."""
        return sum(device.usable_bytes for device in self.devices.values())

    def left_bytes(self, refused: Iterable[WantedReplica]) -> int:
        """Free bytes on devices that a refused replica may use: stranded, since none fits.

        0 when nothing was refused: what nobody wants is not stranded.
        """
        nodes = {
            node.name: node
            for node in self.nodes.values()
            if any(self.may(node, replica) for replica in refused)
        }
        total = 0
        for node in nodes.values():
            if node.mode is PlacementMode.EXCLUSIVE:
                total += self.num_whole[node.name] * self.whole_bytes(node)
            else:
                total += sum(max(0, self.free_bytes(device)) for device in node.devices)
        return total
