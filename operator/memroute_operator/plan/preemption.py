"""Preemption: replicas that give way to one of higher priority, where it asks for that.

```text
fits nowhere ──► who gives way is chosen, and that it really fits then is tried
             ──► GiveWay on each of them: the claim on their room       (a step of its own)
             ──► they drain like any other, and end
             ──► created on its claim (memory: ``departed_claims``)
```

A claim is weighed again in each step. It is taken back, and its victims serve on, when the
replica fits elsewhere, is wanted no more, or would not fit there after all. What keeps models
from being taken down for nothing:

* only replicas of strictly lower priority give way, so that nobody gives way in turns;
* one replica of a ModelDeployment at a time, and the next when all that exist have served: a
  revision that does not come up takes the place of one replica, not of a cluster;
* not while its pods are refused, and not while a node is avoided because one of them failed there
  or kube-scheduler refused it (30 s at first, up to 30 minutes);
* its pod is rehearsed by the API server before anybody drains (``apply``).
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from memroute.placement import (
    Placed,
    Preemptor,
    Refused,
    RefusedReason,
    Solver,
    Victim,
)
from memroute.units import format_gib
from memroute_operator.gather import Facts
from memroute_operator.plan.actions import GiveWay, MarkDraining, PlanContext, Step
from memroute_operator.plan.draining import Drains
from memroute_operator.plan.wishes import Missing
from memroute_operator.replicas.replica import Replica
from memroute_operator.rules.priorities import Priority
from memroute_operator.spec.deployment import Deployment

# Preemptions that begin in one step: each looks at all nodes with replicas of lower priority.
MAX_PREEMPTIONS = 8


def priority_of(deployment: Deployment, context: PlanContext) -> Priority | None:
    """What its replicas' pods will have; None where nobody knows the class that it names."""
    return context.priorities.of(deployment.template.priority_class)


def by_priority(deployments: Sequence[Deployment], context: PlanContext) -> list[Deployment]:
    """The highest priority first; of equals the order that they have, which is by age."""

    def rank(deployment: Deployment) -> int:
        known = priority_of(deployment, context)
        return 0 if known is None else -known.value

    return sorted(deployments, key=rank)


