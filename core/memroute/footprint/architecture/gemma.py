"""Gemma 1 to 4: wide heads, windows on most layers, four norms from Gemma 2 on.

Published configurations of Gemma 3 leave out fields that equal the family's defaults
(gemma-3-4b-it names neither its heads nor its vocabulary); the defaults here are those of
transformers 5.19's configuration classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memroute.footprint.architecture.components import (
    MLP,
    Attention,
    FeedForward,
    Layer,
    MixtureOfExperts,
    QueryKeyNorm,
)
from memroute.footprint.architecture.config import ConfigReader
from memroute.footprint.architecture.dense import FULL, SLIDING, dense_feed_forward

GLOBAL_HEAD_DIM = 512
# Gemma 4's global layers, where the configuration does not say.


def gemma(config: ConfigReader) -> tuple[Layer, ...]:
    """Gemma 1: every layer attends to everything."""
    layer = Layer(
        mixer=_attention(config, num_heads=16, num_kv_heads=16),
        feed_forwards=dense_feed_forward(config),
    )
    return (layer,) * config.positive("num_hidden_layers")


def gemma2(config: ConfigReader) -> tuple[Layer, ...]:
    """Gemma 2: every other layer slides, the first one does."""
    attention = _attention(config, num_heads=8, num_kv_heads=4)
    return _sliding_layers(config, attention, default_window=4096, pattern=2)


def gemma3(config: ConfigReader) -> tuple[Layer, ...]:
    """Gemma 3: five layers slide, the sixth sees everything."""
    attention = replace(
        _attention(config, num_heads=8, num_kv_heads=4), query_key_norm=QueryKeyNorm.PER_HEAD
    )
    pattern = config.positive("sliding_window_pattern", "_sliding_window_pattern", default=6)
    return _sliding_layers(config, attention, default_window=4096, pattern=pattern)


def gemma4(config: ConfigReader) -> tuple[Layer, ...]:
    """Gemma 4: other heads on global layers, keys as values, shared caches, experts beside."""
    num_layers = config.positive("num_hidden_layers")
    kinds = config.layer_types(num_layers, lambda i: SLIDING if (i + 1) % 6 else FULL)
    if kinds:
        kinds[-1] = FULL  # transformers forces the last layer to be global
    local = replace(
        _attention(config, num_heads=8, num_kv_heads=4),
        window_tokens=config.positive("sliding_window", default=512),
        query_key_norm=QueryKeyNorm.PER_HEAD,
        has_qkv_bias=config.flag("attention_bias"),
        has_output_bias=config.flag("attention_bias"),
    )
    overrides = config.objects("per_layer_config")
    keys_are_values = config.flag("attention_k_eq_v")
    global_kv_heads = config.optional_int("num_global_key_value_heads") if keys_are_values else None
    global_ = replace(
        local,
        window_tokens=None,
        head_dim=config.positive(
            "global_head_dim", default=GLOBAL_HEAD_DIM if overrides is None else local.head_dim
        ),
        num_kv_heads=global_kv_heads or local.num_kv_heads,
        has_value_projection=not keys_are_values,
    )
    num_owners = num_layers - config.count("num_kv_shared_layers")
    wide = config.flag("use_double_wide_mlp")
    layers = []
    for index, kind in enumerate(kinds):
        is_owner = index < num_owners
        mixer = _overridden(local if kind == SLIDING else global_, overrides or {}, index)
        feed_forwards = _gemma4_feed_forwards(config, factor=2 if wide and not is_owner else 1)
        num_norms = 4
        if feed_forwards is not None and len(feed_forwards) > 1:
            num_norms += 3  # one more before the experts, and one after each branch
        per_layer = config.count("hidden_size_per_layer_input", default=256)
        layers.append(
            Layer(
                mixer=replace(mixer, owns_kv_cache=is_owner),
                feed_forwards=feed_forwards,
                num_norm_vectors=num_norms + (1 if per_layer else 0),
                per_layer_input_size=per_layer,
            )
        )
    return tuple(layers)


def _overridden(attention: Attention, overrides: Mapping[str, Any], index: int) -> Attention:
    """What transformers 5 writes as exceptions per layer, in place of ``global_head_dim``."""
    given = overrides.get(f"{index:02d}", overrides.get(str(index)))
    if not given:
        return attention
    reader = ConfigReader(given)
    return replace(
        attention,
        head_dim=reader.positive("head_dim", default=attention.head_dim),
        num_kv_heads=reader.positive("num_key_value_heads", default=attention.num_kv_heads),
    )


def _gemma4_feed_forwards(config: ConfigReader, *, factor: int) -> tuple[FeedForward, ...] | None:
    size = config.optional_int("intermediate_size")
    if size is None:
        return None
    mlp = MLP(intermediate_size=size * factor)
    if not config.flag("enable_moe_block"):
        return (mlp,)
    num_experts = config.positive("num_experts")
    experts = MixtureOfExperts(
        num_experts=num_experts,
        num_experts_per_token=config.positive("top_k_experts", "num_experts_per_tok"),
        intermediate_size=config.positive("moe_intermediate_size"),
        # A scale per input channel and one per expert.
        num_extra_parameters=config.positive("hidden_size") + num_experts,
    )
    return (mlp, experts)


def _attention(config: ConfigReader, *, num_heads: int, num_kv_heads: int) -> Attention:
    return Attention(
        num_heads=config.positive("num_attention_heads", default=num_heads),
        num_kv_heads=config.positive("num_key_value_heads", default=num_kv_heads),
        head_dim=config.positive("head_dim", default=256),
        has_qkv_bias=config.flag("attention_bias"),
        has_output_bias=config.flag("attention_bias"),
    )


def _sliding_layers(
    config: ConfigReader, attention: Attention, *, default_window: int, pattern: int
) -> tuple[Layer, ...]:
    kinds = config.layer_types(
        config.positive("num_hidden_layers"), lambda i: SLIDING if (i + 1) % pattern else FULL
    )
    window = config.positive("sliding_window", default=default_window)
    feed_forward = dense_feed_forward(config)
    return tuple(
        Layer(
            mixer=replace(attention, window_tokens=window if kind == SLIDING else None),
            feed_forwards=feed_forward,
            num_norm_vectors=4,
        )
        for kind in kinds
    )
