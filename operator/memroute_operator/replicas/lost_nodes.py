"""Which nodes are given up, so that their replicas are placed elsewhere; and what may live there.

A node that does not report is not dead: a certificate, a load balancer of the control plane or
a partition takes many nodes at once while their engines serve on. Giving one up kills engines
that reload for minutes, so it is done slowly, and not at all when too many are affected:

```text
reachable ──► unreachable ──(node lost time, or quarantine of a missing Node)──► due
due ──► given up,  unless  more than half of the GPU nodes are unreachable        (brake)
               or  max(1, 10 % of them) were given up within the last minute      (rate)
```

When the brake ends, all waits begin anew: nodes come back one after the other.

Kubernetes does the same by zone ("master disruption mode" in
``pkg/controller/nodelifecycle/node_lifecycle_controller.go``): all evictions stop when every
node is unreachable, and slow down from 55 %.

A force deletion takes the pod's object away while its engine may go on on a node that is cut
off. Its **ghost** keeps the bytes counted until the node is back and a reading that began after
its return has shown what is used there.

Times are those at which *we* saw it, on one monotonic clock: clocks of nodes are not compared.
Pure: facts in, decision out. Owns what it has seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil, inf

from memroute.placement import Reservation

# Above this share of unreachable GPU nodes nothing is given up: half, as in Kubernetes' 55 %,
# and a cluster of two nodes can still lose one.
BRAKE_RATIO = 0.5
# How many renewals of its Lease a kubelet may miss before it counts as lost for the brake.
MISSED_RENEWALS = 2
# By how much a silence may be told too short, in seconds: readings of Leases are as coarse.
TOLD_SHORT_SECONDS = 10.0
# A node that is still called ready when its Lease is older than this, in seconds, reports in
# another way (virtual kubelets do): the Lease is no sign. Twice as long as Kubernetes' patience.
NO_SIGN_SECONDS = 120.0
# How much of the fleet may be given up in RATE_SECONDS: 10 % of the GPU nodes, at least one.
# Kubernetes evicts one node in 10 s (0.1 a second); engines take minutes to load.
RATE_RATIO = 0.1
RATE_SECONDS = 60.0
# How long a Node object may be missing before its pods are: kubelet registers a deleted Node
# again by itself. Kubernetes' pod garbage collector waits 40 s (``quarantineTime``).
QUARANTINE_SECONDS = 60.0
# A ghost on a node that is back and that no exporter reads ends after this, in seconds: kubelet
# has ended pods without an object long before (grace period 60 s).
GHOST_UNREAD_SECONDS = 600.0
# A ghost on a node that never comes back ends after this, in seconds.
GHOST_ABSENT_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSight:
    """What is seen of one GPU node in one reconcile."""

    exists: bool
    is_ready: bool
    is_silent: bool = False
    """Whether its kubelet has stopped to report (Ready is Unknown): engines may run there."""
    silent_seconds: float | None = None
    """For how long at least its kubelet has renewed no Lease; None when that is not known."""
    renewal_seconds: float = 10.0
    """How often it renews: a kubelet's default."""
    boot_id: str | None = None
    """Changes when the machine restarts, which ends every process on it."""
    shown_after_seconds: float | None = None
    """What happened there before this is in its last reading; None without one."""

    @property
    def is_reachable(self) -> bool:
        """Whether its kubelet reports."""
        return self.exists and self.is_ready

    @property
    def is_renewing(self) -> bool:
        """Whether its Lease shows that it is there."""
        missed = MISSED_RENEWALS * self.renewal_seconds
        return (
            self.is_reachable and self.silent_seconds is not None and self.silent_seconds <= missed
        )

    def fell_silent_before(self, renewed_seconds: float) -> bool:
        """Whether others have renewed, ``renewed_seconds`` ago, after its kubelet fell silent.

        A kubelet has renewed at most one interval before it falls silent. Kubernetes has to agree:
        a kubelet that says that it is not ready is there.
        """
        if not self.is_silent or self.silent_seconds is None:
            return False
        return self.silent_seconds >= renewed_seconds + self.renewal_seconds + TOLD_SHORT_SECONDS

    @property
    def may_be_lost(self) -> bool:
        """Whether it is unreachable, or will be called so soon: it has missed two renewals."""
        if not self.is_reachable:
            return True
        silent = self.silent_seconds
        return silent is not None and not self.is_renewing and silent <= NO_SIGN_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLoss:
    """The decision on all nodes."""

    given_up: frozenset[str] = frozenset()
    """Nodes whose replicas are to be replaced."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Nodes that are unreachable and not given up → why, as a sentence without times."""
    num_unreachable: int = 0
    num_nodes: int = 0
    is_braked: bool = False
    """Whether nothing is given up because too many nodes are unreachable."""


