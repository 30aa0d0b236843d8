"""Best fit, one replica after the other, on a ledger that books as it goes.

The greedy answer takes milliseconds and can be explained in one sentence per replica. Where
nothing is to spare it places 92 % of what the exact optimum does (``bench/placement``), and where
it refuses what would have fitted, a second look packs all that is wanted at once
(``second_look``). Same input, same plan: ties go to the first name.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from memroute.placement.inventory import Inventory, Node, Reservation
from memroute.placement.ledger import Ledger
from memroute.placement.neighbours import Neighbour
from memroute.placement.problem import (
    Decision,
    Placed,
    PlacementStrategy,
    Refused,
    WantedReplica,
)
from memroute.placement.quota import NO_QUOTAS, HBMQuotas
from memroute.placement.search import Search
from memroute.placement.second_look import kinds_of, second_look
from memroute.placement.view import LedgerView
from memroute.placement.ways import Way


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
        self._search = Search(inventory, self.ledger, quotas, neighbours)
        self._pools = self._search.pools
        self._refused = self._search.refused

    @property
    def num_explained(self) -> int:
        """Explanations that were worked out; the others are copies."""
        return self._search.num_explained

    def place(self, replica: WantedReplica) -> Decision:
        """Where the replica goes; from now on its room is taken."""
        decision = self._search.decide(replica)
        if isinstance(decision, Placed):
            self.book(decision.reservation())
            self._search.settle(replica, decision)
        return decision

    def look(self, replica: WantedReplica) -> Decision:
        """Where the replica would go now: nothing is booked."""
        return self._search.decide(replica)

    def place_all(self, wanted: Sequence[WantedReplica]) -> tuple[Decision, ...]:
        """Where the replicas go, in the order given; from now on their room is taken.

        Whoever finds a place in that order has one. When some are refused that others of them
        are in the way of, those others may be given another (``second_look``). A limit of
        contention costs nobody a place: where more find one by bytes alone, those places count.
        """
        busy = set(self.ledger.busy_devices)
        if not self._search.has_askers:
            self._search.has_askers = any(not one.neighbours.is_empty for one in wanted)
        decisions = [self.place(replica) for replica in wanted]
        if any(isinstance(one, Refused) for one in decisions):
            self._look_again(wanted, decisions, busy)
            if self.ledger.max_contention is not None:
                self._look_without_limit(wanted, decisions, busy)
        return tuple(decisions)

    def _look_without_limit(
        self, wanted: Sequence[WantedReplica], decisions: list[Decision], busy: set[str]
    ) -> None:
        """Plan by bytes alone where some are refused; changes decisions and ledger if that helps.

        ``busy``: devices on which engines started before any of them was placed.
        """
        movable = self._movable(wanted, decisions)
        refused = [n for n, one in enumerate(decisions) if isinstance(one, Refused)]
        if not movable or not refused:
            return
        kept, asked = list(decisions), sorted([*movable, *refused])
        limit, self.ledger.max_contention = self.ledger.max_contention, None
        self._take_back(movable, decisions, busy)
        for number in asked:
            decisions[number] = self.place(wanted[number])
        if any(isinstance(one, Refused) for one in decisions):
            self._look_again(wanted, decisions, busy)
        self.ledger.max_contention = limit
        if sum(isinstance(one, Refused) for one in decisions) < len(refused):
            return
        self._take_back(self._movable(wanted, decisions), decisions, busy)
        for number in asked:
            decisions[number] = one = kept[number]
            if isinstance(one, Placed):
                self.book(one.reservation())

    def _movable(
        self, wanted: Sequence[WantedReplica], decisions: Sequence[Decision]
    ) -> dict[int, Placed]:
        """Decisions of this step that may as well be others, by position."""
        return {
            number: one
            for number, one in enumerate(decisions)
            if isinstance(one, Placed)
            and self._search.is_free(wanted[number])
            and _is_movable(wanted[number])
        }

    def _take_back(
        self, movable: Mapping[int, Placed], decisions: Sequence[Decision], busy: set[str]
    ) -> None:
        """Book those of this step no more; engines start where those of the others do."""
        for one in movable.values():
            self.ledger.release(one.key.pod)
            self.ledger.restore(())
        starting = set(busy)
        for number, decision in enumerate(decisions):
            if isinstance(decision, Placed) and number not in movable:
                starting.update(decision.device_uuids)
        self.ledger.busy_devices = starting
        for name in {one.node for one in movable.values()}:
            self._pools.refresh(name)
        self._refused.clear()  # room was given back

    def _look_again(
        self, wanted: Sequence[WantedReplica], decisions: list[Decision], busy: set[str]
    ) -> None:
        """Give more of them a place, where there is one; changes decisions and ledger.

        ``busy``: devices on which engines started before any of them was placed.
        """
        movable = self._movable(wanted, decisions)
        if not movable:
            return
        refused = [
            number
            for number, one in enumerate(decisions)
            if isinstance(one, Refused)
            and self._search.is_free(wanted[number])
            and _is_by_device_bytes_alone(wanted[number])
        ]
        view = LedgerView(self.ledger, [one.reservation() for one in movable.values()])
        placed = {number: view.place_of(one) for number, one in movable.items()}
        kinds = kinds_of(
            wanted, view.products, lambda replica: view.positions(self._pools.eligible(replica))
        )
        places = second_look(view.room, kinds, placed, refused)
        if len(places) == len(placed):
            return
        self._take_back(movable, decisions, busy)
        for number in sorted(places):
            replica = wanted[number]
            candidate = view.candidate(self.ledger, replica, places[number])
            decision = self._search.placed(
                replica, candidate, rule="packed with all that is wanted"
            )
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
        decision = self._search.find(successor, remember=False, gone=(owner,))
        if isinstance(decision, Placed):
            freed = sum(one.total_bytes for one in taken if one.replaces is None)
            decision = self._search.within_quota(decision, freed_bytes=freed)
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
        decision = self._search.place_on(replica, keys, victims)
        self.ledger.restore(taken)
        self._pools.refresh(node)
        if decision is None:
            return None
        if not self.ledger.stuck_devices.isdisjoint(decision.device_uuids):
            return None  # it could not start there before somebody mends that node
        claim = replace(decision.reservation(), owner=replica.key.slot, is_moving=False)
        self.ledger.book_way(claim, sorted(victims))
        self._pools.refresh(node)
        return decision

    def holds_way(self, owner: str, replica: WantedReplica) -> bool:
        """Whether that claim still has its room, once all who give way to it have gone.

        What others use for certain counts: a reading may still show those that have gone.
        """
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
            and self._is_claimable(node, claim)
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

    def _is_claimable(self, node: Node, claim: Reservation) -> bool:
        if claim.num_exclusive_devices:
            return self.ledger.num_free_devices(node) >= claim.num_exclusive_devices
        rest = None if claim.sleep is None else claim.sleep.rest_bytes
        free = {
            device.uuid: self.ledger.claimable_bytes(device, rest_bytes=rest)
            for device in node.devices
        }
        return all(free.get(uuid, 0) >= size for uuid, size in claim.device_bytes.items())

    def _has_room(self, node: Node, claim: Reservation) -> bool:
        if claim.num_exclusive_devices:
            return (
                self.ledger.num_free_devices(node) >= claim.num_exclusive_devices
                and self.ledger.exclusive_bytes(node) >= claim.exclusive_bytes
            )
        rest = None if claim.sleep is None else claim.sleep.rest_bytes
        free = {
            device.uuid: self.ledger.free_bytes(device, rest_bytes=rest) for device in node.devices
        }
        return all(free.get(uuid, 0) >= size for uuid, size in claim.device_bytes.items())

    def book(self, reservation: Reservation) -> None:
        """Count one more promise."""
        self.ledger.book(reservation)
        self._pools.refresh(reservation.node)

    def change_sleep(self, owner: str, *, is_asleep: bool) -> None:
        """Count a replica as asleep, or as awake, from now on."""
        kept = self.ledger.by_owner.get(owner)
        if kept is None:
            return
        self.ledger.change_sleep(owner, is_asleep=is_asleep)
        self._pools.refresh(kept.node)
        self._refused.clear()  # room may have been given back

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


def _is_movable(replica: WantedReplica) -> bool:
    """Whether a replica that does not run yet may as well go elsewhere.

    Who has a home goes there, and who asked to be spread was given a node for other reasons.
    """
    return (
        replica.home is None
        and replica.strategy is PlacementStrategy.PACK
        and _is_by_device_bytes_alone(replica)
    )


def _is_by_device_bytes_alone(replica: WantedReplica) -> bool:
    """Whether free bytes of devices decide where it fits: a second look sees nothing else."""
    return replica.rest_bytes is None and not replica.host_bytes


def claim_of(placed: Placed, predecessor: str) -> Reservation:
    """The claim of a successor on its room, while its predecessor is still there."""
    return replace(placed.reservation(), replaces=predecessor, is_moving=False)
