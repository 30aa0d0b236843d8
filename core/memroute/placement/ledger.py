"""Free bytes and free whole devices of an inventory, while a plan books more.

Free bytes of a shared device combine what was promised with what is seen:

```text
foreign = max(0, (usable - live_free) - sum(promises that the reading shows))
free    = max(0, usable - foreign - sum(all promises))
```

A replica that sleeps lends its bytes (``docs/adr/0055-models-that-sleep.md``): for one that never
sleeps they are promised in full, for one that may sleep only what is left on the device is:

```text
free for a sleeper = max(0, usable - foreign - sum(all promises) + sum(lent))
                     0 where, with one sleeper more, another could not wake beside those that rest
```

Promises alone are blind to foreign processes. Readings alone book twice while weights load.
A reading shows a promise when it is younger than the replica's readiness: what a replica has
loaded since the reading was taken is not in it (``foreign_use``). Devices that are handed out whole
are counted in ``whole_devices``, memory of nodes beside their devices in ``node_memory``.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from memroute.placement.foreign_use import ForeignUse
from memroute.placement.inventory import Device, Inventory, Node, PlacementMode, Reservation
from memroute.placement.node_memory import NodeMemory
from memroute.placement.sleepers import Sleepers
from memroute.placement.ways import Way, weigh_way
from memroute.placement.whole_devices import WholeDevices

# Driver readings are whole MiB, and their parts are rounded one by one.
OVERBOOKED_TOLERANCE_BYTES = 64 * 1024 * 1024
# An engine of which nobody knows how long it waits counts as if it never did.
UNKNOWN_OCCUPANCY_RATIO = 1.0
NOT_TOLD_APART = "in use, by others or by replicas that start or have just ended,"


class Ledger:
    """Free bytes and free whole devices of an inventory, while a plan books more.

    Owns its own counters; the inventory below stays as it is.
    """

    def __init__(self, inventory: Inventory, *, ignore_use: bool = False) -> None:
        """``ignore_use``: as if nothing ran anywhere ("would it fit an empty cluster?")."""
        self.nodes = inventory.nodes
        self.by_name: dict[str, list[Node]] = {}
        """The node of a name, once for each resource that it hands out."""
        for node in inventory.nodes:
            self.by_name.setdefault(node.name, []).append(node)
        self.version = 0
        """Grows with each change: what was worked out under another version is out of date."""
        self.by_owner: dict[str, Reservation] = {}
        self.claims: dict[str, Reservation] = {}
        """Pod → the claim of its successor."""
        self.ways: dict[str, Way] = {}
        """Who is waited for → its claim, and who gives way to it."""
        self._contention: dict[str, float] = {}
        self.max_contention = inventory.max_contention
        """Beyond which another device is preferred; None: bytes alone decide."""
        self.busy_devices: set[str] = set()
        """Shared devices on which an engine starts, ends, or is queued to start."""
        self.stuck_devices: set[str] = set()
        """Shared devices of pods that hang in Terminating: nobody can start there."""
        self._ignore_use = ignore_use
        self._reserved_bytes: dict[str, int] = {}
        self._foreign = ForeignUse(None if ignore_use else inventory)
        self._full_devices: set[str] = set()
        self._whole = WholeDevices(self.by_name, inventory.live_pods)
        self._bytes_of_namespace = Counter[str]()
        self._shared_on_node: dict[str, dict[str, int]] = {}
        self._holders: dict[str, dict[str, int]] = {}
        self._replicas_on_node: dict[str, dict[str, int]] = {}
        self._sleepers = Sleepers()
        self.node_memory = NodeMemory(inventory.nodes)
        self._released: tuple[Reservation, ...] = ()
        ordered = sorted(inventory.reservations, key=lambda one: one.replaces is not None)
        ways: dict[str, list[Reservation]] = {}
        for reservation in ordered:  # a claim is weighed against the pod that it replaces
            if reservation.is_preemptor:
                ways.setdefault(reservation.owner, []).append(reservation)
            else:
                self._count(reservation, 1)
        for claims in ways.values():
            self._count_way(claims[0], [one.replaces or "" for one in claims])
        if not ignore_use:
            self._mark_full_devices()

    def book(self, reservation: Reservation) -> None:
        """Count one more promise."""
        self.version += 1
        self._count(reservation, 1)

    def release(self, owner: str) -> tuple[Reservation, ...]:
        """Take a pod's promise, and its successor's claim, out for a while ("without it, …").

        Returns what was taken, for ``restore``. Only one pod at a time.
        """
        self.version += 1
        taken: list[Reservation] = []
        claim = self.claims.get(owner)
        if claim is not None:
            self._count(claim, -1)
            taken.append(claim)
        kept = self.by_owner.get(owner)
        if kept is not None:
            self._count(kept, -1)
            taken.insert(0, kept)
            self._foreign.attribute(kept)
        self._released = () if kept is None else (kept,)
        return tuple(taken)

    def release_all(self, owners: Collection[str]) -> tuple[Reservation, ...]:
        """As ``release``, for several pods that have no successors' claims."""
        self.version += 1
        taken = tuple(self.by_owner[owner] for owner in sorted(owners) if owner in self.by_owner)
        for one in taken:
            self._count(one, -1)
            self._foreign.attribute(one)
        self._released = taken
        return taken

    def restore(self, taken: tuple[Reservation, ...]) -> None:
        """Count again what ``release`` has taken out."""
        self.version += 1
        self._released = ()
        self._foreign.restore()
        for reservation in taken:
            self._count(reservation, 1)

    def book_way(self, claim: Reservation, victims: Sequence[str]) -> None:
        """Count the claim of a replica of higher priority beside the pods that give way to it."""
        self.version += 1
        self._count_way(claim, victims)

    def drop_way(self, owner: str) -> Way | None:
        """Count that claim no more; what it was, None when there is none."""
        self.version += 1
        way = self.ways.pop(owner, None)
        if way is not None:
            self._add_way(way, -1)
        return way

    def _count_way(self, claim: Reservation, victims: Sequence[str]) -> None:
        before = self.ways.pop(claim.owner, None)
        if before is not None:  # chosen anew: the last word counts
            self._add_way(before, -1)
        known = [self.by_owner[one] for one in victims if one in self.by_owner]
        key = self.key_of(claim)
        num_held = sum(one.num_exclusive_devices for one in known if self.key_of(one) == key)
        way = weigh_way(claim, victims, known, num_held=num_held)
        self.ways[claim.owner] = way
        self._add_way(way, 1)

    def _add_way(self, way: Way, sign: int) -> None:
        claim = way.claim
        on_node = self._replicas_on_node.setdefault(claim.deployment, {})
        on_node[claim.node] = on_node.get(claim.node, 0) + sign
        if self._ignore_use:
            return
        self._bytes_of_namespace[claim.namespace] += way.added_to_namespace * sign
        self.node_memory.count_way(way, sign)
        for uuid, size in way.added_bytes.items():
            self._count_bytes(claim, uuid, size * sign)
        for uuid, size in way.called_back_bytes.items():
            self._sleepers.call_back(uuid, size * sign)
        self._whole.count_way(way, sign)

    def _count(self, reservation: Reservation, sign: int) -> None:
        """Add (1) or take away (-1) a promise."""
        on_node = self._replicas_on_node.setdefault(reservation.deployment, {})
        predecessor = self.by_owner.get(reservation.replaces or "")
        if predecessor is None or predecessor.node != reservation.node:
            on_node[reservation.node] = on_node.get(reservation.node, 0) + sign
        known = self.by_owner if reservation.replaces is None else self.claims
        key = reservation.replaces or reservation.owner
        if sign > 0:
            known[key] = reservation
        else:
            known.pop(key, None)
        if self._ignore_use:
            return
        held_before = 0 if predecessor is None else predecessor.total_bytes
        grown = max(0, reservation.total_bytes - held_before)
        self._bytes_of_namespace[reservation.namespace] += grown * sign
        self._count_devices(reservation, predecessor, sign)
        self._sleepers.count(reservation, predecessor, sign)
        self.node_memory.count(reservation, predecessor, sign)
        if reservation.is_moving:
            self.busy_devices.update(reservation.device_bytes)
        if reservation.is_stuck:
            self.stuck_devices.update(reservation.device_bytes)
        self._whole.count(reservation, predecessor, sign)

    def _count_devices(
        self, reservation: Reservation, predecessor: Reservation | None, sign: int
    ) -> None:
        """Bytes and time of shared devices, beyond what a predecessor has there."""
        held_before: Mapping[str, int] = {} if predecessor is None else predecessor.device_bytes
        for uuid, num_bytes in reservation.device_bytes.items():
            held = held_before.get(uuid, 0)
            self._count_bytes(reservation, uuid, max(0, num_bytes - held) * sign)
            if uuid not in held_before:
                self._count_time(uuid, reservation.occupancy_ratio, sign)

    def _count_time(self, uuid: str, occupancy_ratio: float | None, sign: int) -> None:
        taken = UNKNOWN_OCCUPANCY_RATIO if occupancy_ratio is None else occupancy_ratio
        # Rounded: what is counted out must be what was counted in.
        self._contention[uuid] = round(self._contention.get(uuid, 0.0) + sign * taken, 6)

    def contention(self, device: Device) -> float:
        """Shares of the device's time that engines on it take, summed; 0 where none is."""
        return self.contention_on(device.uuid or "")

    def contention_on(self, uuid: str) -> float:
        """The same by the device's UUID."""
        return self._contention.get(uuid, 0.0)

    def _count_bytes(self, reservation: Reservation, uuid: str, num_bytes: int) -> None:
        self._reserved_bytes[uuid] = self._reserved_bytes.get(uuid, 0) + num_bytes
        holders = self._holders.setdefault(uuid, {})
        holders[reservation.owner] = holders.get(reservation.owner, 0) + num_bytes
        if not holders[reservation.owner]:
            del holders[reservation.owner]
        shared = self._shared_on_node.setdefault(reservation.node, {})
        shared[uuid] = shared.get(uuid, 0) + num_bytes

    def _mark_full_devices(self) -> None:
        """Devices of shared nodes that some pod holds whole: a label was put on a node in use."""
        for node in self.nodes:
            num_whole = self._whole.num_held(node)
            if node.mode is not PlacementMode.SHARED or not num_whole:
                continue
            known = {
                device.uuid
                for device in node.devices
                if device.uuid is not None and self._is_attributed_whole(device)
            }
            if len(known) < num_whole:  # nobody knows which: any of them may be the one
                known = {device.uuid for device in node.devices if device.uuid is not None}
            self._full_devices |= known

    def _is_attributed_whole(self, device: Device) -> bool:
        """Whether the exporter attributes it to a pod that exists and was not given bytes of it."""
        pod = self.attributed_pod(device)
        if pod is None:
            return False
        reservation = self.by_owner.get(pod)
        return reservation is None or device.uuid not in reservation.device_bytes

    def replicas_on_node(self, deployment: str, node: str) -> int:
        """How many replicas of a deployment the node holds."""
        return self._replicas_on_node.get(deployment, {}).get(node, 0)

    def nodes_of(self, deployment: str) -> set[str]:
        """Nodes that hold replicas of a deployment."""
        counts = self._replicas_on_node.get(deployment, {})
        return {node for node, count in counts.items() if count > 0}

    def held_bytes(self, namespace: str) -> int:
        """HBM that the replicas of a namespace hold, those that drain and those claimed too."""
        return self._bytes_of_namespace[namespace]

    def namespaces(self) -> list[str]:
        """Those whose replicas hold HBM."""
        return sorted(name for name, held in self._bytes_of_namespace.items() if held > 0)

    def holders(self, device: Device) -> list[tuple[int, str]]:
        """Who was promised bytes of a shared device, the largest first."""
        held = self._holders.get(device.uuid or "", {})
        return sorted(((size, owner) for owner, size in held.items()), reverse=True)

    def reserved_bytes(self, device: Device) -> int:
        """Bytes of a shared device that are promised; claims count with what they add."""
        return self._reserved_bytes.get(device.uuid or "", 0)

    def foreign_bytes(self, device: Device) -> int:
        """Bytes that processes of others use, as far as a reading shows."""
        return self._foreign.on(device.uuid or "")

    def certainly_foreign_bytes(self, device: Device) -> int:
        """Of ``foreign_bytes``, what no replica of ours that starts or has just ended explains."""
        return min(self._foreign.certain_on(device.uuid or ""), self.foreign_bytes(device))

    def users(self, device: Device) -> list[tuple[str, int]]:
        """Who uses bytes of a shared device beside those that were promised any, in words."""
        foreign = self.certainly_foreign_bytes(device)
        unclear = self.foreign_bytes(device) - foreign
        named = (("processes of others", foreign), (NOT_TOLD_APART, unclear))
        return [(words, size) for words, size in named if size]

    def over_bytes(self, device: Device) -> int:
        """Bytes by which more was promised than the device has; 0 when it holds."""
        over = self.reserved_bytes(device) - self.lent_bytes(device) - device.usable_bytes
        return over if over > OVERBOOKED_TOLERANCE_BYTES else 0

    def overbooked(self) -> list[Device]:
        """Shared devices of which more was promised than they have."""
        if not self._reserved_bytes:
            return []
        return [d for node in self.nodes for d in node.devices if self.over_bytes(d)]

    def lent_bytes(self, device: Device) -> int:
        """Of ``reserved_bytes``, what replicas that sleep lend to others that may."""
        return self._sleepers.lent_bytes(device.uuid or "")

    def wakeable_bytes(self, device: Device) -> int:
        """Bytes that a replica that wakes can count on, beyond what it keeps while it sleeps.

        It gives way to what others use for certain, as a claim does: a reading may still show who
        has just fallen asleep. Below 0 where more is in use than there is.
        """
        uuid = device.uuid or ""
        used = self._reserved_bytes.get(uuid, 0) - self._sleepers.lent_bytes(uuid)
        return device.usable_bytes - used - self._foreign.certain_on(uuid)

    def change_sleep(self, owner: str, *, is_asleep: bool) -> None:
        """Count a replica as asleep, or as awake, from now on ("if it slept, …")."""
        changed = []
        for one in self.release(owner):
            sleep = one.sleep
            if one.replaces is None and sleep is not None:
                sleep = replace(sleep, is_asleep=is_asleep)
            changed.append(replace(one, sleep=sleep))
        self.restore(tuple(changed))

    def free_bytes(self, device: Device, *, rest_bytes: int | None = None) -> int:
        """Bytes of a shared device that may still be promised; never negative.

        ``rest_bytes``: what whoever asks keeps there while it sleeps: it may have what others lend.
        None for one that never sleeps.
        """
        uuid = device.uuid
        if uuid is None or device.unusable_reason is not None:
            return 0
        if self._ignore_use:
            return device.usable_bytes
        if uuid in self._full_devices:
            return 0
        free = self.unbounded_free_bytes(device)
        if rest_bytes is not None:
            free = self._with_lent(uuid, free, rest_bytes)
        return max(0, free)

    def _with_lent(self, uuid: str, free_bytes: int, rest_bytes: int) -> int:
        """Free bytes for one more sleeper; none where another one could not wake beside it."""
        spare = free_bytes + self._sleepers.spare_when_one_wakes(uuid)
        if spare < rest_bytes:
            return 0
        return free_bytes + self._sleepers.lent_bytes(uuid)

    def unbounded_free_bytes(self, device: Device) -> int:
        """As ``free_bytes``, below 0 by what must go first; of a device that may be used."""
        uuid = device.uuid or ""
        used = self._reserved_bytes.get(uuid, 0) + self._foreign.on(uuid)
        return device.usable_bytes - used

    def is_usable(self, device: Device) -> bool:
        """Whether a shared device may be given to replicas at all."""
        if device.uuid is None or device.unusable_reason is not None:
            return False
        return device.uuid not in self._full_devices

    def claimable_bytes(self, device: Device, *, rest_bytes: int | None = None) -> int:
        """Bytes that a claim can count on, which was judged when it was written.

        It gives way to what others use for certain. What a reading shows beyond that may be its
        predecessor, or an engine of ours that loads and whose bytes are promised already.
        """
        uuid = device.uuid
        if uuid is None or uuid in self._full_devices or device.unusable_reason is not None:
            return 0
        used = self._reserved_bytes.get(uuid, 0) + self._foreign.certain_on(uuid)
        free = device.usable_bytes - used
        if rest_bytes is not None:
            free = self._with_lent(uuid, free, rest_bytes)
        return max(0, free)

    # Devices that are handed out whole

    def key_of(self, reservation: Reservation) -> str:
        """The key of the node that it is on, with the resource of which it holds devices."""
        return self._whole.key_of(reservation)

    def attributed_pod(self, device: Device) -> str | None:
        """The pod that holds the device as far as the exporter knows; None for one that is gone."""
        return self._whole.attributed_pod(device)

    def num_free_devices(self, node: Node) -> int:
        """Whole devices of the node that the device plugin can still hand out."""
        if self._ignore_use:
            return node.num_allocatable
        return self._whole.num_free(node, self._shared_on_node.get(node.name))

    def exclusive_bytes(self, node: Node) -> int:
        """Bytes that an exclusive replica can count on, whichever free device it is given."""
        if self._ignore_use:
            return min((device.usable_bytes for device in node.devices), default=0)
        return self._whole.bytes_of_free(node, self._released, self._reserved_bytes)
