"""Events on both sides of a preemption: on who gives way, and on who is given way to."""

from collections.abc import Iterable, Sequence

from memroute_operator.plan import GiveWay
from memroute_operator.spec.deployment import Deployment
from memroute_operator.status.events import EventWriter

GIVES_WAY = "GivesWay"
PREEMPTS = "Preempts"


async def tell_ways(
    events: EventWriter, deployments: Iterable[Deployment], ways: Sequence[GiveWay]
) -> None:
    """Write them. ``ways``: what was written on replicas in this step."""
    begun = [way for way in ways if way.deployment is not None]
    if not begun:
        return
    by_key = {one.key: one for one in deployments}
    told: dict[str, list[str]] = {}
    for way in begun:
        victim = by_key.get(way.replica.deployment)
        if victim is not None:
            await events.write(victim, reason=GIVES_WAY, message=way.why)
        if way.deployment is not None:
            told.setdefault(way.deployment.key, []).append(way.why)
    for key, sentences in told.items():
        if key in by_key:
            message = "; ".join(sentences)
            await events.write(by_key[key], reason=PREEMPTS, message=message, is_normal=True)
