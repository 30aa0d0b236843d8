"""What is measured: each study is a list of independent runs, spread over the cores."""

import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from bench.routing.bound import bound_per_second
from bench.routing.capacity import Point, run, search
from bench.routing.cases import CASES, Case, trace_case
from bench.routing.fairness import TOLD_APART, run_fairness
from bench.routing.faults import SCENARIOS, run_scenario
from bench.routing.mixes import MIXES, num_routers, scrape_seconds
from bench.routing.objectives import LOADS as OBJECTIVE_LOADS
from bench.routing.objectives import run_objective
from bench.routing.progress import Row, collect
from bench.routing.routers import NUM_ROUTERS, ROUTER_CASES, WAYS, run_routers
from bench.routing.slow import LEAST_REQUEST, LOADS, SLOW_CASES, carried_per_second, run_slow
from memroute.traffic.admission import OverloadObjective
from memroute_simulator.virtual.router import CLAIRVOYANT, MEMROUTE, ORACLE

OURS = MEMROUTE
PEERS = (
    "random", "round-robin", "power-of-two", "least-request", "least-kv", "gie-kv-queue",
    "gie-prefix-kv-queue", "llm-d", "lmetric", "vllm-dp", "smg-least-load",
)  # fmt: skip
POLICIES = (OURS, *PEERS, ORACLE, CLAIRVOYANT)
BOUND = "bound"
"""Not a policy: what none can pass."""
DEFAULT_SCRAPE = 0.2
SCRAPES = (0.05, 0.2, 1.0, 5.0, 15.0)
OVERLOADS = (0.8, 1.0, 1.5, 2.0, 4.0)
OVERLOAD_SECONDS = 60.0
TRACE_RATIO = 0.4
"""Of a trace's bound: where the search for its capacity begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for."""

    cases: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    jobs: int
    trace: str | None = None
    """A file, or a workload by name: instead of the cases."""
    mixes: tuple[str, ...] = ("plain",)
    """What requests and answers are like beside their lengths, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A case as it is told to another process."""

    name: str
    trace: str | None = None
    first_rate: float = 1.0
    """Of a trace: what is near memroute's capacity."""

    def case(self) -> Case:
        """What it stands for."""
        if self.trace is None:
            return CASES[self.name]
        return trace_case(self.trace, first_rate=self.first_rate)


def capacity(options: Options) -> list[Row]:
    """SLO capacity of every policy on every case and seed."""
    chosen = _chosen(options)
    work = [
        (one, policy, seed, mix)
        for mix in options.mixes
        for one in chosen
        for seed in options.seeds
        for policy in options.policies
    ]
    rows = _spread(_capacity, work, options.jobs, "capacity")
    # The bound knows of no mix: it is that of the plain one.
    return rows + [
        {
            "case": one.name,
            "mix": "plain",
            "policy": BOUND,
            "seed": seed,
            "capacity_per_second": bound_per_second(one.case(), seed),
            "points": [],
        }
        for one in chosen
        for seed in options.seeds
        if "plain" in options.mixes
    ]


def answers(options: Options) -> list[Row]:
    """SLO capacity by what answers are like: whole, in large events, in several choices."""
    work = [
        (one, policy, seed, mix)
        for one in _chosen(options)
        for mix in options.mixes
        for seed in options.seeds
        for policy in options.policies
    ]
    return _spread(_capacity, work, options.jobs, "answers")


def _capacity(job: tuple[Chosen, str, int, str]) -> Row:
    chosen, policy, seed, mix = job
    rate, points = _found(chosen.case(), policy, seed, mix)
    return {
        "case": chosen.name,
        "mix": mix,
        "policy": policy,
        "seed": seed,
        "capacity_per_second": rate,
        "points": [_told(point) for point in points],
    }


def _found(case: Case, policy: str, seed: int, mix: str = "plain") -> tuple[float, list[Point]]:
    def measure(rate: float) -> Point:
        return run(
            case,
            policy,
            rate=rate,
            seed=seed,
            mix=MIXES[mix],
            num_routers=num_routers(mix, case.num_routers),
            scrape_seconds=scrape_seconds(mix),
        )

    return search(measure, case.first_rate)


def scrape(options: Options) -> list[Row]:
    """Attainment by scrape period, at a rate near memroute's capacity."""
    return _sweep(options, "scrape", tuple((1.0, period) for period in SCRAPES))


def overload(options: Options) -> list[Row]:
    """Goodput by load, from below memroute's capacity to four times beyond it."""
    return _sweep(options, "overload", tuple((load, DEFAULT_SCRAPE) for load in OVERLOADS))


def _sweep(options: Options, study: str, points: Sequence[tuple[float, float]]) -> list[Row]:
    """Every policy, case and seed at each (load, scrape period)."""
    work = [
        (study, one, policy, seed, load, period, mix)
        for mix in options.mixes
        for one in map(_at_its_knee, _chosen(options))
        for seed in options.seeds
        for policy in options.policies
        for load, period in points
    ]
    return _spread(_swept, work, options.jobs, study)


def _swept(job: tuple[str, Chosen, str, int, float, float, str]) -> Row:
    study, chosen, policy, seed, load, period, mix = job
    case = chosen.case()
    point = run(
        case,
        policy,
        rate=load * case.first_rate,
        seed=seed,
        scrape_seconds=period,
        mix=MIXES[mix],
        num_routers=num_routers(mix, case.num_routers),
        # As long for every load, and long beside what the last answers take.
        times=max(1.0, load * OVERLOAD_SECONDS * case.first_rate / case.num_requests)
        if study == "overload"
        else 1.0,
    )
    facts = {"load": load, "scrape_seconds": period, "mix": mix}
    return _told(point) | asdict(point.refusals) | facts


