"""Ready-made benchmark definitions: llm-d's ladders, synthetic mixes, classes, adapters.

Sources: llm-d/llm-d-kv-cache-manager ``benchmarking``, llm-d/llm-d-benchmark profiles,
kubernetes-sigs/gateway-api-inference-extension, inference-sim (BLIS) ``defaults.yaml``.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from memroute_simulator.workloads import arrivals
from memroute_simulator.workloads.lengths import ClippedNormal, Constant, Lengths
from memroute_simulator.workloads.request import (
    Session,
    Workload,
    WorkloadRequest,
    open_loop,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefix:
    """Groups of prompts behind one system prompt each."""

    num_groups: int
    prompts_per_group: int
    system_tokens: int
    question_tokens: int
    output_tokens: int

    def request(self, rng: random.Random, number: int) -> WorkloadRequest:
        """One of the prompts, at random; its answer is its own."""
        group = rng.randrange(self.num_groups)
        prompt = rng.randrange(self.prompts_per_group)
        question = 1_000_000 + group * self.prompts_per_group + prompt
        return WorkloadRequest(
            prompt=((group + 1, self.system_tokens), (question, self.question_tokens)),
            num_output_tokens=self.output_tokens,
            max_output_tokens=self.output_tokens,
            output_id=10_000_000 + number,
        )


LADDER_73 = SharedPrefix(
    num_groups=150, prompts_per_group=5, system_tokens=6000, question_tokens=1200,
    output_tokens=1000,
)  # fmt: skip
LADDER_73_WARM_UP = (15.0, 50.0)
LADDER_73_STAGES = (
    (3, 20), (10, 20), (15, 20), (20, 38), (22, 34), (25, 30), (30, 25), (35, 21), (40, 38),
    (43, 36), (46, 33), (49, 30), (52, 29), (55, 27), (57, 26), (60, 25),
)  # fmt: skip
SYNTHETIC_PREFIX = SharedPrefix(
    num_groups=32, prompts_per_group=32, system_tokens=2048, question_tokens=256,
    output_tokens=256,
)  # fmt: skip


def ladder(
    rng: random.Random, shape: SharedPrefix, plan: Sequence[tuple[float, float]]
) -> list[Workload]:
    """The stages of a ladder, each from its own zero: they are meant to drain in between."""
    result, number = [], 0
    for rate, seconds in plan:
        (times,) = arrivals.stages(rng, [(rate, seconds)])
        requests = [shape.request(rng, number + index) for index in range(len(times))]
        number += len(times)
        result.append(open_loop(f"{rate:g}/s", times, requests))
    return result


def shared_prefix(rng: random.Random, count: int, rate: float | None) -> Workload:
    """llm-d's 73-capacity prompts at one rate: 150 groups of 5, 6,000 + 1,200 in, 1,000 out."""
    times = arrivals.poisson(rng, rate or 15.0, count)
    return open_loop("shared-prefix", times, [LADDER_73.request(rng, i) for i in range(count)])


def shared_prefix_small(rng: random.Random, count: int, rate: float | None) -> Workload:
    """llm-d's shared_prefix_synthetic: 32 groups of 32, 2,048 + 256 in, 256 out."""
    times = arrivals.poisson(rng, rate or 10.0, count)
    requests = [SYNTHETIC_PREFIX.request(rng, i) for i in range(count)]
    return open_loop("shared-prefix-small", times, requests)


@dataclass(frozen=True, slots=True)
class Mix:
    """Independent lengths, Poisson."""

    inputs: Lengths
    outputs: Lengths
    rate: float
    about: str


