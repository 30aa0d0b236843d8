"""Families that carry a state along: some layers attend, the others remember.

Qwen3-Next and Qwen3.5 (gated delta rule), Nemotron-H and Nemotron 3 (Mamba-2),
MiniMax-Text-01 (lightning attention).
"""

from memroute.errors import InvalidConfigError
from memroute.footprint.architecture.components import (
    MLP,
    FeedForward,
    GatedDeltaNet,
    Layer,
    LightningAttention,
    Mamba2,
    MixtureOfExperts,
    QueryKeyNorm,
)
from memroute.footprint.architecture.config import ConfigReader
from memroute.footprint.architecture.dense import (
    FULL,
    dense_feed_forward,
    grouped_query_attention,
)
from memroute.footprint.architecture.experts import mixtral, sparse_by_step

LINEAR = "linear_attention"
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def qwen_delta(config: ConfigReader) -> tuple[Layer, ...]:
    """Qwen3-Next and Qwen3.5: three gated-delta layers, then one with full attention."""
    num_layers = config.positive("num_hidden_layers")
    interval = config.positive("full_attention_interval", default=4)
    kinds = config.layer_types(num_layers, lambda i: LINEAR if (i + 1) % interval else FULL)
    attention = grouped_query_attention(
        config,
        has_qkv_bias=config.flag("attention_bias"),
        has_output_bias=config.flag("attention_bias"),
        query_key_norm=QueryKeyNorm.PER_HEAD,
        has_output_gate=True,
    )
    delta = GatedDeltaNet(
        num_key_heads=config.positive("linear_num_key_heads", default=16),
        num_value_heads=config.positive("linear_num_value_heads", default=32),
        key_head_dim=config.positive("linear_key_head_dim", default=128),
        value_head_dim=config.positive("linear_value_head_dim", default=128),
        conv_kernel=config.positive("linear_conv_kernel_dim", default=4),
        state_dtype_bytes=state_dtype_bytes(config),
    )
    is_moe = config.raw("moe_intermediate_size") is not None
    sparse = (
        [True] * num_layers
        if is_moe and config.family.startswith("qwen3_5")
        else sparse_by_step(config, num_layers)
    )
    return tuple(
        Layer(
            mixer=delta if kind == LINEAR else attention,
            feed_forwards=(
                _qwen_experts(config) if is_moe and is_sparse else dense_feed_forward(config)
            ),
        )
        for kind, is_sparse in zip(kinds, sparse, strict=True)
    )


def _qwen_experts(config: ConfigReader) -> tuple[FeedForward, ...]:
    return (
        MixtureOfExperts(
            num_experts=config.positive("num_experts"),
            num_experts_per_token=config.positive("num_experts_per_tok"),
            intermediate_size=config.positive("moe_intermediate_size"),
            shared_intermediate_size=config.count("shared_expert_intermediate_size"),
            has_shared_gate=config.count("shared_expert_intermediate_size") > 0,
        ),
    )


def nemotron_h(config: ConfigReader) -> tuple[Layer, ...]:
    """Nemotron-H and Nemotron 3: each layer is one thing, named by a letter of the pattern."""
    mamba = Mamba2(
        num_heads=config.positive("mamba_num_heads"),
        head_dim=config.positive("mamba_head_dim"),
        state_size=config.positive("ssm_state_size", "mamba_d_state"),
        num_groups=config.positive("n_groups", "mamba_n_groups"),
        conv_kernel=config.positive("conv_kernel", "mamba_d_conv", default=4),
        has_conv_bias=config.flag("use_conv_bias", default=True),
        has_projection_bias=config.flag("mamba_proj_bias", "use_bias"),
        state_dtype_bytes=state_dtype_bytes(config),
    )
    attention = grouped_query_attention(
        config,
        window_tokens=config.optional_int("sliding_window") or None,
        has_qkv_bias=config.flag("attention_bias"),
        has_output_bias=config.flag("attention_bias"),
    )
    layers = {
        "mamba": Layer(mixer=mamba, feed_forwards=(), num_norm_vectors=1),
        "attention": Layer(mixer=attention, feed_forwards=(), num_norm_vectors=1),
        "mlp": Layer(mixer=None, feed_forwards=_nemotron_mlp(config), num_norm_vectors=1),
        "moe": Layer(mixer=None, feed_forwards=_nemotron_experts(config), num_norm_vectors=1),
    }
    return tuple(layers[kind] for kind in _nemotron_pattern(config))


def _nemotron_pattern(config: ConfigReader) -> list[str]:
    letters = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    words = {
        "linear_attention": "mamba",
        "full_attention": "attention",
        **{kind: kind for kind in letters.values()},
    }
    listed = config.per_layer("layers_block_type", 1)
    pattern = config.raw("hybrid_override_pattern")
    try:
        if listed is not None:
            return [words[str(kind)] for kind in listed]
        if pattern is not None:
            return [letters[letter] for letter in str(pattern)]
    except KeyError as error:
        name = "hybrid_override_pattern" if listed is None else "layers_block_type"
        raise InvalidConfigError(name, error.args[0], f"one of {sorted(words)}") from error
    raise InvalidConfigError("hybrid_override_pattern", None, "a letter (M, *, -, E) per layer")


def _nemotron_mlp(config: ConfigReader) -> tuple[FeedForward, ...] | None:
    size = config.optional_int("intermediate_size")
    if size is None:
        return None
    return (MLP(intermediate_size=size, is_gated=False, has_bias=config.flag("mlp_bias")),)


def _nemotron_experts(config: ConfigReader) -> tuple[FeedForward, ...] | None:
    num_experts, size = config.count("n_routed_experts"), config.count("moe_intermediate_size")
    if not num_experts or not size:
        return None
    return (
        MixtureOfExperts(
            num_experts=num_experts,
            num_experts_per_token=config.positive("num_experts_per_tok", default=1),
            intermediate_size=size,
            shared_intermediate_size=(
                config.count("moe_shared_expert_intermediate_size")
                * config.count("n_shared_experts", default=1)
            ),
            is_gated=False,
            has_shared_bias=config.flag("mlp_bias"),
            has_correction_bias=True,
            latent_size=config.optional_int("moe_latent_size"),
        ),
    )


def minimax(config: ConfigReader) -> tuple[Layer, ...]:
    """MiniMax-Text-01 and M1: seven lightning layers, then one with softmax attention."""
    num_layers = config.positive("num_hidden_layers")
    listed = config.per_layer("attn_type_list", num_layers)

    def kind_of(index: int) -> str:
        if listed:
            return FULL if listed[index] else LINEAR
        return FULL if index % 2 == 0 else LINEAR  # transformers' default: alternate

    attention = grouped_query_attention(config, default_kv_heads=8)
    lightning = LightningAttention(num_heads=attention.num_heads, head_dim=attention.head_dim)
    return tuple(
        Layer(mixer=lightning if kind == LINEAR else layer.mixer, feed_forwards=layer.feed_forwards)
        for kind, layer in zip(
            config.layer_types(num_layers, kind_of), mixtral(config), strict=True
        )
    )


def state_dtype_bytes(config: ConfigReader) -> int | None:
    """Bytes of one value of a recurrent state, where the configuration asks for a type."""
    name = config.raw("mamba_ssm_cache_dtype", "mamba_ssm_dtype")
    if name is None or name == "auto":
        return None
    size = DTYPE_BYTES.get(str(name).removeprefix("torch."))
    if size is None:
        raise InvalidConfigError("mamba_ssm_cache_dtype", name, f"one of {sorted(DTYPE_BYTES)}")
    return size
