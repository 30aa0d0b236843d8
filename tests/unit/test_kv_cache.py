import pytest
from hypothesis import given
from hypothesis import strategies as st

from footprint_fixtures import rows
from memroute.catalog import MODELS, architecture_for_model
from memroute.errors import UnsupportedShapeError
from memroute.footprint import (
    KVCacheDtype,
    LengthShare,
    Parallelism,
    StateCacheMode,
    architecture_from_config,
    kv_cache_layout,
)
from memroute.footprint.kv_cache import llama_cpp, sglang
from memroute.units import GIB

LAYOUTS = rows("kv-layouts.json")
LLAMA = architecture_for_model("meta-llama/Llama-3.1-8B")
LLAMA_70B = architecture_for_model("meta-llama/Llama-3.1-70B")
NAMES = st.sampled_from(sorted(MODELS))


@pytest.mark.parametrize("row", LAYOUTS, ids=[row["model"] for row in LAYOUTS])
def test_layouts_equal_those_of_vllm(row):
    """Groups, bytes per block, blocks per request and capacity of vLLM 0.32's kv_cache_utils."""
    layout = kv_cache_layout(
        architecture_from_config(row["config"]),
        kv_cache_dtype=KVCacheDtype(row["kv_cache_dtype"]),
        parallelism=Parallelism(tensor_parallel_size=row["tensor_parallel_size"]),
        max_num_batched_tokens=row["max_num_batched_tokens"],
        state_cache_mode=StateCacheMode(row.get("mamba_cache_mode", "align")),
        state_dtype_bytes={"float32": 4}.get(row.get("mamba_ssm_cache_dtype")),
    )
    pool, context = int(row["avail_GiB"] * GIB), row["max_model_len"]
    assert len(layout.groups) == row["groups"]
    assert sorted({group.num_layers for group in layout.groups}) == row["group_layers"]
    assert layout.bytes_per_block == row["bytes_per_block"]
    assert layout.blocks_for(context) == row["blocks_per_max_len_req"]
    assert layout.bytes_for(context) == row["bytes_per_max_len_req"]
    assert layout.num_blocks_in(pool) == row["num_blocks"]
    assert layout.reported_tokens(pool, context) == row["kv_cache_size_tokens"]
    assert round(layout.max_concurrency(pool, context), 3) == row["max_concurrency"]


def test_llama_3_8b_keeps_128_kib_per_token():
    """32 layers x 8 KV heads x 128 dims x 2 (key, value) x 2 bytes = 131,072: worked by hand."""
    assert kv_cache_layout(LLAMA).bytes_per_token == 131_072


def test_kv_cache_stops_shrinking_when_heads_are_replicated():
    """70B has 8 KV heads: at tensor parallel 8 each rank holds one, and 16 would hold one too."""
    at_8, at_16 = (
        kv_cache_layout(LLAMA_70B, parallelism=Parallelism(tensor_parallel_size=size))
        for size in (8, 16)
    )
    assert at_8.bytes_per_block == at_16.bytes_per_block == 80 * 16 * 2 * 128 * 2


def test_a_pool_keeps_one_block_for_itself():
    """One sequence of 33 tokens needs ceil(33/16) = 3 blocks, and the null block makes 4."""
    layout = kv_cache_layout(LLAMA)
    pool = layout.pool_bytes_for(num_sequences=1, tokens_per_sequence=33)
    assert pool == 4 * layout.bytes_per_block
    assert layout.capacity_tokens(pool, 48) == 48
    assert layout.longest_context_tokens(pool, 131_072) == 48


def test_a_window_bounds_what_a_long_sequence_holds():
    """Four times the context adds to gpt-oss's full layers alone.

    ceil(131072/16) = 8,192 blocks of those, ceil((127 + 16384)/16) + 1 = 1,033 of sliding ones.
    """
    layout = kv_cache_layout(
        architecture_for_model("openai/gpt-oss-120b"), max_num_batched_tokens=8192
    )
    assert layout.blocks_for(131_072) == 8_192 + 1_033
    assert layout.blocks_for(4 * 131_072) == 4 * 8_192 + 1_033


def test_a_state_costs_the_same_whatever_the_length():
    """Qwen3.5-27B pins 3 groups x 2 state blocks beside ceil(n / 784) of attention."""
    layout = kv_cache_layout(architecture_for_model("Qwen/Qwen3.5-27B"))
    assert layout.blocks_for(1) == 7
    assert layout.blocks_for(785) == 8


def test_a_mix_of_lengths_is_counted_in_blocks():
    """100 usable blocks: sequences of 16 and 48 tokens, half each, pin 2 blocks on average."""
    layout = kv_cache_layout(LLAMA)
    mix = [LengthShare(tokens=16), LengthShare(tokens=48)]
    assert layout.num_sequences_within(101 * layout.bytes_per_block, mix) == 50


