"""What a rollout does in one step, in sentences."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from memroute.placement import PlacementMode, WantedReplica
from memroute.units import format_gib
from memroute_operator.plan.actions import Outcome
from memroute_operator.plan.replacements import Replacement
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment
from memroute_operator.spec.rollout_spec import Bounds


@dataclass(slots=True, kw_only=True)
class RolloutStory:
    """Gathers what is done for one deployment, and writes it into its outcome."""

    deployment: Deployment
    kept: Sequence[Replica]
    bounds: Bounds
    outcome: Outcome
    no_room: str | None = None
    """Why no successor starts beside the old replica; None while one may."""
    surged: list[str] = field(default_factory=list)
    """Pods that start beside the old ones."""
    skipped: str | None = None
    """Why nothing goes ahead of a replica that leaves."""
    ahead: dict[str, str] = field(default_factory=dict)
    """Replicas that leave when what their successors need is there → how far that is."""

    def serves_meanwhile(self, replica: Replica, told: str | None) -> None:
        """``told``: how far it is what its successor needs; None where nothing is missing."""
        if told is not None:
            self.ahead[replica.pod_name] = f"{told}; {replica.pod_name} serves meanwhile"

    def tell(
        self,
        replacements: Sequence[Replacement],
        going: Collection[str],
        in_the_way: Callable[[], str | None],
    ) -> None:
        """``going``: pods that leave. ``in_the_way``: what keeps every surge off, if not room."""
        outdated = [one for one in replacements if one.is_outdated]
        moved = [one for one in replacements if not one.is_outdated]
        self.outcome.is_draining_first = bool(going)
        serving = {f"{self.deployment.namespace}/{name}" for name in self.ahead}
        if serving and serving.issuperset(going):
            self.outcome.fetching_ahead = "; ".join(self.ahead.values())
        if outdated:
            now = self._now(going, outdated[0].successor, in_the_way)
            self.outcome.rollout = f"{len(outdated)} replica(s) to replace; {now}"
        self.outcome.moves += [
            self.ahead.get(
                one.replica.pod_name,
                f"{one.replica.pod_name} leaves {one.replica.node}: {one.why}",
            )
            for one in moved
            if one.replica.key in going
        ]
        if moved and self.surged:
            self.outcome.moves.append(f"{', '.join(self.surged)} takes the place of one of them")

    def _now(
        self,
        going: Collection[str],
        successor: WantedReplica,
        in_the_way: Callable[[], str | None],
    ) -> str:
        """What is done now, and why so."""
        leaving = [one.pod_name for one in self.kept if one.key in going]
        names = [name for name in leaving if name not in self.ahead]
        told = list(self.ahead.values())
        if names:
            why = self.no_room or self._why_drained_first(successor, in_the_way)
            skipped = f" ({self.skipped})" if self.skipped else ""
            told.insert(0, f"drains {', '.join(names)} first: {why}{skipped}")
        if told:
            return "; ".join(told)
        if self.surged:
            return f"{', '.join(self.surged)} starts beside the old one(s)"
        starting = [
            one.pod_name for one in self.kept
            if not one.is_ready and one.revision == self.deployment.revision
        ]  # fmt: skip
        if starting:
            return f"waiting for {', '.join(starting[:3])} to serve"
        if self.no_room is not None and self.bounds.unavailable == 0:
            return f"waiting for room: {self.no_room}, and rollout.maxUnavailable is 0"
        return "waiting for the others to serve"

    def _why_drained_first(
        self, successor: WantedReplica, in_the_way: Callable[[], str | None]
    ) -> str:
        """Of those that have begun to leave in an earlier step."""
        if not self.bounds.surge:
            return "rollout.maxSurge is 0"
        if self.bounds.unavailable:
            return f"rollout.maxUnavailable is {self.bounds.unavailable}"
        return in_the_way() or told_no_room(successor)


def told_no_room(wanted: WantedReplica) -> str:
    """That a successor has no room beside the old replica."""
    need, number = wanted.footprint.total_bytes, wanted.footprint.num_devices
    if wanted.mode is PlacementMode.EXCLUSIVE:
        return f"no node has {number} free device(s) for its successor beside it"
    many = f" on each of {number} devices" if number > 1 else ""
    return f"no node has {format_gib(need)} free{many} for its successor beside it"
