"""What a tenant who floods does to the others, and whether priorities hold.

Ten tenants send Azure chats to four replicas of Llama-3.1-8B, each a tenth of ``TOTAL_RATE``, which
is about what the fleet serves in time. Then one of them sends ten times its share, twice what the
fleet serves in all. What is compared is the other nine's time to the first token. With priorities
the nine are of a greater one than the tenth, and are not told apart otherwise. With keys, and with
words that nobody has checked, the tenth tries what it can (``floods``).
"""

import random
from typing import Any

from bench.routing.cases import LLAMA_8B, engine
from bench.routing.floods import FLOODS, Flood, through_the_gate
from memroute_simulator.virtual.cluster import Cluster, Fleet
from memroute_simulator.virtual.outcome import LatencyTarget, Outcome, summarize
from memroute_simulator.virtual.router import RouterSettings
from memroute_simulator.workloads import WorkloadRequest, arrivals
from memroute_simulator.workloads.production import CONV_INPUT, CONV_OUTPUT
from memroute_simulator.workloads.request import open_loop

TOTAL_RATE = 65.0
NUM_TENANTS = 10
FLOOD_RATIO = 10.0
FLOOD = "tenant-0"
SPAN_SECONDS = 90.0
KV_TOKENS = 100_000
ALIKE, TENANTS, PRIORITIES = "all alike", "tenants told apart", "by priority"
_FLOODS = {flood.name: flood for flood in FLOODS}
TOLD_APART = (ALIKE, TENANTS, PRIORITIES, *_FLOODS)


def run_fairness(policy: str, *, seed: int, told_apart: str) -> dict[str, Any]:
    """The nine while all send their share, and while the tenth sends ten times his."""
    target = LatencyTarget()
    before = summarize(_nine(policy, seed, told_apart, is_flooded=False), target)
    after = summarize(_nine(policy, seed, told_apart, is_flooded=True), target)
    return {
        "case": told_apart,
        "policy": policy,
        "seed": seed,
        "shares_ttft_p99_seconds": before.ttft.p99,
        "flooded_ttft_p99_seconds": after.ttft.p99,
        "shares_attainment_ratio": before.attainment_ratio,
        "flooded_attainment_ratio": after.attainment_ratio,
    }


def flooded_attainment_ratio(
    policy: str, *, seed: int, span_seconds: float, told_apart: str = TENANTS
) -> float:
    """Share of the nine's requests that meet their target while the tenth floods for so long."""
    nine = _nine(policy, seed, told_apart, is_flooded=True, span_seconds=span_seconds)
    return summarize(nine, LatencyTarget()).attainment_ratio


def _nine(
    policy: str,
    seed: int,
    told_apart: str,
    *,
    is_flooded: bool,
    span_seconds: float = SPAN_SECONDS,
) -> list[Outcome]:
    """What became of the requests of the nine, whatever tenants the router took them for."""
    flood = _FLOODS.get(told_apart)
    fleet = Fleet(
        engines=((engine(LLAMA_8B, "H100", KV_TOKENS), 4),),
        policy=policy,
        router=RouterSettings(
            scrape_seconds=0.2, tells_tenants=told_apart == TENANTS or flood is not None
        ),
    )
    asked = _requests(
        seed,
        is_flooded=is_flooded,
        has_priorities=told_apart == PRIORITIES,
        span_seconds=span_seconds,
        flood=flood or FLOODS[0],
    )
    others = {request.output_id for _, request in asked if request.tenant != FLOOD}
    if flood is not None:
        asked = through_the_gate(asked, flood, flooder=FLOOD, num_tenants=NUM_TENANTS)
    workload = open_loop("fairness", [at for at, _ in asked], [request for _, request in asked])
    outcomes = Cluster(fleet, seed=seed, sample_seconds=None).run(workload)
    return [outcome for outcome in outcomes if outcome.asked.output_id in others]


def _requests(
    seed: int, *, is_flooded: bool, has_priorities: bool, span_seconds: float, flood: Flood
) -> list[tuple[float, WorkloadRequest]]:
    """When, and what. The nine's requests are the same with and without the flood."""
    times: list[float] = []
    requests: list[WorkloadRequest] = []
    for number in range(NUM_TENANTS):
        tenant = f"tenant-{number}"
        is_flood = is_flooded and tenant == FLOOD
        rng = random.Random(f"{tenant}/{seed}")  # noqa: S311 - a workload, no secret
        ratio = FLOOD_RATIO * flood.rate_ratio if is_flood else 1.0
        rate = TOTAL_RATE / NUM_TENANTS * ratio
        longer = flood.prompt_ratio if is_flood else 1.0
        own = arrivals.poisson(rng, rate, int(rate * span_seconds))
        times += own
        for _ in own:
            first = 2 * len(requests)
            requests.append(
                WorkloadRequest(
                    prompt=((first, int(longer * CONV_INPUT.at(rng.random()))),),
                    num_output_tokens=CONV_OUTPUT.at(rng.random()),
                    output_id=first + 1,
                    tenant=tenant,
                    # To an engine smaller is sooner.
                    priority=1 if has_priorities and tenant == FLOOD else 0,
                )
            )
    return list(zip(times, requests, strict=True))
