"""Best fit, one replica after the other, on a ledger that books as it goes.

The greedy answer takes milliseconds and can be explained in one sentence per replica. Where
nothing is to spare it places 92 % of what the exact optimum does (``bench/placement``), and where
it refuses what would have fitted, a second look packs all that is wanted at once
(``second_look``). Same input, same plan: ties go to the first name.
"""

from collections.abc import Sequence
from dataclasses import replace

from memroute.placement.explanation import Explainer
from memroute.placement.inventory import Inventory, Node, PlacementMode, Reservation
from memroute.placement.ledger import Ledger
from memroute.placement.pools import Candidate, Pools
from memroute.placement.problem import (
    Decision,
    Home,
    Placed,
    PlacementStrategy,
    Refused,
    WantedReplica,
)
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

    def __init__(self, inventory: Inventory) -> None:
        self.ledger = Ledger(inventory)
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
        return decision

    def place_all(self, wanted: Sequence[WantedReplica]) -> tuple[Decision, ...]:
        """Where the replicas go, in the order given; from now on their room is taken.

        Whoever finds a place in that order has one. When some are refused that others of them
        are in the way of, those others may be given another (``second_look``).
        """
        busy = set(self.ledger.busy_devices)
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
            if isinstance(one, Placed) and _is_movable(wanted[number])
        }
        if not movable:
            return
        refused = [number for number, one in enumerate(decisions) if isinstance(one, Refused)]
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
        its devices does not.
        """
        taken = self.ledger.release(owner)
        touched = {one.node for one in taken}
        for node in touched:
            self._pools.refresh(node)
        candidate = self._pools.best(successor, successor.footprint_on)
        decision: Decision
        if candidate is None:
            decision = self._explain(successor, remember=False)
        else:
            decision = self._placed(successor, candidate)
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
        if claim.num_exclusive_devices:
            fits = (
                self.ledger.num_free_devices(node) >= claim.num_exclusive_devices
                and self.ledger.exclusive_bytes(node) >= claim.exclusive_bytes
            )
        else:
            free = {device.uuid: self.ledger.free_bytes(device) for device in node.devices}
            fits = all(free.get(uuid, 0) >= size for uuid, size in claim.device_bytes.items())
        self.ledger.restore(taken)
        return fits

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

    def _decide(self, replica: WantedReplica) -> Decision:
        if replica.home is not None:
            candidate = self._at_home(replica, replica.home)
            if candidate is not None:
                return self._placed(replica, candidate, rule="where it was promised or ran before")
        known = self._refused.get(replica.refusal_key)
        if known is not None:
            return replace(known[1], key=replica.key)
        candidate = self._pools.best(replica, replica.footprint_on)
        if candidate is None:
            return self._explain(replica, remember=True)
        return self._placed(replica, candidate)

    def _explain(self, replica: WantedReplica, *, remember: bool) -> Refused:
        refused = self._explainer.explain(replica)
        self.num_explained += 1
        if remember:
            self._refused[replica.refusal_key] = (replica, refused)
        return refused

    def _at_home(self, replica: WantedReplica, home: Home) -> Candidate | None:
        """The replica where it was; None when it does not fit there any more.

        Where nobody says which devices it had of a node that has several kinds, the tightest fit.
        """
        eligible = self._pools.eligible(replica)
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


def _kind(node: Node) -> str:
    is_slice = any(device.is_slice for device in node.devices)
    return node.resource if is_slice else "whole device(s)"


def claim_of(placed: Placed, predecessor: str) -> Reservation:
    """The claim of a successor on its room, while its predecessor is still there."""
    return replace(placed.reservation(), replaces=predecessor, is_moving=False)
