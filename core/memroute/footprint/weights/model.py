"""The weights of a whole model: parameters, bytes per rank, and how sure they are."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from memroute.errors import UnknownWeightsError, UnsupportedShapeError
from memroute.footprint.architecture import MixtureOfExperts, ModelArchitecture, VisionTower
from memroute.footprint.weights.modules import Module, Split, layer_modules, modules_of
from memroute.footprint.weights.quantization import (
    SIXTEEN_BIT,
    Quantization,
    WeightFormat,
    checkpoint_format,
)
from memroute.footprint.weights.sharding import (
    SINGLE,
    Parallelism,
    bytes_by_stage,
    check_parallelism,
    rank_module_bytes,
)
from memroute.units import ceil_div


class WeightsSource(StrEnum):
    """Where a number of bytes comes from; the value is shown in status."""

    FORMULA = "formula"
    CHECKPOINT = "checkpoint"
    """The family is unknown, or its vision tower is: bytes of the published files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsEstimate:
    """Bytes of the weights on the fullest rank."""

    bytes_per_rank: int
    """Language model and vision tower."""
    vision_bytes: int
    """Of those, the vision tower: replicated on every rank."""
    source: WeightsSource
    is_vision_exact: bool
    """False where the tower's bytes come from its shape alone (within some 15 %)."""
    format_name: str


@lru_cache(maxsize=1024)
def num_parameters(architecture: ModelArchitecture) -> int:
    """Parameters of the language model, tied embeddings counted once, as transformers does.

    Raises ``UnknownWeightsError`` when the configuration does not give a size that counts.
    """
    return sum(module.num_parameters for module in modules_of(architecture))


@lru_cache(maxsize=1024)
def active_parameters(architecture: ModelArchitecture) -> int:
    """Parameters that one token is multiplied with: k of E experts, the table not at all."""
    total = 0
    for module in modules_of(architecture):
        if module.is_table:
            # A token reads one row of the embedding; the head (or its tied table) multiplies.
            is_head = module.name == "lm_head" or (
                architecture.tied_embeddings and module.name == "model.embed_tokens"
            )
            total += module.num_parameters if is_head else 0
        elif module.split is Split.EXPERTS:
            moe = experts_of(architecture, module)
            total += module.num_parameters * moe.num_experts_per_token // moe.num_experts
        else:
            total += module.num_parameters
    return total


def experts_of(architecture: ModelArchitecture, module: Module) -> MixtureOfExperts:
    """The mixture that a module of experts belongs to."""
    assert module.layer is not None  # noqa: S101 - experts are in a layer
    for feed_forward in architecture.layers[module.layer].feed_forwards or ():
        if isinstance(feed_forward, MixtureOfExperts):
            return feed_forward
    raise UnknownWeightsError(architecture.family, "its experts")


def resolve_format(architecture: ModelArchitecture, quantization: Quantization) -> WeightFormat:
    """The format of the linear layers: what was asked for, else the checkpoint's own.

    Raises ``UnsupportedShapeError`` when the checkpoint is quantized in another way: an
    engine quantizes 16-bit weights only.
    """
    own = checkpoint_format(architecture.quantization_config)
    if quantization is Quantization.NONE:
        return own
    wanted = quantization.weight_format
    if own.name in (SIXTEEN_BIT.name, wanted.name):
        return own if own.name == wanted.name else wanted
    msg = (
        f"the checkpoint is quantized as {own.name} already, quantization={quantization} cannot be"
    )
    raise UnsupportedShapeError(msg)


def weights_bytes(
    architecture: ModelArchitecture, *, quantization: Quantization = Quantization.NONE
) -> int:
    """Bytes of the language model on one accelerator, the vocabulary padded."""
    return max(bytes_by_stage(architecture, resolve_format(architecture, quantization), SINGLE))


@lru_cache(maxsize=4096)
def weights_per_rank(
    architecture: ModelArchitecture,
    *,
    quantization: Quantization = Quantization.NONE,
    parallelism: Parallelism = SINGLE,
) -> WeightsEstimate:
    """Bytes of the weights on the fullest rank.

    Raises ``UnsupportedShapeError`` when the model cannot be split or stored so, and
    ``UnknownWeightsError`` when neither formula nor checkpoint say what it weighs.
    """
    if not architecture.is_exact:
        return _from_checkpoint(architecture, quantization, parallelism)
    weight_format = resolve_format(architecture, quantization)
    text = max(bytes_by_stage(architecture, weight_format, parallelism))
    vision, is_exact = _vision_bytes(architecture)
    return WeightsEstimate(
        bytes_per_rank=text + vision,
        vision_bytes=vision,
        source=WeightsSource.FORMULA,
        is_vision_exact=is_exact,
        format_name=weight_format.name,
    )


