"""Devices that a node hands out whole: how many are held, and what a free one is good for.

A device plugin gives a pod any free device of its resource, and does not see what else runs there.
So a node's whole devices are counted, by its key, and not told apart:

```text
num free   = allocatable - held by others - held by replicas - shared ones that hold promises
bytes      = the least free of the devices that no pod holds, whichever the plugin gives
```

Which pod has which device is known as far as an exporter says. Where it does not, the fullest
devices are taken to be those of the pods that run.
"""

from collections.abc import Collection, Mapping, Sequence

from memroute.placement.foreign_use import without_own
from memroute.placement.inventory import Device, Node, Reservation
from memroute.placement.ways import Way


class WholeDevices:
    """Whole devices of the nodes of a ledger, and how many of them replicas hold. Owned by it."""

    def __init__(
        self, nodes_of_name: Mapping[str, Sequence[Node]], live_pods: Collection[str] | None
    ) -> None:
        """``nodes_of_name``: a node once for each resource; ``live_pods``: None: unknown."""
        self._nodes_of_name = nodes_of_name
        self._live_pods = live_pods
        self._num_held: dict[str, int] = {}
        """Key of a node → devices that replicas on it hold, claims with what they add."""
        self._num_ready: dict[str, int] = {}
        """The same of replicas that serve: their engines show in readings."""

    def key_of(self, reservation: Reservation) -> str:
        """The key of the node that it is on, with the resource of which it holds devices.

        Where nobody says which, or the node has none of it any more, its first: it counts.
        """
        nodes = self._nodes_of_name.get(reservation.node)
        if not nodes:
            return reservation.node
        found = (node.key for node in nodes if node.resource == reservation.resource)
        return next(found, nodes[0].key)

    def count(self, reservation: Reservation, predecessor: Reservation | None, sign: int) -> None:
        """Add (1) or take away (-1) a promise; ``predecessor``: whose claim it is, if it is one.

        The two are never there at once: of the same key the larger of them counts.
        """
        count = reservation.num_exclusive_devices
        if not count:
            return
        key = self.key_of(reservation)
        if predecessor is not None and self.key_of(predecessor) == key:
            count = max(0, count - predecessor.num_exclusive_devices)
        self._num_held[key] = self._num_held.get(key, 0) + count * sign
        if reservation.ready_seconds is not None:
            self._num_ready[key] = self._num_ready.get(key, 0) + count * sign

    def count_way(self, way: Way, sign: int) -> None:
        """Add (1) or take away (-1) a claim of higher priority, beside the pods that give way."""
        if way.added_devices:
            key = self.key_of(way.claim)
            self._num_held[key] = self._num_held.get(key, 0) + way.added_devices * sign

    def num_held(self, node: Node) -> int:
        """Devices of the node that pods hold whole, others' and our replicas'."""
        return node.num_foreign_devices + self._num_held.get(node.key, 0)

    def num_free(self, node: Node, shared_bytes: Mapping[str, int] | None) -> int:
        """Devices of the node that the device plugin can still hand out.

        ``shared_bytes``: promised of devices of the node that are shared, by their UUIDs.
        """
        held = self.num_held(node)
        if shared_bytes:  # the label was taken off a node in use
            others = {
                device.uuid
                for other in self._nodes_of_name[node.name]
                if other is not node
                for device in other.devices
            }
            held += sum(1 for uuid, size in shared_bytes.items() if size > 0 and uuid not in others)
        return max(0, node.num_allocatable - held)

    def attributed_pod(self, device: Device) -> str | None:
        """The pod that holds the device as far as the exporter knows; None for one that is gone."""
        pod = device.assigned_pod
        if pod is None or self._live_pods is None or pod in self._live_pods:
            return pod
        return None

    def bytes_of_free(
        self, node: Node, released: Sequence[Reservation], promised_bytes: Mapping[str, int]
    ) -> int:
        """Bytes that an exclusive replica can count on, whichever free device it is given.

        The least-free device that no pod holds: foreign processes on a device count against
        it, because the device plugin does not see them. Where the exporter does not attribute
        devices to pods, the fullest ones are taken to be those of the pods that run.

        ``released``: replicas whose devices count as free. ``promised_bytes``: by UUID, of devices
        that are shared as well.
        """
        released = [one for one in released if self.key_of(one) == node.key]
        by_pod = {one.owner: one for one in released}
        attributed: set[str] = set()
        own: list[int] = []
        unassigned: list[tuple[int, Device]] = []
        num_unusable = 0
        for device in node.devices:
            pod = self.attributed_pod(device)
            if pod is None and device.unusable_reason is not None:
                num_unusable += 1
            elif pod is None:
                promised = promised_bytes.get(device.uuid or "", 0)
                unassigned.append((_free_bytes(device, promised), device))
            elif pod in by_pod:
                own.append(without_own(device, by_pod[pod]))
                attributed.add(pod)
        if num_unusable > len(node.devices) - node.num_allocatable:
            return 0  # the device plugin still hands it out, and nobody can tell it not to
        unassigned.sort(key=lambda item: item[0])
        num_assigned = len(node.devices) - len(unassigned) - len(own) - num_unusable
        num_running = node.num_foreign_devices + self._num_ready.get(node.key, 0)
        others = max(0, num_running - num_assigned)
        for one in released:
            if one.owner in attributed or one.ready_seconds is None:
                continue
            # Unattributed: of the fullest devices, those after the others' are taken to be its own.
            mine = unassigned[others : others + one.num_exclusive_devices]
            own += [without_own(device, one) for _, device in mine]
            others += len(mine)
        candidates = own + [free for free, _ in unassigned[others:]]
        return min(candidates, default=0)


def _free_bytes(device: Device, promised_bytes: int) -> int:
    """Free bytes of a device that no pod holds whole; never negative."""
    live = device.live_free_bytes
    if device.assigned_pod is not None:
        # Attributed to a pod that is gone: the reading is of the time when it ran.
        live = None
    free = device.usable_bytes if live is None else min(device.usable_bytes, live)
    return max(0, min(free, device.usable_bytes - promised_bytes))
