"""Replicas with unequal KV: what an operator that packs by free HBM makes, and who copes.

8 x Llama-3.1-8B at H100 speed, four with 430,000 KV tokens and four with 24,000; 12,000
requests of Azure's 2023 chats with their gaps divided by 8 to 30; the first 1,200 dropped.
Also by scrape period, at x14.
"""

from dataclasses import dataclass

from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.cluster import Cluster, Fleet
from memroute_simulator.virtual.outcome import LatencyTarget, summarize
from memroute_simulator.virtual.router import RouterSettings
from memroute_simulator.workloads import Workload, workload_by_name

KV_TOKENS = (430_000, 24_000)
BLOCK_TOKENS = 64
NUM_REQUESTS, NUM_DROPPED = 12_000, 1_200
SPEEDS = (8, 11, 14, 17, 20, 26, 30)
SCRAPES = (0.05, 0.2, 1.0, 5.0, 15.0)
POLICIES = (
    "random", "round-robin", "least-request", "least-kv", "gie-kv-queue", "kv-in-flight",
    "lmetric", "memroute",
)  # fmt: skip
MAX_CONTEXT_TOKENS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One policy at one load and scrape period."""

    policy: str
    speed: float
    scrape_seconds: float
    attainment_ratio: float
    ttft_p50_seconds: float | None
    ttft_p99_seconds: float | None
    tpot_p90_seconds: float | None
    num_preemptions: int
    num_shed: int


def workload(seed: int, trace: str) -> Workload:
    """The chats at their own rate."""
    return workload_by_name(
        trace, num_requests=NUM_REQUESTS, seed=seed, max_context_tokens=MAX_CONTEXT_TOKENS
    )


def run(policy: str, chats: Workload, *, speed: float, scrape: float, seed: int) -> Point:
    """One point."""
    accelerator = accelerator_by_name("H100")
    if accelerator is None:
        msg = "no H100 in the catalogue"
        raise LookupError(msg)
    engines = tuple(
        (
            EngineSpec(
                architecture=architecture_for_model("meta-llama/Llama-3.1-8B"),
                accelerator=accelerator,
                num_blocks=tokens // BLOCK_TOKENS + 1,
                block_size_tokens=BLOCK_TOKENS,
                max_num_batched_tokens=8192,
                max_context_tokens=MAX_CONTEXT_TOKENS,
            ),
            4,
        )
        for tokens in KV_TOKENS
    )
    settings = RouterSettings(scrape_seconds=scrape, scrape_delay_seconds=0.0, network_seconds=0.0)
    cluster = Cluster(
        Fleet(engines=engines, policy=policy, router=settings), seed=seed, sample_seconds=None
    )
    outcomes = cluster.run(chats.sped_up(speed))[NUM_DROPPED:]
    summary = summarize(outcomes, LatencyTarget())
    return Point(
        policy=policy,
        speed=speed,
        scrape_seconds=scrape,
        attainment_ratio=summary.attainment_ratio,
        ttft_p50_seconds=summary.ttft.p50,
        ttft_p99_seconds=summary.ttft.p99,
        tpot_p90_seconds=summary.tpot.p90,
        num_preemptions=summary.num_preemptions,
        num_shed=summary.num_shed,
    )
