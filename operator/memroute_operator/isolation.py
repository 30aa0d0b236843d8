"""A plan for everybody, in which one ModelDeployment that cannot be planned hurts no other.

``plan_step`` is one computation over all deployments, because they share the accelerators. When
it raises, the deployments that make it raise are found by halving; the others are
planned without them, and what those hold stays counted. A deployment that raised is left
out until its object changes or its back-off ends.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from memroute_operator.actions.backoff import Backoff
from memroute_operator.gather import Facts
from memroute_operator.plan import Outcome, PlanContext, Step, plan_step
from memroute_operator.spec.deployment import internal_error

Planner = Callable[[Facts, PlanContext], Step]
# Before a deployment whose planning raised is planned again, in seconds. It costs everybody one
# more plan each time.
FIRST_WAIT_SECONDS = 1.0
MAX_WAIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolatedStep:
    """A step, and who is not in it."""

    step: Step
    broken: dict[str, Exception] = field(default_factory=dict)
    """Deployments whose planning raises → what."""
    unexplained: Exception | None = None
    """What planning still raises when those are left out: then nothing is done."""


def plan_isolated(
    facts: Facts, context: PlanContext, *, left_out: frozenset[str], planner: Planner = plan_step
) -> IsolatedStep:
    """The next step. ``left_out``: deployments that raised of late. Raises nothing."""
    facts = facts.without(left_out)
    try:
        return IsolatedStep(step=planner(facts, context))
    except Exception as error:  # noqa: BLE001 - a named boundary: who did it is found next
        broken = _find_broken(facts, context, planner)
        first = error
    try:
        step = planner(facts.without(broken), context) if broken else Step()
    except Exception as error:  # noqa: BLE001 - a named boundary: together only
        return IsolatedStep(step=_nothing(facts), broken=broken, unexplained=error)
    if not broken:
        return IsolatedStep(step=_nothing(facts), unexplained=first)
    return IsolatedStep(step=step, broken=broken)


def _find_broken(facts: Facts, context: PlanContext, planner: Planner) -> dict[str, Exception]:
    """The deployments that raise when they are planned alone, found by halving."""
    everybody = {d.key for d in facts.deployments} | {r.deployment for r in facts.replicas}
    broken: dict[str, Exception] = {}
    suspects = [sorted(everybody)]
    while suspects:
        keys = suspects.pop()
        if not keys:
            continue
        try:
            planner(facts.without(everybody.difference(keys)), context)
        except Exception as error:  # noqa: BLE001 - a named boundary: that is what is asked
            if len(keys) == 1:
                broken[keys[0]] = error
            else:
                middle = len(keys) // 2
                suspects += [keys[:middle], keys[middle:]]
    return broken


def _nothing(facts: Facts) -> Step:
    return Step(outcomes={one.key: Outcome(failed=one.failed) for one in facts.deployments})


@dataclass(slots=True)
class PatientPlanner:
    """Plans with everybody but those who broke the plan of late. Owns who they are."""

    on_bug: Callable[[str, Exception], None]
    rng: random.Random
    planner: Planner = plan_step
    _broken: Backoff[str] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_WAIT_SECONDS, max_seconds=MAX_WAIT_SECONDS
        )
    )
    _specs: dict[str, tuple[str, int] | None] = field(default_factory=dict)
    """Which spec of theirs it was (uid, generation): an edit may have cured them."""

    def plan(self, facts: Facts, context: PlanContext, *, now_seconds: float) -> Step:
        """The next step. Raises nothing."""
        specs = {one.key: (one.uid, one.generation) for one in facts.deployments}
        for key, seen in list(self._specs.items()):
            if specs.get(key) != seen:
                self._broken.succeeded(key)
                del self._specs[key]
        left_out = frozenset(key for key, _ in self._broken.all_waiting(now_seconds))
        tried = frozenset(self._specs) - left_out
        isolated = plan_isolated(facts, context, left_out=left_out, planner=self.planner)
        for key, error in isolated.broken.items():
            self.on_bug("plan", error)
            self._specs[key] = specs.get(key)
            self._broken.failed(
                key,
                reason=type(error).__name__,
                message=internal_error(error),
                now_seconds=now_seconds,
                chance=self.rng.random(),
            )
        for key in tried - isolated.broken.keys():
            self._broken.succeeded(key)
            del self._specs[key]
        if isolated.unexplained is not None:
            self.on_bug("plan", isolated.unexplained)
        return isolated.step

    def failure_of(self, deployment: str) -> str | None:
        """What planning the deployment raised, and when it is tried again."""
        failure = self._broken.last(deployment)
        return None if failure is None else failure.told

    def next_due_seconds(self, now_seconds: float) -> float | None:
        """When the next one is tried again; None when nobody is left out."""
        return self._broken.next_due_seconds(now_seconds)
