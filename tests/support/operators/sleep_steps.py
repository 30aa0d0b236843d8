"""One step of the plan over models that may sleep: what routers have said, and what was seen."""

from memroute_operator.plan import MarkSleep, plan_step
from memroute_operator.readings.demand import Demand
from memroute_operator.replicas.replica import Seen
from memroute_operator.sleeping.mark import ANNOTATION_SLEEP, mark_now
from planned_objects import NOW, context, facts, pod_of

QUIET = Demand(read_seconds=0.5, known_seconds=1e6)
FALLING = Seen(serving_seconds=1e5, sleep_seconds=10.0, resting_seconds=10.0)
LONG = Seen(serving_seconds=1e5, sleep_seconds=1e4, resting_seconds=1e4)


def pod(of, state=None, *, room_for=None, restarts=0):
    """A replica that was last written to be so."""
    made = pod_of(of)
    if state is not None:
        text = mark_now(state, NOW, restarts, room_for).text()
        made["metadata"]["annotations"][ANNOTATION_SLEEP] = text
    return made


def marks(step):
    return {
        (one.replica.deployment_name, one.state.value)
        for one in step.actions
        if isinstance(one, MarkSleep)
    }


def decided(models, pods, demand=QUIET, seen=LONG, **others):
    """Routers have been told of each pod for as long as it is ``seen`` to be so."""
    seen_as = {one["metadata"]["name"].replace("-", "_"): seen for one in pods}
    told = {one["metadata"]["uid"]: seen.sleep_seconds or 0.0 for one in pods}
    given = context(demand=demand, **({"told_seconds": told} | others))
    return plan_step(facts(models, pods, **seen_as), given)
