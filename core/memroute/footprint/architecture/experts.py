"""Families with routed experts over grouped-query attention."""

from memroute.footprint.architecture.components import (
    MLP,
    FeedForward,
    Layer,
    MixtureOfExperts,
    QueryKeyNorm,
)
from memroute.footprint.architecture.config import ConfigReader
from memroute.footprint.architecture.dense import (
    FULL,
    SLIDING,
    dense_feed_forward,
    grouped_query_attention,
    qwen_attention,
    qwen_windows,
)

CHUNKED = "chunked_attention"


def mixtral(config: ConfigReader) -> tuple[Layer, ...]:
    """Mixtral: every layer has experts."""
    experts = _experts(config, size_names=("intermediate_size",))
    layer = Layer(
        mixer=grouped_query_attention(
            config, window_tokens=config.optional_int("sliding_window") or None, default_kv_heads=8
        ),
        feed_forwards=experts,
    )
    return (layer,) * config.positive("num_hidden_layers")


def qwen_moe(config: ConfigReader) -> tuple[Layer, ...]:
    """Qwen2-MoE and Qwen3-MoE: experts on every ``decoder_sparse_step``-th layer."""
    is_qwen3 = config.family.startswith("qwen3")
    experts = _experts(
        config,
        size_names=("moe_intermediate_size",),
        shared_size=0 if is_qwen3 else config.count("shared_expert_intermediate_size"),
        has_shared_gate=not is_qwen3,
    )
    windows = qwen_windows(config)
    return tuple(
        Layer(
            mixer=qwen_attention(config, window),
            feed_forwards=experts if is_sparse else dense_feed_forward(config),
        )
        for window, is_sparse in zip(windows, sparse_by_step(config, len(windows)), strict=True)
    )


def gpt_oss(config: ConfigReader) -> tuple[Layer, ...]:
    """OpenAI's open-weight pair: windows on every other layer, biases everywhere, sinks."""
    kinds = config.layer_types(
        config.positive("num_hidden_layers"), lambda i: SLIDING if (i + 1) % 2 else FULL
    )
    window = config.positive("sliding_window", default=128)
    bias = config.flag("attention_bias", default=True)
    experts = _experts(config, size_names=("intermediate_size",), has_bias=True)
    return tuple(
        Layer(
            mixer=grouped_query_attention(
                config,
                window_tokens=window if kind == SLIDING else None,
                has_qkv_bias=bias,
                has_output_bias=bias,
                has_sinks=True,
            ),
            feed_forwards=experts,
        )
        for kind in kinds
    )


def llama4(config: ConfigReader) -> tuple[Layer, ...]:
    """Llama 4: chunked attention except on every fourth layer, experts on some layers."""
    num_layers = config.positive("num_hidden_layers")
    no_rope = config.per_layer("no_rope_layers", num_layers)
    interval = config.positive("no_rope_layer_interval", default=4)

    def kind_of(index: int) -> str:
        # A layer with positions (1 in the list) attends within its chunk.
        uses_rope = bool(no_rope[index]) if no_rope else bool((index + 1) % interval)
        return CHUNKED if uses_rope else FULL

    chunk = config.optional_int("attention_chunk_size")
    step = config.positive("interleave_moe_layer_step", default=1)
    usual = frozenset(range(step - 1, num_layers, step))
    sparse_layers = usual if config.raw("moe_layers") is None else config.indices("moe_layers")
    size = config.count("intermediate_size")
    experts = _experts(config, size_names=("intermediate_size",), shared_size=size)
    dense_size = config.optional_int("intermediate_size_mlp")
    dense: tuple[FeedForward, ...] | None = (
        None if dense_size is None else (MLP(intermediate_size=dense_size),)
    )
    return tuple(
        Layer(
            mixer=grouped_query_attention(
                config,
                chunk_tokens=chunk if kind == CHUNKED else None,
                has_qkv_bias=config.flag("attention_bias"),
                has_output_bias=config.flag("attention_bias"),
            ),
            feed_forwards=experts if index in sparse_layers else dense,
        )
        for index, kind in enumerate(config.layer_types(num_layers, kind_of))
    )


def minimax_m2(config: ConfigReader) -> tuple[Layer, ...]:
    """MiniMax M2: experts on every layer, norms over all query and key heads."""
    layer = Layer(
        mixer=grouped_query_attention(
            config,
            query_key_norm=(
                QueryKeyNorm.ALL_HEADS
                if config.flag("use_qk_norm", default=True)
                else QueryKeyNorm.NONE
            ),
        ),
        feed_forwards=_experts(config, size_names=("intermediate_size",), has_correction_bias=True),
    )
    return (layer,) * config.positive("num_hidden_layers")


def glm4_moe(config: ConfigReader) -> tuple[Layer, ...]:
    """GLM-4.5 to 4.7: the first layers are dense, the others have experts and a shared one."""
    bias = config.flag("attention_bias")
    attention = grouped_query_attention(
        config,
        has_qkv_bias=bias,
        query_key_norm=(QueryKeyNorm.PER_HEAD if config.flag("use_qk_norm") else QueryKeyNorm.NONE),
    )
    return tuple(
        Layer(
            mixer=attention,
            feed_forwards=deepseek_experts(config) if is_sparse else dense_feed_forward(config),
        )
        for is_sparse in sparse_after_first(config, config.positive("num_hidden_layers"))
    )


def deepseek_experts(config: ConfigReader) -> tuple[FeedForward, ...] | None:
    """Routed experts beside shared ones of the same size, as DeepSeek has them."""
    size = config.count("moe_intermediate_size")
    return _experts(
        config,
        size_names=("moe_intermediate_size",),
        shared_size=size * config.count("n_shared_experts"),
        has_correction_bias=config.family != "deepseek_v2",
    )


def sparse_by_step(config: ConfigReader, num_layers: int) -> list[bool]:
    """Which layers have experts, by ``decoder_sparse_step`` and ``mlp_only_layers``."""
    step = config.positive("decoder_sparse_step", default=1)
    dense = config.indices("mlp_only_layers")
    has_experts = config.count("num_experts", "n_routed_experts", "num_local_experts") > 0
    return [
        has_experts and index not in dense and (index + 1) % step == 0
        for index in range(num_layers)
    ]


def sparse_after_first(config: ConfigReader, num_layers: int) -> list[bool]:
    """Which layers have experts, by ``mlp_layer_types`` or ``first_k_dense_replace``."""
    listed = config.per_layer("mlp_layer_types", num_layers)
    if listed is not None:
        return [kind == "sparse" for kind in listed]
    first = config.count("first_k_dense_replace")
    every = config.positive("moe_layer_freq", default=1)
    return [index >= first and index % every == 0 for index in range(num_layers)]


def _experts(
    config: ConfigReader,
    *,
    size_names: tuple[str, ...],
    shared_size: int = 0,
    has_bias: bool = False,
    has_shared_gate: bool = False,
    has_correction_bias: bool = False,
) -> tuple[FeedForward, ...] | None:
    num_experts = config.optional_int("num_local_experts", "n_routed_experts", "num_experts")
    size = config.optional_int(*size_names)
    if num_experts is None or size is None:
        return None
    return (
        MixtureOfExperts(
            num_experts=num_experts,
            num_experts_per_token=config.positive(
                "num_experts_per_tok", "experts_per_token", "moe_topk", default=1
            ),
            intermediate_size=size,
            shared_intermediate_size=shared_size,
            has_bias=has_bias,
            has_shared_gate=has_shared_gate and shared_size > 0,
            has_correction_bias=has_correction_bias,
        ),
    )
