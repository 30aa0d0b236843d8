"""What a scaled constant is measured by: short runs whose outcome is one share of the requests.

The suite's cases are at 1.05 times the rate near memroute's capacity, where attainment falls
fastest; the others are what only some constants are for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.routing.capacity import run
from bench.routing.cases import CASES, Case
from bench.routing.fairness import TENANTS, run_fairness
from bench.routing.faults import run_scenario
from bench.routing.mixes import MIXES, num_routers, scrape_seconds
from bench.routing.slow import SLOW_CASES
from memroute_simulator.virtual.router import MEMROUTE

LOAD = 1.05
OVERLOAD = 1.5
# Times the case's usual requests: a run takes a second or two.
SUITE = {
    "shared-prefix": 0.3,
    "azure-conv-18to1": 0.5,
    "servegen-m-large": 0.5,
    "mooncake-toolagent": 0.3,
    "kv-cliff": 0.4,
    "mixed-accelerators": 0.5,
}
OVERLOADED = {"azure-conv-18to1": 0.5, "servegen-m-large": 0.5}
FAULTS = ("never-answered", "frozen-and-back", "lost-and-back", "slow", "mute")
# Of least-request's capacity (some 6 requests per second), on engines that a dozen requests bring
# over the default target.
SLOW_CASE, SLOW_RATE = "qwen-8b-a10g", 4.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run, and what it is a part of."""

    group: str
    """``plain``, ``real``, ``overload``, ``faults``, ``fairness`` or ``slow``."""
    name: str
    run: Callable[[int], float]
    """The share of the requests that attained, by seed."""

    @property
    def key(self) -> str:
        """Of a result."""
        return f"{self.group}/{self.name}"


def _attained(case: Case, mix: str, load: float, times: float, seed: int) -> float:
    point = run(
        case,
        MEMROUTE,
        rate=load * case.first_rate,
        seed=seed,
        times=times,
        mix=MIXES[mix],
        num_routers=num_routers(mix, case.num_routers),
        scrape_seconds=scrape_seconds(mix),
    )
    return point.summary.attainment_ratio


def _after_fault(name: str, seed: int) -> float:
    ratio: float = run_scenario(name, MEMROUTE, seed=seed)["attainment_ratio"]
    return ratio


def _flooded(seed: int) -> float:
    row = run_fairness(MEMROUTE, seed=seed, told_apart=TENANTS)
    ratio: float = row["flooded_attainment_ratio"]
    return ratio


def _slow(seed: int) -> float:
    case = SLOW_CASES[SLOW_CASE].case(SLOW_CASE)
    point = run(case, MEMROUTE, rate=SLOW_RATE, seed=seed, times=2.0, scrape_seconds=1.0)
    return point.summary.attainment_ratio


SCENARIOS = (
    *(
        Scenario(group=mix, name=name, run=partial(_attained, CASES[name], mix, LOAD, times))
        for mix in ("plain", "real")
        for name, times in SUITE.items()
    ),
    *(
        Scenario(
            group="overload", name=name, run=partial(_attained, CASES[name], "plain", OVERLOAD, times)
        )
        for name, times in OVERLOADED.items()
    ),
    *(Scenario(group="faults", name=name, run=partial(_after_fault, name)) for name in FAULTS),
    Scenario(group="fairness", name="flooded", run=_flooded),
    Scenario(group="slow", name=SLOW_CASE, run=_slow),
)
