import pytest
from hypothesis import given
from hypothesis import strategies as st

from footprint_fixtures import rows
from memroute.catalog import MODELS, architecture_for_model
from memroute.errors import (
    InvalidConfigError,
    UnknownArchitectureError,
    UnknownModelError,
    UnknownWeightsError,
    UnsupportedShapeError,
)
from memroute.footprint import Parallelism, Quantization, architecture_from_config
from memroute.footprint.architecture import architecture_from_json
from memroute.footprint.weights import (
    adapter_bytes_per_rank,
    checkpoint_format,
    gguf_format,
    index_total_bytes,
    mtp_bytes_per_rank,
    num_parameters,
    safetensors_header_bytes,
    stored_formats,
    weights_bytes,
    weights_per_rank,
)
from memroute.footprint.weights.modules import Split, modules_of
from memroute.footprint.weights.sharding import pipeline_layers, rank_shape
from memroute.units import GIB

SIZES = rows("model-sizes.json")
NAMES = st.sampled_from(sorted(MODELS))


@pytest.mark.parametrize("row", SIZES, ids=[row["model"] for row in SIZES])
def test_parameters_equal_those_of_transformers(row):
    """Counts of transformers 5.19 models built on the meta device: exact, not close."""
    assert num_parameters(architecture_from_config(row["config"])) == row["params"]


def test_deepseek_v3_has_the_bytes_of_its_files():
    """FP8 in 128 x 128 blocks, with and without the layer for multi-token prediction.

    The files, with their headers, are 688,586,727,753 bytes.
    """
    architecture = architecture_for_model("deepseek-ai/DeepSeek-V3")
    size = weights_bytes(architecture)
    assert size == 673_150_611_808
    assert size + mtp_bytes_per_rank(architecture) == 688_574_839_360


def test_gpt_oss_quantizes_its_experts_alone():
    """65,248,815,744 bytes: MXFP4 experts of 4.25 bits, the rest 16 bit."""
    assert weights_bytes(architecture_for_model("openai/gpt-oss-120b")) == 65_248_815_744


def test_an_awq_checkpoint_has_the_size_of_its_file():
    """Qwen3-8B-AWQ's files are 5.68 GiB: 4.156 bits per linear weight, the rest at 16."""
    size = weights_bytes(architecture_for_model("Qwen/Qwen3-8B"), quantization=Quantization.AWQ)
    assert size / GIB == pytest.approx(5.68, abs=0.005)


@pytest.mark.parametrize(("name", "logged"), [("Qwen/Qwen3-8B", 5.98), ("Qwen/Qwen3-14B", 9.97)])
def test_an_nvfp4_checkpoint_loads_what_the_log_says(name, logged):
    """Logs of NVFP4 checkpoints: 5.98 and 9.97 GiB; the formula is within 2 % of them."""
    size = weights_bytes(architecture_for_model(name), quantization=Quantization.NVFP4)
    assert size / GIB == pytest.approx(logged, rel=0.02)


def test_a_gguf_mix_covers_the_tables_too():
    """Llama-3.1-8B as Q4_K_M is 4.58 GiB by llama.cpp's own table: 4.894 bits on everything."""
    architecture = architecture_for_model("meta-llama/Llama-3.1-8B")
    form = gguf_format("Q4_K_M")
    size = sum(
        form.matrix_bytes(num_outputs=m.num_outputs, num_inputs=m.num_inputs) * m.num_copies
        for m in modules_of(architecture)
    )
    assert size / GIB == pytest.approx(4.58, abs=0.01)


def test_a_quantized_checkpoint_cannot_be_quantized_again():
    architecture = architecture_for_model("openai/gpt-oss-20b")
    with pytest.raises(UnsupportedShapeError, match="quantized as mxfp4 already"):
        weights_per_rank(architecture, quantization=Quantization.AWQ)


def test_a_block_quantized_expert_is_not_cut_within_a_block():
    """Qwen3-235B-FP8 at 8 ranks: 1536 / 8 = 192 is no multiple of 128, and vLLM does not start."""
    architecture = architecture_for_model("Qwen/Qwen3-235B-A22B-FP8")
    with pytest.raises(UnsupportedShapeError, match="192 wide on each of 8 ranks"):
        weights_per_rank(architecture, parallelism=Parallelism(tensor_parallel_size=8))
    whole = Parallelism(tensor_parallel_size=8, expert_parallel=True)
    assert weights_per_rank(architecture, parallelism=whole).bytes_per_rank > 0


def test_an_unknown_quantization_is_not_guessed():
    with pytest.raises(UnsupportedShapeError, match="aqlm"):
        checkpoint_format({"quant_method": "aqlm"})


@pytest.mark.parametrize(
    ("config", "bits"),
    [
        ({"quant_method": "fp8"}, 8.0),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4.15625),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {
                    "group_0": {
                        "targets": ["Linear"],
                        "weights": {
                            "num_bits": 4, "type": "int", "strategy": "group", "group_size": 32,
                            "symmetric": True,
                        },
                    }
                },
            },
            4.5,
        ),
    ],
)  # fmt: skip
def test_effective_bits_include_the_scales(config, bits):
    assert [form.bits_per_weight for form in checkpoint_format(config).formats] == [bits]


