"""Long contexts that come back: Mooncake's traffic, multi-round chats.

A request takes its length from the published curve, then continues a recent conversation that
fits into it, among those whose user has thought long enough: so lengths are exact and how much is
shared, and after how long, follows from two numbers per workload (how often a request
continues, and how long users think), set so that the published hit rates come out: 36.6 %
(conversation) and 64.0 % (synthetic) of 512-token blocks with an unbounded cache.

Sources: kvcache-ai/Mooncake, FAST'25 release (Apache-2.0); vllm-project/production-stack
``benchmarks/multi-round-qa``; llm-d-benchmark ``conversation_replay``.
"""

import bisect
import random
from dataclasses import dataclass

from memroute_simulator.workloads import arrivals
from memroute_simulator.workloads.lengths import (
    Constant,
    Lengths,
    LogNormal,
    Quantiles,
    correlated,
)
from memroute_simulator.workloads.request import (
    Segments,
    Session,
    Workload,
    WorkloadRequest,
    open_loop,
)

BLOCK_TOKENS = 512
# Mooncake's own: hit rates are published in blocks of that size.
SYSTEM_SEGMENT = -1
LOOKBACK = 500
# Conversations that are looked through for one that fits.


@dataclass(frozen=True, slots=True, kw_only=True)
class ReuseShape:
    """How a workload's prompts come back."""

    rate: float
    inputs: Quantiles
    outputs: Quantiles
    correlation: float
    continues_ratio: float
    """Share of requests that continue an earlier one where one fits."""
    fills_ratio: float
    """How much of the new prompt the earlier one may fill at the most."""
    think: LogNormal
    """Seconds until a conversation may go on."""
    system_tokens: int = 0
    """A prompt that all requests share."""


CONVERSATION = ReuseShape(
    rate=3.40,
    inputs=Quantiles.of(891, 126_000, p5=901, p25=2307, p50=6909, p75=15_367, p90=27_367,
                        p95=39_551, p99=85_400),
    outputs=Quantiles.of(1, 2000, p5=10, p25=157, p50=350, p75=472, p90=597, p95=698, p99=1119),
    correlation=0.08, continues_ratio=0.56, fills_ratio=0.98,
    think=LogNormal(190, 260), system_tokens=BLOCK_TOKENS,
)  # fmt: skip
SYNTHETIC = ReuseShape(
    rate=3.91,
    inputs=Quantiles.of(13, 191_378, p5=22, p25=277, p50=11_587, p75=23_175, p90=38_611,
                        p95=48_905, p99=66_456),
    outputs=Quantiles.of(1, 893, p5=2, p25=11, p50=69, p75=250, p90=389, p95=519, p99=768),
    correlation=-0.37, continues_ratio=1.0, fills_ratio=0.99, think=LogNormal(135, 380),
)  # fmt: skip


def mooncake_conversation(rng: random.Random, count: int, rate: float | None) -> Workload:
    """Chats of 12k tokens on average that share one system prompt and continue after minutes."""
    return _reusing("mooncake-conversation", rng, count, rate, CONVERSATION)


def mooncake_synthetic(rng: random.Random, count: int, rate: float | None) -> Workload:
    """A mix of public long-context sets: two prompts in three are mostly repeats."""
    return _reusing("mooncake-synthetic", rng, count, rate, SYNTHETIC)


def _reusing(
    name: str, rng: random.Random, count: int, rate: float | None, shape: ReuseShape
) -> Workload:
    starts = arrivals.poisson(rng, shape.rate, count)
    system = ((SYSTEM_SEGMENT, shape.system_tokens),) if shape.system_tokens else ()
    ready: list[tuple[int, Segments]] = []
    thinking: list[tuple[float, int, int, Segments]] = []
    requests = []
    for index, now in enumerate(starts):
        while thinking and thinking[0][0] <= now:
            _, _, length, history = thinking.pop(0)
            ready.append((length, history))
        u, v = correlated(rng, shape.correlation)
        length = shape.inputs.at(u)
        prompt: Segments = system
        if rng.random() < shape.continues_ratio:
            prompt = _recent_fit(ready, int(length * shape.fills_ratio)) or system
        shared = sum(tokens for _, tokens in prompt)
        if shared > length:
            prompt, shared = (), 0
        prompt = (*prompt, (3 * index, length - shared)) if length > shared else prompt
        request = WorkloadRequest(
            prompt=prompt, num_output_tokens=shape.outputs.at(v), output_id=3 * index + 1
        )
        requests.append(request)
        history = request.answered()
        back = now + shape.think.at(rng.random())
        total = length + request.num_output_tokens
        bisect.insort(thinking, (back, index, total, history))
    if rate is not None:
        starts = arrivals.rescaled(starts, rate)
    return open_loop(name, starts, requests)


