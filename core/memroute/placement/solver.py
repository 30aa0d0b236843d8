"""Best fit, one replica after the other, on a ledger that books as it goes.

The greedy answer takes milliseconds and can be explained in one sentence per replica. Where
nothing is to spare it places 92 % of what the exact optimum does (``bench/placement``), and where
it refuses what would have fitted, a second look packs all that is wanted at once
(``second_look``). Same input, same plan: ties go to the first name.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from memroute.placement.explanation import Explainer
from memroute.placement.inventory import Inventory, Node, PlacementMode, Reservation
from memroute.placement.ledger import Ledger, Way
from memroute.placement.neighbourhood import Allowed, Neighbourhood
from memroute.placement.neighbours import Neighbour
from memroute.placement.pools import Candidate, Pools
from memroute.placement.problem import (
    Decision,
    Home,
    Placed,
    PlacementStrategy,
    Refused,
    RefusedReason,
    WantedReplica,
)
from memroute.placement.quota import NO_QUOTAS, HBMQuotas, refusal
from memroute.placement.second_look import kinds_of, second_look
from memroute.placement.view import LedgerView
from memroute.units import format_gib


def plan(inventory: Inventory, wanted: Sequence[WantedReplica]) -> tuple[Decision, ...]:
    """A decision for each wanted replica, in the order given.

    Invariants: no shared device is promised more than its free bytes; a replica's devices are
    all on one node; what is reserved in the inventory stays where it is.
    """
    return Solver(inventory).place_all(wanted)


class Solver:
    """One planning step's room: whoever is given some is counted for everybody after it.

    Owns the ledger of the step, and what was found out on the way: a replica that fits nowhere
    is explained once, for all of its kind. Nothing fits later in a step that did not fit earlier,
    because a step only books.
    """

    def __init__(
        self,
        inventory: Inventory,
        quotas: HBMQuotas = NO_QUOTAS,
        neighbours: Sequence[Neighbour] | None = None,
    ) -> None:
        """``neighbours``: the pods that are there; None where nobody asks about them."""
        self.ledger = Ledger(inventory)
        self.quotas = quotas
        self._neighbourhood = Neighbourhood(neighbours or (), inventory.nodes)
        self._has_askers = neighbours is not None
        self.num_explained = 0
        """Explanations that were worked out; the others are copies."""
        self._pools = Pools(self.ledger)
        self._explainer = Explainer(inventory, self.ledger, self._pools)
        self._refused: dict[tuple[object, ...], tuple[WantedReplica, Refused]] = {}

    def place(self, replica: WantedReplica) -> Decision:
        """Where the replica goes; from now on its room is taken."""
        decision = self._decide(replica)
        if isinstance(decision, Placed):
            self.book(decision.reservation())
            self._settle(replica, decision)
        return decision

    def place_all(self, wanted: Sequence[WantedReplica]) -> tuple[Decision, ...]:
        """Where the replicas go, in the order given; from now on their room is taken.

        Whoever finds a place in that order has one. When some are refused that others of them
        are in the way of, those others may be given another (``second_look``).
        """
        busy = set(self.ledger.busy_devices)
        if not self._has_askers:
            self._has_askers = any(not one.neighbours.is_empty for one in wanted)
        decisions = [self.place(replica) for replica in wanted]
        if any(isinstance(one, Refused) for one in decisions):
            self._look_again(wanted, decisions, busy)
        return tuple(decisions)

    def _look_again(
        self, wanted: Sequence[WantedReplica], decisions: list[Decision], busy: set[str]
    ) -> None:
        """Give more of them a place, where there is one; changes decisions and ledger.

        ``busy``: devices on which engines started before any of them was placed.
        """
        movable = {
            number: one
            for number, one in enumerate(decisions)
            if isinstance(one, Placed)
            and self._is_free(wanted[number])
            and _is_movable(wanted[number])
        }
        if not movable:
            return
        refused = [
            number
            for number, one in enumerate(decisions)
            if isinstance(one, Refused) and self._is_free(wanted[number])
        ]
        view = LedgerView(self.ledger, [one.reservation() for one in movable.values()])
        placed = {number: view.place_of(one) for number, one in movable.items()}
        kinds = kinds_of(
            wanted, view.products, lambda replica: view.positions(self._pools.eligible(replica))
        )
        places = second_look(view.room, kinds, placed, refused)
        if len(places) == len(placed):
            return
        for one in movable.values():
            self.ledger.release(one.key.pod)
            self.ledger.restore(())
        for number, decision in enumerate(decisions):
            if isinstance(decision, Placed) and number not in movable:
                busy.update(decision.device_uuids)
        self.ledger.busy_devices = busy
        for name in {one.node for one in movable.values()}:
            self._pools.refresh(name)
        for number in sorted(places):
            replica = wanted[number]
            candidate = view.candidate(self.ledger, replica, places[number])
            decision = self._placed(replica, candidate, rule="packed with all that is wanted")
            self.book(decision.reservation())
            decisions[number] = decision
        self._refused.clear()  # the numbers of the refusals are others now
        for number in refused:
            if number not in places:
                decisions[number] = self.place(wanted[number])

    def replace(self, owner: str, successor: WantedReplica) -> Decision:
        """Where the successor of a pod goes; from now on its claim is counted beside the pod.

        The pod's own room counts as free: the two are never there at once. What others use of
        its devices does not. Of its namespace's quota it has what the pod has.
        """
        taken = self.ledger.release(owner)
        touched = {one.node for one in taken}
        for node in touched:
            self._pools.refresh(node)
        decision = self._search(successor, remember=False)
        if isinstance(decision, Placed):
            freed = sum(one.total_bytes for one in taken if one.replaces is None)
            decision = self._within_quota(decision, freed_bytes=freed)
        kept = tuple(one for one in taken if one.replaces is None)
        self.ledger.restore(kept if isinstance(decision, Placed) else taken)
        for node in touched:
            self._pools.refresh(node)
        if isinstance(decision, Placed):
            self.book(claim_of(decision, owner))
        return decision

    def holds(self, owner: str, successor: WantedReplica) -> bool:
        """Whether the claim of a pod's successor still has its room, once the pod has gone."""
        claim = self.ledger.claims.get(owner)
        if claim is None:
            return False
        key = self.ledger.key_of(claim)
        node = next(
            (one for one in self.ledger.by_name.get(claim.node, ()) if one.key == key), None
        )
        if node is None or node.unusable_reason is not None:
            return False
        if successor.scheduling.refusal(node.name, node.labels, node.taints) is not None:
            return False
        taken = self.ledger.release(owner)
        fits = self._has_room(node, claim)
        self.ledger.restore(taken)
        return fits

    def eligible(self, replica: WantedReplica) -> frozenset[str]:
        """Keys of the nodes that may take the replica, whatever their memory."""
        return self._pools.eligible(replica)

    def make_way(
        self, replica: WantedReplica, victims: Collection[str], node: str
    ) -> Placed | None:
        """Where the replica goes on that node once those pods have left it.

        From now on its claim is counted beside them. None when it would not fit there, or its
        namespace may not hold it: then nothing is counted, and nobody need leave.
        """
        keys = frozenset(one.key for one in self.ledger.by_name.get(node, ()))
        taken = self.ledger.release_all(victims)
        self._pools.refresh(node)
        decision = self._search(replica, remember=None, only=keys)
        if isinstance(decision, Placed):
            decision = self._within_quota(decision)
        self.ledger.restore(taken)
        self._pools.refresh(node)
        if not isinstance(decision, Placed):
            return None
        if not self.ledger.stuck_devices.isdisjoint(decision.device_uuids):
            return None  # it could not start there before somebody mends that node
        claim = replace(decision.reservation(), owner=replica.key.slot, is_moving=False)
        self.ledger.book_way(claim, sorted(victims))
        self._pools.refresh(node)
        return decision

    def holds_way(self, owner: str, replica: WantedReplica) -> bool:
        """Whether that claim still has its room, once all who give way to it have gone."""
        way = self.drop_way(owner)
        if way is None:
            return False
        claim = way.claim
        key = self.ledger.key_of(claim)
        nodes = self.ledger.by_name.get(claim.node, ())
        node = next((one for one in nodes if one.key == key), None)
        taken = self.ledger.release_all(way.victims)
        holds = (
            node is not None
            and node.unusable_reason is None
            and replica.scheduling.refusal(node.name, node.labels, node.taints) is None
            and self._has_room(node, claim)
        )
        self.ledger.restore(taken)
        self.ledger.book_way(claim, sorted(way.victims))
        self._pools.refresh(claim.node)
        return holds

    def drop_way(self, owner: str) -> Way | None:
        """Nobody gives way to it any more; the claim as it was, None when there was none."""
        way = self.ledger.drop_way(owner)
        if way is not None:
            self._pools.refresh(way.claim.node)
            self._refused.clear()  # room was given back
        return way

    def _has_room(self, node: Node, claim: Reservation) -> bool:
        if claim.num_exclusive_devices:
            return (
                self.ledger.num_free_devices(node) >= claim.num_exclusive_devices
                and self.ledger.exclusive_bytes(node) >= claim.exclusive_bytes
            )
        free = {device.uuid: self.ledger.free_bytes(device) for device in node.devices}
        return all(free.get(uuid, 0) >= size for uuid, size in claim.device_bytes.items())

    def book(self, reservation: Reservation) -> None:
        """Count one more promise."""
        self.ledger.book(reservation)
        self._pools.refresh(reservation.node)

    def drop_claim(self, owner: str) -> None:
        """The pod's successor is wanted no more: what was claimed for it is free."""
        taken = self.ledger.release(owner)
        self.ledger.restore(tuple(one for one in taken if one.replaces is None))
        for reservation in taken:
            self._pools.refresh(reservation.node)
        self._refused.clear()  # room was given back

    def take_back(self, owner: str, node: str) -> None:
        """What was booked in this step for an owner on a node is not needed: it is free again."""
        self.ledger.release(owner)
        self.ledger.restore(())
        self._pools.refresh(node)
        self._refused.clear()  # room was given back

    def _decide(self, replica: WantedReplica) -> Decision:
        allowed = self._allowed(replica)
        if replica.home is not None:
            candidate = self._at_home(replica, replica.home, allowed)
            if candidate is not None:
                rule = "where it was promised or ran before"
                placed = self._placed(replica, candidate, rule=rule)
                # What was claimed for it was judged by the quota when it was claimed.
                is_claimed = replica.home.claimed_bytes is not None
                return placed if is_claimed else self._within_quota(placed)
        held = self.ledger.held_bytes(replica.key.namespace)
        over = refusal(
            self.quotas, replica.key, held_bytes=held, needed_bytes=replica.minimum_bytes
        )
        if over is not None:
            return over
        known = self._refused.get(replica.refusal_key)
        if known is not None:
            return replace(known[1], key=replica.key)
        decision = self._search(replica, remember=True)
        return self._within_quota(decision) if isinstance(decision, Placed) else decision

    def _within_quota(self, placed: Placed, *, freed_bytes: int = 0) -> Decision:
        """The same, or why the quota of its namespace keeps it from there."""
        over = refusal(
            self.quotas,
            placed.key,
            held_bytes=self.ledger.held_bytes(placed.key.namespace),
            needed_bytes=placed.total_bytes,
            freed_bytes=freed_bytes,
        )
        return placed if over is None else over

    def _search(
        self,
        replica: WantedReplica,
        *,
        remember: bool | None,
        only: frozenset[str] | None = None,
    ) -> Decision:
        """The best place, or why there is none. ``remember``: None leaves the reason open."""
        allowed = self._allowed(replica)
        if allowed is None:
            candidate = self._pools.best(replica, replica.footprint_on, only=only)
        else:
            candidate = None
            for tier in allowed.tiers:
                candidate = self._pools.best(
                    replica,
                    replica.footprint_on,
                    only=tier if only is None else tier & only,
                    blocked_devices=allowed.blocked_devices,
                )
                if candidate is not None:
                    break
        if candidate is not None:
            return self._placed(replica, candidate)
        if remember is None:
            reason = RefusedReason.INSUFFICIENT_HBM
            return Refused(key=replica.key, reason=reason, message="")
        if allowed is not None and (allowed.left_out or allowed.blocked_devices):
            others = self._pools.best(replica, replica.footprint_on, only=only)
            if others is not None:
                return _refused_by_neighbours(replica, others, allowed)
        return self._explain(replica, remember=remember and allowed is None)

    def _allowed(self, replica: WantedReplica) -> Allowed | None:
        if not self._has_askers:
            return None
        eligible = self._pools.eligible(replica)
        return self._neighbourhood.allowed(replica.key.namespace, replica.neighbours, eligible)

    def _settle(self, replica: WantedReplica, placed: Placed) -> None:
        """It is a neighbour from now on, where somebody cares."""
        if not self._has_askers:
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

    def _is_free(self, replica: WantedReplica) -> bool:
        """Whether a second look may place it: room is all that it looks at."""
        namespace = replica.key.namespace
        has_quota = self.quotas.limit_bytes(namespace) is not None or self.quotas.has_problems
        return not has_quota and self._allowed(replica) is None

    def _explain(self, replica: WantedReplica, *, remember: bool) -> Refused:
        refused = self._explainer.explain(replica)
        self.num_explained += 1
        if remember:
            self._refused[replica.refusal_key] = (replica, refused)
        return refused

    def _at_home(
        self, replica: WantedReplica, home: Home, allowed: Allowed | None
    ) -> Candidate | None:
        """The replica where it was; None when it does not fit there any more.

        Where nobody says which devices it had of a node that has several kinds, the tightest fit.
        """
        eligible = self._pools.eligible(replica)
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
            free = min(room(device) for device in devices)
            promised = footprint.total_bytes
        if free < footprint.total_bytes:
            return None
        return Candidate(
            node=node,
            devices=devices,
            footprint=footprint,
            bytes_per_device=promised,
            leftover_bytes=free - footprint.total_bytes,
        )

    def _placed(
        self, replica: WantedReplica, best: Candidate, *, rule: str | None = None
    ) -> Placed:
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
                f"leaves {format_gib(best.leftover_bytes)}"
            ),
            resource=best.node.resource,
            must_wait=any(
                device.uuid in self.ledger.busy_devices or device.uuid in self.ledger.stuck_devices
                for device in (best.devices if shared else ())
            ),
        )


def _is_movable(replica: WantedReplica) -> bool:
    """Whether a replica that does not run yet may as well go elsewhere.

    Who has a home goes there, and who asked to be spread was given a node for other reasons.
    """
    return replica.home is None and replica.strategy is PlacementStrategy.PACK


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


def claim_of(placed: Placed, predecessor: str) -> Reservation:
    """The claim of a successor on its room, while its predecessor is still there."""
    return replace(placed.reservation(), replaces=predecessor, is_moving=False)