class Ways:
    """The preemptions of one step. Owns which of those that were begun still hold."""

    def __init__(
        self,
        facts: Facts,
        context: PlanContext,
        solver: Solver,
        drains: Drains,
        step: Step,
        going: set[str],
    ) -> None:
        """``going``: pods that leave; those that give way are added to it."""
        self._facts = facts
        self._context = context
        self._solver = solver
        self._drains = drains
        self._step = step
        self._going = going
        self._leaving = frozenset(going)
        """Pods that leave whoever waits."""
        self._deployments = {one.key: one for one in facts.deployments}
        self._begun: dict[str, list[Replica]] = {}
        """Slot that waits → who gives way to it."""
        for replica in facts.replicas:
            if replica.gives_way is not None:
                self._begun.setdefault(replica.gives_way.slot, []).append(replica)

    def drop_void(self, waiting: Collection[Missing]) -> None:
        """Take back what was begun for replicas that are not wanted so any more."""
        wanted = {one.slot: one for one in waiting}
        for slot, victims in list(self._begun.items()):
            one = wanted.get(slot)
            if one is None or not self._is_valid(one, victims):
                self._take_back(slot)
            else:
                self._going |= {victim.key for victim in victims}

    def settle(self, waiting: Sequence[Missing], placed: Collection[str]) -> None:
        """Go on with what was begun, and begin what helps.

        ``waiting``: in the order in which room is given. ``placed``: slots that found room.
        """
        refused = [one for one in waiting if one.slot not in placed]
        for one in waiting:
            if one.slot in self._begun and one.slot in placed:
                self._take_back(one.slot)
        for one in refused:
            if one.slot in self._begun:
                self._go_on(one)
        if any(self._asks(one) for one in refused):
            self._begin(refused)
        for one in refused:
            self._tell_who_gave_way(one)

    def _is_valid(self, one: Missing, victims: Sequence[Replica]) -> bool:
        deployment = one.deployment
        priority = priority_of(deployment, self._context)
        if priority is None or not deployment.preempts or not priority.may_preempt:
            return False
        for victim in victims:
            way, theirs = victim.gives_way, self._deployments.get(victim.deployment)
            if way is None or way.uid != deployment.uid:
                return False
            if way.claim.revision != deployment.revision or victim.priority >= priority.value:
                return False
            if theirs is not None and theirs.paused and not victim.is_terminating:
                return False
        return True

    def _take_back(self, slot: str) -> None:
        """Whoever gives way to it serves on, unless it leaves for another reason."""
        self._solver.drop_way(slot)
        for victim in self._begun.pop(slot, ()):
            if victim.is_terminating:
                continue
            if victim.key not in self._leaving:
                self._going.discard(victim.key)
                if victim.is_draining:
                    self._step.actions.append(MarkDraining(replica=victim, draining=False))
            self._step.actions.append(GiveWay(replica=victim, placed=None))

    def _go_on(self, one: Missing) -> None:
        victims = self._begun[one.slot]
        if not self._solver.holds_way(one.slot, one.wanted):
            self._take_back(one.slot)
            return
        claim = self._solver.ledger.ways[one.slot].claim
        size = claim.total_bytes
        for victim in victims:
            if not victim.is_terminating and victim.key not in self._leaving:
                self._drains.drain(victim, why=self._why(victim, one))
            self._tell_victim(victim, one, size)
        self._tell_waiting(one, victims, claim.node)

    def _begin(self, refused: Sequence[Missing]) -> None:
        preemptor = Preemptor(self._solver, self._victims())
        serving = self._serving()
        busy = {slot.rpartition("#")[0] for slot in self._begun}
        busy |= {
            one.deployment
            for one in self._facts.replicas
            if not one.is_ready and one.seen.serving_seconds is None and not one.is_terminating
        }
        num_begun = 0
        for one in refused:
            if not self._asks(one):
                continue
            deployment = one.deployment
            why_not = self._why_not(deployment, busy)
            priority = priority_of(deployment, self._context)
            found = None
            if why_not is None and priority is not None and num_begun < MAX_PREEMPTIONS:
                eligible = self._solver.eligible(one.wanted)
                found = preemptor.preempt(one.wanted, priority.value, eligible, num_serving=serving)
                why_not = (
                    f"no replicas of lower priority (below {priority.value}) on one node would "
                    f"make room"
                )
            if found is None:
                self._tell(one, f"; {why_not or 'others are given way to first'}")
                continue
            num_begun += 1
            busy.add(deployment.key)
            self._give_way(one, found.placed, found.victims, priority)

    def _give_way(
        self, one: Missing, placed: Placed, owners: Sequence[str], priority: Priority | None
    ) -> None:
        value = 0 if priority is None else priority.value
        victims = [replica for replica in self._facts.replicas if replica.key in owners]
        for victim in victims:
            self._going.add(victim.key)
            self._step.has_timers = True
            self._step.actions.append(
                GiveWay(
                    replica=victim,
                    placed=placed,
                    deployment=one.deployment,
                    priority=value,
                    why=f"{victim.key} {self._why(victim, one)}, which needs "
                    f"{format_gib(placed.total_bytes)} on node {placed.node}",
                )
            )
            self._tell_victim(victim, one, placed.total_bytes)
        self._tell_waiting(one, victims, placed.node)

    def _victims(self) -> list[Victim]:
        """Replicas that may be asked to give way, whatever their priority."""
        found = []
        for replica in self._facts.replicas:
            theirs = self._deployments.get(replica.deployment)
            if (
                theirs is None
                or theirs.paused
                or replica.is_terminating
                or replica.key in self._going
                or replica.successor is not None
                or replica.gives_way is not None
            ):
                continue
            is_serving = replica.is_ready and not replica.is_draining
            found.append(
                Victim(
                    owner=replica.key,
                    deployment=replica.deployment,
                    node=replica.node,
                    priority=replica.priority,
                    is_serving=is_serving,
                    value=replica.kv_capacity_tokens,
                )
            )
        return found

    def _serving(self) -> Counter[str]:
        return Counter(
            replica.deployment
            for replica in self._facts.replicas
            if replica.is_ready and not replica.is_draining and not replica.is_terminating
        )

    def _asks(self, one: Missing) -> bool:
        """Whether it fits nowhere for lack of room, and asks others to give way."""
        refused = self._refused(one)
        return (
            one.deployment.preempts
            and one.slot not in self._begun
            and refused is not None
            and refused.reason is RefusedReason.INSUFFICIENT_HBM
        )

    def _why_not(self, deployment: Deployment, busy: Collection[str]) -> str | None:
        """Why nobody gives way to its replicas now; None when they may be asked to."""
        context = self._context
        priority = priority_of(deployment, context)
        if priority is None:
            name = deployment.template.priority_class
            return f"PriorityClass {name} is not there, so nobody gives way"
        if not priority.may_preempt:
            return (
                f"PriorityClass {priority.class_name} has the preemptionPolicy Never, so nobody "
                f"gives way"
            )
        if context.avoided_nodes.get(deployment.key):
            return "one of its replicas has failed of late, so nobody gives way for now"
        if deployment.key in busy:
            return "others give way to one of its replicas at a time, when those before it serve"
        return None

    def _refused(self, one: Missing) -> Refused | None:
        return self._step.outcomes[one.deployment.key].refused.get(one.wanted.key.index)

    def _tell(self, one: Missing, more: str) -> None:
        refused = self._refused(one)
        if refused is not None:
            outcome = self._step.outcomes[one.deployment.key]
            outcome.refused[one.wanted.key.index] = replace(
                refused, message=f"{refused.message}{more}"
            )

    def _why(self, victim: Replica, one: Missing) -> str:
        priority = priority_of(one.deployment, self._context)
        value = 0 if priority is None else priority.value
        return f"gives way to {one.deployment.key} (priority {value} > {victim.priority})"

    def _tell_victim(self, victim: Replica, one: Missing, size: int) -> None:
        outcome = self._step.outcomes.get(victim.deployment)
        if outcome is not None:
            outcome.moves.append(
                f"{victim.pod_name} {self._why(victim, one)}, which needs {format_gib(size)} on "
                f"node {victim.node}"
            )

    def _tell_waiting(self, one: Missing, victims: Sequence[Replica], node: str) -> None:
        priority = priority_of(one.deployment, self._context)
        value = 0 if priority is None else priority.value
        listed = ", ".join(f"{v.key} (priority {v.priority} < {value})" for v in victims)
        size = format_gib(self._solver.ledger.ways[one.slot].claim.total_bytes)
        self._step.outcomes[one.deployment.key].refused[one.wanted.key.index] = Refused(
            key=one.wanted.key,
            reason=RefusedReason.PREEMPTING,
            message=(
                f"needs {size}, and starts on node {node} once others have given way to it: "
                f"{listed}"
            ),
        )

    def _tell_who_gave_way(self, one: Missing) -> None:
        refused, gave = self._refused(one), self._context.gave_way.get(one.slot)
        if refused is None or gave is None or refused.reason is RefusedReason.PREEMPTING:
            return
        way, priority = gave
        told = f"gave way to {way.deployment} (priority {way.priority} > {priority}) and "
        outcome = self._step.outcomes[one.deployment.key]
        outcome.refused[one.wanted.key.index] = replace(refused, message=told + refused.message)
