"""Policies side by side: memroute as its operator calls it, and others by their own rules.

Everybody is told the same needs in bytes, may use the same nodes, and keeps a tensor-parallel
group on one node and one product. Only memroute and the two textbook rules read what processes
of others use: kube-scheduler and HAMi count promises.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from bench.placement.books import Books, Choice
from bench.placement.instance import Instance
from memroute.catalog.accelerators import ACCELERATORS
from memroute.placement import (
    Device,
    Inventory,
    Node,
    Placed,
    PlacementMode,
    ReplicaKey,
    Reservation,
    WantedReplica,
    plan,
)

OURS = "memroute"
# Of memroute-limited: two engines that never wait. Chosen by hand.
MAX_CONTENTION = 2.0
HAMI_MAX_TASKS = 10
# The chart's deviceSplitCount: tasks that one GPU may have (Project-HAMi/HAMi 4707fb0).

Choose = Callable[[Books, WantedReplica, random.Random], Choice | None]
Policy = Callable[[Instance, Books], list[WantedReplica]]
"""Places an instance in the books, and returns what was refused."""


def memroute_batch(instance: Instance, books: Books) -> list[WantedReplica]:
    """All that is wanted in one plan: a cold start, a lost node, a repository applied."""
    return _plan(instance.inventory, instance.wanted, books)[1]


def memroute_bytes(instance: Instance, books: Books) -> list[WantedReplica]:
    """The same by bytes alone: as if no engine took any of a device's time."""
    idle = {row.name: 0.0 for row in ACCELERATORS}
    wanted = [replace(one, occupancies_by_product=idle) for one in instance.wanted]
    known = {one.key: one for one in instance.wanted}
    return _plan(instance.inventory, wanted, books, known)[1]


def memroute_limited(instance: Instance, books: Books) -> list[WantedReplica]:
    """All in one plan, with a limit of contention."""
    inventory = replace(instance.inventory, max_contention=MAX_CONTENTION)
    return _plan(inventory, instance.wanted, books)[1]


def memroute_online(instance: Instance, books: Books) -> list[WantedReplica]:
    """A plan for each deployment as it comes; nothing moves."""
    refused: list[WantedReplica] = []
    inventory = instance.inventory
    for replicas in instance.deployments():
        inventory, missing = _plan(inventory, replicas, books)
        refused += missing
    return refused


def _plan(
    inventory: Inventory,
    wanted: Sequence[WantedReplica],
    books: Books,
    known: Mapping[ReplicaKey, WantedReplica] | None = None,
) -> tuple[Inventory, list[WantedReplica]]:
    reservations = list(inventory.reservations)
    refused = []
    for replica, decision in zip(wanted, plan(inventory, wanted), strict=True):
        if not isinstance(decision, Placed):
            refused.append(replica)
            continue
        true = replica if known is None else known[replica.key]
        books.take(true, Choice(decision.node, decision.device_uuids))
        is_exclusive = decision.mode is PlacementMode.EXCLUSIVE
        reservations.append(
            Reservation(
                owner=f"{replica.key.namespace}/{replica.key.pod_name}",
                deployment=replica.key.deployment,
                node=decision.node,
                device_bytes=dict.fromkeys(decision.device_uuids, decision.bytes_per_device),
                num_exclusive_devices=decision.num_devices if is_exclusive else 0,
                occupancy_ratio=decision.occupancy_ratio,
            )
        )
    return replace(inventory, reservations=tuple(reservations)), refused


def one_by_one(choose: Choose, *, largest_first: bool = False) -> Policy:
    """The policy that places replicas in turn, each where ``choose`` says."""

    def place(instance: Instance, books: Books) -> list[WantedReplica]:
        rng = random.Random(instance.seed)  # noqa: S311 - ties, not secrets
        wanted = list(instance.wanted)
        if largest_first:
            wanted.sort(
                key=lambda replica: (
                    -replica.footprint.total_bytes * replica.footprint.num_devices,
                    -replica.footprint.num_devices,
                )
            )
        refused = []
        for replica in wanted:
            choice = choose(books, replica, rng)
            if choice is None:
                refused.append(replica)
            else:
                books.take(replica, choice)
        return refused

    return place


def _by_product(devices: Sequence[Device]) -> Iterator[list[Device]]:
    for product in dict.fromkeys(device.product for device in devices):
        yield [device for device in devices if device.product == product]


def _choice(node: Node, devices: Sequence[Device]) -> Choice:
    if node.mode is PlacementMode.EXCLUSIVE:
        return Choice(node.name)
    return Choice(node.name, tuple(device.uuid or "" for device in devices))


def _groups(books: Books, replica: WantedReplica) -> Iterator[tuple[Node, list[Device]]]:
    """Devices of one node and product on which the replica fits, enough of them."""
    need, count = replica.footprint.total_bytes, replica.footprint.num_devices
    for node in books.nodes.values():
        if not books.may(node, replica):
            continue
        if node.mode is PlacementMode.EXCLUSIVE:
            if books.num_whole[node.name] >= count and books.whole_bytes(node) >= need:
                yield node, []
            continue
        for devices in _by_product(node.devices):
            fitting = [device for device in devices if books.free_bytes(device) >= need]
            if len(fitting) >= count:
                yield node, fitting