def objectives(options: Options) -> list[Row]:
    """Who is served under overload, by the objective; of memroute alone."""
    work = [
        (one, objective.value, seed, load)
        for one in map(_at_its_knee, _chosen(options))
        for seed in options.seeds
        for load in OBJECTIVE_LOADS
        for objective in OverloadObjective
    ]
    return _spread(_objective, work, options.jobs, "objectives")


def _objective(job: tuple[Chosen, str, int, float]) -> Row:
    chosen, objective, seed, load = job
    return run_objective(chosen.case(), objective, seed=seed, load=load)


def faults(options: Options) -> list[Row]:
    """What a replica that fails, hangs or hides does to the others' requests."""
    work = [
        (name, policy, seed)
        for name in SCENARIOS
        for seed in options.seeds
        for policy in options.policies
    ]
    return _spread(_faults, work, options.jobs, "faults")


def _faults(job: tuple[str, str, int]) -> Row:
    name, policy, seed = job
    return run_scenario(name, policy, seed=seed)


def fairness(options: Options) -> list[Row]:
    """What a tenant who floods does to those who do not."""
    work = [
        (policy, seed, told_apart)
        for told_apart in TOLD_APART
        for seed in options.seeds
        for policy in options.policies
    ]
    return _spread(_fairness, work, options.jobs, "fairness")


def _fairness(job: tuple[str, int, str]) -> Row:
    policy, seed, told_apart = job
    return run_fairness(policy, seed=seed, told_apart=told_apart)


def routers(options: Options) -> list[Row]:
    """What several routers find cached and attain, beside one; also while they come and go."""
    work = [
        (name, way, count, seed, come_and_go)
        for name in ROUTER_CASES
        for seed in options.seeds
        for way in WAYS
        for count in NUM_ROUTERS
        for come_and_go in (False, True)
        # One router has nobody to be apart from, and nobody else while it is away.
        if count > 1 or (way == "apart" and not come_and_go)
    ]
    return _spread(_routers, work, options.jobs, "routers")


def _routers(job: tuple[str, str, int, int, bool]) -> Row:
    name, way, count, seed, come_and_go = job
    return run_routers(name, way, num_routers=count, seed=seed, come_and_go=come_and_go)


def slow(options: Options) -> list[Row]:
    """Engines slower than the default targets, at shares of what least-request carries."""
    found = _spread(
        _carried,
        [(name, seed) for name in options.cases for seed in options.seeds],
        options.jobs,
        "slow: what least-request carries",
    )
    policies = dict.fromkeys((*options.policies, LEAST_REQUEST))
    work = [
        (row["case"], policy, row["seed"], load, load * row["rate"])
        for row in found
        for load in LOADS
        for policy in policies
    ]
    return _spread(_slow, work, options.jobs, "slow")


def _carried(job: tuple[str, int]) -> Row:
    name, seed = job
    rate = carried_per_second(name, seed)
    return {"case": name, "policy": LEAST_REQUEST, "seed": seed, "rate": rate}


def _slow(job: tuple[str, str, int, float, float]) -> Row:
    name, policy, seed, load, rate = job
    point = run_slow(name, policy, rate=rate, seed=seed)
    alone = SLOW_CASES[name].tpot_alone_seconds
    return _told(point) | {"load": load, "tpot_alone_seconds": alone}


STUDIES: dict[str, Callable[[Options], list[Row]]] = {
    "capacity": capacity,
    "answers": answers,
    "scrape": scrape,
    "overload": overload,
    "objectives": objectives,
    "faults": faults,
    "fairness": fairness,
    "routers": routers,
    "slow": slow,
}
SWEPT = ("capacity", "answers", "scrape", "overload")
"""Those on every case, or on a trace."""


def _chosen(options: Options) -> list[Chosen]:
    """The cases, or the trace in their place."""
    if options.trace is None:
        return [Chosen(name=name) for name in options.cases]
    case = trace_case(options.trace)
    rate = TRACE_RATIO * bound_per_second(case, 1)
    return [Chosen(name=case.name, trace=options.trace, first_rate=rate)]


def _at_its_knee(chosen: Chosen) -> Chosen:
    """A trace at the rate that memroute serves of it, which has to be found first."""
    if chosen.trace is None:
        return chosen
    rate, _ = _found(chosen.case(), OURS, 1)
    print(f"{chosen.name}: memroute's capacity is {rate:.3g} per second", file=sys.stderr)
    return replace(chosen, first_rate=rate)


def _told(point: Point) -> Row:
    summary = point.summary
    return {
        "case": point.case,
        "policy": point.policy,
        "seed": point.seed,
        "rate": point.rate,
        "attainment_ratio": summary.attainment_ratio,
        "goodput_per_second": point.goodput_per_second,
        "ttft_p50_seconds": summary.ttft.p50,
        "ttft_p99_seconds": summary.ttft.p99,
        "tpot_p90_seconds": summary.tpot.p90,
        "num_preemptions": summary.num_preemptions,
        "num_offered": summary.num_offered,
        "num_shed": summary.num_shed,
        "num_failed": summary.num_failed,
        "prefix_hit_ratio": summary.prefix_hit_ratio,
        "output_tokens_per_second": summary.output_tokens_per_second,
        "goodput_tokens_per_second": summary.goodput_tokens_per_second,
        "token_attainment_ratio": summary.token_attainment_ratio,
        "size_attainment_ratios": list(summary.size_attainment_ratios),
    }


def _spread(function: Callable[[Any], Row], work: Sequence[Any], jobs: int, name: str) -> list[Row]:
    """Run every job in a process of its own. Raises ``IncompleteError``, on an interrupt."""
    # Interrupts are ours: a process ends the run that it is at.
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(jobs, initializer=ignore) as pool:
        return collect(pool.map(function, work), count=len(work), name=name, by="policy")
