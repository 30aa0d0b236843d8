"""KV cache on the host: what it gains at three reuse ratios, and what a router gains that sees it.

4 x Llama-3.1-8B on L40S (some 195,000 KV tokens each, PCIe 4). Chats of 6,000 + 200 tokens; a
share of each prompt is one of 300 contexts that come back in random order, so that the working set
is 1 to 4 times what all devices hold. Rate: what computes two thirds of the prompts anew in time.
"""

import random
from dataclasses import dataclass

from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.traffic.admission import AdmissionSettings
from memroute.traffic.dispatch import DispatchSettings
from memroute.units import GIB
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.cluster import Cluster, Fleet
from memroute_simulator.virtual.outcome import LatencyTarget, summarize
from memroute_simulator.virtual.router import RouterSettings
from memroute_simulator.workloads import Session, Workload, WorkloadRequest

NUM_REPLICAS, NUM_CONTEXTS = 4, 300
PROMPT_TOKENS, OUTPUT_TOKENS = 6000, 200
RATE_PER_SECOND = 5.0
NUM_REQUESTS, NUM_DROPPED = 1800, 600
REUSE_RATIOS = (0.3, 0.6, 0.9)
HOST_GIB = (0, 32, 128)
# What routes: by device and host, by device alone, and blind.
ROUTING = ("both tiers", "device only", "round-robin")
TARGET = LatencyTarget(ttft_seconds=2.0, tpot_seconds=0.1)
LIMITS = AdmissionSettings(
    ttft_target_seconds=TARGET.ttft_seconds, tpot_target_seconds=TARGET.tpot_seconds
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One reuse ratio, size of the host's tier and way to route."""

    routing: str
    reuse_ratio: float
    host_gib: int
    attainment_ratio: float
    ttft_mean_seconds: float | None
    output_tokens_per_second: float
    hit_ratio: float
    host_hit_ratio: float
    num_shed: int


def workload(reuse_ratio: float, seed: int, num_requests: int = NUM_REQUESTS) -> Workload:
    """Open loop, Poisson; each prompt begins with one of the contexts."""
    rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
    shared = int(PROMPT_TOKENS * reuse_ratio)
    now, sessions = 0.0, []
    for number in range(num_requests):
        now += rng.expovariate(RATE_PER_SECOND)
        context = rng.randrange(NUM_CONTEXTS)
        request = WorkloadRequest(
            prompt=((context, shared), (10**6 + 2 * number, PROMPT_TOKENS - shared)),
            num_output_tokens=OUTPUT_TOKENS,
            output_id=10**6 + 2 * number + 1,
        )
        sessions.append(Session(start_seconds=now, requests=(request,)))
    return Workload(name=f"contexts that come back, {reuse_ratio:.0%}", sessions=tuple(sessions))


def engine(host_gib: int) -> EngineSpec:
    """One replica."""
    accelerator = accelerator_by_name("L40S")
    if accelerator is None:
        msg = "no L40S in the catalogue"
        raise LookupError(msg)
    return EngineSpec(
        architecture=architecture_for_model("meta-llama/Llama-3.1-8B"),
        accelerator=accelerator,
        max_context_tokens=8192,
        host_kv_bytes=host_gib * GIB or None,
    )


def run(routing: str, chats: Workload, *, reuse_ratio: float, host_gib: int, seed: int) -> Point:
    """One point."""
    fleet = Fleet(
        engines=((engine(host_gib), NUM_REPLICAS),),
        policy="round-robin" if routing == "round-robin" else "memroute",
        router=RouterSettings(
            sees_hosts=routing == "both tiers", dispatch=DispatchSettings(limits=LIMITS)
        ),
    )
    cluster = Cluster(fleet, seed=seed, sample_seconds=None)
    summary = summarize(cluster.run(chats)[NUM_DROPPED:], TARGET)
    counts = [s.counts for replica in cluster.replicas for s in replica.schedulers]
    prompts = sum(count.prefix_query_tokens for count in counts)
    return Point(
        routing=routing,
        reuse_ratio=reuse_ratio,
        host_gib=host_gib,
        attainment_ratio=summary.attainment_ratio,
        ttft_mean_seconds=summary.ttft.mean,
        output_tokens_per_second=summary.output_tokens_per_second,
        hit_ratio=summary.prefix_hit_ratio,
        host_hit_ratio=sum(count.host_hit_tokens for count in counts) / prompts,
        num_shed=summary.num_shed,
    )
