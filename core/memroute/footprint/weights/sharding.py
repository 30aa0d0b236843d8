"""How many bytes one rank holds: tensor, pipeline, data and expert parallelism.

vLLM 0.32's rules: heads and widths divide among the ranks of a tensor-parallel group, KV
heads are replicated once there are more ranks than heads, the vocabulary is padded to a
multiple of 64, routers and norms are on every rank. Pipeline stages take whole layers, the
first the embedding, the last the head. Under data parallelism attention is replicated;
experts are spread over all ranks: whole experts with expert parallelism, slices without.
"""

from dataclasses import dataclass
from functools import lru_cache

from memroute.errors import UnsupportedShapeError
from memroute.footprint.architecture import (
    Attention,
    GatedDeltaNet,
    LatentAttention,
    LightningAttention,
    Mamba2,
    Mixer,
    ModelArchitecture,
)
from memroute.footprint.weights.modules import Axis, Module, Split, modules_of
from memroute.footprint.weights.stored import StoredFormats
from memroute.units import ceil_div

VOCAB_PADDING = 64
# vLLM pads the vocabulary to a multiple of 64 (vocab_parallel_embedding.py).


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How a model is spread over accelerators."""

    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    expert_parallel: bool = False

    def __post_init__(self) -> None:
        """Raise ``UnsupportedShapeError`` unless every size is positive."""
        sizes = (self.tensor_parallel_size, self.pipeline_parallel_size, self.data_parallel_size)
        if min(sizes) < 1:
            msg = f"parallel sizes must be positive, got {sizes}"
            raise UnsupportedShapeError(msg)

    @property
    def num_devices(self) -> int:
        """Accelerators of one replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size

    @property
    def num_expert_ranks(self) -> int:
        """Ranks that the experts of a layer are spread over."""
        return self.tensor_parallel_size * self.data_parallel_size


SINGLE = Parallelism()


@lru_cache(maxsize=1024)
def check_parallelism(architecture: ModelArchitecture, parallelism: Parallelism) -> None:
    """Raise ``UnsupportedShapeError`` unless an engine can spread the model so.

    Query heads must divide evenly; KV heads divide, or are replicated evenly.
    """
    tp = parallelism.tensor_parallel_size
    if parallelism.pipeline_parallel_size > max(1, architecture.num_layers):
        msg = (
            f"{architecture.num_layers} layers cannot be spread over pipeline parallel "
            f"{parallelism.pipeline_parallel_size}"
        )
        raise UnsupportedShapeError(msg)
    for mixer in {layer.mixer for layer in architecture.layers}:
        for what, count in _counts_that_divide(mixer):
            _check_divides(what, count, tp)
        if isinstance(mixer, Attention):
            kv_heads = mixer.num_kv_heads
            if kv_heads % tp and tp % kv_heads:
                msg = (
                    f"{kv_heads} KV heads can neither be split over nor replicated to tensor "
                    f"parallel {tp}"
                )
                raise UnsupportedShapeError(msg)


def _counts_that_divide(mixer: Mixer | None) -> tuple[tuple[str, int], ...]:
    match mixer:
        case Attention() | LatentAttention() | LightningAttention():
            return (("attention heads", mixer.num_heads),)
        case GatedDeltaNet():
            return (
                ("gated delta key heads", mixer.num_key_heads),
                ("gated delta value heads", mixer.num_value_heads),
            )
        case Mamba2():
            heads = ("Mamba heads", mixer.num_heads)
            # A single group is replicated with its heads; more must divide.
            return (heads,) if mixer.num_groups == 1 else (heads, ("groups", mixer.num_groups))
        case None:
            return ()


def _check_divides(what: str, count: int, tensor_parallel_size: int) -> None:
    if count % tensor_parallel_size:
        msg = (
            f"{count} {what} cannot be split over tensor parallel {tensor_parallel_size}: it has "
            f"to divide {count}"
        )
        raise UnsupportedShapeError(msg)


@dataclass(frozen=True, slots=True)
class RankShape:
    """What of a module one rank holds."""

    num_outputs: int
    num_inputs: int
    num_copies: int