def first_fit(books: Books, replica: WantedReplica, _: random.Random) -> Choice | None:
    """The first node and the first devices with room."""
    for node, devices in _groups(books, replica):
        return _choice(node, devices[: replica.footprint.num_devices])
    return None


def best_fit(books: Books, replica: WantedReplica, _: random.Random) -> Choice | None:
    """Where the fewest bytes are left on the devices that are taken, all together."""
    count = replica.footprint.num_devices
    best: tuple[int, Choice] | None = None
    for node, devices in _groups(books, replica):
        if node.mode is PlacementMode.EXCLUSIVE:
            left = books.num_whole[node.name] * books.whole_bytes(node)
        else:
            devices = sorted(devices, key=books.free_bytes)[:count]  # noqa: PLW2901 - the taken
            left = sum(books.free_bytes(device) for device in devices)
        if best is None or left < best[0]:
            best = left, _choice(node, devices)
    return None if best is None else best[1]


def most_allocated(books: Books, replica: WantedReplica, rng: random.Random) -> Choice | None:
    """kube-scheduler's NodeResourcesFit MostAllocated on ``nvidia.com/gpu``: whole GPUs.

    The node with the largest share of its GPUs taken; ties at random, as kube-scheduler breaks
    them. Its user is taken to have named the products that are large enough, and the kubelet to
    hand out the freest devices: both flatter it.
    """
    need, count = replica.footprint.total_bytes, replica.footprint.num_devices
    best: list[tuple[float, Choice]] = []
    for node in books.nodes.values():
        if not books.may(node, replica):
            continue
        if node.mode is PlacementMode.EXCLUSIVE:
            free = books.num_whole[node.name]
            if free >= count and all(device.usable_bytes >= need for device in node.devices):
                taken = len(node.devices) - free + count
                best.append((taken / len(node.devices), Choice(node.name)))
            continue
        whole = [d for d in node.devices if not books.num_promised[d.uuid or ""]]
        for devices in _by_product(whole):
            large = [device for device in devices if device.usable_bytes >= need]
            if len(large) >= count:
                large.sort(key=books.free_bytes, reverse=True)
                taken = len(node.devices) - len(whole) + count
                best.append((taken / len(node.devices), _choice(node, large[:count])))
    return _highest(best, rng)


def hami(books: Books, replica: WantedReplica, rng: random.Random) -> Choice | None:
    """HAMi's binpack for nodes and for GPUs, by its own promises alone.

    A node's score is the share of its tasks taken and the share of its memory promised; a GPU's
    the same with the replica on it. The highest node wins, and on it the highest GPUs
    (pkg/scheduler/policy at 4707fb0; nobody asks for cores here, so their share is 0).
    """
    best: list[tuple[float, Choice]] = []
    for node in books.nodes.values():
        if not books.may(node, replica):
            continue
        if node.mode is PlacementMode.EXCLUSIVE:
            # A whole GPU is asked for as 100 % of its memory.
            free = books.num_whole[node.name]
            if free >= replica.footprint.num_devices and all(
                device.usable_bytes >= replica.footprint.total_bytes for device in node.devices
            ):
                taken = (len(node.devices) - free) / len(node.devices)
                best.append((taken / HAMI_MAX_TASKS + taken, Choice(node.name)))
            continue
        devices = _hami_devices(books, node, replica)
        if devices is not None:
            uuids = [device.uuid or "" for device in node.devices]
            tasks = sum(books.num_promised[uuid] for uuid in uuids) / HAMI_MAX_TASKS / len(uuids)
            promised = sum(books.promised_bytes[uuid] for uuid in uuids)
            memory = promised / sum(device.usable_bytes for device in node.devices)
            best.append((tasks + memory, _choice(node, devices)))
    return _highest(best, rng)


def _hami_devices(books: Books, node: Node, replica: WantedReplica) -> list[Device] | None:
    """The highest-scored GPUs of the node with room, as many as are asked for."""
    need, count = replica.footprint.total_bytes, replica.footprint.num_devices

    def score(device: Device) -> float:
        uuid = device.uuid or ""
        tasks = (books.num_promised[uuid] + 1) / HAMI_MAX_TASKS
        return tasks + (books.promised_bytes[uuid] + need) / device.usable_bytes

    fitting = [
        device
        for device in node.devices
        if books.promised_bytes[device.uuid or ""] + need <= device.usable_bytes
        and books.num_promised[device.uuid or ""] < HAMI_MAX_TASKS
    ]
    groups = [
        sorted(group, key=lambda device: (score(device), device.index), reverse=True)[:count]
        for group in _by_product(fitting)
        if len(group) >= count
    ]
    return max(groups, key=lambda group: sum(map(score, group)), default=None)


def _highest(scored: list[tuple[float, Choice]], rng: random.Random) -> Choice | None:
    if not scored:
        return None
    top = max(score for score, _ in scored)
    return rng.choice([choice for score, choice in scored if score == top])


POLICIES: dict[str, Policy] = {
    OURS: memroute_batch,
    "memroute-bytes": memroute_bytes,
    "memroute-limited": memroute_limited,
    "memroute-online": memroute_online,
    "most-allocated": one_by_one(most_allocated),
    "hami-binpack": one_by_one(hami),
    "first-fit": one_by_one(first_fit),
    "best-fit": one_by_one(best_fit),
    "first-fit-decreasing": one_by_one(first_fit, largest_first=True),
    "best-fit-decreasing": one_by_one(best_fit, largest_first=True),
}
