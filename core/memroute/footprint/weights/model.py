"""The weights of a language model by its formula: parameters, formats, bytes."""

from functools import lru_cache

from memroute.errors import UnknownWeightsError, UnsupportedShapeError
from memroute.footprint.architecture import MixtureOfExperts, ModelArchitecture
from memroute.footprint.weights.configs import method_of, stored_formats
from memroute.footprint.weights.formats import Quantization
from memroute.footprint.weights.modules import Module, Split, layer_modules, modules_of
from memroute.footprint.weights.sharding import (
    SINGLE,
    Parallelism,
    bytes_by_stage,
    rank_module_bytes,
)
from memroute.footprint.weights.stored import StoredFormats, uniform


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


@lru_cache(maxsize=1024)
def resolve_format(architecture: ModelArchitecture, quantization: Quantization) -> StoredFormats:
    """The formats of the modules: what was asked for, else the checkpoint's own.

    Raises ``UnsupportedShapeError`` when the checkpoint is quantized in another way: an
    engine quantizes 16-bit weights only.
    """
    own = stored_formats(architecture)
    if quantization is Quantization.NONE:
        return own
    wanted = quantization.weight_format
    if not own.is_quantized:
        return uniform(wanted)
    method = method_of(architecture.quantization_config)
    if method.startswith(quantization.value) or wanted.name in own.name.split("+"):
        return own
    msg = (
        f"the checkpoint is quantized as {own.name} already, quantization={quantization} cannot be"
    )
    raise UnsupportedShapeError(msg)


def weights_bytes(
    architecture: ModelArchitecture, *, quantization: Quantization = Quantization.NONE
) -> int:
    """Bytes of the language model on one accelerator, the vocabulary padded."""
    return max(bytes_by_stage(architecture, resolve_format(architecture, quantization), SINGLE))


def mtp_bytes_per_rank(
    architecture: ModelArchitecture,
    *,
    parallelism: Parallelism = SINGLE,
) -> int:
    """Bytes of the multi-token prediction layers on one rank, as the checkpoint has them.

    Each is one more layer like the last, three norms and a projection of twice the hidden
    size; DeepSeek's come with embedding and head again. DeepSeek-V3: 15,424,227,552 bytes.
    """
    own = stored_formats(architecture)
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
