"""What no router can pass: the work of a workload, spread as evenly as could be.

The dearest twentieth of the requests is left out: that is what the definition of capacity forgives.
All others are served, and of their work at least this is done by somebody:

* every prompt token that nobody sent before is computed once, as if all replicas shared a cache
  that forgets nothing; every output token once;
* a step decodes at most as many answers as fit the KV cache side by side (what only one request
  holds, half of the answer grown) and ``max_num_seqs``, and takes at most the target per token on
  average;
* every step is the average step: fuller ones cost less per token, so fewest steps cost least.

There are no queues, no bursts, no first tokens to be in time, and no replica is ever idle: a router
that is below it may still be the best there is. What it shows is how much there is to gain at most.
It is of the steady state: a short run begins with empty caches, and may serve a little more.
"""

from collections.abc import Sequence

from bench.routing.cases import Case
from memroute.bandwidth import StepBatch
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.workloads import Workload

LEFT_OUT_RATIO = 0.05


class _Work:
    """What one request has somebody do at least."""

    __slots__ = ("held", "new", "output")

    def __init__(self, new: int, held: float, output: int) -> None:
        self.new = new
        """Prompt tokens that nobody computed before."""
        self.held = held
        """Tokens that it alone holds while it decodes, on average."""
        self.output = output


def bound_per_second(case: Case, seed: int) -> float:
    """Requests (or sessions) per second that no router can pass. Of one seed's workload."""
    workload = case.workload(case.first_rate, seed)
    work = _work_of(workload)
    per_request = len(workload.sessions) / workload.num_requests
    total = sum(
        count * _requests_per_second(spec, work, case.target.tpot_seconds)
        for spec, count in case.engines
    )
    return total * per_request


def _work_of(workload: Workload) -> list[_Work]:
    seen: set[int] = set()
    uses: dict[int, int] = {}
    for request in workload.requests():
        for segment, _ in request.prompt:
            uses[segment] = uses.get(segment, 0) + 1
    work = []
    for request in workload.requests():
        new = sum(tokens for segment, tokens in request.prompt if segment not in seen)
        own = sum(tokens for segment, tokens in request.prompt if uses[segment] == 1)
        seen.update(segment for segment, _ in request.prompt)
        seen.add(request.output_id)
        output = request.num_output_tokens
        work.append(_Work(max(1, new), own + output / 2, output))
    return work


def _requests_per_second(spec: EngineSpec, work: Sequence[_Work], tpot_seconds: float) -> float:
    """Of one replica, were all work its own."""
    kept = sorted(work, key=lambda one: _alone_seconds(spec, one))
    kept = kept[: int((1 - LEFT_OUT_RATIO) * len(kept))]
    new = sum(one.new for one in kept)
    output = sum(one.output for one in kept)
    held = sum(one.held * one.output for one in kept) / output
    capacity = spec.total_blocks * spec.layout.block_size_tokens
    most = max(1, min(spec.max_num_seqs, int(capacity / max(1.0, held))))
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if _step_seconds(spec, middle, new / output, held, len(kept) / output) <= tpot_seconds:
            low = middle
        else:
            high = middle - 1
    step = _step_seconds(spec, low, new / output, held, len(kept) / output)
    return len(work) / (output / low * step)


def _step_seconds(
    spec: EngineSpec, decodes: int, prompt_ratio: float, held: float, ends_ratio: float
) -> float:
    """The average step: so many answers, and the prompts that come with as many tokens."""
    tokens = int(decodes * prompt_ratio)
    prompts = int(decodes * ends_ratio) + 1
    return spec.step_time.step_seconds(
        StepBatch(
            num_decodes=decodes,
            decode_context_tokens=int(decodes * held),
            prefills=((max(1, tokens // prompts), 0),) * prompts,
        )
    )


def _alone_seconds(spec: EngineSpec, one: _Work) -> float:
    """What ranks requests by how dear they are."""
    prompt = spec.step_time.step_seconds(StepBatch(prefills=((one.new, 0),)))
    step = StepBatch(num_decodes=64, decode_context_tokens=int(64 * one.held))
    return prompt + one.output * spec.step_time.step_seconds(step) / 64
