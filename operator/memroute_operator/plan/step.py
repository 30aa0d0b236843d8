"""The next step for all deployments together, on one ledger."""

from collections.abc import Mapping

from memroute.placement import (
    Home,
    PlacementMode,
    PlacementStrategy,
    Refused,
    RefusedReason,
    Solver,
    excess,
)
from memroute_operator.gather import Facts
from memroute_operator.plan.actions import (
    Create,
    Delete,
    MarkSleep,
    OpenGate,
    Outcome,
    PlanContext,
    Step,
)
from memroute_operator.plan.draining import Drains
from memroute_operator.plan.keeping import Keeping, Worth, num_old, sort_out, unwanted, why_surplus
from memroute_operator.plan.look_ahead import Aheads
from memroute_operator.plan.moving import why_moved
from memroute_operator.plan.overbooking import find_overbooked, who_leaves_now, with_turns
from memroute_operator.plan.preemption import Ways, by_priority, priority_of
from memroute_operator.plan.replacements import Replacement, stay
from memroute_operator.plan.rollout import Rollout
from memroute_operator.plan.verdict import judged
from memroute_operator.plan.ways_back import keep_ways_back, let_go
from memroute_operator.plan.wishes import (
    Missing,
    Wishes,
    is_held_back,
    missing_of,
    wanted_replica,
)
from memroute_operator.replicas.replica import Replica
from memroute_operator.sleeping.deciding import Sleeps
from memroute_operator.sleeping.latecomers import called_back
from memroute_operator.spec.deployment import Deployment


def plan_step(facts: Facts, context: PlanContext) -> Step:
    """The next step for all deployments together."""
    return _Planning(facts, context).run()


