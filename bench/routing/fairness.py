"""What a tenant who floods does to one who does not, and whether priorities hold.

Azure chats on four replicas of Llama-3.1-8B. The quiet tenant sends a tenth of what they serve; the
other sends ten times as much, which together is beyond it. What is compared is the quiet tenant's
time to the first token, alone and beside the flood.
"""

import random
from typing import Any

from bench.routing.cases import LLAMA_8B, engine
from memroute_simulator.virtual.cluster import Cluster, Fleet
from memroute_simulator.virtual.outcome import LatencyTarget, Outcome, summarize
from memroute_simulator.virtual.router import RouterSettings
from memroute_simulator.workloads import Workload, WorkloadRequest, arrivals
from memroute_simulator.workloads.production import CONV_INPUT, CONV_OUTPUT
from memroute_simulator.workloads.request import open_loop

QUIET_RATE = 8.0
FLOOD_RATIO = 10.0
SPAN_SECONDS = 90.0
KV_TOKENS = 100_000


def run_fairness(policy: str, *, seed: int, tells_tenants: bool) -> dict[str, Any]:
    """The quiet tenant alone, and beside one who sends ten times as much."""
    alone = _quiet(_run(policy, seed, flood=False, tells_tenants=tells_tenants))
    beside = _quiet(_run(policy, seed, flood=True, tells_tenants=tells_tenants))
    before, after = summarize(alone, LatencyTarget()), summarize(beside, LatencyTarget())
    return {
        "case": "tenants told apart" if tells_tenants else "all alike",
        "policy": policy,
        "seed": seed,
        "alone_ttft_p99_seconds": before.ttft.p99,
        "beside_ttft_p99_seconds": after.ttft.p99,
        "alone_attainment_ratio": before.attainment_ratio,
        "beside_attainment_ratio": after.attainment_ratio,
    }


def _run(policy: str, seed: int, *, flood: bool, tells_tenants: bool) -> list[Outcome]:
    fleet = Fleet(
        engines=((engine(LLAMA_8B, "H100", KV_TOKENS), 4),),
        policy=policy,
        router=RouterSettings(tells_tenants=tells_tenants),
    )
    return Cluster(fleet, seed=seed, sample_seconds=None).run(_workload(seed, flood=flood))


def _quiet(outcomes: list[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.asked.tenant == "quiet"]


def _workload(seed: int, *, flood: bool) -> Workload:
    """The quiet tenant's requests are the same with and without the other's."""
    times: list[float] = []
    requests: list[WorkloadRequest] = []
    for tenant, rate in (("quiet", QUIET_RATE), ("flood", FLOOD_RATIO * QUIET_RATE)):
        if tenant == "flood" and not flood:
            continue
        rng = random.Random(f"{tenant}/{seed}")  # noqa: S311 - a workload, no secret
        own = arrivals.poisson(rng, rate, int(rate * SPAN_SECONDS))
        times += own
        first = len(requests)
        requests += [
            WorkloadRequest(
                prompt=((2 * (first + index), CONV_INPUT.at(rng.random())),),
                num_output_tokens=CONV_OUTPUT.at(rng.random()),
                output_id=2 * (first + index) + 1,
                tenant=tenant,
            )
            for index in range(len(own))
        ]
    return open_loop("fairness", times, requests)
