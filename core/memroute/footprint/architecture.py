"""The shape of a model: the fields of ``config.json`` that decide its bytes.

The families here share one skeleton (decoder-only, grouped-query attention, gated MLP) and
differ in three switches: biases on query, key and value (Qwen2), a norm per query and key
head (Qwen3), embeddings tied to the output head (small models).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memroute.errors import UnknownArchitectureError

KNOWN_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArchitecture:
    """What of a model's configuration decides how many bytes it needs."""

    family: str
    """``model_type`` of the configuration: one of ``KNOWN_FAMILIES``."""
    num_layers: int
    hidden_size: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_context_tokens: int
    """``max_position_embeddings``: the longest context the model was made for."""
    tied_embeddings: bool = False

    @property
    def has_attention_bias(self) -> bool:
        """Whether query, key and value projections carry a bias vector."""
        return self.family == "qwen2"

    @property
    def has_qk_norm(self) -> bool:
        """Whether each query and key head is normalised (two vectors of ``head_dim``)."""
        return self.family == "qwen3"


def architecture_from_config(config: Mapping[str, Any]) -> ModelArchitecture:
    """The architecture that a Hugging Face ``config.json`` describes.

    Raises ``UnknownArchitectureError`` for a family whose formula we do not have: guessing
    would be a wrong number with a straight face.
    """
    family = config.get("model_type")
    if family not in KNOWN_FAMILIES:
        raise UnknownArchitectureError(family, KNOWN_FAMILIES)
    num_attention_heads = int(config["num_attention_heads"])
    hidden_size = int(config["hidden_size"])
    return ModelArchitecture(
        family=family,
        num_layers=int(config["num_hidden_layers"]),
        hidden_size=hidden_size,
        num_attention_heads=num_attention_heads,
        num_kv_heads=int(config.get("num_key_value_heads") or num_attention_heads),
        head_dim=int(config.get("head_dim") or hidden_size // num_attention_heads),
        intermediate_size=int(config["intermediate_size"]),
        vocab_size=int(config["vocab_size"]),
        max_context_tokens=int(config["max_position_embeddings"]),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
    )