MIXES = {
    "chatbot": Mix(
        ClippedNormal(4096, 2048, 10, 8192), ClippedNormal(1024, 512, 1, 2048), 4,
        "Long chats: 4,096 in and 1,024 out, normal (llm-d-benchmark).",
    ),
    "summarization": Mix(
        ClippedNormal(2048, 1024, 10, 8192), ClippedNormal(256, 128, 1, 512), 4,
        "2,048 in and 256 out, normal (llm-d-benchmark).",
    ),
    "code-completion": Mix(
        ClippedNormal(2048, 1024, 10, 8192), ClippedNormal(128, 64, 1, 256), 4,
        "2,048 in and 128 out, normal (llm-d-benchmark).",
    ),
    "heavy-heterogeneous": Mix(
        ClippedNormal(8000, 8500, 50, 30_000), ClippedNormal(800, 1500, 20, 8000), 1,
        "50 to 30,000 in and 20 to 8,000 out: the mix that presses memory most (guidellm).",
    ),
    "content-generation": Mix(Constant(1024), Constant(1024), 4, "1,024 in and out (BLIS)."),
    "multi-document": Mix(Constant(10_240), Constant(1536), 1, "10,240 in, 1,536 out (BLIS)."),
    "uniform": Mix(Constant(1024), Constant(256), 4, "1,024 in and 256 out, always."),
}  # fmt: skip


def mix(rng: random.Random, count: int, rate: float | None, *, name: str) -> Workload:
    """One of the synthetic mixes."""
    shape = MIXES[name]
    times = arrivals.poisson(rng, rate or shape.rate, count)
    requests = [
        WorkloadRequest(
            prompt=((2 * index, shape.inputs.at(rng.random())),),
            num_output_tokens=shape.outputs.at(rng.random()),
            output_id=2 * index + 1,
        )
        for index in range(count)
    ]
    return open_loop(name, times, requests)


PRIORITY_CLASSES = (("critical", 0.2, -100), ("normal", 0.6, 0), ("batch", 0.2, 10))
# Shares and llm-d's priorities with their sign turned: to vLLM, smaller is served first.


def priority_mix(rng: random.Random, count: int, rate: float | None) -> Workload:
    """llm-d's priority_mix: critical, normal and batch traffic in one stream."""
    shape = MIXES["chatbot"]
    times = arrivals.poisson(rng, rate or 6.0, count)
    requests = []
    for index in range(count):
        u = rng.random()
        bounds = [PRIORITY_CLASSES[0][1], PRIORITY_CLASSES[0][1] + PRIORITY_CLASSES[1][1]]
        tenant, _, priority = PRIORITY_CLASSES[sum(u >= bound for bound in bounds)]
        requests.append(
            WorkloadRequest(
                prompt=((2 * index, shape.inputs.at(rng.random())),),
                num_output_tokens=shape.outputs.at(rng.random()),
                output_id=2 * index + 1,
                tenant=tenant,
                priority=priority,
            )
        )
    return open_loop("priority-mix", times, requests)


def multi_lora(rng: random.Random, count: int, rate: float | None) -> Workload:
    """GIE's regression test: 15 adapters, five each at 12, 6 and 2 % of the traffic."""
    weights = [0.12] * 5 + [0.06] * 5 + [0.02] * 5
    shape = MIXES["summarization"]
    times = arrivals.poisson(rng, rate or 20.0, count)
    requests = [
        WorkloadRequest(
            prompt=((2 * index, shape.inputs.at(rng.random())),),
            num_output_tokens=shape.outputs.at(rng.random()),
            output_id=2 * index + 1,
            adapter=f"adapter-{rng.choices(range(15), weights)[0]}",
        )
        for index in range(count)
    ]
    return open_loop("multi-lora", times, requests)


def streams(rng: random.Random, num_streams: int, each: int, *, name: str) -> Workload:
    """A closed loop: so many clients, each sending its next request when the last has ended."""
    shape = MIXES[name]
    sessions = []
    for stream in range(num_streams):
        requests = tuple(
            WorkloadRequest(
                prompt=((2 * (stream * each + turn), shape.inputs.at(rng.random())),),
                num_output_tokens=shape.outputs.at(rng.random()),
                output_id=2 * (stream * each + turn) + 1,
            )
            for turn in range(each)
        )
        sessions.append(
            Session(start_seconds=0.0, requests=requests, think_seconds=(0.0,) * (each - 1))
        )
    return Workload(name=f"{name}-{num_streams}-streams", sessions=tuple(sessions))
