"""Replacing replicas: beside the old one where there is room, else in its place.

```text
surge        successor created ──► serves ──► the old one drains (``keeping``: it is one too many)
drain first  claim written ──► claim seen ──► drains ──► deleted ──► successor created on its claim
                │           └─ not before its successor's weights are there (``look_ahead``)
                │ edited back, or it fits no more: the claim is dropped, and it serves on
```

A replica is replaced when its spec was edited, when its node is cordoned and its successor fits
elsewhere, or when ``spec.placement`` wants it elsewhere. How many at a time is ``spec.rollout``.
Nobody waits for another's room: a successor that is created has its own, and a replica leaves
first only when what it leaves is enough. So a full cluster cannot end in a circle.
"""

from collections.abc import Collection
from dataclasses import replace

from memroute.placement import (
    Placed,
    Refused,
    RefusedReason,
    Solver,
    WantedReplica,
)
from memroute_operator.plan.actions import (
    ClaimRoom,
    Create,
    Delete,
    MarkDraining,
    Outcome,
    PlanContext,
    Step,
)
from memroute_operator.plan.draining import Drains
from memroute_operator.plan.keeping import Keeping
from memroute_operator.plan.look_ahead import Aheads, Way
from memroute_operator.plan.moving import is_crowded
from memroute_operator.plan.replacements import Replacement, grows, order, stay
from memroute_operator.plan.rollout_story import RolloutStory, told_no_room
from memroute_operator.plan.wishes import free_slot, is_held_back
from memroute_operator.pod.pod_names import replica_key
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment


