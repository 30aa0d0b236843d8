"""Where one replica would go, by all that is booked so far: nothing is booked here.

In this order: its home, if it fits there; the quota of its namespace; the best node of those
that its neighbours leave, by its strategy. What fits nowhere is explained once for all of a kind.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from memroute.placement.explanation import Explainer
from memroute.placement.inventory import Inventory, Node, PlacementMode
from memroute.placement.ledger import Ledger
from memroute.placement.neighbourhood import Allowed, Neighbourhood
from memroute.placement.neighbours import Neighbour
from memroute.placement.pools import Candidate, Pools, time_share
from memroute.placement.problem import (
    Decision,
    Home,
    Placed,
    PlacementStrategy,
    Refused,
    RefusedReason,
    WantedReplica,
)
from memroute.placement.quota import HBMQuotas, refusal
from memroute.units import format_gib


class Search:
    """Decides about single replicas. Owns what it has found to fit nowhere."""

    def __init__(
        self,
        inventory: Inventory,
        ledger: Ledger,
        quotas: HBMQuotas,
        neighbours: Sequence[Neighbour] | None,
    ) -> None:
        """``neighbours``: the pods that are there; None where nobody asks about them."""
        self.ledger = ledger
        self.quotas = quotas
        self.pools = Pools(ledger)
        self.num_explained = 0
        """Explanations that were worked out; the others are copies."""
        self.refused: dict[tuple[object, ...], tuple[WantedReplica, Refused]] = {}
        """By kind, what fits nowhere; to be cleared when room is given back."""
        self.has_askers = neighbours is not None
        """Whether anybody asks what is beside it."""
        self._neighbourhood = Neighbourhood(neighbours or (), inventory.nodes)
        self._explainer = Explainer(inventory, ledger, self.pools)

    def decide(self, replica: WantedReplica) -> Decision:
        """Where the replica goes, or why it waits."""
        allowed = self._allowed(replica)
        if replica.home is not None:
            candidate = self._at_home(replica, replica.home, allowed)
            if candidate is not None:
                rule = "where it was promised or ran before"
                placed = self.placed(replica, candidate, rule=rule)
                # What was claimed for it was judged by the quota when it was claimed.
                is_claimed = replica.home.claimed_bytes is not None
                return placed if is_claimed else self.within_quota(placed)
        held = self.ledger.held_bytes(replica.key.namespace)
        over = refusal(
            self.quotas, replica.key, held_bytes=held, needed_bytes=replica.minimum_bytes
        )
        if over is not None:
            return over
        known = self.refused.get(replica.refusal_key)
        if known is not None:
            return replace(known[1], key=replica.key)
        decision = self.find(replica, remember=True)
        return self.within_quota(decision) if isinstance(decision, Placed) else decision

    def within_quota(self, placed: Placed, *, freed_bytes: int = 0) -> Decision:
        """The same, or why the quota of its namespace keeps it from there."""
        over = refusal(
            self.quotas,
            placed.key,
            held_bytes=self.ledger.held_bytes(placed.key.namespace),
            needed_bytes=placed.total_bytes,
            freed_bytes=freed_bytes,
        )
        return placed if over is None else over

    def find(
        self, replica: WantedReplica, *, remember: bool, gone: Collection[str] = ()
    ) -> Decision:
        """The best place, or why there is none. ``gone``: pods that will have gone by then."""
        allowed = self._allowed(replica, gone)
        candidate = self._best(replica, allowed)
        if candidate is not None:
            return self.placed(replica, candidate)
        if allowed is not None and (allowed.left_out or allowed.blocked_devices):
            others = self._best(replica, None)
            if others is not None:
                return _refused_by_neighbours(replica, others, allowed)
        return self._explain(replica, remember=remember and allowed is None)

    def place_on(
        self, replica: WantedReplica, nodes: frozenset[str], gone: Collection[str]
    ) -> Placed | None:
        """The best place on these nodes (by key), within its quota; None when there is none."""
        candidate = self._best(replica, self._allowed(replica, gone), only=nodes)
        if candidate is None:
            return None
        decision = self.within_quota(self.placed(replica, candidate))
        return decision if isinstance(decision, Placed) else None

    def _best(
        self,
        replica: WantedReplica,
        allowed: Allowed | None,
        only: frozenset[str] | None = None,
    ) -> Candidate | None:
        if allowed is None:
            return self.pools.best(replica, replica.footprint_on, only=only)
        for tier in allowed.tiers:
            candidate = self.pools.best(
                replica,
                replica.footprint_on,
                only=tier if only is None else tier & only,
                blocked_devices=allowed.blocked_devices,
            )
            if candidate is not None:
                return candidate
        return None

    def _allowed(self, replica: WantedReplica, gone: Collection[str] = ()) -> Allowed | None:
        """Which nodes its neighbours leave it; None where nobody cares."""
        if not self.has_askers and replica.neighbours.is_empty:
            return None
        eligible = self.pools.eligible(replica)
        return self._neighbourhood.allowed(
            replica.key.namespace, replica.neighbours, eligible, gone
        )

    def settle(self, replica: WantedReplica, placed: Placed) -> None:
        """It is a neighbour from now on, where somebody cares."""
        if not self.has_askers and replica.neighbours.is_empty:
            return
        self._neighbourhood.add(
            Neighbour(
                owner=placed.key.pod,
                namespace=placed.key.namespace,
                node=placed.node,
                labels=dict(replica.neighbours.labels),
                apart=replica.neighbours.apart,
                device_uuids=placed.device_uuids,
            )
        )

    def is_free(self, replica: WantedReplica) -> bool:
        """Whether a second look may place it, which looks at room alone.

        Whoever is moved is beside others then: where anybody asks about that, nobody is moved.
        """
        namespace = replica.key.namespace
        has_quota = self.quotas.limit_bytes(namespace) is not None or self.quotas.has_problems
        return not has_quota and not self.has_askers

    def _explain(self, replica: WantedReplica, *, remember: bool) -> Refused:
        refused = self._explainer.explain(replica)
        self.num_explained += 1
        if remember:
            self.refused[replica.refusal_key] = (replica, refused)
        return refused

    def _at_home(
        self, replica: WantedReplica, home: Home, allowed: Allowed | None
    ) -> Candidate | None:
        """The replica where it was; None when it does not fit there any more.

        Where nobody says which devices it had of a node that has several kinds, the tightest fit.
        """
        eligible = self.pools.eligible(replica)
        if allowed is not None:
            eligible = eligible.intersection(frozenset().union(*allowed.tiers))
            if not allowed.blocked_devices.isdisjoint(home.device_uuids):
                return None
        nodes = [one for one in self.ledger.by_name.get(home.node, ()) if one.key in eligible]
        known = [one for one in nodes if one.resource == home.resource]
        found = (self._at_home_on(node, replica, home) for node in known or nodes)
        return min(
            (one for one in found if one is not None),
            key=lambda one: one.leftover_bytes,
            default=None,
        )

    def _at_home_on(self, node: Node, replica: WantedReplica, home: Home) -> Candidate | None:
        if replica.mode is PlacementMode.EXCLUSIVE:
            footprint = max(
                (replica.footprint_on(device.product) for device in node.devices),
                key=lambda one: one.total_bytes,
                default=replica.footprint,
            )
            free = home.claimed_bytes or self.ledger.exclusive_bytes(node)
            if self.ledger.num_free_devices(node) < footprint.num_devices:
                return None
            devices, promised = node.devices, free
        else:
            devices = tuple(device for device in node.devices if device.uuid in home.device_uuids)
            footprint = replica.footprint_on(devices[0].product if devices else None)
            if len(devices) != footprint.num_devices:
                return None
            is_claimed = home.claimed_bytes is not None
            room = self.ledger.claimable_bytes if is_claimed else self.ledger.free_bytes
            free = min(room(device, rest_bytes=replica.rest_bytes) for device in devices)
            promised = footprint.total_bytes
        if free < footprint.total_bytes:
            return None
        is_claimed = home.claimed_bytes is not None
        if not is_claimed and not self.ledger.node_memory.has_room(node.name, replica.host_bytes):
            return None
        return Candidate(
            node=node,
            devices=devices,
            footprint=footprint,
            bytes_per_device=promised,
            leftover_bytes=free - footprint.total_bytes,
        )

    def placed(self, replica: WantedReplica, best: Candidate, *, rule: str | None = None) -> Placed:
        """The decision for a candidate, with its sentence."""
        shared = replica.mode is PlacementMode.SHARED
        footprint = best.footprint
        where = (
            ", ".join(device.display_name for device in best.devices)
            if shared
            else f"{footprint.num_devices} {_kind(best.node)} of {best.node.name}"
        )
        if rule is None:
            is_spread = replica.strategy is PlacementStrategy.SPREAD
            rule = "fewest sibling replicas" if is_spread else "tightest fit"
        if best.node.name in replica.nodes_with_weights:
            rule += ", has the weights"
        contention, beside = self._contention(replica, best) if shared else (None, "")
        return Placed(
            key=replica.key,
            node=best.node.name,
            mode=replica.mode,
            device_uuids=tuple(d.uuid for d in best.devices if d.uuid) if shared else (),
            num_devices=footprint.num_devices,
            bytes_per_device=best.bytes_per_device,
            needed_bytes_per_device=footprint.total_bytes,
            usable_bytes_per_device=min(device.usable_bytes for device in best.devices),
            product=best.devices[0].product,
            why=(
                f"needs {format_gib(footprint.total_bytes)} per device; {where}: {rule}, "
                f"leaves {format_gib(best.leftover_bytes)}{beside}"
            ),
            occupancy_ratio=replica.occupancy_on(best.devices[0].product),
            contention=contention,
            rest_bytes=replica.rest_bytes if shared else None,
            host_bytes=replica.host_bytes,
            resource=best.node.resource,
            host_link=best.node.host_link,
            must_wait=any(
                device.uuid in self.ledger.busy_devices or device.uuid in self.ledger.stuck_devices
                for device in (best.devices if shared else ())
            ),
        )

    def _contention(self, replica: WantedReplica, best: Candidate) -> tuple[float, str]:
        """Of the most contended of the devices with the replica on it, and a clause about it."""
        taken = max(self.ledger.contention(device) for device in best.devices)
        together = taken + time_share(replica, best.devices[0].product)
        if not taken:
            return together, ""
        return together, f"; engines on its device want {together:.1f} times its time"


def _refused_by_neighbours(replica: WantedReplica, others: Candidate, allowed: Allowed) -> Refused:
    listed = ", ".join(f"{num} {why}" for why, num in sorted(allowed.left_out.items()))
    if allowed.blocked_devices:
        shared = f"{len(allowed.blocked_devices)} device(s) hold pods that it must not share with"
        listed = f"{listed}, {shared}" if listed else shared
    return Refused(
        key=replica.key,
        reason=RefusedReason.NEIGHBOURS,
        message=(
            f"needs {format_gib(replica.footprint.total_bytes)} per device, which "
            f"{others.node.name} has, but pods are in the way or missing: {listed}; it is placed "
            f"once those pods move, or spec.template.spec asks for less"
        ),
    )


def _kind(node: Node) -> str:
    is_slice = any(device.is_slice for device in node.devices)
    return node.resource if is_slice else "whole device(s)"
