"""The suite: workloads, each on the fleet that it is measured on.

Every case is a published workload (docs of its generator say whose) on a fleet of the size that a
laptop can simulate; rates are searched, so only shapes matter: how long prompts and answers are,
how they come, what they share, how unequal the replicas are.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.footprint import Parallelism
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.outcome import LatencyTarget
from memroute_simulator.workloads import Workload, arrivals, workload_by_name
from memroute_simulator.workloads.benchmarks import SharedPrefix
from memroute_simulator.workloads.request import open_loop

LLAMA_8B = "meta-llama/Llama-3.1-8B"
LLAMA_2_7B = "meta-llama/Llama-2-7b-chat-hf"
QWEN_32B = "Qwen/Qwen3-32B"
TRACE_REQUESTS = 3000
TRACE_SECONDS = 30.0
"""Of a trace at least so many requests, and what comes in so long near its capacity: replicas are
empty at first, and a run that is over before they fill says little."""
Engines = tuple[tuple[EngineSpec, int], ...]
Generate = Callable[[float, int, int], Workload]
"""(rate per second, seed, requests)."""


def engine(
    model: str,
    accelerator: str,
    kv_tokens: int,
    *,
    tensor_parallel_size: int = 1,
    max_context_tokens: int = 16_384,
    max_adapters: int | None = None,
) -> EngineSpec:
    """A replica with that many KV tokens."""
    found = accelerator_by_name(accelerator)
    if found is None:
        msg = f"no accelerator {accelerator!r} in the catalogue"
        raise LookupError(msg)
    return EngineSpec(
        architecture=architecture_for_model(model),
        accelerator=found,
        parallelism=Parallelism(tensor_parallel_size=tensor_parallel_size),
        num_blocks=kv_tokens // 64 + 1,
        block_size_tokens=64,
        max_num_batched_tokens=8192,
        max_context_tokens=max_context_tokens,
        max_adapters=max_adapters,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One workload on one fleet."""

    name: str
    about: str
    engines: Engines
    generate: Generate
    num_requests: int
    first_rate: float
    """Requests (or sessions) per second, near memroute's capacity: where the search begins."""
    num_routers: int = 1
    target: LatencyTarget = field(default_factory=LatencyTarget)
    warm_up_ratio: float = 0.1
    """Share of the requests, the first, that is not judged."""

    def workload(self, rate: float, seed: int, *, times: float = 1.0) -> Workload:
        """Its requests (``times`` as many) at so many per second."""
        return self.generate(rate, seed, int(times * self.num_requests))


def named(name: str, max_context_tokens: int = 16_384) -> Generate:
    """A workload by its name, cut to what the engines take."""

    def generate(rate: float, seed: int, num_requests: int) -> Workload:
        return workload_by_name(
            name,
            num_requests=num_requests,
            rate_per_second=rate,
            seed=seed,
            max_context_tokens=max_context_tokens,
        )

    return generate


_GROUPS = SharedPrefix(
    num_groups=75, prompts_per_group=5, system_tokens=6000, question_tokens=1200,
    output_tokens=1000,
)  # fmt: skip


def _shared_prefix(rate: float, seed: int, num_requests: int) -> Workload:
    """llm-d's 73-capacity prompts, half the groups for half the replicas."""
    rng = random.Random(f"shared-prefix/{seed}")  # noqa: S311 - a workload, no secret
    times = arrivals.poisson(rng, rate, num_requests)
    requests = [_GROUPS.request(rng, index) for index in range(num_requests)]
    return open_loop("shared-prefix", times, requests)


_H100 = engine(LLAMA_8B, "H100", 430_000)
_LONG = engine(LLAMA_8B, "H100", 430_000, max_context_tokens=32_768)