class Rollout:
    """The replacements of one deployment in one step."""

    def __init__(
        self,
        deployment: Deployment,
        keeping: Keeping,
        solver: Solver,
        drains: Drains,
        step: Step,
        *,
        aheads: Aheads,
        num_expected: int,
        num_pods: int,
        num_refused: int,
        slots: set[int],
        context: PlanContext,
        leaving: Collection[str] = (),
    ) -> None:
        """``num_expected``: replicas that exist, end, or are created in this step.

        ``num_pods``: the same with those that are too many. ``num_refused``: missing ones that fit
        nowhere. ``slots``: those that are taken; a surge adds its own. ``leaving``: pods that
        leave for another reason.
        """
        self._leaving = leaving
        self._aheads = aheads
        self._deployment = deployment
        self._keeping = keeping
        self._solver = solver
        self._drains = drains
        self._step = step
        self._num_refused = num_refused
        self._slots = slots
        self._context = context
        self._outcome: Outcome = step.outcomes[deployment.key]
        self._bounds = deployment.rollout.bounds(deployment.replicas)
        self._num_expected = min(deployment.replicas, num_expected)
        self._num_more = deployment.replicas + self._bounds.surge - num_pods
        """Pods that may be created beside those that are there."""
        self._num_starting = max(0, num_expected - deployment.replicas)
        """Surges that are there, or were created in this step: each is for one replica."""
        self._is_under_way = any(one.successor is not None for one in keeping.kept)
        """Whether a replica leaves first already: that is ended before a surge is tried again."""
        self._story = RolloutStory(
            deployment=deployment, kept=keeping.kept, bounds=self._bounds, outcome=self._outcome
        )

    def run(self, replacements: list[Replacement]) -> set[str]:
        """Take the replacements one step further; the pods that are on their way out."""
        going: set[str] = set()
        waiting: list[Replacement] = []
        for replacement in sorted(replacements, key=order):
            replica = replacement.replica
            is_lost = replica.is_broken or self._is_failure(replica)
            if is_lost or self._may_leave(replacement, going):
                if self._replace(replacement, is_lost=is_lost):
                    going.add(replica.key)
            else:
                waiting.append(replacement)
                stay(replica, self._step)
        if going or waiting:
            self._story.tell(replacements, going, self._in_the_way)
        return going

    def _may_leave(self, replacement: Replacement, going: set[str]) -> bool:
        """Whether the replica may leave before its successor serves; else one starts beside it."""
        if not replacement.is_under_way and self._surges(replacement):
            return False
        most = self._bounds.unavailable
        if most is None:
            # None is spared where a surge does it.
            most = (
                1
                if self._story.no_room or replacement.is_under_way or not self._bounds.surge
                else 0
            )
        return most > 0 and self._others_serve(replacement, going, most)

    def _surges(self, replacement: Replacement) -> bool:
        """Whether a successor starts beside the replica, now or since an earlier step."""
        if self._num_starting > 0:
            self._num_starting -= 1
            return True
        if self._num_more <= 0 or self._story.no_room is not None or self._is_under_way:
            return False
        self._story.no_room = self._in_the_way()
        if self._story.no_room is not None:
            return False
        key = replica_key(self._deployment, free_slot(self._slots))
        if is_held_back(self._deployment, key, self._context):
            return True  # it is on its way, or waits for its next try
        return self._start_beside(replacement, replace(replacement.successor, key=key))

    def _start_beside(self, replacement: Replacement, wanted: WantedReplica) -> bool:
        """Whether a successor has room now: it is created then."""
        decision = self._solver.place(wanted)
        if isinstance(decision, Refused) and decision.reason is RefusedReason.DEVICES_UNKNOWN:
            return True  # nobody can say yet that there is no room
        if isinstance(decision, Refused):
            self._story.no_room = told_no_room(wanted)
            return False
        if self._is_behind_stuck(decision):
            self._story.no_room = "a pod that hangs in Terminating holds the room for its successor"
        if self._story.no_room is not None or not self._is_better(replacement, decision):
            self._solver.take_back(decision.key.pod, decision.node)
            return False
        self._slots.add(wanted.key.index)
        self._num_more -= 1
        self._story.surged.append(wanted.key.pod_name)
        self._outcome.kept.add(wanted.key.pod)
        self._step.actions.append(
            Create(deployment=self._deployment, placed=decision, is_gated=decision.must_wait)
        )
        return True

    def _in_the_way(self) -> str | None:
        """What keeps every successor from starting beside the old replica, other than room."""
        if self._num_refused:
            return f"{self._num_refused} of its replicas fit nowhere"
        return self._context.no_surge.get(self._deployment.key)

    def _others_serve(self, replacement: Replacement, going: set[str], most: int) -> bool:
        """Whether no more than ``most`` replicas would be missing without it.

        Missing replicas that fit nowhere are waited for only by successors that take more room:
        a smaller one may be what makes them fit.
        """
        replica = replacement.replica
        others = [
            other
            for other in self._keeping.kept
            if other.key != replica.key
            and other.key not in going
            and other.key not in self._leaving
            and other.is_ready
            and not other.is_draining
        ]
        num_expected = self._num_expected
        if grows(replacement):
            num_expected += self._num_refused
        return len(others) >= num_expected - most

    def _replace(self, replacement: Replacement, *, is_lost: bool) -> bool:
        """Whether the replica is on its way out. ``is_lost``: it serves nobody."""
        replica = replacement.replica
        claim = self._solver.ledger.claims.get(replica.key)
        if claim is not None:
            if self._solver.holds(replica.key, replacement.successor):
                way = Way.FREE if is_lost else self._look_ahead(replacement, claim.node)
                if way is Way.FREE:
                    self._drains.drain(replica, replacement.why)
                elif way is Way.WAIT and replica.is_draining:
                    # For a revision before this one, or what had come has gone.
                    self._step.actions.append(MarkDraining(replica=replica, draining=False))
                if way is not Way.ELSEWHERE:
                    return True  # it is the next one to leave, and serves until then
                self._solver.drop_claim(replica.key)
                stay(replica, self._step)
                return False
            self._solver.drop_claim(replica.key)
        decision = self._solver.replace(replica.key, replacement.successor)
        if isinstance(decision, Placed) and (
            self._is_behind_stuck(decision) or not self._is_better(replacement, decision)
        ):
            # Its successor could not start before somebody mends that node; or gains nothing.
            self._solver.drop_claim(replica.key)
            stay(replica, self._step)
            return False
        if isinstance(decision, Placed):
            self._step.actions.append(
                ClaimRoom(
                    replica=replica,
                    placed=decision,
                    revision=self._deployment.revision,
                    deployment=self._deployment,
                )
            )
            self._step.has_timers = True
            told = None if is_lost else self._aheads.foresee(self._deployment, decision.node)
            self._story.serves_meanwhile(replica, told)
            return True
        self._refuse(replacement, decision)
        if self._is_failure(replica):
            # It serves nobody, and will not: others may start where it is.
            why = "its revision has failed"
            self._step.actions.append(Delete(replica=replica, why=why))
            return True
        # Better an old replica that serves than a new one that cannot be placed.
        stay(replica, self._step)
        return False

    def _look_ahead(self, replacement: Replacement, node: str) -> Way:
        """Whether it may leave now; else what its successor needs is on its way, or is to be."""
        decision = self._aheads.decide(self._deployment, replacement.replica, node)
        if decision.told is None:
            return decision.way
        if decision.way is Way.FREE:
            self._story.skipped = decision.told
        else:
            self._story.serves_meanwhile(replacement.replica, decision.told)
        return decision.way

    def _is_failure(self, replica: Replica) -> bool:
        """Whether it is of a revision that has failed, and does not serve."""
        failed = self._deployment.returned_from
        return failed is not None and replica.revision == failed.revision and not replica.is_ready

    def _is_behind_stuck(self, decision: Placed) -> bool:
        return not self._solver.ledger.stuck_devices.isdisjoint(decision.device_uuids)

    def _is_better(self, replacement: Replacement, decision: Placed) -> bool:
        """Whether a replica that only has too many siblings would have fewer. Both are booked."""
        ledger, deployment, replica = self._solver.ledger, self._deployment, replacement.replica
        if replacement.is_outdated or "placement.strategy" not in replacement.why:
            return True
        return is_crowded(deployment, replica, ledger) and (
            ledger.replicas_on_node(deployment.key, decision.node)
            < ledger.replicas_on_node(deployment.key, replica.node)
        )

    def _refuse(self, replacement: Replacement, refused: Refused) -> None:
        if replacement.is_outdated:
            self._outcome.rollout_blocked = refused
        else:
            replica = replacement.replica
            self._outcome.moves.append(
                f"{replica.pod_name} stays, although {replacement.why}: its successor "
                f"{refused.message}"
            )
