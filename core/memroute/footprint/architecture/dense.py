"""Families that share one skeleton: decoder-only, grouped-query attention, a dense MLP.

Llama, Mistral, Qwen2, Qwen3, Phi-3/4, GLM, Falcon, Gemma differ in switches: biases, norms,
which layers slide. Parameter counts are exact against transformers 5.19 built on the meta
device; the conformance tests compare them.
"""

from memroute.footprint.architecture.components import MLP, Attention, Layer, QueryKeyNorm
from memroute.footprint.architecture.config import ConfigReader

SLIDING = "sliding_attention"
FULL = "full_attention"


def grouped_query_attention(
    config: ConfigReader,
    *,
    window_tokens: int | None = None,
    chunk_tokens: int | None = None,
    has_qkv_bias: bool = False,
    has_output_bias: bool = False,
    query_key_norm: QueryKeyNorm = QueryKeyNorm.NONE,
    has_output_gate: bool = False,
    has_sinks: bool = False,
    default_kv_heads: int | None = None,
) -> Attention:
    """The attention that most configurations describe with the same four fields."""
    num_heads = config.positive("num_attention_heads")
    head_dim = config.optional_int("head_dim") or config.positive("hidden_size") // num_heads
    return Attention(
        num_heads=num_heads,
        num_kv_heads=config.positive("num_key_value_heads", default=default_kv_heads or num_heads),
        head_dim=head_dim,
        window_tokens=window_tokens,
        chunk_tokens=chunk_tokens,
        has_qkv_bias=has_qkv_bias,
        has_output_bias=has_output_bias,
        query_key_norm=query_key_norm,
        has_output_gate=has_output_gate,
        has_sinks=has_sinks,
    )


def dense_feed_forward(config: ConfigReader, *, has_bias: bool = False) -> tuple[MLP, ...] | None:
    """The gated MLP; None when the configuration does not give its size."""
    size = config.optional_int("intermediate_size")
    return None if size is None else (MLP(intermediate_size=size, has_bias=has_bias),)


def llama(config: ConfigReader) -> tuple[Layer, ...]:
    """Llama 2 and 3, Mistral, Ministral, Phi-3 and 4: no switch, or a window on every layer."""
    bias = config.flag("attention_bias")
    feed_forward = dense_feed_forward(config, has_bias=config.flag("mlp_bias"))
    num_layers = config.positive("num_hidden_layers")
    # A window without a list of kinds is on every layer (Mistral 7B v0.1, Phi-3 mini).
    window = config.optional_int("sliding_window") or None
    kinds = config.layer_types(num_layers, lambda _: SLIDING if window else FULL)
    return tuple(
        Layer(
            mixer=grouped_query_attention(
                config,
                window_tokens=window if kind == SLIDING else None,
                has_qkv_bias=bias,
                has_output_bias=bias,
            ),
            feed_forwards=feed_forward,
        )
        for kind in kinds
    )


def qwen(config: ConfigReader) -> tuple[Layer, ...]:
    """Qwen2 and 2.5 (biases on query, key and value), Qwen3 (a norm on query and key)."""
    feed_forward = dense_feed_forward(config)
    return tuple(
        Layer(mixer=qwen_attention(config, window), feed_forwards=feed_forward)
        for window in qwen_windows(config)
    )


def qwen_attention(config: ConfigReader, window_tokens: int | None) -> Attention:
    """Qwen's attention: biased in the second generation, normalised in the third."""
    is_qwen3 = config.family.startswith("qwen3")
    # Only Qwen2-MoE names its bias; the dense second generation always has it.
    bias = config.flag("attention_bias") if is_qwen3 else config.flag("qkv_bias", default=True)
    return grouped_query_attention(
        config,
        window_tokens=window_tokens,
        has_qkv_bias=bias,
        has_output_bias=bias and is_qwen3,
        query_key_norm=QueryKeyNorm.PER_HEAD if is_qwen3 else QueryKeyNorm.NONE,
    )


def qwen_windows(config: ConfigReader) -> list[int | None]:
    """The window of each Qwen layer: none unless it is switched on, and then above a depth."""
    num_layers = config.positive("num_hidden_layers")
    window = config.optional_int("sliding_window") if config.flag("use_sliding_window") else None
    first_sliding = config.count("max_window_layers", default=num_layers)
    kinds = config.layer_types(num_layers, lambda i: SLIDING if i >= first_sliding else FULL)
    return [window if window and kind == SLIDING else None for kind in kinds]


def glm(config: ConfigReader) -> tuple[Layer, ...]:
    """GLM-4 dense: biases on query, key and value; GLM-4-0414 has two more norms."""
    layer = Layer(
        mixer=grouped_query_attention(
            config, has_qkv_bias=config.flag("attention_bias", default=True)
        ),
        feed_forwards=dense_feed_forward(config),
        num_norm_vectors=4 if config.family == "glm4" else 2,
    )
    return (layer,) * config.positive("num_hidden_layers")


def falcon(config: ConfigReader) -> tuple[Layer, ...]:
    """Falcon: multi-query (7B) or grouped (40B, 180B, 11B) attention, an MLP without gate."""
    num_heads = config.positive("num_attention_heads", "n_head")
    hidden = config.positive("hidden_size")
    is_new = config.flag("new_decoder_architecture")
    if is_new:
        num_kv_heads = config.positive("num_kv_heads", "n_head_kv", default=num_heads)
    else:
        num_kv_heads = 1 if config.flag("multi_query", default=True) else num_heads
    bias = config.flag("bias")
    # Norms of weight and bias. The new architecture has one for each branch, unless told
    # otherwise; the old one has a second where the branches run one after the other.
    if is_new:
        num_norms = config.count("num_ln_in_parallel_attn", default=2)
    else:
        num_norms = 1 if config.flag("parallel_attn", default=True) else 2
    layer = Layer(
        mixer=Attention(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=hidden // num_heads,
            has_qkv_bias=bias,
            has_output_bias=bias,
        ),
        feed_forwards=(
            MLP(
                intermediate_size=config.positive("ffn_hidden_size", default=4 * hidden),
                is_gated=False,
                has_bias=bias,
            ),
        ),
        num_norm_vectors=2 * num_norms,
    )
    return (layer,) * config.positive("num_hidden_layers", "n_layer")
