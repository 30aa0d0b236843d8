"""The matrices and vectors of a model, one by one: what they are called and how they split.

With h hidden, n heads, k KV heads, d head dimension, I intermediate, E experts, V vocabulary:

```text
embedding V*h    output head V*h unless tied    norms h each
attention        h*n*d (query) + 2*h*k*d (key, value) + n*d*h (output)
latent           h*q + q*n*(nope+rope) + h*(c+rope) + c*n*(nope+value) + n*value*h
MLP              3*h*I gated, 2*h*I otherwise      experts E times that, and a router h*E
Mamba-2          h*(2*inner + 2*groups*state + heads) + conv + inner*h
gated delta      h*(2*keys + 2*values + 2*heads) + conv + values*h
```

Names are those of the published checkpoints, because quantization configurations exclude
modules by name. Counts are exact against transformers 5.19 on the meta device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from memroute.errors import UnknownWeightsError
from memroute.footprint.architecture import (
    MLP,
    Attention,
    GatedDeltaNet,
    LatentAttention,
    Layer,
    LightningAttention,
    Mamba2,
    Mixer,
    MixtureOfExperts,
    ModelArchitecture,
    QueryKeyNorm,
)


class Split(StrEnum):
    """What divides a module among the ranks of a tensor-parallel group."""

    REPLICATED = "replicated"
    HEADS = "heads"
    """Evenly, by a number of heads that must divide."""
    KV_HEADS = "kv-heads"
    """Evenly, or replicated evenly once there are more ranks than heads."""
    WIDTH = "width"
    """Evenly, along an intermediate size that must divide."""
    VOCABULARY = "vocabulary"
    """Evenly, after padding to a multiple of 64."""
    EXPERTS = "experts"
    """Expert parallel: whole experts; else each expert along its width."""


class Axis(StrEnum):
    """Along which side of a matrix it is split."""

    INPUTS = "inputs"
    OUTPUTS = "outputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A matrix of ``num_outputs`` x ``num_inputs``, or ``num_copies`` of it; or a vector."""

    name: str
    """Its path in the checkpoint; expert 0 stands for all experts of a layer."""
    num_inputs: int
    num_outputs: int
    num_copies: int = 1
    has_bias: bool = False
    split: Split = Split.REPLICATED
    axis: Axis = Axis.OUTPUTS
    num_units: int = 1
    """Heads along the split side, where ``split`` counts heads."""
    is_linear: bool = False
    """Whether it is a linear layer of the stack: what a weight-only format may quantize."""
    is_table: bool = False
    """Whether it is the embedding or the output head."""
    is_buffer: bool = False
    """In the files, but not among the parameters."""
    layer: int | None = None
    """Index of its layer; None outside the stack."""
    dtype_bytes: int = 2
    """Bytes of one value as loaded, unquantized."""

    @property
    def num_parameters(self) -> int:
        """Parameters, biases included; 0 for a buffer."""
        if self.is_buffer:
            return 0
        return self.num_copies * (
            self.num_inputs * self.num_outputs + (self.num_outputs if self.has_bias else 0)
        )


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where modules are being listed: path, layer, hidden size."""

    path: str
    layer: int | None
    hidden: int

    def vector(self, name: str, size: int, **kwargs: object) -> Module:
        return Module(
            name=f"{self.path}.{name}", num_inputs=1, num_outputs=size, layer=self.layer,
            **kwargs,  # type: ignore[arg-type]
        )  # fmt: skip

    def linear(self, name: str, inputs: int, outputs: int, **kwargs: object) -> Module:
        return Module(
            name=f"{self.path}.{name}", num_inputs=inputs, num_outputs=outputs, layer=self.layer,
            **{"is_linear": True, **kwargs},  # type: ignore[arg-type]
        )  # fmt: skip


def modules_of(architecture: ModelArchitecture) -> Iterator[Module]:
    """Every module of the language model, multi-token prediction left out.

    Raises ``UnknownWeightsError`` when the configuration does not give a size that counts.
    """
    a = architecture
    if a.vocab_size is None:
        raise UnknownWeightsError(a.family, "vocab_size")
    yield _table("model.embed_tokens", a.vocab_size, a.hidden_size)
    per_layer_size = a.layers[0].per_layer_input_size if a.layers else 0
    if per_layer_size:
        yield from _per_layer_embedding(a, per_layer_size)
    for index, layer in enumerate(a.layers):
        yield from layer_modules(a, layer, index)
    yield Module(name="model.norm", num_inputs=a.num_final_norm_vectors, num_outputs=a.hidden_size)
    if not a.tied_embeddings:
        yield _table("lm_head", a.vocab_size, a.hidden_size)


def layer_modules(architecture: ModelArchitecture, layer: Layer, index: int) -> Iterator[Module]:
    """The modules of one layer. Raises ``UnknownWeightsError`` as ``modules_of``."""
    if layer.feed_forwards is None:
        raise UnknownWeightsError(architecture.family, "the size of its feed-forward")
    h = architecture.hidden_size
    path = f"model.layers.{index}"
    yield Module(
        name=f"{path}.norms", num_inputs=layer.num_norm_vectors, num_outputs=h, layer=index
    )
    # Nemotron calls whatever a layer is its mixer.
    single = architecture.family == "nemotron_h"
    attention = "linear_attn" if isinstance(layer.mixer, GatedDeltaNet) else "self_attn"
    if layer.mixer is not None:
        scope = _Scope(f"{path}.mixer" if single else f"{path}.{attention}", index, h)
        yield from _mixer(scope, layer.mixer)
    scope = _Scope(f"{path}.mixer" if single else f"{path}.mlp", index, h)
    for feed_forward in layer.feed_forwards:
        if isinstance(feed_forward, MLP):
            yield from _mlp(scope, feed_forward)
        else:
            yield from _experts(scope, feed_forward)
    if layer.per_layer_input_size:
        size = layer.per_layer_input_size
        scope = _Scope(path, index, h)
        yield scope.linear("per_layer_input_gate", h, size)
        yield scope.linear("per_layer_projection", size, h)


def _mixer(scope: _Scope, mixer: Mixer) -> Iterator[Module]:
    match mixer:
        case Attention():
            yield from _attention(scope, mixer)
        case LatentAttention():
            yield from _latent_attention(scope, mixer)
        case GatedDeltaNet():
            yield from _gated_delta_net(scope, mixer)
        case Mamba2():
            yield from _mamba2(scope, mixer)
        case LightningAttention():
            yield from _lightning_attention(scope, mixer)


def _table(name: str, vocab_size: int, hidden: int) -> Module:
    return Module(
        name=name, num_inputs=hidden, num_outputs=vocab_size, split=Split.VOCABULARY, is_table=True
    )


def _per_layer_embedding(a: ModelArchitecture, size: int) -> Iterator[Module]:
    width = size * a.num_layers
    yield _table("model.embed_tokens_per_layer", a.per_layer_vocab_size or a.vocab_size or 0, width)
    yield Module(
        name="model.per_layer_model_projection", num_inputs=a.hidden_size, num_outputs=width,
        is_linear=True,
    )  # fmt: skip
    yield Module(name="model.per_layer_projection_norm", num_inputs=1, num_outputs=size)


def _attention(scope: _Scope, a: Attention) -> Iterator[Module]:
    h, width, kv_width = scope.hidden, a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    heads = {"split": Split.HEADS, "num_units": a.num_heads}
    kv_heads = {"split": Split.KV_HEADS, "num_units": a.num_kv_heads}
    gate = 2 if a.has_output_gate else 1
    yield scope.linear("q_proj", h, gate * width, has_bias=a.has_qkv_bias, **heads)
    if a.owns_kv_cache:
        yield scope.linear("k_proj", h, kv_width, has_bias=a.has_qkv_bias, **kv_heads)
        if a.has_value_projection:
            yield scope.linear("v_proj", h, kv_width, has_bias=a.has_qkv_bias, **kv_heads)
    yield scope.linear("o_proj", width, h, has_bias=a.has_output_bias, axis=Axis.INPUTS, **heads)
    if a.query_key_norm is QueryKeyNorm.PER_HEAD:
        yield scope.vector("q_norm", a.head_dim)
        if a.owns_kv_cache:
            yield scope.vector("k_norm", a.head_dim)
    elif a.query_key_norm is QueryKeyNorm.ALL_HEADS:
        yield scope.vector("q_norm", width, **heads)
        yield scope.vector("k_norm", kv_width, **kv_heads)
    if a.has_sinks:
        yield scope.vector("sinks", a.num_heads, **heads)


def _latent_attention(scope: _Scope, a: LatentAttention) -> Iterator[Module]:
    h, rank = scope.hidden, a.kv_lora_rank
    heads = {"split": Split.HEADS, "num_units": a.num_heads}
    query_width = a.num_heads * (a.nope_head_dim + a.rope_head_dim)
    if a.query_rank is None:
        yield scope.linear("q_proj", h, query_width, **heads)
    else:
        yield scope.linear("q_a_proj", h, a.query_rank, has_bias=a.has_bias)
        yield scope.vector("q_a_layernorm", a.query_rank)
        yield scope.linear("q_b_proj", a.query_rank, query_width, **heads)
    yield scope.linear("kv_a_proj_with_mqa", h, rank + a.rope_head_dim, has_bias=a.has_bias)
    yield scope.vector("kv_a_layernorm", rank)
    kv_width = a.num_heads * (a.nope_head_dim + a.value_head_dim)
    yield scope.linear("kv_b_proj", rank, kv_width, **heads)
    value_width = a.num_heads * a.value_head_dim
    yield scope.linear("o_proj", value_width, h, has_bias=a.has_bias, axis=Axis.INPUTS, **heads)
    if a.indexer is not None:
        i = a.indexer
        yield scope.linear("indexer.wq_b", a.query_rank or h, i.num_heads * i.head_dim)
        yield scope.linear("indexer.wk", h, i.head_dim)
        yield Module(
            name=f"{scope.path}.indexer.k_norm", num_inputs=2, num_outputs=i.head_dim,
            layer=scope.layer,
        )  # fmt: skip
        # Kept at 16 bit in the published FP8 checkpoints.
        yield scope.linear("indexer.weights_proj", h, i.num_heads, is_linear=False)


def _gated_delta_net(scope: _Scope, d: GatedDeltaNet) -> Iterator[Module]:
    h, heads = scope.hidden, {"split": Split.HEADS, "num_units": d.num_value_heads}
    mixed = 2 * d.key_size + d.value_size
    yield scope.linear("in_proj_qkv", h, mixed, **heads)
    yield scope.linear("in_proj_z", h, d.value_size, **heads)
    yield scope.linear("in_proj_ba", h, 2 * d.num_value_heads, is_linear=False, **heads)
    yield scope.linear("conv1d", d.conv_kernel, mixed, is_linear=False, **heads)
    yield scope.vector("dt_bias", d.num_value_heads, **heads)
    yield scope.vector("A_log", d.num_value_heads, **heads)
    yield scope.vector("norm", d.value_head_dim)
    yield scope.linear("out_proj", d.value_size, h, axis=Axis.INPUTS, **heads)


def _mamba2(scope: _Scope, m: Mamba2) -> Iterator[Module]:
    h, heads = scope.hidden, {"split": Split.HEADS, "num_units": m.num_heads}
    mixed = m.inner_size + 2 * m.num_groups * m.state_size
    bias = m.has_projection_bias
    yield scope.linear("in_proj", h, m.inner_size + mixed + m.num_heads, has_bias=bias, **heads)
    yield scope.linear(
        "conv1d", m.conv_kernel, mixed, has_bias=m.has_conv_bias, is_linear=False, **heads
    )
    for name in ("dt_bias", "A_log", "D"):
        yield scope.vector(name, m.num_heads, **heads)
    yield scope.vector("norm", m.inner_size, **heads)
    yield scope.linear("out_proj", m.inner_size, h, has_bias=bias, axis=Axis.INPUTS, **heads)


def _lightning_attention(scope: _Scope, a: LightningAttention) -> Iterator[Module]:
    h, width = scope.hidden, a.num_heads * a.head_dim
    heads = {"split": Split.HEADS, "num_units": a.num_heads}
    yield scope.linear("qkv_proj", h, 3 * width, **heads)
    yield scope.linear("output_gate", h, width, **heads)
    yield scope.linear("out_proj", width, h, axis=Axis.INPUTS, **heads)
    yield scope.vector("norm", width, **heads)


def _mlp(scope: _Scope, mlp: MLP) -> Iterator[Module]:
    h, size = scope.hidden, mlp.intermediate_size
    for name in ("gate_proj", "up_proj") if mlp.is_gated else ("up_proj",):
        yield scope.linear(name, h, size, has_bias=mlp.has_bias, split=Split.WIDTH)
    yield scope.linear(
        "down_proj", size, h, has_bias=mlp.has_bias, split=Split.WIDTH, axis=Axis.INPUTS
    )


def _experts(scope: _Scope, moe: MixtureOfExperts) -> Iterator[Module]:
    h, width = scope.hidden, moe.latent_size or scope.hidden
    yield scope.linear("gate", h, moe.num_experts, has_bias=moe.has_bias, is_linear=False)
    if moe.has_correction_bias:
        yield scope.vector(
            "gate.e_score_correction_bias", moe.num_experts, is_buffer=True, dtype_bytes=4
        )
    if moe.num_extra_parameters:
        yield scope.vector("router_scales", moe.num_extra_parameters)
    experts = {"num_copies": moe.num_experts, "split": Split.EXPERTS, "has_bias": moe.has_bias}
    for name in ("gate_proj", "up_proj") if moe.is_gated else ("up_proj",):
        yield scope.linear(f"experts.0.{name}", width, moe.intermediate_size, **experts)
    yield scope.linear(
        "experts.0.down_proj", moe.intermediate_size, width, axis=Axis.INPUTS, **experts
    )
    if moe.latent_size is not None:
        bias = moe.has_shared_bias
        yield scope.linear("fc1_latent_proj", h, moe.latent_size, has_bias=bias)
        yield scope.linear("fc2_latent_proj", moe.latent_size, h, has_bias=bias)
    if moe.shared_intermediate_size:
        shared = _Scope(f"{scope.path}.shared_experts", scope.layer, h)
        size, bias = moe.shared_intermediate_size, moe.has_shared_bias
        yield from _mlp(shared, MLP(intermediate_size=size, is_gated=moe.is_gated, has_bias=bias))
    if moe.has_shared_gate:
        yield scope.linear("shared_expert_gate", h, 1, is_linear=False)
