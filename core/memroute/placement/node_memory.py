"""Memory of nodes that replicas pin: what each node has, what is promised of it, what is free.

Weights of replicas that sleep, weights and KV cache that are kept off the devices: all of them lie
in the memory of the node. Memory belongs to the node, not to a device, so it is counted by the
node's name, once for all resources that the node hands out. Where nobody says how much a node has,
that is unknown (None), and kube-scheduler judges.
"""

from collections import Counter
from collections.abc import Iterable

from memroute.placement.inventory import Node, Reservation
from memroute.placement.ways import Way


class NodeMemory:
    """Memory of the nodes of a ledger. Owned by it."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._size_bytes = {node.name: node.host_bytes for node in nodes}
        self._pinned_bytes = Counter[str]()

    def count(self, reservation: Reservation, predecessor: Reservation | None, sign: int) -> None:
        """Add (1) or take away (-1) a promise; ``predecessor``: whose claim it is, if it is one.

        The two are never there at once: on the same node the larger of them counts.
        """
        is_there = predecessor is not None and predecessor.node == reservation.node
        held_before = predecessor.host_bytes if predecessor is not None and is_there else 0
        grown = max(0, reservation.host_bytes - held_before)
        self._pinned_bytes[reservation.node] += grown * sign

    def count_way(self, way: Way, sign: int) -> None:
        """Add (1) or take away (-1) a claim of higher priority, beside the pods that give way."""
        self._pinned_bytes[way.claim.node] += way.added_host_bytes * sign

    def pinned_bytes(self, node: str) -> int:
        """Bytes of a node's memory that replicas of ours may pin."""
        return self._pinned_bytes[node]

    def free_bytes(self, node: str) -> int | None:
        """Bytes that replicas may still pin, never negative; None where nobody says the size."""
        size = self._size_bytes.get(node)
        return None if size is None else max(0, size - self._pinned_bytes[node])

    def has_room(self, node: str, num_bytes: int) -> bool:
        """Whether so many bytes may be pinned; where the size is unknown, kube-scheduler judges."""
        if not num_bytes:
            return True
        free = self.free_bytes(node)
        return free is None or free >= num_bytes