class _Planning:
    """One step. Owns its solver, and the step that it fills."""

    def __init__(self, facts: Facts, context: PlanContext) -> None:
        self._facts = facts
        self._context = context
        self._step = Step(outcomes={one.key: Outcome() for one in facts.deployments})
        self._solver = Solver(facts.inventory, context.quotas, facts.neighbours)
        self._drains = Drains(facts.replicas, context, self._step)
        self._aheads = Aheads(facts.aheads, facts.replicas, context, self._step)
        self._going: set[str] = set()
        """Pods that leave: their gates stay closed."""
        self._cordoned = frozenset(
            node.name for node in facts.inventory.nodes if node.unusable_reason == "Cordoned"
        )
        self._num_created: dict[str, int] = {}
        self._refused_sleepers: list[Missing] = []
        """Replicas that may sleep, and for which there is no room now."""
        self._slots: dict[str, set[int]] = {}
        """Slots that pods have, or are given in this step."""
        self._by_deployment = facts.replicas_by_deployment()
        self._deployments = by_priority(
            [
                judged(one, self._by_deployment.get(one.key, []), facts.aheads_of(one.key))
                for one in facts.deployments
            ],
            context,
        )
        self._paused = frozenset(one.key for one in facts.deployments if one.paused)
        """ModelDeployments of which nothing is changed."""
        self._claims: dict[str, dict[int, Home]] = {}
        for one in context.departed_claims:
            self._claims.setdefault(one.deployment, {})[one.index] = one.claim.home()
        self._taken: dict[str, set[int]] = {}
        for slot in facts.taken_slots:
            key, _, number = slot.rpartition("#")
            self._taken.setdefault(key, set()).add(int(number))

    def run(self) -> Step:
        by_deployment = dict(self._by_deployment)
        keepings = {
            one.key: sort_out(one, by_deployment.pop(one.key, []), self._context, self._worth(one))
            for one in self._deployments
        }
        self._delete_orphans(by_deployment)
        for deployment in self._deployments:
            self._begin(deployment, keepings[deployment.key])
        wishes = self._wishes(keepings)
        self._place(wishes.claimed)
        ways_back = {
            one.key: keep_ways_back(one, keepings[one.key], self._solver)
            for one in self._deployments
        }
        self._place_by_priority(wishes)
        self._mend()
        for deployment in self._deployments:
            if deployment.returned_from is not None:
                let_go(ways_back[deployment.key], self._solver)
            self._replace(deployment, keepings[deployment.key])
            self._clear_aheads(deployment, keepings[deployment.key])
        self._aheads.clear_orphans(one.key for one in self._deployments)
        Sleeps(
            self._facts,
            self._context,
            self._solver,
            self._step,
            deployments=self._deployments,
            going=self._going,
            refused=self._refused_sleepers,
        ).run()
        self._open_gates()
        self._tell_quotas()
        self._tell_contention()
        self._step.num_explained = self._solver.num_explained
        return self._step

    def _tell_contention(self) -> None:
        ledger = self._solver.ledger
        for replica in self._facts.replicas:
            outcome = self._step.outcomes.get(replica.deployment)
            if outcome is not None and replica.device_bytes:
                most = max(map(ledger.contention_on, replica.device_bytes))
                outcome.contention = max(outcome.contention, most)

    def _worth(self, deployment: Deployment) -> Worth:
        return Worth(
            cordoned=self._cordoned,
            why_replaced=lambda replica: self._why_replaced(deployment, replica),
            freed=lambda replica: self._freed(deployment, replica),
        )

    def _freed(self, deployment: Deployment, replica: Replica) -> float:
        """What its end would leave in one piece: siblings on its node, devices, or bytes of one."""
        ledger = self._solver.ledger
        if deployment.strategy is PlacementStrategy.SPREAD:
            return ledger.replicas_on_node(deployment.key, replica.node)
        nodes = ledger.by_name.get(replica.node, ())
        if replica.mode is PlacementMode.EXCLUSIVE:
            return sum(map(ledger.num_free_devices, nodes)) + replica.num_devices
        own = replica.device_bytes
        return min(
            (
                ledger.free_bytes(device) + own[device.uuid]
                for node in nodes
                for device in node.devices
                if device.uuid in own
            ),
            default=0,
        )

    def _delete_orphans(self, by_deployment: Mapping[str, list[Replica]]) -> None:
        for orphan in (r for replicas in by_deployment.values() for r in replicas):
            self._going.add(orphan.key)
            if orphan.is_stuck:
                self._step.stuck.append(orphan)
            if orphan.successor is not None:
                self._solver.drop_claim(orphan.key)
            if orphan.node in self._context.lost_nodes:
                why = f"node {orphan.node} is unreachable"
                self._step.actions.append(Delete(replica=orphan, why=why, force=True))
            elif not orphan.is_terminating:
                why = "its ModelDeployment is gone"
                self._step.actions.append(Delete(replica=orphan, why=why, only_as_seen=True))

    def _begin(self, deployment: Deployment, keeping: Keeping) -> None:
        """What needs no room: deletions, drains of what is too many, claims that are void."""
        outcome = self._step.outcomes[deployment.key]
        self._step.actions += keeping.deletes
        self._step.stuck += keeping.stuck
        outcome.stuck = keeping.stuck
        room = deployment.replicas - len(keeping.kept)
        outcome.kept = {one.key for one in (*keeping.kept, *keeping.ending[: max(0, room)])}
        self._going |= {one.replica.key for one in keeping.deletes}
        self._slots[deployment.key] = (
            keeping.slots
            | self._taken.get(deployment.key, set())
            | self._claims.get(deployment.key, {}).keys()
        )
        outcome.failed = deployment.failed
        outcome.num_old = num_old(deployment, keeping.kept)
        worth = self._worth(deployment)
        for replica in keeping.surplus:
            self._going.add(replica.key)
            why = why_surplus(deployment, replica, keeping.kept, worth)
            self._drains.drain(replica, why=why)
        kept = {one.key for one in keeping.kept} | {one.key for one in keeping.ending}
        for replica in (*keeping.kept, *keeping.ending, *keeping.surplus, *keeping.stuck):
            claim = replica.successor
            is_void = claim is not None and (
                claim.revision != deployment.revision or replica.key not in kept
            )
            if is_void:
                self._solver.drop_claim(replica.key)
            if replica.unschedulable_since is not None:
                self._step.has_timers = True
            if replica.node in self._facts.lost_nodes:
                self._step.has_timers = True

    def _mend(self) -> None:
        """Drain the youngest from devices of which more was promised than they have."""
        found = find_overbooked(self._facts.replicas, self._solver.ledger, self._going)
        leaving = {key for one in found for key in one.drained} - self._going
        leaving -= {r.key for r in self._facts.replicas if r.deployment in self._paused}
        for replica in who_leaves_now(self._facts.replicas, leaving):
            self._going.add(replica.key)
            self._drains.drain(replica, why="its device is overbooked")
        ending = {one.key for one in self._facts.replicas if one.is_terminating}
        found = with_turns(found, self._going | ending)
        self._step.overbooked = found
        for replica in self._facts.replicas:
            outcome = self._step.outcomes.get(replica.deployment)
            if outcome is not None:
                outcome.overbooked += [one for one in found if replica.key in one.pods]

    def _replace(self, deployment: Deployment, keeping: Keeping) -> None:
        """Roll out an edited spec, and move off nodes that are cordoned, or not wanted any more."""
        if deployment.paused:
            return
        replaced = unwanted(deployment, keeping.kept, self._worth(deployment))
        replacements: list[Replacement] = []
        for replica in keeping.kept:
            if replica.key in self._going:
                continue
            why = self._why_replaced(deployment, replica) if replica.key in replaced else None
            if why is None:
                stay(replica, self._step)
                continue
            successor = wanted_replica(deployment, replica.index, self._context)
            replacements.append(
                Replacement(
                    replica=replica,
                    successor=successor,
                    why=why,
                    is_outdated=replica.revision != deployment.revision,
                )
            )
        if not replacements:
            return
        is_refused = f"{deployment.key}/" in self._context.held_back
        if is_refused and deployment.key not in self._context.no_surge:
            # Its successors would not be accepted: what serves goes on serving.
            for one in replacements:
                stay(one.replica, self._step)
            self._step.outcomes[
                deployment.key
            ].rollout = f"{len(replacements)} replica(s) to replace, once its pods are accepted"
            return
        slots = self._slots[deployment.key]
        num_created = self._num_created.get(deployment.key, 0)
        rollout = Rollout(
            deployment,
            keeping,
            self._solver,
            self._drains,
            self._step,
            aheads=self._aheads,
            num_expected=keeping.num_pods - len(keeping.surplus) + num_created,
            num_pods=keeping.num_pods + num_created,
            num_refused=len(self._step.outcomes[deployment.key].refused),
            context=self._context,
            slots=slots,
            leaving=frozenset(self._going),
        )
        self._going |= rollout.run(replacements)

    def _clear_aheads(self, deployment: Deployment, keeping: Keeping) -> None:
        num_kept_old = self._step.outcomes[deployment.key].num_old
        self._aheads.clear(deployment, keeping.kept, num_kept_old)

    def _why_replaced(self, deployment: Deployment, replica: Replica) -> str | None:
        """Why another replica should take its place; None when it should stay."""
        if deployment.footprint is None:
            return None
        if replica.revision != deployment.revision:
            return "the spec has changed"
        if replica.node in self._cordoned:
            return f"node {replica.node} is cordoned"
        stuck = self._solver.ledger.stuck_devices
        if replica.is_gated and not stuck.isdisjoint(replica.device_bytes):
            return "a pod that hangs in Terminating holds its device"
        return why_moved(deployment, replica, self._solver.ledger)

    def _wishes(self, keepings: Mapping[str, Keeping]) -> Wishes:
        wishes = Wishes()
        aside = self._context.stood_aside
        owners = called_back(
            [one for one in self._deployments if one.key in aside.values()],
            self._by_deployment,
            self._context.demand,
        )
        for deployment in self._deployments:
            missing = missing_of(
                deployment,
                keepings[deployment.key],
                self._context,
                claims=self._claims.get(deployment.key, {}),
                taken=self._taken.get(deployment.key, ()),
            )
            for one in missing:
                self._slots[deployment.key].add(one.wanted.key.index)
                owner = aside.get(one.slot)
                if owner is not None and owner in owners:
                    self._step.outcomes[deployment.key].stands_aside_for = owner
                else:
                    wishes.add(one)
        return wishes

    def _place(self, missing: list[Missing]) -> None:
        decisions = self._solver.place_all([one.wanted for one in missing])
        for one, decision in zip(missing, decisions, strict=True):
            outcome = self._step.outcomes[one.deployment.key]
            if isinstance(decision, Refused):
                outcome.refused[decision.key.index] = decision
                short = decision.reason is RefusedReason.INSUFFICIENT_HBM
                if short and one.wanted.rest_bytes is not None:
                    self._refused_sleepers.append(one)
                continue
            if is_held_back(one.deployment, decision.key, self._context):
                continue  # what was claimed for it stays its own for a while
            outcome.kept.add(decision.key.pod)
            self._num_created[one.deployment.key] = self._num_created.get(one.deployment.key, 0) + 1
            self._step.actions.append(
                Create(deployment=one.deployment, placed=decision, is_gated=decision.must_wait)
            )

    def _place_by_priority(self, wishes: Wishes) -> None:
        """What waits for room: by priority, what ran before what is new, then by age."""

        def rank(one: Missing) -> int:
            known = priority_of(one.deployment, self._context)
            return 0 if known is None else -known.value

        waiting = sorted([*wishes.returning, *wishes.new], key=rank)
        ways = Ways(self._facts, self._context, self._solver, self._drains, self._step, self._going)
        ways.drop_void(waiting)
        self._place(waiting)
        refused = self._step.outcomes
        placed = {
            one.slot
            for one in waiting
            if one.wanted.key.index not in refused[one.deployment.key].refused
        }
        ways.settle(waiting, placed)

    def _tell_quotas(self) -> None:
        """Tell each deployment whose namespace holds more than its quota."""
        quotas, ledger = self._context.quotas, self._solver.ledger
        over = {name: excess(quotas, name, ledger.held_bytes(name)) for name in ledger.namespaces()}
        for deployment in self._facts.deployments:
            self._step.outcomes[deployment.key].over_quota = over.get(deployment.namespace)

    def _open_gates(self) -> None:
        """Let queued replicas start, the oldest first, one per device at a time."""
        marked = {one.replica.uid for one in self._step.actions if isinstance(one, MarkSleep)}
        occupied = {
            uuid for r in self._facts.replicas
            if r.occupies_start or r.is_stuck or r.changes_sleep or r.uid in marked
            for uuid in r.device_bytes
        }  # fmt: skip
        for replica in self._facts.replicas:
            if not replica.is_gated or replica.is_terminating or replica.key in self._going:
                continue
            if replica.deployment in self._paused:
                continue
            if occupied & replica.device_bytes.keys():
                continue
            occupied |= replica.device_bytes.keys()
            self._step.actions.append(OpenGate(replica=replica))
