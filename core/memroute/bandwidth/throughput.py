"""Tokens per second of one replica, and what they cost: step times at a batch and a context."""

from dataclasses import dataclass, replace
from enum import StrEnum

from memroute.bandwidth.links import Link
from memroute.bandwidth.step_time import StepTime
from memroute.catalog import Accelerator
from memroute.footprint import ReplicaShape

SECONDS_PER_HOUR = 3600.0


class Bound(StrEnum):
    """What limits the rate: more of what would help."""

    BANDWIDTH = "bandwidth"
    COMPUTE = "compute"
    MEMORY = "memory"
    """The KV pool is full before bandwidth or compute are: more sequences do not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """What a replica does with so many sequences at such a length."""

    num_sequences: int
    context_tokens: int
    step_seconds: float
    """One decode step: the time between two tokens of a sequence."""
    tokens_per_second: float
    """Output tokens of all sequences together."""
    bound: Bound
    tpot_alone_seconds: float
    """A decode step with one sequence: the least time per token that a request can have there."""
    ttft_seconds: float
    """Prefill of one prompt of that context on an idle replica."""
    error_ratio: float
    """How far the times may be off, by what was measured of the accelerator."""
    step_seconds_range: tuple[float, float]
    """The step with all doubts one way, and the other."""
    read_bytes_per_second: float
    """What each device reads of its memory per second: weights and KV cache."""
    link: Link | None
    """What joins the devices; None for one device."""

    def cost_per_million_tokens(self, price_per_hour: float) -> float:
        """What a million output tokens cost when the whole replica costs so much per hour."""
        return price_per_hour / SECONDS_PER_HOUR / self.tokens_per_second * 1e6


def throughput_of(
    shape: ReplicaShape,
    accelerator: Accelerator,
    *,
    num_sequences: int,
    context_tokens: int,
    max_sequences: int | None = None,
    link: Link | None = None,
    host_read_seconds: float = 0.0,
) -> Throughput:
    """The rates at a batch and a context; ``max_sequences``: what the KV pool holds.

    ``link``: what joins the devices of the node; None: not known. ``host_read_seconds``: to read
    the weights that stay on the host, once.

    Raises ``UnknownWeightsError`` for a family whose matrices are not known.
    """
    step_time = StepTime.of(
        shape.architecture,
        accelerator,
        quantization=shape.quantization,
        kv_cache_dtype=shape.kv_cache_dtype,
        parallelism=shape.parallelism,
        link=link,
        is_eager=shape.is_eager,
    )
    if host_read_seconds:
        step_time = replace(step_time, host_read_seconds=host_read_seconds)
    fits = num_sequences if max_sequences is None else min(num_sequences, max_sequences)
    fits = max(1, fits)
    if fits < num_sequences:
        bound = Bound.MEMORY
    elif step_time.is_compute_bound(fits, context_tokens):
        bound = Bound.COMPUTE
    else:
        bound = Bound.BANDWIDTH
    step = step_time.decode_seconds(fits, context_tokens)
    return Throughput(
        num_sequences=fits,
        context_tokens=context_tokens,
        step_seconds=step,
        tokens_per_second=fits * shape.data_parallel_size / step,
        bound=bound,
        tpot_alone_seconds=step_time.decode_seconds(1, context_tokens),
        ttft_seconds=step_time.prefill_seconds(context_tokens, shape.max_num_batched_tokens),
        error_ratio=step_time.error_ratio,
        step_seconds_range=(
            step_time.fastest().decode_seconds(fits, context_tokens),
            step_time.slowest().decode_seconds(fits, context_tokens),
        ),
        read_bytes_per_second=step_time.read_bytes_per_second(fits, context_tokens),
        link=step_time.link if shape.parallelism.num_devices > 1 else None,
    )
