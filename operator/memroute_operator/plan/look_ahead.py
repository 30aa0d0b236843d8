"""Whether a replica may leave for its successor yet: what that needs must be on its node first.

| what is seen of the successor's node | decision |
| --- | --- |
| a pod there that runs, or loads from there, has the image and the weights | it may leave |
| a pod that went ahead is done | it may leave |
| ``rollout.fetchAhead`` is false; or the API server refuses such a pod; or it does not begin | it
  may leave, and that is told |
| nothing yet | a pod goes ahead, and the replica serves on |
| a pod ahead fetches | the replica serves on |
| nothing yet, or a pod that is late, and the replica drains for this very claim | it goes on: why
  it was let go (a pod that was refused, or did not begin) may be known to nobody any more |
| its disk is full | elsewhere |
| it has failed for good | the revision has failed (``verdict``); of a move, the replica stays |

A belief (``weights/book``) is not enough: what was fetched once may have been evicted since. A pod
that finds all there ends within a second, and its note keeps the weights from eviction. It stays
until every replica serves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from memroute_operator.ahead.facts import BEGIN_SECONDS, Ahead
from memroute_operator.ahead.goal import Goal, ahead_name, goal_of, place_of
from memroute_operator.plan.actions import EndFetch, FetchAhead, PlanContext, Step
from memroute_operator.replicas.leaving import leaving_for
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment


class Way(Enum):
    """Whether the drain of a replica may begin."""

    FREE = auto()
    WAIT = auto()
    ELSEWHERE = auto()
    """Not for that node: its successor is to be placed anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether it may, and the sentence; None where there is nothing to tell."""

    way: Way
    told: str | None = None


class Aheads:
    """What goes ahead in one step. Owns nothing but which of those pods somebody waits for."""

    def __init__(
        self,
        aheads: Iterable[Ahead],
        replicas: Iterable[Replica],
        context: PlanContext,
        step: Step,
    ) -> None:
        self._aheads: dict[str, list[Ahead]] = {}
        for one in aheads:
            self._aheads.setdefault(one.deployment, []).append(one)
        self._replicas = replicas
        self._context = context
        self._step = step
        self._used: set[str] = set()

    def decide(self, deployment: Deployment, replica: Replica, node: str) -> Decision:
        """Whether ``replica`` may leave for a successor on ``node``. What goes ahead is begun."""
        if not deployment.rollout.fetch_ahead:
            return Decision(way=Way.FREE)
        goal = goal_of(deployment, self._context.engine_image)
        own = self._of(deployment, goal, node)
        goes_for = leaving_for(deployment.revision, node)
        has_left = replica.is_draining and replica.drains_for == goes_for
        if own is None and has_left:
            return Decision(way=Way.FREE)
        if own is None:
            return self._begin(deployment, goal, replica, node)
        self._used.add(own.key)
        decision = self._await(own)
        # Marked by a release before 0.2, which wrote down no claim: those that are late stay so.
        is_late = replica.is_draining and replica.drains_for is None
        has_left = has_left or (is_late and own.seen_seconds > BEGIN_SECONDS)
        return Decision(way=Way.FREE) if decision.way is Way.WAIT and has_left else decision

    def _await(self, own: Ahead) -> Decision:
        """What follows from how far it is."""
        if own.is_done and not own.is_terminating:
            return Decision(way=Way.FREE)
        if own.is_out_of_disk:
            self._end(own, f"node {own.node} has no space for the weights", avoid_node=True)
            return Decision(way=Way.ELSEWHERE, told=own.told)
        if own.failed is not None:
            return Decision(way=Way.WAIT, told=f"on {own.node}, {own.failed[1]}")
        if own.is_over:
            self._end(own, "its node has ended it: it is made again")
        elif own.why_skipped is not None:
            return Decision(way=Way.FREE, told=own.why_skipped)
        # A start or an end that does not come is due by time alone.
        self._step.has_timers |= own.is_terminating or not own.has_begun
        return Decision(way=Way.WAIT, told=own.told)

    def foresee(self, deployment: Deployment, node: str) -> str | None:
        """What will be said once the claim is seen in the store; None where nothing is missing."""
        goal = goal_of(deployment, self._context.engine_image)
        name = f"{deployment.namespace}/{ahead_name(deployment, goal, node)}"
        own = self._of(deployment, goal, node)
        is_free = own is not None and own.is_done
        is_free = is_free or not deployment.rollout.fetch_ahead
        is_free = is_free or name in self._context.refused_aheads
        if is_free or self._is_there(deployment, goal, node):
            return None
        return f"Fetching ahead begins on {node}"

    def _of(self, deployment: Deployment, goal: Goal, node: str) -> Ahead | None:
        for one in self._aheads.get(deployment.key, ()):
            is_same = (one.goal, one.revision) == (goal.key, goal.revision)
            if is_same and one.node == node and one.owner_uid == deployment.uid:
                return one
        return None

    def _begin(self, deployment: Deployment, goal: Goal, replica: Replica, node: str) -> Decision:
        if self._is_there(deployment, goal, node):
            return Decision(way=Way.FREE)
        action = FetchAhead(deployment=deployment, goal=goal, node=node, replica=replica)
        refusal = self._context.refused_aheads.get(action.pod_key)
        if refusal is not None:
            return Decision(way=Way.FREE, told=f"nothing goes ahead of it: {refusal}")
        others = [
            one
            for one in self._aheads.get(deployment.key, ())
            if one.node == node and not (one.is_terminating and one.why_skipped)
        ]
        if others:
            # Of another revision, and about to go: there are never two on a node.
            return Decision(way=Way.WAIT, told=f"Fetching ahead waits for {others[0].pod_name}")
        self._step.actions.append(action)
        return Decision(way=Way.WAIT, told=f"Fetching ahead begins on {node}")

    def _is_there(self, deployment: Deployment, goal: Goal, node: str) -> bool:
        there = [one for one in self._replicas if one.node == node and not one.is_terminal]
        has_image = goal.image is None or any(
            one.engine_image == goal.image and (one.is_ready or one.has_run) for one in there
        )
        if not has_image or goal.place is None:
            return has_image
        key = deployment.weights_key
        if key is not None:
            return any(one.weights_key == key and one.has_fetched for one in there)
        # A claim is the same one from every node.
        same = {deployment.revision}
        if deployment.previous is not None and place_of(deployment.previous) == goal.place:
            same.add(deployment.previous.revision)
        return any(
            one.deployment == deployment.key and one.revision in same and one.has_fetched
            for one in self._replicas
        )

    def clear(self, deployment: Deployment, kept: Sequence[Replica], num_old: int) -> None:
        """End what nobody waits for. ``kept``: its replicas that stay, ``num_old`` as they are."""
        if deployment.paused or deployment.footprint is None:
            return
        own = self._aheads.get(deployment.key, ())
        if not own:
            return
        served = [one for one in kept if one.revision == deployment.revision and one.is_ready]
        is_complete = len(served) >= deployment.replicas - num_old
        is_any_used = any(one.key in self._used for one in own)
        for one in own:
            why = self._why_void(deployment, one)
            if why is None and one.key not in self._used:
                if is_complete:
                    why = "every replica serves"
                elif is_any_used and not one.is_done:
                    why = "the successor goes elsewhere"
            if why is not None:
                self._end(one, why)

    def _why_void(self, deployment: Deployment, one: Ahead) -> str | None:
        """Why it is of no use to anybody; None while it may be."""
        goal = goal_of(deployment, self._context.engine_image)
        if one.owner_uid != deployment.uid:
            return "its ModelDeployment was deleted"
        if (one.revision, one.goal) != (goal.revision, goal.key):
            return "another revision is rolled out"
        if deployment.failed is not None:
            return "its revision has failed"
        if one.node in self._context.lost_nodes:
            return f"node {one.node} is unreachable"
        return None if deployment.rollout.fetch_ahead else "rollout.fetchAhead is false"

    def clear_orphans(self, known: Iterable[str]) -> None:
        """End those whose ModelDeployment is gone. ``known``: the keys of all there are."""
        for key in self._aheads.keys() - set(known):
            for one in self._aheads[key]:
                self._end(one, "its ModelDeployment is gone", only_as_seen=True)

    def _end(
        self, one: Ahead, why: str, *, avoid_node: bool = False, only_as_seen: bool = False
    ) -> None:
        is_lost = one.node in self._context.lost_nodes
        if one.is_terminating and not is_lost:
            return
        self._step.actions.append(
            EndFetch(
                ahead=one, why=why, avoid_node=avoid_node, only_as_seen=only_as_seen, force=is_lost
            )
        )