def _from_checkpoint(
    architecture: ModelArchitecture, quantization: Quantization, parallelism: Parallelism
) -> WeightsEstimate:
    """An unknown family: its files, split evenly, quantized as a whole if asked.

    What is replicated (norms, routers, tables of a tied head) is unknown too, so a rank is
    taken to hold 5 % more than its even share.
    """
    if architecture.checkpoint_bytes is None:
        raise UnknownWeightsError(architecture.family, "a known family")
    check_parallelism(architecture, parallelism)
    size = architecture.checkpoint_bytes
    name = "as published"
    if quantization is not Quantization.NONE:
        if architecture.quantization_config:
            msg = f"the checkpoint is quantized already, quantization={quantization} cannot be"
            raise UnsupportedShapeError(msg)
        # Tables stay at 16 bit and their share is unknown: a tenth is a generous guess.
        size = int(size * (0.1 + 0.9 * quantization.bits_per_weight / 16))
        name = quantization.value
    ways = parallelism.tensor_parallel_size * parallelism.pipeline_parallel_size
    share = size if ways == 1 else int(ceil_div(size, ways) * 1.05)
    return WeightsEstimate(
        bytes_per_rank=share,
        vision_bytes=0,
        source=WeightsSource.CHECKPOINT,
        is_vision_exact=True,
        format_name=name,
    )


def _vision_bytes(architecture: ModelArchitecture) -> tuple[int, bool]:
    """Bytes of the vision tower, and whether they come from the checkpoint."""
    if architecture.vision is None:
        return 0, True
    by_shape = vision_tower_bytes(architecture.vision, architecture.hidden_size)
    if architecture.checkpoint_bytes is None:
        return by_shape, False
    own = checkpoint_format(architecture.quantization_config)
    text = max(bytes_by_stage(architecture, own, SINGLE))
    mtp = mtp_bytes_per_rank(architecture) if architecture.num_mtp_layers else 0
    rest = architecture.checkpoint_bytes - text
    # Prediction layers are in the files, but not loaded.
    return max(0, rest - mtp if rest - mtp > by_shape // 2 else rest), True


def vision_tower_bytes(vision: VisionTower, text_hidden_size: int) -> int:
    """Bytes of a vision transformer by its shape, at 16 bit, its projector included.

    Per layer 4 h^2 of attention and 2 h I of MLP; the projector is taken as two matrices.
    Within 15 % for the towers of Gemma 3 (0.78 GiB) and Qwen3.5.
    """
    h = vision.hidden_size
    layers = vision.num_layers * (4 * h * h + 2 * h * vision.intermediate_size)
    projector = h * text_hidden_size + text_hidden_size * text_hidden_size
    return 2 * (layers + projector)


def mtp_bytes_per_rank(
    architecture: ModelArchitecture,
    *,
    parallelism: Parallelism = SINGLE,
) -> int:
    """Bytes of the multi-token prediction layers on one rank, as the checkpoint has them.

    Each is one more layer like the last, three norms and a projection of twice the hidden
    size; DeepSeek's come with embedding and head again. DeepSeek-V3: 15,424,227,552 bytes.
    """
    own = checkpoint_format(architecture.quantization_config)
    h = architecture.hidden_size
    last = architecture.layers[-1]
    index = architecture.num_layers
    modules = list(layer_modules(architecture, last, index))
    path = f"model.layers.{index}"
    modules += [
        Module(name=f"{path}.mtp_norms", num_inputs=3, num_outputs=h, layer=index),
        Module(name=f"{path}.eh_proj", num_inputs=2 * h, num_outputs=h, layer=index),
    ]
    if architecture.mtp_has_tables:
        modules += [module for module in modules_of(architecture) if module.is_table]
    return architecture.num_mtp_layers * sum(
        rank_module_bytes(module, parallelism, own) for module in modules
    )