CASES = {
    case.name: case
    for case in (
        Case(
            name="shared-prefix",
            about="llm-d's 73-capacity: 6,000 shared of 7,200 in, 1,000 out; 4 x Qwen3-32B TP2",
            engines=((engine(QWEN_32B, "H100", 307_328, tensor_parallel_size=2), 4),),
            generate=_shared_prefix,
            num_requests=2000,
            first_rate=6.5,
        ),
        Case(
            name="sharegpt",
            about="ShareGPT, nothing shared; 4 x Llama-2-7B, 105k KV tokens each (GIE's chart)",
            engines=((engine(LLAMA_2_7B, "H100", 105_000, max_context_tokens=4096), 4),),
            generate=named("sharegpt", 4096),
            num_requests=4000,
            first_rate=105.0,
        ),
        Case(
            name="azure-conv-18to1",
            about="Azure chats; 2 x 430k and 2 x 24k KV tokens",
            engines=((_H100, 2), (engine(LLAMA_8B, "H100", 24_000), 2)),
            generate=named("azure-conv"),
            num_requests=3000,
            first_rate=50.0,
        ),
        Case(
            name="azure-conv-4to1",
            about="Azure chats; 2 x 200k and 2 x 50k KV tokens, four routers that share nothing",
            engines=(
                (engine(LLAMA_8B, "H100", 200_000), 2),
                (engine(LLAMA_8B, "H100", 50_000), 2),
            ),
            generate=named("azure-conv"),
            num_requests=3000,
            first_rate=63.0,
            num_routers=4,
        ),
        Case(
            name="azure-code",
            about="Azure code completion, bursts (gap CV 13); 4 x Llama-3.1-8B",
            engines=((_H100, 4),),
            generate=named("azure-code"),
            num_requests=4000,
            first_rate=10.0,
        ),
        Case(
            name="servegen-m-large",
            about="ServeGen's tenants, bursty clients; 4 x Llama-3.1-8B, 100k KV tokens each",
            engines=((engine(LLAMA_8B, "H100", 100_000), 4),),
            generate=named("servegen-m-large"),
            num_requests=3000,
            first_rate=80.0,
        ),
        Case(
            name="mooncake-conversation",
            about="long chats that come back (p50 7k, to 32k in); 4 x Llama-3.1-8B",
            engines=((_LONG, 4),),
            generate=named("mooncake-conversation", 32_768),
            num_requests=1500,
            first_rate=9.5,
        ),
        Case(
            name="mooncake-toolagent",
            about="agents behind two tool prompts, chats between; 4 x Llama-3.1-8B",
            engines=((_LONG, 4),),
            generate=named("mooncake-toolagent", 32_768),
            num_requests=2000,
            first_rate=13.0,
        ),
        Case(
            name="kv-cliff",
            about="long chats (4,096 in, 1,024 out) where the KV cache is short; 4 x 100k tokens",
            engines=((engine(LLAMA_8B, "H100", 100_000), 4),),
            generate=named("chatbot"),
            num_requests=1000,
            first_rate=5.3,
        ),
        Case(
            name="mixed-accelerators",
            about="summarization on 2 x H100, 2 x A100, 2 x L40S",
            engines=(
                (_H100, 2),
                (engine(LLAMA_8B, "A100-80", 430_000), 2),
                (engine(LLAMA_8B, "L40S", 170_000), 2),
            ),
            generate=named("summarization"),
            num_requests=2500,
            first_rate=35.0,
        ),
        Case(
            name="multi-round-qa",
            about="ten rounds each behind a long history; 4 x Llama-3.1-8B, 200k KV tokens each",
            engines=((engine(LLAMA_8B, "H100", 200_000, max_context_tokens=32_768), 4),),
            generate=named("multi-round-qa", 32_768),
            num_requests=2000,
            first_rate=1.3,
        ),
        Case(
            name="heavy-heterogeneous",
            about="50 to 30,000 in, 20 to 8,000 out; 4 x Llama-3.1-8B, 430k KV tokens each",
            engines=((engine(LLAMA_8B, "H100", 430_000, max_context_tokens=40_000), 4),),
            generate=named("heavy-heterogeneous", 40_000),
            num_requests=1000,
            first_rate=4.5,
        ),
    )
}
"""By name."""


def trace_case(name: str, *, first_rate: float = 1.0) -> Case:
    """A trace's requests (a file), or a workload by name, on 4 x Llama-3.1-8B, at any rate.

    Raises ``WorkloadError`` when its requests are asked for, and there are none.
    """

    def generate(rate: float, seed: int, num_requests: int) -> Workload:
        return workload_by_name(
            name,
            num_requests=num_requests,
            rate_per_second=rate,
            seed=seed,
            max_context_tokens=_LONG.max_context_tokens,
        )

    num_requests = max(TRACE_REQUESTS, round(TRACE_SECONDS * first_rate))
    return Case(
        name=Path(name).stem,
        about=f"the first {num_requests} requests of {name}",
        engines=((_LONG, 4),),
        generate=generate,
        num_requests=num_requests,
        first_rate=first_rate,
    )
