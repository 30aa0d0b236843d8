"""A live vLLM server on the CPU says how many blocks it has; the formulas say it before."""

import json
import os
import random
import re
import sys
import urllib.request
from pathlib import Path

import pytest

from bench.server import serving
from bench.vllm_cpu import START_SECONDS, vllm_server
from memroute.footprint import architecture_from_config, kv_cache_layout

POOL_BYTES = 48 * 1024 * 1024
CONTEXT = 1024
BATCHED_TOKENS = 512
CPU_BLOCK, CPU_LATENT_BLOCK = 128, 16
# vLLM's CPU backends: 128 by default; CPU_MLA takes 16 and no multiple of it.


def config(kind: str, rng: random.Random) -> dict:
    """A small architecture of the kind, its sizes at random."""
    heads, dim = rng.choice((4, 8)), rng.choice((32, 64))
    base = {
        "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": rng.randint(2, 6), "num_attention_heads": heads, "head_dim": dim,
        "max_position_embeddings": 4096, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5,
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
    }  # fmt: skip
    llama = base | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    kinds = {
        "gqa": llama | {"num_key_value_heads": heads // 2},
        "mha": llama | {"num_key_value_heads": heads},
        "mqa": llama | {"num_key_value_heads": 1},
        "sliding": base | {
            "model_type": "mistral", "architectures": ["MistralForCausalLM"],
            "num_key_value_heads": 2, "sliding_window": rng.choice((128, 256)),
        },
        "hybrid-sliding": base | {
            "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"],
            "num_key_value_heads": 2, "num_hidden_layers": rng.choice((7, 9, 13)),
            "sliding_window": rng.choice((128, 256)), "query_pre_attn_scalar": dim,
            "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True,
        },
        "hybrid-heads": base | {
            "model_type": "gemma4_text", "architectures": ["Gemma4ForCausalLM"],
            "num_key_value_heads": 2, "num_hidden_layers": rng.choice((6, 12)),
            "sliding_window": rng.choice((128, 256)), "global_head_dim": 2 * dim,
            "hidden_size_per_layer_input": 0, "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True, "num_attention_heads": 4,
        },
        "mla": base | {
            "model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"],
            "num_key_value_heads": heads, "q_lora_rank": None, "kv_lora_rank": 512,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
            "moe_intermediate_size": 128, "n_routed_experts": 4, "num_experts_per_tok": 2,
            "n_shared_experts": 1, "first_k_dense_replace": 64, "topk_method": "greedy",
            "n_group": 1, "topk_group": 1, "head_dim": 64, "scoring_func": "softmax",
            "rope_theta": 10000,
        },
        "hybrid-mamba": base | {
            "model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"],
            "num_key_value_heads": 2, "hybrid_override_pattern": rng.choice(("M*M-", "M*MM*-")),
            "mamba_num_heads": 8, "mamba_head_dim": 64, "ssm_state_size": 64, "n_groups": 2,
            "conv_kernel": 4, "mamba_ssm_cache_dtype": "float32", "chunk_size": 128,
            "layer_norm_epsilon": 1e-5, "mlp_hidden_act": "relu2", "n_routed_experts": 0,
        },
    }  # fmt: skip
    return kinds[kind]


@pytest.fixture
def server(request, tmp_path):
    """The labels of ``cache_config_info`` of a server of the kind, and its configuration."""
    kind = request.param
    document = config(kind, random.Random(f"{kind}/{os.environ.get('MEMROUTE_SEED', '1')}"))
    (tmp_path / "config.json").write_text(json.dumps(document))
    port = 18100 + random.Random(kind).randrange(500)
    flags = (
        "--skip-tokenizer-init", "--max-model-len", str(CONTEXT), "--max-num-seqs", "8",
        "--max-num-batched-tokens", str(BATCHED_TOKENS),
        "--kv-cache-memory-bytes", str(POOL_BYTES),
    )  # fmt: skip
    live = vllm_server(Path(sys.executable), tmp_path, port=port, flags=flags)
    with serving(live, within_seconds=START_SECONDS):
        yield document, _labels(live.url)


def _labels(url: str) -> dict[str, str]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as response:
        text = response.read().decode()
    line = next(x for x in text.splitlines() if x.startswith("vllm:cache_config_info{"))
    return dict(re.findall(r'(\w+)="([^"]*)"', line))


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "server",
    ["gqa", "mha", "mqa", "mla", "sliding", "hybrid-sliding", "hybrid-heads", "hybrid-mamba"],
    indirect=True,
)
def test_a_live_server_has_the_blocks_that_were_predicted(server):
    """``num_gpu_blocks`` and ``kv_cache_size_tokens`` of /metrics, exact."""
    document, labels = server
    latent = "kv_lora_rank" in document
    layout = kv_cache_layout(
        architecture_from_config(document),
        max_num_batched_tokens=BATCHED_TOKENS,
        num_concurrent_batches=1,  # the CPU worker does not schedule ahead
        block_size_tokens=CPU_LATENT_BLOCK if latent else CPU_BLOCK,
    )
    predicted = (
        layout.num_blocks_in(POOL_BYTES),
        layout.reported_tokens(POOL_BYTES, CONTEXT),
    )
    assert predicted == (int(labels["num_gpu_blocks"]), int(labels["kv_cache_size_tokens"]))
