"""SLO capacity: the highest rate at which 95 % of what is offered meets its latency target.

The workload of a seed keeps its requests and their order at every rate: only the gaps shrink. The
rate is bracketed in steps of 20 %, then halved (geometrically) until the bracket is 2 % wide, and
read off between the last two points.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from bench.routing.cases import Case
from bench.routing.refusals import Refusals
from memroute.traffic.admission import AdmissionSettings
from memroute.traffic.dispatch import DispatchSettings
from memroute_simulator.virtual.cluster import Cluster, Fleet, FleetEvent
from memroute_simulator.virtual.mix import PLAIN, TrafficMix
from memroute_simulator.virtual.outcome import Summary, summarize
from memroute_simulator.virtual.router import RouterSettings

WANTED_RATIO = 0.95
BRACKET_RATIO = 1.2
PRECISION_RATIO = 1.02
MAX_RUNS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run."""

    case: str
    policy: str
    seed: int
    rate: float
    summary: Summary
    refusals: Refusals
    sent_over_seconds: float
    """From the first request that is judged to the last."""
    goodput_per_second: float
    """Requests of each second of sending that met their target, however long the last one took."""


def run(
    case: Case,
    policy: str,
    *,
    rate: float,
    seed: int,
    scrape_seconds: float = 0.2,
    times: float = 1.0,
    mix: TrafficMix = PLAIN,
    num_routers: int | None = None,
    limits: AdmissionSettings | None = None,
    events: tuple[FleetEvent, ...] = (),
) -> Point:
    """One run of a case at one rate, with ``times`` as many requests as usual.

    ``num_routers``: None for the case's own. ``limits``: memroute's; None for the defaults.
    ``events``: what happens to the fleet meanwhile.
    """
    workload = case.workload(rate, seed, times=times)
    fleet = Fleet(
        engines=case.engines,
        policy=policy,
        num_routers=case.num_routers if num_routers is None else num_routers,
        mix=mix,
        router=RouterSettings(
            scrape_seconds=scrape_seconds,
            dispatch=DispatchSettings(limits=limits or AdmissionSettings()),
        ),
    )
    cluster = Cluster(fleet, seed=seed, sample_seconds=None)
    outcomes = cluster.run(workload, events)
    outcomes = outcomes[int(case.warm_up_ratio * len(outcomes)) :]
    summary = summarize(outcomes, case.target)
    span = max(1e-9, outcomes[-1].sent_seconds - outcomes[0].sent_seconds)
    return Point(
        case=case.name,
        policy=policy,
        seed=seed,
        rate=rate,
        summary=summary,
        refusals=Refusals.of(outcomes, case.target),
        sent_over_seconds=span,
        goodput_per_second=summary.attainment_ratio * len(outcomes) / span,
    )


def search(
    measure: Callable[[float], Point], first_rate: float, *, wanted_ratio: float = WANTED_RATIO
) -> tuple[float, list[Point]]:
    """The highest rate that ``measure`` finds to attain ``wanted_ratio``, and every point."""
    points = [measure(first_rate)]

    def attained(point: Point) -> float:
        return point.summary.attainment_ratio - wanted_ratio

    low = high = points[0]
    step = BRACKET_RATIO if attained(points[0]) >= 0 else 1 / BRACKET_RATIO
    while len(points) < MAX_RUNS:
        points.append(measure(points[-1].rate * step))
        if step > 1:
            low, high = points[-2], points[-1]
            if attained(high) < 0:
                break
        else:
            low, high = points[-1], points[-2]
            if attained(low) >= 0:
                break
    while high.rate / low.rate > PRECISION_RATIO and len(points) < MAX_RUNS:
        points.append(measure(math.sqrt(low.rate * high.rate)))
        if attained(points[-1]) >= 0:
            low = points[-1]
        else:
            high = points[-1]
    over, under = attained(low), -attained(high)
    share = over / (over + under) if over + under > 0 else 0.0
    return low.rate + max(0.0, min(1.0, share)) * (high.rate - low.rate), points
