"""Models by their Hugging Face name: the fields of ``config.json`` that decide their bytes.

A row is what the published configuration says, no more: the same reader that takes a user's
``config.json`` takes these. Parameter counts are exact against transformers 5.19; the tests
hold the numbers. ``CHECKPOINT_BYTES`` has files that hold more than the language model: sizes
of the KAITO model catalogue (056b828), to 0.01 GiB.
"""

from functools import lru_cache
from typing import Any

from memroute.errors import UnknownModelError
from memroute.footprint.architecture import ModelArchitecture, architecture_from_config
from memroute.units import GIB

Config = dict[str, Any]

FP8_BLOCKS: Config = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def _config(
    family: str, hidden: int, layers: int, heads: tuple[int, int, int], intermediate: int,
    vocabulary: int, context: int, **more: Any,
) -> Config:  # fmt: skip
    """``heads``: query heads, KV heads, head dimension."""
    return {
        "model_type": family,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": heads[2],
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        **more,
    }


TIED = {"tie_word_embeddings": True}

LLAMA_3_1_8B = _config("llama", 4096, 32, (32, 8, 128), 14336, 128256, 131072)
LLAMA_3_1_70B = _config("llama", 8192, 80, (64, 8, 128), 28672, 128256, 131072)
LLAMA_3_2_1B = _config("llama", 2048, 16, (32, 8, 64), 8192, 128256, 131072, **TIED)
LLAMA_2_7B = _config("llama", 4096, 32, (32, 32, 128), 11008, 32000, 4096)
LLAMA_4_SCOUT: Config = {
    "model_type": "llama4",
    "text_config": _config(
        "llama4_text", 5120, 48, (40, 8, 128), 8192, 202048, 10485760,
        intermediate_size_mlp=16384, num_local_experts=16, num_experts_per_tok=1,
        interleave_moe_layer_step=1, attention_chunk_size=8192,
    ),
}  # fmt: skip
MISTRAL_7B_V0_3 = _config("mistral", 4096, 32, (32, 8, 128), 14336, 32768, 32768)
MISTRAL_SMALL_24B = _config("mistral", 5120, 40, (32, 8, 128), 32768, 131072, 32768)
MIXTRAL_8X7B = _config(
    "mixtral", 4096, 32, (32, 8, 128), 14336, 32000, 32768,
    num_local_experts=8, num_experts_per_tok=2,
)  # fmt: skip
QWEN2_5_0_5B = _config("qwen2", 896, 24, (14, 2, 64), 4864, 151936, 32768, **TIED)
QWEN2_5_7B = _config("qwen2", 3584, 28, (28, 4, 128), 18944, 152064, 32768)
QWEN2_5_32B = _config("qwen2", 5120, 64, (40, 8, 128), 27648, 152064, 32768)
QWEN2_5_72B = _config("qwen2", 8192, 80, (64, 8, 128), 29568, 152064, 32768)
QWEN3_0_6B = _config("qwen3", 1024, 28, (16, 8, 128), 3072, 151936, 40960, **TIED)
QWEN3_4B = _config("qwen3", 2560, 36, (32, 8, 128), 9728, 151936, 40960, **TIED)
QWEN3_8B = _config("qwen3", 4096, 36, (32, 8, 128), 12288, 151936, 40960)
QWEN3_14B = _config("qwen3", 5120, 40, (40, 8, 128), 17408, 151936, 40960)
QWEN3_32B = _config("qwen3", 5120, 64, (64, 8, 128), 25600, 151936, 40960)
QWEN3_30B_A3B = _config(
    "qwen3_moe", 2048, 48, (32, 4, 128), 6144, 151936, 40960,
    moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8,
)  # fmt: skip
QWEN3_235B_A22B = _config(
    "qwen3_moe", 4096, 94, (64, 4, 128), 12288, 151936, 40960,
    moe_intermediate_size=1536, num_experts=128, num_experts_per_tok=8,
)  # fmt: skip
QWEN3_NEXT_80B = _config(
    "qwen3_next", 2048, 48, (16, 2, 256), 5120, 151936, 262144,
    full_attention_interval=4, linear_num_key_heads=16, linear_num_value_heads=32,
    moe_intermediate_size=512, num_experts=512, num_experts_per_tok=10,
    shared_expert_intermediate_size=512,
)  # fmt: skip
QWEN3_5_27B: Config = {
    "model_type": "qwen3_5",
    "tie_word_embeddings": False,
    "text_config": _config(
        "qwen3_5_text", 5120, 64, (24, 4, 256), 17408, 248320, 262144,
        full_attention_interval=4, linear_num_key_heads=16, linear_num_value_heads=48,
        mamba_ssm_dtype="float32", mtp_num_hidden_layers=1,
    ),
    "vision_config": {
        "hidden_size": 1152, "depth": 27, "intermediate_size": 4304, "patch_size": 16,
        "spatial_merge_size": 2,
    },
}  # fmt: skip
PHI_4 = _config("phi3", 5120, 40, (40, 10, 128), 17920, 100352, 16384)