def test_pipeline_stages_hold_their_own_layers():
    """80 layers over 2 stages: 40 x 16 x 8 x 128 x 2 x 2 = 2,621,440 bytes per block each."""
    layout = kv_cache_layout(LLAMA_70B, parallelism=Parallelism(pipeline_parallel_size=2))
    assert layout.bytes_per_block == 2_621_440


@pytest.mark.parametrize(
    ("dtype", "bytes_per_token"),
    [
        (KVCacheDtype.FP8, 65_536),
        # 8 heads x (128 + 128 + 8 of scales) x 32 layers
        (KVCacheDtype.INT8_PER_TOKEN_HEAD, 67_584),
        (KVCacheDtype.INT4_PER_TOKEN_HEAD, 34_816),
        # 8 heads x 2 x (64 + 8 of scales) x 32 layers
        (KVCacheDtype.NVFP4, 36_864),
    ],
)
def test_quantized_caches_count_their_scales(dtype, bytes_per_token):
    assert kv_cache_layout(LLAMA, kv_cache_dtype=dtype).bytes_per_token == bytes_per_token


def test_a_packed_latent_format_is_refused_for_plain_attention():
    with pytest.raises(UnsupportedShapeError, match="sparse latent"):
        kv_cache_layout(LLAMA, kv_cache_dtype=KVCacheDtype.FP8_DS_MLA)


@given(NAMES, st.integers(0, 200_000), st.integers(0, 200_000))
def test_longer_sequences_never_hold_less(name, one, other):
    layout = kv_cache_layout(architecture_for_model(name))
    short, long = sorted((one, other))
    assert 0 <= layout.blocks_for(short) <= layout.blocks_for(long)
    assert 0 <= layout.read_bytes(short) <= layout.read_bytes(long)


@given(NAMES, st.integers(1, 100_000), st.integers(1, 64))
def test_a_pool_sized_for_sequences_holds_them(name, tokens, sequences):
    layout = kv_cache_layout(architecture_for_model(name))
    pool = layout.pool_bytes_for(num_sequences=sequences, tokens_per_sequence=tokens)
    assert layout.num_sequences_within(pool, [LengthShare(tokens=tokens)]) == sequences
    assert layout.longest_context_tokens(pool, tokens) == tokens


def test_sglang_counts_tokens_of_one_cell():
    """A log of Qwen3-235B at tp 4 (vllm#21348), to its rounding.

    94 x 2 x 128 x 2 = 48,128 bytes per token; 8.23 + 8.23 GiB held 367,404 tokens.
    """
    cell = sglang.cell_bytes(
        architecture_for_model("Qwen/Qwen3-235B-A22B-FP8"), tensor_parallel_size=4
    )
    assert cell == 48_128
    assert sglang.capacity_tokens(int(16.46 * GIB), cell) == pytest.approx(367_404, rel=1e-3)


def test_sglang_takes_its_fraction_of_what_was_free_before_loading():
    """80 GiB free, 65 after loading, fraction 0.9: 65 - 8 = 57 GiB for the cache."""
    pool = sglang.pool_bytes(
        free_before_bytes=80 * GIB, free_after_bytes=65 * GIB, mem_fraction_static=0.9
    )
    assert pool == pytest.approx(57 * GIB, rel=1e-6)
    large = sglang.default_mem_fraction_static(80 * GIB, Parallelism())
    assert large == 0.84  # 80 - (512 + 12288 + 128 + 512 MiB = 13.1 GiB) = 66.9 GiB
    assert 0.5 < sglang.default_mem_fraction_static(16 * GIB, Parallelism()) < 0.8


def test_llama_cpp_allocates_the_whole_context_at_start():
    """Llama-3.1-8B at 8,192 tokens: 131,072 bytes each are 1 GiB; 8.5 of 16 bits as q8_0."""
    full = llama_cpp.cache_bytes(LLAMA, context_tokens=8192, num_slots=4)
    assert full == GIB
    narrow = llama_cpp.cache_bytes(LLAMA, context_tokens=8192, cache_type=llama_cpp.CacheType.Q8_0)
    assert narrow == GIB * 8.5 / 16


def test_llama_cpp_bounds_windows_by_what_a_batch_adds():
    """A slot of 32,768 tokens of gemma-3-4b, 4 x 256 x 2 x 2 = 4,096 bytes per layer each.

    29 sliding layers hold pad256(1024 + 512) = 1,536 of them, 5 full ones all.
    """
    architecture = architecture_for_model("google/gemma-3-4b-it")
    assert llama_cpp.cache_bytes(architecture, context_tokens=32_768) == 4096 * (
        29 * 1536 + 5 * 32_768
    )