@dataclass(slots=True, kw_only=True)
class LostNodes:
    """Since when nodes are unreachable, and which were given up when."""

    _since: dict[str, float] = field(default_factory=dict)
    _given_up_at: dict[str, float] = field(default_factory=dict)
    _counts_from: float | None = None
    """Silences from before this do not count: we began to look, or the brake was on."""
    _rate_marks: list[float] = field(default_factory=list)
    """When nodes were given up: kept when they come back, because the rate goes on counting."""

    def decide(
        self, nodes: Mapping[str, NodeSight], *, node_lost_seconds: float, now_seconds: float
    ) -> NodeLoss:
        """The nodes that are given up now. ``nodes``: all that have accelerators or replicas."""
        unreachable = {name for name, node in nodes.items() if not node.is_reachable}
        self._given_up_at = {n: at for n, at in self._given_up_at.items() if n in unreachable}
        self._rate_marks = [at for at in self._rate_marks if now_seconds - at < RATE_SECONDS]
        # With their Leases known, an outage is seen before the first node of it is called silent.
        num_lost = sum(node.may_be_lost for node in nodes.values())
        is_braked = num_lost > BRAKE_RATIO * len(nodes)
        # What ends the brake is that nodes come back. The others get the whole time from then on.
        known = {} if is_braked else self._since
        if is_braked or self._counts_from is None:
            self._counts_from = now_seconds
        counted_seconds = now_seconds - self._counts_from
        renewed_seconds = _half_renewed_seconds(nodes)
        self._since = {name: known.get(name, now_seconds) for name in sorted(unreachable)}
        allowed = max(1, int(RATE_RATIO * len(nodes)))
        kept: dict[str, str] = {}
        # The longest unreachable first; names decide between those that went together.
        for name in sorted(unreachable, key=lambda n: (self._since[n], n)):
            if name in self._given_up_at and not is_braked:
                continue
            wait = node_lost_seconds if nodes[name].exists else QUARANTINE_SECONDS
            lost_for = now_seconds - self._since[name]
            silent = nodes[name].silent_seconds
            if silent is not None and nodes[name].fell_silent_before(renewed_seconds):
                lost_for = max(lost_for, min(silent, counted_seconds))
            if is_braked:
                kept[name] = (
                    f"{num_lost} of {len(nodes)} GPU nodes are unreachable, and nothing "
                    f"is given up while more than half of them are"
                )
            elif lost_for <= wait:
                what = "unreachable" if nodes[name].exists else "without a Node object"
                kept[name] = f"a node is given up after {wait:.0f} s {what}"
            elif len(self._rate_marks) >= allowed:
                kept[name] = f"at most {allowed} of {len(nodes)} GPU nodes are given up a minute"
            else:
                self._given_up_at[name] = now_seconds
                self._rate_marks.append(now_seconds)
        return NodeLoss(
            given_up=frozenset() if is_braked else frozenset(self._given_up_at),
            kept=kept,
            num_unreachable=len(unreachable),
            num_nodes=len(nodes),
            is_braked=is_braked,
        )


def _half_renewed_seconds(nodes: Mapping[str, NodeSight]) -> float:
    """Within how long at least half of the nodes have renewed their Leases; infinity: fewer do."""
    silences = sorted(
        node.silent_seconds
        for node in nodes.values()
        if node.is_renewing and node.silent_seconds is not None
    )
    needed = max(1, ceil((1 - BRAKE_RATIO) * len(nodes)))
    return silences[needed - 1] if needed <= len(silences) else inf


