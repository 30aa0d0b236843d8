"""llm-d's shared-prefix ladder: who knows what is cached wins by a factor, not by per cents.

8 x Qwen3-32B TP2 on H100, 307,328 KV tokens each; 150 groups of 5 prompts, 6,000 + 1,200
tokens in, 1,000 out; stages from 3 to 60 requests a second, each drained before the next.
"""

import random
from dataclasses import dataclass

from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.footprint import Parallelism
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.cluster import Cluster, Fleet
from memroute_simulator.virtual.outcome import LatencyTarget, OutcomeStatus, summarize
from memroute_simulator.virtual.router import RouterSettings
from memroute_simulator.workloads.benchmarks import (
    LADDER_73,
    LADDER_73_STAGES,
    LADDER_73_WARM_UP,
    ladder,
)

NUM_REPLICAS = 8
KV_TOKENS = 307_328
BLOCK_TOKENS = 64
# llm-d's own block size for this benchmark.
DRAIN_SECONDS = 30.0
POLICIES = (
    "random", "gie-kv-queue", "least-request", "gie-prefix-kv-queue", "lmetric", "memroute",
)  # fmt: skip
SHORT_STAGES = (3, 15, 20, 40, 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage with one policy."""

    policy: str
    rate: float
    out_tokens_per_second: float
    ttft_mean_seconds: float | None
    ttft_p90_seconds: float | None
    itl_mean_seconds: float | None
    prefix_hit_ratio: float
    num_preemptions: int
    num_shed: int
    num_requests: int


def run(policy: str, *, seed: int, full: bool) -> list[Stage]:
    """All stages with one policy, on one warm cluster."""
    accelerator = accelerator_by_name("H100")
    if accelerator is None:
        msg = "no H100 in the catalogue"
        raise LookupError(msg)
    spec = EngineSpec(
        architecture=architecture_for_model("Qwen/Qwen3-32B"),
        accelerator=accelerator,
        parallelism=Parallelism(tensor_parallel_size=2),
        num_blocks=KV_TOKENS // BLOCK_TOKENS + 1,
        block_size_tokens=BLOCK_TOKENS,
        max_num_batched_tokens=8192,
        max_context_tokens=16_384,
    )
    fleet = Fleet(
        engines=((spec, NUM_REPLICAS),), policy=policy,
        router=RouterSettings(scrape_seconds=0.05),
    )  # fmt: skip
    cluster = Cluster(fleet, seed=seed, sample_seconds=None)
    rng = random.Random(seed)  # noqa: S311 - a workload
    stages = [s for s in LADDER_73_STAGES if full or s[0] in SHORT_STAGES]
    warm_up, *workloads = ladder(rng, LADDER_73, (LADDER_73_WARM_UP, *stages))
    cluster.run(warm_up)
    result = []
    for (rate, _), workload in zip(stages, workloads, strict=True):
        cluster.loop.now_seconds += DRAIN_SECONDS
        outcomes = cluster.run(workload)
        summary = summarize(outcomes, LatencyTarget())
        served = [o for o in outcomes if o.status is OutcomeStatus.SERVED]
        result.append(
            Stage(
                policy=policy,
                rate=rate,
                out_tokens_per_second=summary.output_tokens_per_second,
                ttft_mean_seconds=summary.ttft.mean,
                ttft_p90_seconds=summary.ttft.p90,
                itl_mean_seconds=summary.tpot.mean,
                prefix_hit_ratio=summary.prefix_hit_ratio,
                num_preemptions=summary.num_preemptions,
                num_shed=summary.num_shed,
                num_requests=len(served) + summary.num_shed + summary.num_failed,
            )
        )
    return result
