"""What a model is made of, as far as bytes depend on it: mixers, feed-forwards, layers.

A decoder is a stack of layers; a layer has a mixer (attention, or a state that is carried
along) and one or more feed-forwards. Each component here is a frozen fact sheet; what it
weighs is computed in ``footprint.weights``, what it caches in ``footprint.kv_cache``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class QueryKeyNorm(StrEnum):
    """Whether queries and keys are normalised, and how many parameters that takes."""

    NONE = "none"
    PER_HEAD = "per-head"
    """One vector of ``head_dim`` each, shared by the heads (Qwen3, Gemma 3)."""
    ALL_HEADS = "all-heads"
    """One vector over all heads each (MiniMax M2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Softmax attention with grouped key and value heads (GQA; MHA and MQA are its ends)."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window_tokens: int | None = None
    """Sliding window: a token sees so many tokens back; None for all."""
    chunk_tokens: int | None = None
    """Chunked (local) attention: a token sees its own chunk only; None for all."""
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    query_key_norm: QueryKeyNorm = QueryKeyNorm.NONE
    has_output_gate: bool = False
    """The query projection is twice as wide: its second half gates the output (Qwen3-Next)."""
    has_sinks: bool = False
    """One learnt logit per head (gpt-oss)."""
    has_value_projection: bool = True
    """False where values are the keys, projected once (Gemma 4's global layers)."""
    owns_kv_cache: bool = True
    """False for a layer that reads the cache of an earlier one: it projects queries only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseIndexer:
    """The small scorer beside sparse latent attention that picks which tokens are read."""

    num_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (MLA): one compressed vector per token serves all heads."""

    num_heads: int
    query_rank: int | None
    """``q_lora_rank``; None where queries are projected at once (DeepSeek-V2-Lite)."""
    kv_lora_rank: int
    nope_head_dim: int
    rope_head_dim: int
    value_head_dim: int
    has_bias: bool = False
    indexer: SparseIndexer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """A Mamba-2 state-space mixer: a state per sequence, whatever its length."""

    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    conv_kernel: int
    has_conv_bias: bool
    has_projection_bias: bool
    state_dtype_bytes: int | None = None
    """Bytes of one value of the recurrent state; None: the model's own dtype."""

    @property
    def inner_size(self) -> int:
        """Width of the mixer: all heads together."""
        return self.num_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaNet:
    """A gated delta rule (linear attention) mixer: Qwen3-Next, Qwen3.5."""

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    state_dtype_bytes: int | None = None
    """Bytes of one value of the recurrent state; None: the model's own dtype."""

    @property
    def key_size(self) -> int:
        """Width of all key heads."""
        return self.num_key_heads * self.key_head_dim

    @property
    def value_size(self) -> int:
        """Width of all value heads."""
        return self.num_value_heads * self.value_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class LightningAttention:
    """Linear attention with a decayed outer-product state (MiniMax-Text-01)."""

    num_heads: int
    head_dim: int


Mixer = Attention | LatentAttention | Mamba2 | GatedDeltaNet | LightningAttention


@dataclass(frozen=True, slots=True, kw_only=True)
class MLP:
    """A dense feed-forward: up (and gate) to ``intermediate_size``, and down again."""

    intermediate_size: int
    is_gated: bool = True
    has_bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfExperts:
    """Routed experts, and the experts that every token passes."""

    num_experts: int
    num_experts_per_token: int
    intermediate_size: int
    """Of one routed expert."""
    shared_intermediate_size: int = 0
    """Of all shared experts together; 0 where there are none."""
    is_gated: bool = True
    has_bias: bool = False
    """Whether experts and router carry biases (gpt-oss)."""
    has_shared_bias: bool = False
    """Whether the shared experts and the latent projections carry biases (Nemotron)."""
    has_shared_gate: bool = False
    """One more row that weighs the shared expert (Qwen2-MoE, Qwen3-Next)."""
    has_correction_bias: bool = False
    """A bias per expert for balance: a buffer, in files but not among the parameters."""
    latent_size: int | None = None
    """Experts work in this smaller width, projected once each way (Nemotron 3 Super)."""
    num_extra_parameters: int = 0
    """Scales of the router (Gemma 4)."""


FeedForward = MLP | MixtureOfExperts


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of the stack."""

    mixer: Mixer | None
    feed_forwards: tuple[FeedForward, ...] | None
    """None: the configuration does not say (its weights are unknown, its cache is not)."""
    num_norm_vectors: int = 2
    """Vectors of ``hidden_size`` that normalise: weights, and biases where there are any."""
    per_layer_input_size: int = 0
    """Width of the per-layer embedding that Gemma 4 (E2B, E4B) mixes in; 0 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTower:
    """The encoder of a multimodal wrapper: its shape, as far as the configuration says."""

    hidden_size: int
    num_layers: int
    intermediate_size: int
    num_patches: int | None
    """Patches of one image of the tower's own size; None where sizes are dynamic."""
    patches_per_token: float = 1.0
    """Patches that are merged into one token of the language model."""
    is_gated: bool = False
    """Whether its feed-forwards have three matrices instead of two."""
    is_guessed: bool = False
    """Whether its fields have names that are not known, and were taken by what they end with."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelArchitecture:
    """What of a model's configuration decides how many bytes it needs.

    Compared by identity: the catalogue and ``architecture_from_json`` return the same object
    for the same model, so that footprints can be remembered.
    """

    family: str
    """``model_type`` of the (text) configuration."""
    hidden_size: int
    layers: tuple[Layer, ...]
    max_context_tokens: int | None
    """The longest context that an engine serves it with (``context``); None: not said."""
    vocab_size: int | None
    """None where the configuration does not say."""
    context_note: str = ""
    """How the longest context came to be, where it is not just one field: a clause."""
    tied_embeddings: bool = False
    num_final_norm_vectors: int = 1
    num_mtp_layers: int = 0
    """Layers for multi-token prediction: in the checkpoint, loaded only to speculate."""
    mtp_has_tables: bool = False
    """Whether each of them comes with a copy of embedding and head (DeepSeek, GLM)."""
    per_layer_vocab_size: int | None = None
    """Rows of the per-layer embedding table (Gemma 4 E2B, E4B)."""
    quantization_config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """The checkpoint's own quantization, as published; empty for 16 bit."""
    is_wrapped: bool = False
    """Whether its configuration is nested in that of something larger, and its modules too."""
    is_quantization_nested: bool = False
    """Whether that stands in the language model's part of a wrapper: engines look for the dtype of
    the cache at the top alone."""
    is_stored_wide: bool = False
    """Whether the files hold 32 bit, of which engines load 16."""
    vision: VisionTower | None = None
    other_towers: tuple[VisionTower, ...] = ()
    """Encoders beside the vision tower: of sounds, of other images."""
    unknown_towers: tuple[str, ...] = ()
    """Fields that describe a tower whose shape is not known."""
    checkpoint_bytes: int | None = None
    """Bytes of the published checkpoint, where they are known."""
    is_exact: bool = True
    """False where the family is unknown: weights from the checkpoint, cache as an upper bound.

    False as well where a known family's configuration leaves out a size and the checkpoint's bytes
    are known: weights from the checkpoint, cache as it is.
    """

    def __repr__(self) -> str:
        """Family and size: a stack of layers is no reading."""
        return f"ModelArchitecture({self.family}, {self.num_layers} layers of {self.hidden_size})"

    @property
    def num_layers(self) -> int:
        """Layers of the stack."""
        return len(self.layers)

    @property
    def attention(self) -> Attention | LatentAttention | None:
        """The mixer whose heads tensor parallelism has to split; None without attention."""
        for layer in self.layers:
            if isinstance(layer.mixer, Attention | LatentAttention):
                return layer.mixer
        return None