@dataclass(slots=True, kw_only=True)
class _Absence:
    """A node that is cut off, or was, and what is not known of it since."""

    boot_id: str | None
    absent_since_seconds: float
    returned_at_seconds: float | None = None


@dataclass(slots=True, kw_only=True)
class _Ghost(_Absence):
    reservation: Reservation


@dataclass(slots=True)
class Ghosts:
    """Reservations of pods whose object went while their node was cut off: engines may run on."""

    _ghosts: dict[str, _Ghost] = field(default_factory=dict)
    _running: dict[str, Reservation] = field(default_factory=dict)
    """Pods with containers at the last look, by uid."""
    _unreachable: frozenset[str] = frozenset()
    _unsure: dict[str, _Absence] = field(default_factory=dict)
    """Nodes that were silent when we first looked: who was there before us may have left ghosts."""
    _has_looked: bool = False

    def look(
        self,
        running: Mapping[str, Reservation],
        nodes: Mapping[str, NodeSight],
        *,
        now_seconds: float,
    ) -> tuple[Reservation, ...]:
        """What is to be counted beside the pods that exist. Call once per reconcile.

        ``running``: reservations of our pods that may have processes, by the pod's uid.
        """
        unreachable = frozenset(name for name, node in nodes.items() if not node.is_reachable)
        cut_off = unreachable | self._unreachable
        for uid, reservation in self._running.items():
            if uid not in running and reservation.node in cut_off:
                node = nodes.get(reservation.node)
                self._ghosts[uid] = _Ghost(
                    reservation=replace(reservation, owner=f"{reservation.owner} (cut off)"),
                    boot_id=None if node is None else node.boot_id,
                    absent_since_seconds=now_seconds,
                )
        self._running, self._unreachable = dict(running), unreachable
        if not self._has_looked:
            self._has_looked = True
            for name, node in nodes.items():
                if node.is_silent:
                    self._unsure[name] = _Absence(
                        boot_id=node.boot_id, absent_since_seconds=now_seconds
                    )
        for name, absence in list(self._unsure.items()):
            if _has_ended(absence, nodes.get(name), now_seconds):
                del self._unsure[name]
        for uid, ghost in list(self._ghosts.items()):
            if _has_ended(ghost, nodes.get(ghost.reservation.node), now_seconds):
                del self._ghosts[uid]
        return tuple(ghost.reservation for _, ghost in sorted(self._ghosts.items()))

    def forget_running(self) -> None:
        """Nothing was seen for a while: what is gone may have ended in good order meanwhile."""
        self._running, self._unreachable, self._has_looked = {}, frozenset(), False

    @property
    def unsure_nodes(self) -> frozenset[str]:
        """Nodes on which nothing is placed before a reading shows what runs there.

        They were cut off when this operator began to look. The one before it may have deleted
        pods there by force, and nobody remembers what they hold.
        """
        return frozenset(self._unsure)

    @property
    def nodes(self) -> frozenset[str]:
        """The nodes that have one."""
        return frozenset(ghost.reservation.node for ghost in self._ghosts.values())


def _has_ended(ghost: _Absence, node: NodeSight | None, now_seconds: float) -> bool:
    """Whether what the engine held is free again, or would be seen without its ghost."""
    if node is None or not node.is_reachable:
        ghost.returned_at_seconds = None
        return now_seconds - ghost.absent_since_seconds > GHOST_ABSENT_SECONDS
    if ghost.returned_at_seconds is None:
        ghost.returned_at_seconds = now_seconds
    if None not in (ghost.boot_id, node.boot_id) and ghost.boot_id != node.boot_id:
        return True
    shown = node.shown_after_seconds
    if shown is not None and shown > ghost.returned_at_seconds:
        return True
    return now_seconds - ghost.returned_at_seconds > GHOST_UNREAD_SECONDS
