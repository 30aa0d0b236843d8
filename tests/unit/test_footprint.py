import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.catalog import MODELS, architecture_for_model
from memroute.catalog.accelerators import accelerator_for_product, usable_bytes
from memroute.catalog.models import LLAMA_3_1_8B, LLAMA_3_1_70B, QWEN3_8B
from memroute.errors import UnknownArchitectureError, UnknownModelError, UnsupportedShapeError
from memroute.footprint import (
    KVCacheDtype,
    Quantization,
    ReplicaShape,
    architecture_from_config,
    num_parameters,
    replica_footprint,
    smaller_alternatives,
    weights_bytes_per_rank,
)
from memroute.footprint.kv_cache import kv_cache_layout
from memroute.units import GIB, MIB

SHAPES = st.builds(
    ReplicaShape,
    architecture=st.sampled_from(sorted(MODELS.values(), key=num_parameters)),
    max_context_tokens=st.integers(256, 131072),
    concurrency=st.integers(1, 64),
    quantization=st.sampled_from(Quantization),
    kv_cache_dtype=st.sampled_from(KVCacheDtype),
    tensor_parallel_size=st.just(1),
)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Llama-3.1-70B", 70_553_706_496),
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("mistralai/Mistral-7B-v0.3", 7_248_023_552),
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen2.5-32B-Instruct", 32_763_876_352),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-8B", 8_190_735_360),
    ],
)
def test_parameters_equal_those_of_transformers(model, expected):
    """Counts of transformers 5.19 models built on the meta device."""
    assert num_parameters(architecture_for_model(model)) == expected


def test_an_awq_checkpoint_has_the_size_of_its_file():
    """Qwen3-8B-AWQ's files are 5.68 GiB: 4.156 bits per linear weight, the rest at 16."""
    size = weights_bytes_per_rank(QWEN3_8B, quantization=Quantization.AWQ)
    assert size / GIB == pytest.approx(5.68, abs=0.005)


def test_llama_3_8b_keeps_128_kib_per_token():
    """32 layers x 8 KV heads x 128 dims x 2 (key, value) x 2 bytes = 131,072: worked by hand."""
    assert kv_cache_layout(LLAMA_3_1_8B).bytes_per_token == 131_072


def test_kv_cache_stops_shrinking_when_heads_are_replicated():
    """70B has 8 KV heads: at tensor parallel 8 each rank holds one, and 16 would hold one too."""
    at_4 = kv_cache_layout(LLAMA_3_1_70B, tensor_parallel_size=4)
    at_8 = kv_cache_layout(LLAMA_3_1_70B, tensor_parallel_size=8)
    at_16 = kv_cache_layout(LLAMA_3_1_70B, tensor_parallel_size=16)
    assert at_4.bytes_per_block == 1_310_720  # vLLM's own kv_cache_utils
    assert (at_8.num_kv_heads, at_16.num_kv_heads) == (1, 1)


def test_a_pool_keeps_one_block_for_itself():
    """One sequence of 33 tokens needs ceil(33/16) = 3 blocks, and the null block makes 4."""
    layout = kv_cache_layout(LLAMA_3_1_8B)
    pool = layout.pool_bytes_for(num_sequences=1, tokens_per_sequence=33)
    assert pool == 4 * layout.bytes_per_block
    assert layout.capacity_tokens(pool) == 48


def test_heads_that_do_not_divide_are_refused():
    """Qwen2.5-7B has 28 query heads: 8 ranks cannot share them, and vLLM would not start."""
    with pytest.raises(UnsupportedShapeError, match="28 attention heads"):
        weights_bytes_per_rank(
            architecture_for_model("Qwen/Qwen2.5-7B-Instruct"), tensor_parallel_size=8
        )


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(UnknownModelError) as caught:
        architecture_for_model("acme/unheard-of")
    assert "Qwen/Qwen3-8B" in caught.value.known_models


def test_an_unknown_family_is_not_guessed():
    with pytest.raises(UnknownArchitectureError):
        architecture_from_config({"model_type": "mamba2"})


def test_a_config_gives_the_architecture_of_the_catalogue():
    """Fields as in Qwen3-8B's published config.json."""
    config = {
        "model_type": "qwen3",
        "num_hidden_layers": 36,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 12288,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
    }
    assert architecture_from_config(config) == QWEN3_8B


@given(SHAPES)
def test_the_footprint_is_the_sum_of_its_terms_and_holds_what_was_asked(shape):
    footprint = replica_footprint(shape)
    terms = (
        footprint.weights_bytes,
        footprint.kv_cache_bytes,
        footprint.peak_activation_bytes,
        footprint.cuda_graph_bytes,
        footprint.non_torch_bytes,
        footprint.context_bytes,
        footprint.margin_bytes,
    )
    assert footprint.total_bytes == sum(terms)
    assert footprint.kv_capacity_tokens >= shape.concurrency * shape.max_context_tokens


@given(SHAPES)
def test_every_alternative_needs_less_per_device(shape):
    """A suggestion that does not help would be worse than none.

    Tensor parallel 2 adds 1.8 GiB of communication buffers, more than half of a tiny model.
    """
    need = replica_footprint(shape).total_bytes
    for alternative in smaller_alternatives(shape):
        if alternative.field != "tensorParallelSize":
            assert alternative.footprint.total_bytes < need


def test_usable_bytes_are_what_cuda_reports_not_what_the_label_says():
    """An H100's label says 81,559 MiB; cudaMemGetInfo says 79.20 GiB."""
    label = 81559 * MIB
    known = usable_bytes(product="NVIDIA-H100-80GB-HBM3", reported_bytes=label)
    assert known / GIB == pytest.approx(79.20, abs=0.01)
    assert usable_bytes(product="NVIDIA-NEW", reported_bytes=label) == label - 768 * MIB


def test_dcgm_names_and_shared_labels_find_the_same_accelerator():
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA-H100-80GB-HBM3-SHARED", "NVIDIA-H100-80GB-HBM3")
    assert {accelerator_for_product(name) for name in names} == {
        accelerator_for_product("NVIDIA-H100-80GB-HBM3")
    }