def _gemma3(hidden: int, layers: int, heads: tuple[int, int, int], intermediate: int) -> Config:
    return {
        "model_type": "gemma3",
        "mm_tokens_per_image": 256,
        "text_config": _config(
            "gemma3_text", hidden, layers, heads, intermediate, 262208, 131072, sliding_window=1024
        ),
        "vision_config": {
            "hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304,
            "image_size": 896, "patch_size": 14,
        },
    }  # fmt: skip


GEMMA_3_4B = _gemma3(2560, 34, (8, 4, 256), 10240)
GEMMA_3_27B = _gemma3(5376, 62, (32, 16, 128), 21504)
GEMMA_4_26B_A4B: Config = {
    "model_type": "gemma4",
    "tie_word_embeddings": True,
    "text_config": _config(
        "gemma4_text", 2816, 30, (16, 8, 256), 2112, 262144, 262144,
        global_head_dim=512, num_global_key_value_heads=2, attention_k_eq_v=True,
        enable_moe_block=True, num_experts=128, top_k_experts=8, moe_intermediate_size=704,
        hidden_size_per_layer_input=0, sliding_window=1024,
    ),
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304},
}  # fmt: skip
GPT_OSS_QUANTIZATION: Config = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
    ],
}  # fmt: skip


def _gpt_oss(layers: int, experts: int) -> Config:
    return _config(
        "gpt_oss", 2880, layers, (64, 8, 64), 2880, 201088, 131072,
        num_local_experts=experts, num_experts_per_tok=4, sliding_window=128,
        quantization_config=GPT_OSS_QUANTIZATION,
    )  # fmt: skip


GPT_OSS_20B = _gpt_oss(24, 32)
GPT_OSS_120B = _gpt_oss(36, 128)


def _deepseek(family: str, **more: Any) -> Config:
    return _config(
        family, 7168, 61, (128, 128, 64), 18432, 129280, 163840,
        moe_intermediate_size=2048, n_routed_experts=256, n_shared_experts=1,
        num_experts_per_tok=8, first_k_dense_replace=3, q_lora_rank=1536, kv_lora_rank=512,
        qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, num_nextn_predict_layers=1,
        quantization_config=FP8_BLOCKS, **more,
    )  # fmt: skip


DEEPSEEK_V3 = _deepseek("deepseek_v3")
DEEPSEEK_V3_2 = _deepseek("deepseek_v32", index_topk=2048, index_head_dim=128, index_n_heads=64)
GLM_5 = _config(
    "glm_moe_dsa", 6144, 78, (64, 64, 64), 12288, 154880, 202752,
    moe_intermediate_size=2048, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
    first_k_dense_replace=3, q_lora_rank=2048, kv_lora_rank=512, qk_nope_head_dim=192,
    qk_rope_head_dim=64, v_head_dim=256, index_topk=2048, index_head_dim=128, index_n_heads=32,
    num_nextn_predict_layers=1,
)  # fmt: skip
MINIMAX_M2_7 = _config(
    "minimax_m2", 3072, 62, (48, 8, 128), 1536, 200064, 204800,
    num_local_experts=256, num_experts_per_tok=8,
    quantization_config={
        **FP8_BLOCKS, "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"],
    },
)  # fmt: skip
NEMOTRON_3_NANO = _config(
    "nemotron_h", 2688, 52, (32, 2, 128), 1856, 131072, 262144,
    hybrid_override_pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    mamba_num_heads=64, mamba_head_dim=64, ssm_state_size=128, n_groups=8, conv_kernel=4,
    mamba_ssm_cache_dtype="float32", n_routed_experts=128, n_shared_experts=1,
    num_experts_per_tok=6, moe_intermediate_size=1856, moe_shared_expert_intermediate_size=3712,
)  # fmt: skip

