"""What a scaled constant is measured by: short runs whose outcome is one share of the requests.

The suite's cases are at loads where such a run attains 90 to 96 %, where attainment falls fastest
(replicas are empty at first, so a short run bears more than a long one); the others are what only
some constants are for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.routing.capacity import run
from bench.routing.cases import CASES, Case
from bench.routing.fairness import flooded_attainment_ratio
from bench.routing.faults import run_scenario
from bench.routing.mixes import MIXES, num_routers, scrape_seconds
from bench.routing.slow import SLOW_CASES
from memroute_simulator.virtual.router import MEMROUTE

# By case: (load, times the usual requests), in the plain and in the real mix. Loads are times the
# rate near memroute's capacity; a run takes half a second.
SUITE = {
    "azure-conv-18to1": {"plain": (1.4, 0.4), "real": (1.3, 0.3)},
    "servegen-m-large": {"plain": (1.15, 0.5), "real": (1.08, 0.3)},
    "mooncake-toolagent": {"plain": (1.2, 0.3), "real": (1.1, 0.3)},
    "kv-cliff": {"plain": (1.05, 0.4), "real": (1.0, 0.3)},
    "mixed-accelerators": {"plain": (1.1, 0.5), "real": (0.95, 0.3)},
}
OVERLOADED = {"azure-conv-18to1": (2.0, 0.5), "servegen-m-large": (1.6, 0.5)}
FAULTS = ("never-answered", "frozen-and-back", "lost-and-back", "slow")
FLOOD_SECONDS = 30.0
# Requests per second, on engines whose token takes longer than the target even alone.
SLOW_CASE, SLOW_RATE = "llama-70b-l40s", 8.0


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
    return flooded_attainment_ratio(MEMROUTE, seed=seed, span_seconds=FLOOD_SECONDS)


def _slow(seed: int) -> float:
    case = SLOW_CASES[SLOW_CASE].case(SLOW_CASE)
    point = run(case, MEMROUTE, rate=SLOW_RATE, seed=seed, times=5.0, scrape_seconds=1.0)
    return point.summary.attainment_ratio


SCENARIOS = (
    *(
        Scenario(group=mix, name=name, run=partial(_attained, CASES[name], mix, *SUITE[name][mix]))
        for mix in ("plain", "real")
        for name in SUITE
    ),
    *(
        Scenario(
            group="overload", name=name, run=partial(_attained, CASES[name], "plain", load, times)
        )
        for name, (load, times) in OVERLOADED.items()
    ),
    *(Scenario(group="faults", name=name, run=partial(_after_fault, name)) for name in FAULTS),
    Scenario(group="fairness", name="flooded", run=_flooded),
    Scenario(group="slow", name=SLOW_CASE, run=_slow),
)
