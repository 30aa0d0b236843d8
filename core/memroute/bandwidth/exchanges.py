"""What ranks send each other in one step, and how long it takes.

* **Tensor parallelism**: an all-reduce after attention and one after the feed-forward, of each
  token's hidden state.
* **Experts over data-parallel ranks** (with or without expert parallelism): before the experts
  each rank gathers the tokens of all (hidden state and router logits), afterwards it keeps the
  sums of its own. That is vLLM's default, all-gather and reduce-scatter by NCCL. Beside it the
  ranks agree on the step's size once per step.

What an all-to-all would send (each token to the ranks of its experts alone) is no less between
two ranks: with 8 experts per token nearly every token goes to both.
"""

from dataclasses import dataclass, replace

from memroute.bandwidth.links import EAGER_CALL_SECONDS, Link, LinkRate
from memroute.footprint import ModelArchitecture, Parallelism
from memroute.footprint.architecture import MixtureOfExperts

# Tensor parallelism adds up after attention and after the feed-forward.
EXCHANGES_PER_LAYER = 2
# bf16, also where weights are quantized.
ACTIVATION_BYTES = 2
# What tensor parallelism adds to the CPU's part: the step's plan goes to worker processes through
# shared memory, pickled, and tokens come back. Chosen by hand; 0.9 ms of a step of 128 sequences.
# Halved or doubled the recorded run of Qwen3-32B moves by less than 1.5 %.
TENSOR_PARALLEL_STEP_SECONDS = 0.3e-3
TENSOR_PARALLEL_SEQUENCE_SECONDS = 5e-6
# Ranks agree on the size of each step by an all-reduce of a few counts over sockets (gloo).
# Chosen by hand; 1 % of a step of 30 ms.
DATA_PARALLEL_STEP_SECONDS = 0.3e-3
# A layer's launches without CUDA graphs, while the GPU waits: Qwen3-4B, 36 layers, on an A100 makes
# 181.7 tokens/s eager where it makes 335.9 with graphs (Project-HAMi/gpu-sharing-benchmarks,
# 2026-11, a pair at 8 requests): 19.5 ms a step, 0.54 a layer.
EAGER_LAYER_SECONDS = 0.5e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanges:
    """All of one step's messages of one rank."""

    link: Link
    all_reduce: LinkRate
    """Of the tensor-parallel ranks."""
    gather: LinkRate
    """Of the data-parallel ranks."""
    num_all_reduces: int
    """Per step."""
    token_bytes: int
    """Of one all-reduce, per token."""
    num_gathers: int
    """Per step: as many all-gathers as reduce-scatters."""
    gather_ranks: int
    logit_bytes: int
    """Per token, beside the hidden state, in the all-gather."""
    is_eager: bool = False

    @property
    def is_none(self) -> bool:
        """Whether ranks send each other nothing."""
        return not self.num_all_reduces and not self.num_gathers

    def seconds(self, num_tokens: int) -> float:
        """All messages of a step in which this rank has so many tokens."""
        seconds = 0.0
        if self.num_all_reduces:
            one = self.all_reduce.all_reduce_seconds(num_tokens * self.token_bytes)
            if self.is_eager:
                one = max(one, EAGER_CALL_SECONDS)
            seconds += self.num_all_reduces * one
        if self.num_gathers:
            gather = self._gather(num_tokens * (self.token_bytes + self.logit_bytes))
            scatter = self._gather(num_tokens * self.token_bytes)
            seconds += self.num_gathers * (gather + scatter)
        return seconds

    def _gather(self, shard_bytes: int) -> float:
        seconds = self.gather.gather_seconds(shard_bytes, self.gather_ranks)
        return max(seconds, EAGER_CALL_SECONDS) if self.is_eager else seconds

    def cpu_seconds(self, num_sequences: int) -> float:
        """What several ranks add to the CPU's part of a step."""
        seconds = 0.0
        if self.num_all_reduces:
            seconds += TENSOR_PARALLEL_STEP_SECONDS
            seconds += num_sequences * TENSOR_PARALLEL_SEQUENCE_SECONDS
        if self.num_gathers:
            seconds += DATA_PARALLEL_STEP_SECONDS
        return seconds

    def at_bound(self, ratio: float) -> "Exchanges":
        """The same with every message so much longer."""
        return replace(
            self, all_reduce=self.all_reduce.longer(ratio), gather=self.gather.longer(ratio)
        )


def exchanges_of(
    architecture: ModelArchitecture, parallelism: Parallelism, link: Link, *, is_eager: bool
) -> Exchanges:
    """What ranks of a model so spread send each other."""
    tp, dp = parallelism.tensor_parallel_size, parallelism.data_parallel_size
    routed = [
        feed_forward
        for layer in architecture.layers
        for feed_forward in layer.feed_forwards or ()
        if isinstance(feed_forward, MixtureOfExperts)
    ]
    return Exchanges(
        link=link,
        num_all_reduces=EXCHANGES_PER_LAYER * architecture.num_layers if tp > 1 else 0,
        all_reduce=link.rate(tp),
        gather=link.rate(dp),
        token_bytes=ACTIVATION_BYTES * architecture.hidden_size,
        num_gathers=len(routed) if dp > 1 else 0,
        gather_ranks=dp,
        logit_bytes=ACTIVATION_BYTES * routed[0].num_experts if routed else 0,
        is_eager=is_eager,
    )


def launch_seconds(num_layers: int, *, is_eager: bool) -> float:
    """What a step takes at least because the CPU launches its kernels one by one; 0 with graphs."""
    return num_layers * EAGER_LAYER_SECONDS if is_eager else 0.0