def _recent_fit(ready: list[tuple[int, Segments]], limit_tokens: int) -> Segments | None:
    """The conversation that became ready last and fills at least half of the limit."""
    for place in range(len(ready) - 1, max(-1, len(ready) - LOOKBACK), -1):
        length, history = ready[place]
        if limit_tokens / 2 <= length <= limit_tokens:
            del ready[place]
            return history
    return None


TOOL_INPUT_TAILS = Quantiles.of(64, 12_000, p50=900, p90=4500, p99=9000)
TOOL_PROMPTS = (6144, 2560)


def mooncake_toolagent(rng: random.Random, count: int, rate: float | None) -> Workload:
    """Agents: half the requests carry one of two tool prompts, half are chats (mean 8.6k in)."""
    starts = arrivals.poisson(rng, rate or 6.6, count)
    requests = []
    for index in range(count):
        kind = rng.random()
        if kind < 0.5:  # noqa: PLR2004 - half and half, as the fragment at hand suggests
            tool = 0 if rng.random() < 0.8 else 1  # noqa: PLR2004
            prompt: Segments = ((-2 - tool, TOOL_PROMPTS[tool]),)
            tail = TOOL_INPUT_TAILS.at(rng.random())
            output = Quantiles.of(3, 400, p50=25, p90=80).at(rng.random())
        else:
            prompt = ((SYSTEM_SEGMENT, BLOCK_TOKENS),)
            tail = CONVERSATION.inputs.at(rng.random() * 0.93)
            output = CONVERSATION.outputs.at(rng.random())
        requests.append(
            WorkloadRequest(
                prompt=(*prompt, (3 * index, tail)),
                num_output_tokens=output,
                output_id=3 * index + 1,
            )
        )
    return open_loop("mooncake-toolagent", starts, requests)


def rounds(
    name: str,
    rng: random.Random,
    num_users: int,
    num_rounds: int,
    *,
    system_tokens: int,
    history: Lengths,
    question: Lengths,
    answer: Lengths,
    think: Lengths,
    ramp_seconds: float,
) -> Workload:
    """Users who ask, read and ask again: each turn repeats all that was said."""
    sessions = []
    for user in range(num_users):
        segments: Segments = (
            (SYSTEM_SEGMENT, system_tokens),
            (1_000_000 * (user + 1), history.at(rng.random())),
        )
        turns, thinks = [], []
        for turn in range(num_rounds):
            base = 1_000_000 * (user + 1) + 2 * turn + 1
            request = WorkloadRequest(
                prompt=(*segments, (base, question.at(rng.random()))),
                num_output_tokens=answer.at(rng.random()),
                output_id=base + 1,
                tenant=f"user-{user}",
            )
            turns.append(request)
            segments = request.answered()
            if turn:
                thinks.append(float(think.at(rng.random())))
        sessions.append(
            Session(
                start_seconds=rng.random() * ramp_seconds,
                requests=tuple(turns),
                think_seconds=tuple(thinks),
            )
        )
    sessions.sort(key=lambda session: session.start_seconds)
    return Workload(name=name, sessions=tuple(sessions))


def multi_round_qa(rng: random.Random, count: int, rate: float | None) -> Workload:
    """production-stack's benchmark: users with a long history, ten rounds, answers of 100."""
    num_rounds = 10
    users = max(1, count // num_rounds)
    return rounds(
        "multi-round-qa", rng, users, num_rounds,
        system_tokens=1000, history=Quantiles.of(2000, 20_000, p50=9000), question=Constant(50),
        answer=Constant(100), think=LogNormal(10, 5),
        ramp_seconds=users * num_rounds / (rate or 5.0) / num_rounds,
    )  # fmt: skip


def interactive_chat(rng: random.Random, count: int, rate: float | None) -> Workload:
    """llm-d's conversation_replay: four turns of 50 in and 300 out, 45 s of thought between."""
    num_rounds = 4
    users = max(1, count // num_rounds)
    return rounds(
        "interactive-chat", rng, users, num_rounds,
        system_tokens=1000, history=LogNormal(4000, 2500, 16), question=Constant(50),
        answer=Constant(300), think=LogNormal(45, 40, 1),
        ramp_seconds=users / ((rate or 2.0) / num_rounds),
    )  # fmt: skip
