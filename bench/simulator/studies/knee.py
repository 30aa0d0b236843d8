"""The Gateway API Inference Extension's chart: equal replicas, no prefixes, a narrow knee.

6 x Llama-2-7B on H100, ShareGPT lengths, Poisson. Their chart has the knee at 180 to 200
requests a second; ours has it where our step times put it, so rates are swept around it. What
must come out is the shape: all policies alike below the knee, memory-aware ones later into it,
all lost beyond.
"""

from dataclasses import dataclass

from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.cluster import Cluster, Fleet
from memroute_simulator.virtual.outcome import LatencyTarget, summarize
from memroute_simulator.virtual.outcome import OutcomeStatus as Status
from memroute_simulator.virtual.router import RouterSettings
from memroute_simulator.workloads import workload_by_name
from memroute_simulator.workloads.lengths import percentile

NUM_REPLICAS = 6
KV_TOKENS = 105_000
NUM_REQUESTS = 12_000
RATES = (120, 130, 135, 140, 145, 150, 160, 180)
POLICIES = ("random", "round-robin", "least-request", "gie-kv-queue", "kv-in-flight", "memroute")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One policy at one rate."""

    policy: str
    rate: float
    attainment_ratio: float
    """At TTFT 0.5 s and TPOT 50 ms."""
    ntpot_p90_seconds: float | None
    """Latency per output token, as their chart has it."""
    ttft_p99_seconds: float | None
    out_tokens_per_second: float
    num_preemptions: int
    num_shed: int


def run(policy: str, *, rate: float, seed: int) -> Point:
    """One point."""
    accelerator = accelerator_by_name("H100")
    if accelerator is None:
        msg = "no H100 in the catalogue"
        raise LookupError(msg)
    spec = EngineSpec(
        architecture=architecture_for_model("meta-llama/Llama-2-7b-chat-hf"),
        accelerator=accelerator,
        num_blocks=KV_TOKENS // 16 + 1,
        max_num_batched_tokens=8192,
        max_context_tokens=4096,
    )
    fleet = Fleet(
        engines=((spec, NUM_REPLICAS),), policy=policy,
        router=RouterSettings(scrape_seconds=0.05),
    )  # fmt: skip
    chats = workload_by_name("sharegpt", num_requests=NUM_REQUESTS, rate_per_second=rate, seed=seed)
    outcomes = Cluster(fleet, seed=seed, sample_seconds=None).run(chats)[NUM_REQUESTS // 10 :]
    summary = summarize(outcomes, LatencyTarget(ttft_seconds=0.5, tpot_seconds=0.05))
    per_token = sorted(
        (o.e2e_seconds or 0.0) / o.asked.num_output_tokens
        for o in outcomes
        if o.status is Status.SERVED
    )
    return Point(
        policy=policy,
        rate=rate,
        attainment_ratio=summary.attainment_ratio,
        ntpot_p90_seconds=percentile(per_token, 90) if per_token else None,
        ttft_p99_seconds=summary.ttft.p99,
        out_tokens_per_second=summary.output_tokens_per_second,
        num_preemptions=summary.num_preemptions,
        num_shed=summary.num_shed,
    )