MODELS: dict[str, Config] = {
    "meta-llama/Llama-2-7b-chat-hf": LLAMA_2_7B,
    "meta-llama/Llama-3.1-8B": LLAMA_3_1_8B,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA_3_1_8B,
    "meta-llama/Llama-3.1-70B": LLAMA_3_1_70B,
    "meta-llama/Llama-3.1-70B-Instruct": LLAMA_3_1_70B,
    "meta-llama/Llama-3.3-70B-Instruct": LLAMA_3_1_70B,
    "meta-llama/Llama-3.2-1B": LLAMA_3_2_1B,
    "meta-llama/Llama-3.2-1B-Instruct": LLAMA_3_2_1B,
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": LLAMA_4_SCOUT,
    "mistralai/Mistral-7B-v0.3": MISTRAL_7B_V0_3,
    "mistralai/Mistral-7B-Instruct-v0.3": MISTRAL_7B_V0_3,
    "mistralai/Mistral-Small-24B-Instruct-2501": MISTRAL_SMALL_24B,
    "mistralai/Mixtral-8x7B-v0.1": MIXTRAL_8X7B,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": MIXTRAL_8X7B,
    "Qwen/Qwen2.5-0.5B-Instruct": QWEN2_5_0_5B,
    "Qwen/Qwen2.5-7B-Instruct": QWEN2_5_7B,
    "Qwen/Qwen2.5-32B-Instruct": QWEN2_5_32B,
    "Qwen/Qwen2.5-72B-Instruct": QWEN2_5_72B,
    "Qwen/Qwen3-0.6B": QWEN3_0_6B,
    "Qwen/Qwen3-4B": QWEN3_4B,
    "Qwen/Qwen3-8B": QWEN3_8B,
    "Qwen/Qwen3-8B-FP8": QWEN3_8B | {"quantization_config": FP8_BLOCKS},
    "Qwen/Qwen3-14B": QWEN3_14B,
    "Qwen/Qwen3-32B": QWEN3_32B,
    "Qwen/Qwen3-32B-FP8": QWEN3_32B | {"quantization_config": FP8_BLOCKS},
    "Qwen/Qwen3-30B-A3B": QWEN3_30B_A3B,
    "Qwen/Qwen3-30B-A3B-FP8": QWEN3_30B_A3B | {"quantization_config": FP8_BLOCKS},
    "Qwen/Qwen3-235B-A22B": QWEN3_235B_A22B,
    "Qwen/Qwen3-235B-A22B-FP8": QWEN3_235B_A22B | {"quantization_config": FP8_BLOCKS},
    "Qwen/Qwen3-Next-80B-A3B-Instruct": QWEN3_NEXT_80B,
    "Qwen/Qwen3.5-27B": QWEN3_5_27B,
    "microsoft/phi-4": PHI_4,
    "google/gemma-3-4b-it": GEMMA_3_4B,
    "google/gemma-3-27b-it": GEMMA_3_27B,
    "google/gemma-4-26B-A4B-it": GEMMA_4_26B_A4B,
    "openai/gpt-oss-20b": GPT_OSS_20B,
    "openai/gpt-oss-120b": GPT_OSS_120B,
    "deepseek-ai/DeepSeek-V3": DEEPSEEK_V3,
    "deepseek-ai/DeepSeek-R1": DEEPSEEK_V3,
    "deepseek-ai/DeepSeek-V3.2": DEEPSEEK_V3_2,
    "zai-org/GLM-5": GLM_5,
    "MiniMaxAI/MiniMax-M2.7": MINIMAX_M2_7,
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": NEMOTRON_3_NANO,
}

CHECKPOINT_BYTES: dict[str, int] = {
    "google/gemma-3-4b-it": int(8.01 * GIB),
    "google/gemma-3-27b-it": int(51.10 * GIB),
    "google/gemma-4-26B-A4B-it": int(48.07 * GIB),
    "Qwen/Qwen3.5-27B": int(51.75 * GIB),
}

_BY_NAME = {name.casefold(): name for name in MODELS}


def architecture_for_model(model: str) -> ModelArchitecture:
    """The architecture of a model by its Hugging Face name, in any case.

    The same object each time. Raises ``UnknownModelError`` with the names that are known.
    """
    name = _BY_NAME.get(model.casefold())
    if name is None:
        raise UnknownModelError(model, tuple(sorted(MODELS)))
    return _architecture(name)


@lru_cache(maxsize=len(MODELS))
def _architecture(name: str) -> ModelArchitecture:
    return architecture_from_config(MODELS[name], checkpoint_bytes=CHECKPOINT_BYTES.get(name))
