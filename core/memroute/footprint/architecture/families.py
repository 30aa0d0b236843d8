"""From a ``config.json`` to an architecture: which reader knows the family, and what if none.

``nesting`` finds the language model in a multimodal wrapper, ``towers`` reads by their shape what
stands beside it, ``context`` says how long its contexts may be.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from memroute.errors import InvalidConfigError, UnknownArchitectureError
from memroute.footprint.architecture import dense, experts, gemma, hybrid, latent
from memroute.footprint.architecture.components import Layer, ModelArchitecture
from memroute.footprint.architecture.config import ConfigReader
from memroute.footprint.architecture.context import context_limit
from memroute.footprint.architecture.nesting import nested_config
from memroute.footprint.architecture.towers import read_towers

TIED = "tie_word_embeddings"
MAX_LAYERS = 4096
# A guard against nonsense: no published model has more than a few hundred.


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one ``model_type`` is read."""

    read_layers: Callable[[ConfigReader], tuple[Layer, ...]]
    tied_by_default: bool = False
    """Whether transformers ties embeddings where the configuration does not say."""
    vocab_size: int | None = None
    """transformers' default, where published configurations rely on it."""
    num_final_norm_vectors: int = 1


FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        ("llama", "mistral", "ministral", "ministral3", "phi3"), Family(read_layers=dense.llama)
    ),
    **dict.fromkeys(("qwen2", "qwen3"), Family(read_layers=dense.qwen)),
    # The text part of Qwen's vision models is the family's own.
    **dict.fromkeys(
        (
            "qwen2_vl",
            "qwen2_vl_text",
            "qwen2_5_vl",
            "qwen2_5_vl_text",
            "qwen2_5_omni_text",
            "qwen3_vl_text",
        ),
        Family(read_layers=dense.qwen),
    ),
    **dict.fromkeys(("glm", "glm4"), Family(read_layers=dense.glm)),
    "falcon": Family(read_layers=dense.falcon, tied_by_default=True, num_final_norm_vectors=2),
    "gemma": Family(read_layers=gemma.gemma, tied_by_default=True),
    "gemma2": Family(read_layers=gemma.gemma2, tied_by_default=True),
    "gemma3_text": Family(read_layers=gemma.gemma3, tied_by_default=True, vocab_size=262208),
    "gemma4_text": Family(read_layers=gemma.gemma4, tied_by_default=True, vocab_size=262144),
    "mixtral": Family(read_layers=experts.mixtral),
    **dict.fromkeys(
        ("qwen2_moe", "qwen3_moe", "qwen3_vl_moe_text", "qwen3_omni_moe_text"),
        Family(read_layers=experts.qwen_moe),
    ),
    "gpt_oss": Family(read_layers=experts.gpt_oss),
    "llama4_text": Family(read_layers=experts.llama4),
    "minimax_m2": Family(read_layers=experts.minimax_m2),
    "glm4_moe": Family(read_layers=experts.glm4_moe),
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm4_moe_lite", "glm_moe_dsa"),
        Family(read_layers=latent.deepseek),
    ),
    **dict.fromkeys(
        ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), Family(read_layers=hybrid.qwen_delta)
    ),
    "nemotron_h": Family(read_layers=hybrid.nemotron_h),
    "minimax": Family(read_layers=hybrid.minimax),
}

KNOWN_FAMILIES = tuple(sorted(FAMILIES))


