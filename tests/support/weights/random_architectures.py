"""Random small configurations of every family, in the words of transformers' config classes."""

import random
from typing import Any

FAMILIES = (
    "llama", "mistral", "ministral3", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
    "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "gemma", "gemma2", "gemma3_text",
    "gemma4_text", "phi3", "gpt_oss", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm", "glm4",
    "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "minimax", "minimax_m2", "nemotron_h", "falcon",
    "llama4_text",
)  # fmt: skip


def random_config(family: str, rng: random.Random) -> dict[str, Any]:
    """Fields of one small, valid architecture; the class's defaults fill the rest."""
    kv_heads = rng.choice((1, 2, 4))
    heads = kv_heads * rng.choice((1, 2, 4))
    head_dim = rng.choice((16, 32, 64))
    hidden = 32 * rng.randint(2, 8)
    num_layers = rng.randint(2, 13)
    config: dict[str, Any] = {
        "vocab_size": rng.randint(500, 3000),
        "hidden_size": hidden,
        "intermediate_size": 16 * rng.randint(4, 20),
        "num_hidden_layers": num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "tie_word_embeddings": rng.random() < 0.5,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    experts = rng.choice((4, 8))
    routed = {
        "moe_intermediate_size": 16 * rng.randint(2, 8),
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
    }
    latent = {
        "q_lora_rank": 48,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": rng.choice((32, 48)),
    }
    deepseek = {
        **routed, **latent, "n_routed_experts": experts, "first_k_dense_replace": 1,
        "n_shared_experts": rng.choice((1, 2)), "n_group": 1, "topk_group": 1,
        "num_key_value_heads": heads,
    }  # fmt: skip
    delta = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": rng.choice((16, 32)),
        "linear_conv_kernel_dim": 4,
    }
    qwen_experts = {**routed, "num_experts": experts, "shared_expert_intermediate_size": 64}
    indexer = {"index_topk": 64, "index_head_dim": 32, "index_n_heads": 4}
    extra: dict[str, dict[str, Any]] = {
        "llama": {"attention_bias": rng.random() < 0.3, "mlp_bias": rng.random() < 0.3},
        "mistral": {"sliding_window": rng.choice((None, 256))},
        "mixtral": {"num_local_experts": experts, "num_experts_per_tok": 2},
        "qwen2": {"use_sliding_window": rng.random() < 0.4, "sliding_window": 256,
                  "max_window_layers": num_layers // 2},
        "qwen2_moe": qwen_experts | {"decoder_sparse_step": rng.choice((1, 2))},
        "qwen3": {"attention_bias": rng.random() < 0.3},
        "qwen3_moe": routed | {"num_experts": experts, "decoder_sparse_step": rng.choice((1, 2)),
                               "mlp_only_layers": rng.choice(([], [0]))},
        "qwen3_next": {**qwen_experts, **delta, "decoder_sparse_step": 1},
        "qwen3_5_text": delta,
        "qwen3_5_moe_text": {**qwen_experts, **delta},
        "gemma2": {"sliding_window": 128},
        "gemma3_text": {"sliding_window": 128},
        "gemma4_text": rng.choice((
            {"num_kv_shared_layers": num_layers // 2, "use_double_wide_mlp": True,
             "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 512},
            {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "global_head_dim": 64,
             "enable_moe_block": True, "num_experts": experts, "top_k_experts": 2,
             "moe_intermediate_size": 32, "hidden_size_per_layer_input": 0},
            {"hidden_size_per_layer_input": 0, "global_head_dim": 128},
        )),
        "gpt_oss": {"num_local_experts": experts, "num_experts_per_tok": 2, "sliding_window": 64},
        "deepseek_v2": deepseek | {"q_lora_rank": rng.choice((None, 48)),
                                   "topk_method": "greedy", "norm_topk_prob": False},
        "deepseek_v3": deepseek,
        "deepseek_v32": deepseek | indexer,
        "glm_moe_dsa": deepseek | indexer,
        "glm4_moe_lite": deepseek,
        "glm": {"attention_bias": True},
        "glm4": {"attention_bias": rng.random() < 0.5},
        "glm4_moe": {**routed, "n_routed_experts": experts, "n_shared_experts": 1,
                     "first_k_dense_replace": 1, "use_qk_norm": rng.random() < 0.5,
                     "attention_bias": rng.random() < 0.5, "n_group": 1, "topk_group": 1},
        "minimax": {"num_local_experts": experts, "num_experts_per_tok": 2},
        "minimax_m2": {"num_local_experts": experts, "num_experts_per_tok": 2},
        "nemotron_h": {
            "hybrid_override_pattern": "".join(rng.choice("M*E-") for _ in range(num_layers)),
            "n_routed_experts": experts, "moe_intermediate_size": 64, "n_shared_experts": 1,
            "moe_shared_expert_intermediate_size": 96, "num_experts_per_tok": 2,
            "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2,
            "conv_kernel": 4, "use_conv_bias": rng.random() < 0.7,
            "moe_latent_size": rng.choice((None, 32)), "mlp_bias": rng.random() < 0.3,
        },
        "falcon": {"new_decoder_architecture": rng.random() < 0.5, "num_kv_heads": kv_heads,
                   "multi_query": rng.random() < 0.5, "bias": rng.random() < 0.5,
                   "parallel_attn": rng.random() < 0.7, "alibi": False},
        "llama4_text": {"num_local_experts": experts, "intermediate_size_mlp": 96,
                        "interleave_moe_layer_step": rng.choice((1, 2)),
                        "attention_chunk_size": 128, "num_experts_per_tok": 1},
    }  # fmt: skip
    config |= extra.get(family, {})
    if family in {"phi3", "falcon"}:
        config["head_dim"] = None
        config["hidden_size"] = heads * head_dim
    if family == "falcon":
        config.pop("intermediate_size")
    if family == "nemotron_h":
        config["tie_word_embeddings"] = False  # its head is never tied
    if "kv_lora_rank" in config:
        config["head_dim"] = None  # transformers takes it for the rotary part
    # A null query rank says something; any other null is as good as nothing.
    return {
        name: value for name, value in config.items() if value is not None or name == "q_lora_rank"
    }
