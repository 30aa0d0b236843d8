"""Bytes that one replica needs on each of its accelerators."""

from dataclasses import dataclass, field
from functools import lru_cache

from memroute.errors import UnknownWeightsError, UnsupportedShapeError
from memroute.footprint import overhead
from memroute.footprint.architecture import ModelArchitecture
from memroute.footprint.calibration import Calibration
from memroute.footprint.engine_type import EngineType
from memroute.footprint.estimate import Estimate
from memroute.footprint.kv_cache import (
    KVCacheDtype,
    KVCacheLayout,
    kv_cache_layout,
    llama_cpp,
    resolved_dtype,
    sglang,
)
from memroute.footprint.runtimes import check_engine, runtime_of
from memroute.footprint.weights import (
    Parallelism,
    Quantization,
    WeightsEstimate,
    WeightsSource,
    adapter_bytes_per_rank,
    mtp_bytes_per_rank,
    weights_per_rank,
)
from memroute.units import GIB

MAX_NUM_SEQS = 256
# vLLM's own default under 70 GiB of HBM; it bounds the activation peak, so memroute always
# passes it rather than let the engine pick 1,024 on larger accelerators.
MAX_NUM_BATCHED_TOKENS = 2048
# vLLM's default under 70 GiB: a step of 2,048 tokens already saturates prefill.
CHECKPOINT_UNCERTAINTY_RATIO = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaShape:
    """What was asked of a replica: everything that decides its bytes."""

    architecture: ModelArchitecture
    max_context_tokens: int
    concurrency: int
    """Sequences of the whole context that the KV pool must hold at once."""
    quantization: Quantization = Quantization.NONE
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.AUTO
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    expert_parallel: bool = False
    max_num_seqs: int = MAX_NUM_SEQS
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS
    block_size_tokens: int | None = None
    """Of the KV cache; None for the engine's own choice."""
    is_eager: bool = False
    """Whether steps run without CUDA graphs."""
    max_adapters: int = 0
    """LoRA slots; 0 for none."""
    max_adapter_rank: int = 16
    draft: ModelArchitecture | None = None
    """A draft model for speculative decoding, on every rank beside the model."""
    num_speculative_tokens: int = 0
    """Above 0 without a draft: the model's own prediction layers are loaded."""
    engine: EngineType = EngineType.VLLM
    """Whose rules of memory count."""
    weights_on_host_bytes: int = 0
    """Of each device's weights, what stays on the host (vLLM's ``--cpu-offload-gb``)."""

    @property
    def parallelism(self) -> Parallelism:
        """How the replica is spread over accelerators."""
        return Parallelism(
            tensor_parallel_size=self.tensor_parallel_size,
            pipeline_parallel_size=self.pipeline_parallel_size,
            data_parallel_size=self.data_parallel_size,
            expert_parallel=self.expert_parallel,
        )

    @property
    def cache_dtype(self) -> KVCacheDtype:
        """How keys and values are stored: as asked for, else as vLLM finds it in a checkpoint."""
        if self.engine is not EngineType.VLLM:
            return self.kv_cache_dtype
        return resolved_dtype(self.architecture, self.kv_cache_dtype)

    @property
    def is_cache_published(self) -> bool:
        """Whether it is the checkpoint that says how keys and values are stored."""
        return self.cache_dtype is not self.kv_cache_dtype

    @property
    def is_cache_quantized(self) -> bool:
        """Whether keys and values are narrower than the model's own: asked for, or as published."""
        return self.cache_dtype.is_quantized

    @property
    def kv_layout(self) -> KVCacheLayout:
        """How one rank stores its KV cache. Raises ``UnsupportedShapeError``."""
        if self.engine is EngineType.SGLANG:
            return sglang.pool_layout(
                self.architecture,
                kv_cache_dtype=self.kv_cache_dtype,
                parallelism=self.parallelism,
                page_size_tokens=self.block_size_tokens,
            )
        if self.engine is EngineType.LLAMA_CPP:
            return llama_cpp.slots_layout(self.architecture)
        return kv_cache_layout(
            self.architecture,
            kv_cache_dtype=self.kv_cache_dtype,
            parallelism=self.parallelism,
            max_num_batched_tokens=self.max_num_batched_tokens,
            block_size_tokens=self.block_size_tokens,
            num_speculative_tokens=self.num_speculative_tokens,
            num_prediction_layers=(
                self.architecture.num_mtp_layers
                if self.num_speculative_tokens and self.draft is None
                else 0
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFootprint:
    """Bytes on one accelerator; every rank of a replica is given what the fullest needs."""

    num_devices: int
    weights: Estimate
    kv_cache_bytes: int
    peak_activation: Estimate
    cuda_graphs: Estimate
    non_torch: Estimate
    context: Estimate
    margin_bytes: int
    kv_layout: KVCacheLayout
    max_context_tokens: int
    weights_estimate: WeightsEstimate
    is_calibrated: bool = False
    """Whether an engine has measured the overhead of this very shape."""
    engine_bytes: int = field(init=False, repr=False, compare=False)
    """What is reserved for the engine's own budget."""
    total_bytes: int = field(init=False, repr=False, compare=False)
    """What must be free on the accelerator: the high end of everything, and a margin."""

    def __post_init__(self) -> None:
        """Add up once: a plan asks for the total once per device that it looks at."""
        object.__setattr__(self, "engine_bytes", self.engine.high)
        object.__setattr__(self, "total_bytes", self.engine_bytes + self.outside_bytes)

    @property
    def source(self) -> str:
        """Where the numbers come from: ``formula``, ``checkpoint`` or ``calibrated``."""
        return "calibrated" if self.is_calibrated else self.weights_estimate.source.value

    @property
    def engine(self) -> Estimate:
        """What the engine counts as its own: the budget that its flags speak of."""
        return (
            self.weights
            + Estimate.exactly(self.kv_cache_bytes)
            + self.peak_activation
            + self.cuda_graphs
            + self.non_torch
        )

    @property
    def total(self) -> Estimate:
        """The engine's budget and its context outside it."""
        return self.engine + self.context

    @property
    def weights_bytes(self) -> int:
        """What is reserved for weights."""
        return self.weights.high

    @property
    def overhead_bytes(self) -> int:
        """What is reserved beside weights and KV pool."""
        return self.total_bytes - self.weights_bytes - self.kv_cache_bytes

    @property
    def outside_bytes(self) -> int:
        """What is reserved and does not count against the engine's budget."""
        return self.context.high + self.margin_bytes

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens that the KV pool holds, all data-parallel ranks of a replica apart."""
        return self.kv_layout.capacity_tokens(self.kv_cache_bytes, self.max_context_tokens)

    def kv_cache_bytes_within(self, budget_bytes: int) -> int:
        """Bytes of the KV pool when the engine may count ``budget_bytes`` as its own.

        Everything else is fixed, so whatever exceeds the need becomes KV cache.
        """
        return max(0, self.kv_cache_bytes + budget_bytes - self.engine_bytes)


@lru_cache(maxsize=4096)
def replica_footprint(
    shape: ReplicaShape, calibration: Calibration | None = None
) -> ReplicaFootprint:
    """The bytes that a replica of this shape needs on each accelerator.

    ``calibration``: what an engine of this shape has measured on the accelerator in question.
    Raises ``UnsupportedShapeError`` when the model cannot be split or stored so, and
    ``UnknownWeightsError`` when nothing says what it weighs.
    """
    parallelism = shape.parallelism
    check_engine(shape)
    estimate = _weights(shape)
    runtime = runtime_of(shape)
    activation, graphs, libraries = runtime.peak_activation, runtime.graphs, runtime.non_torch
    weights = _loaded(estimate, extra_bytes=_extra_weights(shape))
    weights = _less_on_host(shape, weights, estimate)
    if calibration is not None:
        # One number was measured: what the weights took beyond the formula is in it too.
        weights = Estimate.exactly(weights.low)
        activation, graphs, libraries = calibration.overhead, _NOTHING, _NOTHING
    layout = shape.kv_layout
    return ReplicaFootprint(
        num_devices=parallelism.num_devices,
        weights=weights,
        kv_cache_bytes=_kv_cache_bytes(shape, layout),
        peak_activation=activation,
        cuda_graphs=graphs,
        non_torch=libraries,
        context=runtime.context,
        margin_bytes=overhead.MARGIN_BYTES,
        kv_layout=layout,
        max_context_tokens=shape.max_context_tokens,
        weights_estimate=estimate,
        is_calibrated=calibration is not None,
    )


_NOTHING = Estimate.exactly(0)


def _weights(shape: ReplicaShape) -> WeightsEstimate:
    if shape.engine is not EngineType.LLAMA_CPP:
        return weights_per_rank(
            shape.architecture, quantization=shape.quantization, parallelism=shape.parallelism
        )
    size = shape.architecture.checkpoint_bytes
    if size is None:
        raise UnknownWeightsError(shape.architecture.family, "what its GGUF file weighs")
    return WeightsEstimate(
        bytes_per_rank=size,
        vision_bytes=0,
        source=WeightsSource.CHECKPOINT,
        is_vision_exact=True,
        format_name="gguf",
        has_formula=shape.architecture.is_exact,
    )


def _kv_cache_bytes(shape: ReplicaShape, layout: KVCacheLayout) -> int:
    """Of the sequences that were asked for, at their full length; a draft's own too."""
    if shape.engine is EngineType.LLAMA_CPP:
        slot = llama_cpp.slot_tokens(shape.max_context_tokens)
        return llama_cpp.cache_bytes(
            shape.architecture,
            context_tokens=slot * shape.concurrency,
            num_slots=shape.concurrency,
            keeps_full_windows=True,
        )
    pool = layout.pool_bytes_for(
        num_sequences=shape.concurrency, tokens_per_sequence=shape.max_context_tokens
    )
    return pool + _draft_kv_bytes(shape)


def _loaded(estimate: WeightsEstimate, *, extra_bytes: int) -> Estimate:
    size = estimate.bytes_per_rank + extra_bytes
    vision_error = int(estimate.vision_bytes * estimate.vision_uncertainty_ratio)
    low_error = vision_error
    if estimate.source != "formula":
        low_error += int(size * CHECKPOINT_UNCERTAINTY_RATIO)
    return Estimate(
        low=size - low_error,
        expected=int(size * overhead.WEIGHTS_EXPECTED_RATIO),
        high=int(size * overhead.WEIGHTS_HIGH_RATIO) + vision_error,
    )


def _less_on_host(shape: ReplicaShape, weights: Estimate, estimate: WeightsEstimate) -> Estimate:
    """What is left on the device of the weights.

    vLLM takes parameters of the decoder's layers in their order until so many bytes are reached, so
    that at most one tensor more goes; embeddings, the output head and towers stay.
    """
    size = shape.weights_on_host_bytes
    if not size:
        return weights
    if shape.engine is not EngineType.VLLM:
        msg = f"weights stay on the host with vLLM alone, and this is {shape.engine.spelled}"
        raise UnsupportedShapeError(msg)
    if len(shape.kv_layout.groups) > 1:
        msg = (
            "vLLM keeps no weights on the host for a model with several kinds of KV cache: it ends "
            "at its start (Cannot re-initialize the input batch when CPU weight offloading is "
            "enabled)"
        )
        raise UnsupportedShapeError(msg)
    architecture = shape.architecture
    tables = 1 if architecture.tied_embeddings else 2
    vocabulary = (architecture.vocab_size or 0) * architecture.hidden_size * 2 * tables
    layers = weights.low - estimate.vision_bytes - vocabulary // shape.tensor_parallel_size
    if size >= layers:
        msg = (
            f"the layers have {max(0, layers) / GIB:.1f} GiB of weights on each device: fewer than "
            f"the {size / GIB:g} GiB that are to stay on the host"
        )
        raise UnsupportedShapeError(msg)
    return Estimate(low=weights.low - size, expected=weights.expected - size,
                    high=weights.high - size)  # fmt: skip


def _extra_weights(shape: ReplicaShape) -> int:
    """LoRA slots, and what speculation loads."""
    extra = 0
    if shape.max_adapters:
        extra += adapter_bytes_per_rank(
            shape.architecture,
            max_adapters=shape.max_adapters,
            max_rank=shape.max_adapter_rank,
            parallelism=shape.parallelism,
        )
    if shape.draft is not None:
        draft = weights_per_rank(shape.draft, parallelism=_draft_parallelism(shape))
        extra += draft.bytes_per_rank
    elif shape.num_speculative_tokens and shape.architecture.num_mtp_layers:
        extra += mtp_bytes_per_rank(shape.architecture, parallelism=shape.parallelism)
    return extra


def _draft_parallelism(shape: ReplicaShape) -> Parallelism:
    return Parallelism(tensor_parallel_size=shape.tensor_parallel_size)


def _draft_kv_bytes(shape: ReplicaShape) -> int:
    """The draft's own cache, for the same sequences."""
    if shape.draft is None:
        return 0
    layout = kv_cache_layout(
        shape.draft,
        kv_cache_dtype=shape.kv_cache_dtype,
        parallelism=_draft_parallelism(shape),
        max_num_batched_tokens=shape.max_num_batched_tokens,
        block_size_tokens=shape.block_size_tokens,
    )
    return layout.pool_bytes_for(
        num_sequences=shape.concurrency, tokens_per_sequence=shape.max_context_tokens
    )
