"""Replacing replicas: a claim on room for the successor first, then the drain, then the end.

```text
serves ──► claim written ──► claim seen ──► drains ──► deleted ──► successor created on its claim
              │ edited back, or it fits no more: the claim is dropped, and it serves on
```

A replica is replaced when its spec was edited, or when its node is cordoned and its successor
fits elsewhere. What serves is taken down one replica at a time, while all others serve.
"""

from collections.abc import Collection
from dataclasses import dataclass

from memroute.placement import Placed, Refused, Solver, WantedReplica
from memroute_operator.deployment import Deployment
from memroute_operator.plan.actions import ClaimRoom, MarkDraining, Outcome, Step
from memroute_operator.plan.draining import Drains
from memroute_operator.plan.keeping import Keeping
from memroute_operator.replica import Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """A replica to be replaced, its successor, and why."""

    replica: Replica
    successor: WantedReplica
    why: str
    is_outdated: bool = False
    """By an edited spec: what stops its rollout is told as such."""


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
        num_expected: int,
        num_refused: int,
        leaving: Collection[str] = (),
    ) -> None:
        """``num_expected``: replicas that exist, end, or are created in this step.

        ``num_refused``: missing ones that fit nowhere. ``leaving``: pods that leave for another
        reason.
        """
        self._leaving = leaving
        self._deployment = deployment
        self._keeping = keeping
        self._solver = solver
        self._drains = drains
        self._step = step
        self._num_expected = num_expected
        self._num_refused = num_refused
        self._outcome: Outcome = step.outcomes[deployment.key]

    def run(self, replacements: list[Replacement]) -> set[str]:
        """Take the replacements one step further; the pods that are on their way out."""
        going: set[str] = set()
        ordered = sorted(replacements, key=_order)
        num_waiting = 0
        for replacement in ordered:
            replica = replacement.replica
            if not replica.is_broken and not self._may_leave(replacement, going):
                num_waiting += 1
                stay(replica, self._step)
                continue
            if self._replace(replacement):
                going.add(replica.key)
        if going or num_waiting:
            self._tell(replacements, going)
        return going

    def _may_leave(self, replacement: Replacement, going: set[str]) -> bool:
        """Whether all others serve, so that one replica at a time is missing.

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
        if _grows(replacement):
            num_expected += self._num_refused
        return len(others) >= num_expected - 1

    def _replace(self, replacement: Replacement) -> bool:
        """Whether the replica is on its way out."""
        replica = replacement.replica
        if self._solver.ledger.claims.get(replica.key) is not None:
            if self._solver.holds(replica.key, replacement.successor):
                self._drains.drain(replica, replacement.why)
                return True
            self._solver.drop_claim(replica.key)
        decision = self._solver.replace(replica.key, replacement.successor)
        if isinstance(decision, Placed) and self._is_behind_stuck(decision):
            # Its successor could not start before somebody mends that node.
            self._solver.drop_claim(replica.key)
            stay(replica, self._step)
            return False
        if isinstance(decision, Placed):
            claim = ClaimRoom(
                replica=replica,
                placed=decision,
                revision=self._deployment.revision,
                deployment=self._deployment,
            )
            self._step.actions.append(claim)
            self._step.has_timers = True
            return True
        # Better an old replica that serves than a new one that cannot be placed.
        self._refuse(replacement, decision)
        stay(replica, self._step)
        return False

    def _is_behind_stuck(self, decision: Placed) -> bool:
        return not self._solver.ledger.stuck_devices.isdisjoint(decision.device_uuids)

    def _refuse(self, replacement: Replacement, refused: Refused) -> None:
        if replacement.is_outdated:
            self._outcome.rollout_blocked = refused
        else:
            replica = replacement.replica
            self._outcome.moves.append(
                f"{replica.pod_name} stays, although {replacement.why}: its successor "
                f"{refused.message}"
            )

    def _tell(self, replacements: list[Replacement], going: set[str]) -> None:
        outdated = [one for one in replacements if one.is_outdated]
        moved = [one for one in replacements if not one.is_outdated]
        if outdated:
            names = [one.replica.pod_name for one in outdated if one.replica.key in going]
            now = f"now {', '.join(names)}" if names else "waiting for the others to serve"
            self._outcome.rollout = (
                f"{len(outdated)} replica(s) to replace, one at a time, drained first; {now}"
            )
        self._outcome.moves += [
            f"{one.replica.pod_name} leaves {one.replica.node}: {one.why}"
            for one in moved
            if one.replica.key in going
        ]


def _grows(replacement: Replacement) -> bool:
    """Whether the successor takes more room than the replica has."""
    replica, footprint = replacement.replica, replacement.successor.footprint
    if footprint.num_devices != replica.num_devices:
        return footprint.num_devices > replica.num_devices
    return footprint.total_bytes > replica.bytes_per_device


def stay(replica: Replica, step: Step) -> None:
    """Let a replica serve on: what was begun to replace it is taken back."""
    if replica.is_draining:
        step.actions.append(MarkDraining(replica=replica, draining=False))
    if replica.successor is not None:
        step.actions.append(ClaimRoom(replica=replica, placed=None, revision=""))


def _order(replacement: Replacement) -> tuple[object, ...]:
    """What serves nobody first, then what is under way, then edits, the newest replica first."""
    replica = replacement.replica
    return (
        not replica.is_broken,
        not replica.is_draining,
        replica.successor is None,
        not replacement.is_outdated,
        replica.index,
        replica.key,
    )