def architecture_from_config(
    config: Mapping[str, Any], *, checkpoint_bytes: int | None = None
) -> ModelArchitecture:
    """The architecture that a Hugging Face ``config.json`` describes.

    ``checkpoint_bytes``: bytes of the published weights, where known. They stand in for what
    the formula does not cover: the vision tower, or a family without a formula, whose cache
    is then bounded by full attention on every layer.

    Raises ``UnknownArchitectureError`` for an unknown family without ``checkpoint_bytes``,
    and ``InvalidConfigError`` for a field that is missing or makes no sense.
    """
    nested = nested_config(config)
    if nested.odd_quantization is not None:
        raise InvalidConfigError("quantization_config", nested.odd_quantization, "an object")
    text = nested.text
    reader = ConfigReader(text)
    family = FAMILIES.get(reader.family)
    if family is None and checkpoint_bytes is None:
        raise UnknownArchitectureError(reader.family or None, KNOWN_FAMILIES)
    num_layers = reader.optional_int("num_hidden_layers", "n_layer")
    if num_layers is not None and num_layers > MAX_LAYERS:
        raise InvalidConfigError("num_hidden_layers", num_layers, f"at most {MAX_LAYERS}")
    usual = family is not None and family.tied_by_default
    tied = reader.flag(TIED, default=ConfigReader(nested.part).flag(TIED, default=usual))
    try:
        hidden_size = reader.positive("hidden_size")
        layers = _bounding_layers(reader) if family is None else family.read_layers(reader)
    except InvalidConfigError as error:
        if error.value is not None:
            raise
        where = "the part of the language model" if nested.is_wrapped else "config.json"
        raise _left_to_its_class(error, reader.family, where) from error
    vocab_size = reader.optional_int("vocab_size") or (family.vocab_size if family else None)
    limit = context_limit(text)
    vision, others, unknown = read_towers(nested.part)
    says_all = vocab_size is not None and all(one.feed_forwards is not None for one in layers)
    return ModelArchitecture(
        family=reader.family,
        hidden_size=hidden_size,
        layers=layers,
        max_context_tokens=limit.tokens,
        context_note=limit.note,
        vocab_size=vocab_size,
        tied_embeddings=tied,
        num_final_norm_vectors=family.num_final_norm_vectors if family else 1,
        num_mtp_layers=reader.count("num_nextn_predict_layers", "mtp_num_hidden_layers"),
        mtp_has_tables=reader.raw("num_nextn_predict_layers") is not None,
        per_layer_vocab_size=reader.optional_int("vocab_size_per_layer_input"),
        quantization_config=MappingProxyType(dict(nested.quantization)),
        is_quantization_nested=nested.is_quantization_nested,
        is_stored_wide=_is_stored_wide(text, config),
        is_wrapped=nested.is_wrapped,
        vision=vision,
        other_towers=others,
        unknown_towers=unknown,
        checkpoint_bytes=checkpoint_bytes,
        is_exact=family is not None and (says_all or checkpoint_bytes is None),
    )


@lru_cache(maxsize=1024)
def architecture_from_json(text: str, checkpoint_bytes: int | None = None) -> ModelArchitecture:
    """As ``architecture_from_config``, from JSON: the same object for the same text."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"not JSON ({error})"
        raise InvalidConfigError("config.json", None, "a JSON object", problem=msg) from error
    if not isinstance(config, dict):
        raise InvalidConfigError("config.json", type(config).__name__, "a JSON object")
    return architecture_from_config(config, checkpoint_bytes=checkpoint_bytes)


def _bounding_layers(reader: ConfigReader) -> tuple[Layer, ...]:
    """Full attention on every layer: no known mixer caches more, whatever the family does."""
    layer = Layer(mixer=dense.grouped_query_attention(reader), feed_forwards=None)
    return (layer,) * reader.positive("num_hidden_layers")


def _is_stored_wide(text: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether the files hold 32 bit: engines make 16 of them."""
    said = ConfigReader(text).raw("torch_dtype", "dtype") or ConfigReader(config).raw(
        "torch_dtype", "dtype"
    )
    return str(said).removeprefix("torch.") == "float32"


def _left_to_its_class(error: InvalidConfigError, family: str, where: str) -> InvalidConfigError:
    """That a configuration leans on the defaults of its class, and what helps."""
    problem = (
        f"it is missing: the configuration leaves it to its class ({family or 'no model_type'}). "
        f"Add it to {where}, also where the bytes of the checkpoint are given: the cache is sized "
        f"by hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads and head_dim"
    )
    return InvalidConfigError(error.field, None, error.wanted, problem=problem)