def rank_shape(module: Module, parallelism: Parallelism, formats: StoredFormats) -> RankShape:
    """What of a module one rank of a tensor-parallel group holds.

    Raises ``UnsupportedShapeError`` when its width does not divide, or when a quantized block
    would have to be cut.
    """
    tp = parallelism.tensor_parallel_size
    outputs, inputs, copies = module.num_outputs, module.num_inputs, module.num_copies
    ways = tp
    match module.split:
        case Split.REPLICATED:
            return RankShape(outputs, inputs, copies)
        case Split.VOCABULARY:
            padded = ceil_div(outputs, VOCAB_PADDING) * VOCAB_PADDING
            return RankShape(ceil_div(padded, tp), inputs, copies)
        case Split.KV_HEADS:
            heads = max(1, module.num_units // tp)
            return RankShape(outputs // module.num_units * heads, inputs, copies)
        case Split.EXPERTS:
            ways = parallelism.num_expert_ranks
            if parallelism.expert_parallel:
                return RankShape(outputs, inputs, ceil_div(copies, ways))
        case Split.HEADS | Split.WIDTH:
            pass
    size = outputs if module.axis is Axis.OUTPUTS else inputs
    if size % ways:
        msg = f"{module.name} is {size} wide, which cannot be split over {ways} ranks"
        raise UnsupportedShapeError(msg)
    share = size // ways
    _check_blocks(module, share, ways, formats)
    if module.axis is Axis.OUTPUTS:
        return RankShape(share, inputs, copies)
    return RankShape(outputs, share, copies)


def _check_blocks(module: Module, share: int, ways: int, formats: StoredFormats) -> None:
    # vLLM fp8.py: "is not divisible by weight quantization block_n".
    if ways == 1 or module.split is Split.HEADS:
        return
    block_shape = formats.format_of(module).block_shape
    if block_shape is None:
        return
    rows, columns = block_shape
    block = rows if module.axis is Axis.OUTPUTS else columns
    if share % block:
        msg = (
            f"{module.name} would be {share} wide on each of {ways} ranks, which cuts the "
            f"{rows} x {columns} blocks that its weights are quantized in"
        )
        raise UnsupportedShapeError(msg)


def rank_module_bytes(module: Module, parallelism: Parallelism, formats: StoredFormats) -> int:
    """Bytes of one module on one rank."""
    shape = rank_shape(module, parallelism, formats)
    matrix = formats.matrix_bytes(
        module, num_outputs=shape.num_outputs, num_inputs=shape.num_inputs
    )
    bias = shape.num_outputs * module.dtype_bytes if module.has_bias else 0
    return shape.num_copies * (matrix + bias)


def pipeline_layers(num_layers: int, pipeline_parallel_size: int) -> tuple[range, ...]:
    """The layers of each pipeline stage.

    vLLM's ``get_pp_indices``: what does not divide goes to the stages before the last, from
    the back, because first and last also hold the tables.
    """
    sizes = [num_layers // pipeline_parallel_size] * pipeline_parallel_size
    for extra in range(2, num_layers % pipeline_parallel_size + 2):
        sizes[-extra] += 1
    stages, start = [], 0
    for size in sizes:
        stages.append(range(start, start + size))
        start += size
    return tuple(stages)


def stage_of(
    module: Module, architecture: ModelArchitecture, stages: tuple[range, ...]
) -> set[int]:
    """The pipeline stages that hold a module."""
    last = len(stages) - 1
    if module.layer is not None:
        return {index for index, stage in enumerate(stages) if module.layer in stage}
    if module.is_table and module.name != "lm_head":
        return {0, last} if architecture.tied_embeddings else {0}
    return {0} if module.name.startswith("model.per_layer") else {last}


def bytes_by_stage(
    architecture: ModelArchitecture, formats: StoredFormats, parallelism: Parallelism
) -> tuple[int, ...]:
    """Bytes of the weights on one rank of each pipeline stage."""
    check_parallelism(architecture, parallelism)
    stages = pipeline_layers(architecture.num_layers, parallelism.pipeline_parallel_size)
    sums = [0] * len(stages)
    for module in modules_of(architecture):
        size = rank_module_bytes(module, parallelism, formats)
        for stage in stage_of(module, architecture, stages):
            sums[stage] += size
    return tuple(sums)
