"""Where in a ``config.json`` the language model is, and what its class would fill in.

A multimodal wrapper nests its language model (``text_config``, ``thinker_config.text_config``),
and a nested configuration is published without the fields that equal the defaults of its class:
``llava-1.5-7b``'s says little more than ``"model_type": "llama"``. Engines read it through that
class, so the defaults here are those of transformers 5.19's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

TEXT_KEYS = (
    "text_config", "llm_config", "language_config", "language_model_config", "text_model_config",
    "lm_config", "decoder_config",
)  # fmt: skip
# What a model of several parts calls the one that engines serve.
PART_KEYS = ("thinker_config",)
QUANTIZATION_KEYS = ("quantization_config", "compression_config")

# The kind of the language model, where a wrapper leaves it to its class.
_TEXT_TYPES = {
    **dict.fromkeys(
        ("llava", "llava_next", "vipllava", "video_llava", "llava_next_video", "idefics3",
         "smolvlm", "voxtral"), "llama",
    ),
    **dict.fromkeys(("llava_onevision", "internvl", "qwen2_audio"), "qwen2"),
    **dict.fromkeys(("mistral3", "idefics2"), "mistral"),
    "paligemma": "gemma", "gemma3": "gemma3_text", "gemma4": "gemma4_text",
    "llama4": "llama4_text", "qwen2_vl": "qwen2_vl_text", "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text", "qwen3_vl_moe": "qwen3_vl_moe_text", "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text", "qwen2_5_omni_thinker": "qwen2_5_omni_text",
    "qwen3_omni_moe_thinker": "qwen3_omni_moe_text",
}  # fmt: skip


def _sizes(
    hidden: int, layers: int, heads: int, kv_heads: int | None, intermediate: int, vocabulary: int,
    context: int, **more: Any,
) -> Mapping[str, Any]:  # fmt: skip
    """``kv_heads`` None: as many as there are heads."""
    return MappingProxyType({
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": intermediate,
        "vocab_size": vocabulary, "max_position_embeddings": context, **more,
    })  # fmt: skip


_CLASS_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "llama": _sizes(4096, 32, 32, None, 11008, 32000, 2048),
    "mistral": _sizes(4096, 32, 32, 8, 14336, 32000, 131072),
    "ministral3": _sizes(4096, 34, 32, 8, 14336, 131072, 262144, head_dim=128),
    "phi3": _sizes(3072, 32, 32, None, 8192, 32064, 4096),
    "qwen2": _sizes(4096, 32, 32, 32, 22016, 151936, 32768),
    "qwen3": _sizes(4096, 32, 32, 32, 22016, 151936, 32768, head_dim=128),
    "qwen2_vl_text": _sizes(8192, 80, 64, 8, 29568, 152064, 32768),
    "qwen2_5_vl_text": _sizes(8192, 80, 64, 8, 29568, 152064, 32768),
    "qwen2_5_omni_text": _sizes(3584, 28, 28, 4, 18944, 152064, 32768),
    "qwen3_vl_text": _sizes(4096, 32, 32, 32, 22016, 151936, 128000, head_dim=128),
    "gemma": _sizes(3072, 28, 16, 16, 24576, 256000, 8192, head_dim=256),
    "gemma2": _sizes(2304, 26, 8, 4, 9216, 256000, 8192, head_dim=256),
    "gemma3_text": _sizes(2304, 26, 8, 4, 9216, 262208, 131072, head_dim=256),
    "gemma4_text": _sizes(2304, 30, 8, 4, 9216, 262144, 131072, head_dim=256),
    "mixtral": _sizes(
        4096, 32, 32, 8, 14336, 32000, 131072, num_local_experts=8, num_experts_per_tok=2
    ),
    "llama4_text": _sizes(
        5120, 48, 40, 8, 8192, 202048, 131072, head_dim=128, num_local_experts=16,
        num_experts_per_tok=1, intermediate_size_mlp=16384, attention_chunk_size=8192,
    ),
    "qwen3_5_text": _sizes(4096, 32, 16, 4, 12288, 248320, 32768, head_dim=256),
    "deepseek_v3": _sizes(
        7168, 61, 128, 128, 18432, 129280, 4096, moe_intermediate_size=2048, n_routed_experts=256,
        n_shared_experts=1, num_experts_per_tok=8, first_k_dense_replace=3, q_lora_rank=1536,
        kv_lora_rank=512,
    ),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Nested:
    """The parts of a configuration."""

    text: Mapping[str, Any]
    """Of the language model, with what its class fills in."""
    part: Mapping[str, Any]
    """Of what an engine serves: the language model and its towers."""
    quantization: Mapping[str, Any]
    is_wrapped: bool
    is_quantization_nested: bool
    """Whether the quantization stands in the language model's part alone."""
    odd_quantization: object = None
    """What stands in its place and is no object."""


def nested_config(config: Mapping[str, Any]) -> Nested:
    """Finds the language model, its towers and its quantization."""
    part = next((one for key in PART_KEYS if (one := _mapping(config.get(key)))), config)
    text = next((one for key in TEXT_KEYS if (one := _mapping(part.get(key)))), None)
    places = [config, part, *([] if text is None else [text])]
    found = next(
        ((value, place) for place in places for key in QUANTIZATION_KEYS
         if (value := _mapping(place.get(key)))), None,
    )  # fmt: skip
    said = [place.get(key) for place in places for key in QUANTIZATION_KEYS]
    return Nested(
        text=part if text is None else _filled(text, part),
        part=part,
        quantization={} if found is None else _unwrapped(found[0]),
        is_wrapped=text is not None,
        is_quantization_nested=found is not None and found[1] is not config,
        odd_quantization=next((one for one in said if one and not isinstance(one, Mapping)), None),
    )


def _filled(text: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A nested configuration with the defaults of its class."""
    family = text.get("model_type") or _TEXT_TYPES.get(str(part.get("model_type") or ""))
    defaults = _CLASS_DEFAULTS.get(str(family or ""), {})
    said = {name: value for name, value in text.items() if value is not None}
    if family is None:
        return said
    return {**defaults, **said, "model_type": family}


def _unwrapped(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Older compressed-tensors kept it beside a sparsity, one level deeper."""
    inner = _mapping(said.get("quantization_config"))
    return {"quant_method": "compressed-tensors", **inner} if inner else said


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