def test_an_excluded_module_stays_at_16_bit():
    """``gate`` in a list of exclusions is the router, not the gate projections."""
    form = checkpoint_format({"quant_method": "fp8", "modules_to_not_convert": ["gate", "lm_head"]})
    modules = {m.name: m for m in modules_of(architecture_for_model("Qwen/Qwen3-8B"))}
    assert form.covers(modules["model.layers.0.mlp.gate_proj"])
    form = checkpoint_format({"quant_method": "fp8", "ignored_layers": ["re:.*self_attn.*"]})
    assert not form.covers(modules["model.layers.0.self_attn.q_proj"])


@pytest.mark.slow
@given(NAMES, st.sampled_from((1, 2, 4, 8)), st.booleans())
def test_the_ranks_hold_the_whole_model(name, tensor_parallel_size, expert_parallel):
    """Split modules add up to the whole; what is replicated is whole on every rank."""
    architecture = architecture_for_model(name)
    parallelism = Parallelism(
        tensor_parallel_size=tensor_parallel_size, expert_parallel=expert_parallel
    )
    form = stored_formats(architecture)
    try:
        weights_per_rank(architecture, parallelism=parallelism)
    except UnsupportedShapeError:
        return
    for module in modules_of(architecture):
        shape = rank_shape(module, parallelism, form)
        held = shape.num_outputs * shape.num_inputs * shape.num_copies
        whole = module.num_outputs * module.num_inputs * module.num_copies
        if module.split is Split.REPLICATED:
            assert held == whole
        else:
            # The vocabulary is padded; KV heads and experts may be replicated.
            assert held * tensor_parallel_size >= whole
        if module.split in {Split.HEADS, Split.WIDTH}:
            assert held * tensor_parallel_size == whole


@given(NAMES, st.integers(1, 4))
def test_pipeline_stages_hold_every_layer_once(name, size):
    num_layers = architecture_for_model(name).num_layers
    stages = pipeline_layers(num_layers, size)
    assert [layer for stage in stages for layer in stage] == list(range(num_layers))


@pytest.mark.slow
@given(NAMES)
def test_fewer_bits_weigh_less(name):
    """Monotone in bits: NVFP4 < INT8 <= 16 bit."""
    architecture = architecture_for_model(name)
    if architecture.quantization_config:
        return
    sizes = [
        weights_bytes(architecture, quantization=quantization)
        for quantization in (Quantization.NVFP4, Quantization.INT8, Quantization.NONE)
    ]
    assert sizes == sorted(sizes)


def test_heads_that_do_not_divide_are_refused():
    """Qwen2.5-7B has 28 query heads: 8 ranks cannot share them, and vLLM would not start."""
    with pytest.raises(UnsupportedShapeError, match="28 attention heads"):
        weights_per_rank(
            architecture_for_model("Qwen/Qwen2.5-7B-Instruct"),
            parallelism=Parallelism(tensor_parallel_size=8),
        )


def test_adapters_take_two_thin_matrices_per_linear_layer():
    """Qwen3-0.6B, rank 16, worked by hand.

    Per layer (1024+2048) + 2(1024+1024) + (2048+1024) + 2(1024+3072) + (3072+1024) = 22,528
    values per unit of rank; x 28 layers x 16 x 2 bytes = 20,185,088.
    """
    architecture = architecture_for_model("Qwen/Qwen3-0.6B")
    assert adapter_bytes_per_rank(architecture, max_adapters=1, max_rank=16) == 20_185_088


def test_a_vision_tower_is_what_the_checkpoint_has_beside_the_text():
    """gemma-3-4b-it: files of 8.01 GiB less 7.23 of text leave 0.78 for SigLIP."""
    estimate = weights_per_rank(architecture_for_model("google/gemma-3-4b-it"))
    assert estimate.vision_bytes / GIB == pytest.approx(0.78, abs=0.01)
    assert estimate.is_vision_exact


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(UnknownModelError) as caught:
        architecture_for_model("acme/unheard-of")
    assert "Qwen/Qwen3-8B" in caught.value.known_models


def test_an_unknown_family_is_not_guessed():
    with pytest.raises(UnknownArchitectureError, match="give the bytes of its checkpoint"):
        architecture_from_config({"model_type": "mamba2"})


def test_an_unknown_family_fails_closed_to_its_checkpoint():
    """Weights are the files' bytes; the cache is bounded by full attention on every layer."""
    config = {
        "model_type": "acme",
        "hidden_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
    }
    architecture = architecture_from_config(config, checkpoint_bytes=GIB)
    estimate = weights_per_rank(architecture)
    assert (estimate.bytes_per_rank, estimate.source) == (GIB, "checkpoint")
    assert not architecture.is_exact


def test_a_missing_size_is_unknown_not_zero():
    """A configuration for the cache alone has no vocabulary: its weights are not known."""
    architecture = architecture_from_config(
        {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    )
    with pytest.raises(UnknownWeightsError, match="vocab_size"):
        weights_bytes(architecture)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "a JSON object"),
        ('{"model_type": "llama", "hidden_size": "big"}', "hidden_size must be an integer"),
        ('{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": -1}', "non-negative"),
        ('{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 9999}', "at most 4096"),
    ],
)
def test_a_bad_config_names_the_field(text, words):
    with pytest.raises(InvalidConfigError, match=words):
        architecture_from_json(text)


def test_checkpoint_bytes_come_from_an_index_or_a_header():
    assert index_total_bytes('{"metadata": {"total_size": 16060522496}}') == 16_060_522_496
    header = '{"__metadata__": {}, "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}'
    assert safetensors_header_bytes(header) == 4
    with pytest.raises(InvalidConfigError, match="total_size"):
        index_total_bytes("{}")
