"""The next step for all deployments together, on one ledger."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from memroute.placement import Home, Refused, ReplicaKey, Solver, WantedReplica
from memroute_operator.deployment import Deployment
from memroute_operator.gather import Facts
from memroute_operator.homes import read_homes
from memroute_operator.plan.actions import Create, Delete, OpenGate, Outcome, PlanContext, Step
from memroute_operator.plan.draining import Drains
from memroute_operator.plan.keeping import Keeping, sort_out
from memroute_operator.plan.overbooking import find_overbooked, who_leaves_now, with_turns
from memroute_operator.plan.rollout import Replacement, Rollout, stay
from memroute_operator.replica import Replica


def plan_step(facts: Facts, context: PlanContext) -> Step:
    """The next step for all deployments together."""
    return _Planning(facts, context).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Missing:
    """A replica to create. ``home`` says where it was, or was promised to be."""

    deployment: Deployment
    wanted: WantedReplica


@dataclass(slots=True, kw_only=True)
class _Wishes:
    """What is to be placed in this step, in the order in which room is given."""

    claimed: list[_Missing] = field(default_factory=list)
    returning: list[_Missing] = field(default_factory=list)
    """Replicas that ran before: what has served comes before what is new."""
    new: list[_Missing] = field(default_factory=list)


class _Planning:
    """One step. Owns its solver, and the step that it fills."""

    def __init__(self, facts: Facts, context: PlanContext) -> None:
        self._facts = facts
        self._context = context
        self._step = Step(outcomes={one.key: Outcome() for one in facts.deployments})
        self._solver = Solver(facts.inventory)
        self._drains = Drains(facts.replicas, context, self._step)
        self._going: set[str] = set()
        """Pods that leave: their gates stay closed."""
        self._cordoned = frozenset(
            node.name for node in facts.inventory.nodes if node.unusable_reason == "Cordoned"
        )
        self._num_created: dict[str, int] = {}
        self._paused = frozenset(one.key for one in facts.deployments if one.paused)
        """ModelDeployments of which nothing is changed."""
        self._claims = {(one.deployment, one.index): one for one in context.departed_claims}

    def run(self) -> Step:
        by_deployment = self._facts.replicas_by_deployment()
        keepings = {
            deployment.key: sort_out(
                deployment,
                by_deployment.pop(deployment.key, []),
                self._context,
                self._cordoned,
            )
            for deployment in self._facts.deployments
        }
        self._delete_orphans(by_deployment)
        for deployment in self._facts.deployments:
            self._begin(deployment, keepings[deployment.key])
        wishes = self._wishes(keepings)
        self._place(wishes.claimed)
        self._place([*wishes.returning, *wishes.new])
        self._mend()
        for deployment in self._facts.deployments:
            self._replace(deployment, keepings[deployment.key])
        self._open_gates()
        self._step.num_explained = self._solver.num_explained
        return self._step

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
        for replica in keeping.surplus:
            self._going.add(replica.key)
            self._drains.drain(replica, why="fewer replicas are wanted")
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
        """Roll out an edited spec, and move off nodes that are cordoned."""
        if deployment.paused:
            return
        replacements: list[Replacement] = []
        for replica in keeping.kept:
            if replica.key in self._going:
                continue
            why = self._why_replaced(deployment, replica)
            if why is None:
                stay(replica, self._step)
                continue
            successor = wanted_replica(
                deployment, replica.index, self._context, attempt=replica.attempt
            )
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
        if f"{deployment.key}/" in self._context.held_back:
            # Its successors would not be accepted: what serves goes on serving.
            for one in replacements:
                stay(one.replica, self._step)
            self._step.outcomes[
                deployment.key
            ].rollout = f"{len(replacements)} replica(s) to replace, once its pods are accepted"
            return
        rollout = Rollout(
            deployment,
            keeping,
            self._solver,
            self._drains,
            self._step,
            num_expected=len(keeping.kept)
            + len(keeping.ending)
            + len(keeping.deletes)
            + self._num_created.get(deployment.key, 0),
            num_refused=len(self._step.outcomes[deployment.key].refused),
            leaving=frozenset(self._going),
        )
        self._going |= rollout.run(replacements)

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
        return None

    def _wishes(self, keepings: Mapping[str, Keeping]) -> _Wishes:
        wishes = _Wishes()
        for deployment in self._facts.deployments:
            keeping = keepings[deployment.key]
            num_missing = keeping.num_missing(deployment)
            if not num_missing or deployment.footprint is None or deployment.paused:
                continue
            homes = self._homes(deployment)
            template = wanted_replica(deployment, 0, self._context)
            for key in _names(deployment, keeping, num_missing, homes):
                home = homes.get(key.index)
                is_claimed = home is not None and home.claimed_bytes is not None
                if self._is_held_back(deployment, key) and not is_claimed:
                    continue
                wanted = replace(template, key=key, home=home)
                one = _Missing(deployment=deployment, wanted=wanted)
                if home is None:
                    wishes.new.append(one)
                elif home.claimed_bytes is None:
                    wishes.returning.append(one)
                else:
                    wishes.claimed.append(one)
        return wishes

    def _is_held_back(self, deployment: Deployment, key: ReplicaKey) -> bool:
        """Whether its pod was refused a moment ago, and is not asked for again yet."""
        return not self._context.held_back.isdisjoint((key.pod, f"{deployment.key}/"))

    def _homes(self, deployment: Deployment) -> dict[int, Home]:
        """By index, where a replica ran before by its status, or was promised to be."""
        ran = read_homes(deployment.obj.get("status"))
        homes = {index: one.home() for index, one in ran.items()}
        for (key, index), one in self._claims.items():
            if key == deployment.key:
                homes[index] = one.claim.home()
        return homes

    def _place(self, missing: list[_Missing]) -> None:
        decisions = self._solver.place_all([one.wanted for one in missing])
        for one, decision in zip(missing, decisions, strict=True):
            outcome = self._step.outcomes[one.deployment.key]
            if isinstance(decision, Refused):
                outcome.refused[decision.key.index] = decision
                continue
            if self._is_held_back(one.deployment, decision.key):
                continue  # what was claimed for it stays its own for a while
            outcome.kept.add(decision.key.pod)
            self._num_created[one.deployment.key] = self._num_created.get(one.deployment.key, 0) + 1
            self._step.actions.append(
                Create(deployment=one.deployment, placed=decision, is_gated=decision.must_wait)
            )

    def _open_gates(self) -> None:
        """Let queued replicas start, the oldest first, one per device at a time."""
        occupied = {
            uuid for r in self._facts.replicas if r.occupies_start or r.is_stuck
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


def wanted_replica(
    deployment: Deployment, index: int, context: PlanContext, *, attempt: int = 0
) -> WantedReplica:
    """A replica of a deployment whose footprint is known."""
    assert deployment.shape is not None  # noqa: S101 - callers have seen the footprint
    assert deployment.footprint is not None  # noqa: S101
    return WantedReplica(
        key=ReplicaKey(
            namespace=deployment.namespace, name=deployment.name, index=index, attempt=attempt
        ),
        shape=deployment.shape,
        footprint=deployment.footprint,
        footprints_by_product={
            product: deployment.footprint_on(product) for product in deployment.calibrations
        },
        mode=deployment.mode,
        strategy=deployment.strategy,
        node_selector=deployment.node_selector,
        scheduling=deployment.template.scheduling,
        avoided_nodes=context.avoided_nodes.get(deployment.key, frozenset()),
        nodes_with_weights=context.weights.get(deployment.weights_key or "", frozenset()),
    )


def _names(
    deployment: Deployment, keeping: Keeping, number: int, homes: Mapping[int, Home]
) -> Iterator[ReplicaKey]:
    """Names for the missing replicas: those that have a home first, then the lowest free ones.

    The index of a pod that hangs is used again, with another attempt in the name.
    """
    taken = {
        one.index
        for one in (
            *keeping.kept, *keeping.surplus, *keeping.ending,
            *(delete.replica for delete in keeping.deletes if not delete.replica.is_stuck),
        )
    }  # fmt: skip
    attempts: dict[int, int] = {}
    for replica in keeping.stuck:
        attempts[replica.index] = max(attempts.get(replica.index, 0), replica.attempt + 1)
    candidates = sorted(homes.keys() - taken, key=lambda i: (homes[i].claimed_bytes is None, i))
    index = 0
    while number > 0:
        if candidates:
            chosen = candidates.pop(0)
        else:
            while index in taken:
                index += 1
            chosen = index
        taken.add(chosen)
        number -= 1
        yield ReplicaKey(
            namespace=deployment.namespace,
            name=deployment.name,
            index=chosen,
            attempt=attempts.get(chosen, 0),
        )
