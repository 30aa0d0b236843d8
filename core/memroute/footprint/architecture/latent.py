"""DeepSeek and its kin: multi-head latent attention, dense first layers, many experts.

DeepSeek-V2, V3, R1, V3.2, Kimi K2, GLM-4.7-Flash, GLM-5.
"""

from memroute.footprint.architecture.components import LatentAttention, Layer, SparseIndexer
from memroute.footprint.architecture.config import ConfigReader
from memroute.footprint.architecture.dense import dense_feed_forward
from memroute.footprint.architecture.experts import deepseek_experts, sparse_after_first


def deepseek(config: ConfigReader) -> tuple[Layer, ...]:
    """Latent attention on every layer; sparse where the configuration has an indexer."""
    indexer_dim = config.optional_int("index_head_dim") if config.raw("index_topk") else None
    attention = LatentAttention(
        num_heads=config.positive("num_attention_heads"),
        query_rank=config.optional_int("q_lora_rank") or None,
        kv_lora_rank=config.positive("kv_lora_rank", default=512),
        nope_head_dim=config.positive("qk_nope_head_dim", default=128),
        rope_head_dim=config.positive("qk_rope_head_dim", default=64),
        value_head_dim=config.positive("v_head_dim", default=128),
        has_bias=config.flag("attention_bias"),
        indexer=(
            None
            if indexer_dim is None
            else SparseIndexer(num_heads=config.positive("index_n_heads"), head_dim=indexer_dim)
        ),
    )
    return tuple(
        Layer(
            mixer=attention,
            feed_forwards=deepseek_experts(config) if is_sparse else dense_feed_forward(config),
        )
        for is_sparse in sparse_after_first(config, config.positive("num_hidden_layers"))
    )
