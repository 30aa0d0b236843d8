"""What else a checkpoint decides: its cache, how long contexts may be, towers, its own bytes."""

import json

import pytest

from memroute.catalog import MODELS
from memroute.errors import InvalidConfigError, UnknownFormatError, UnknownWeightsError
from memroute.footprint import (
    KVCacheDtype,
    Parallelism,
    Quantization,
    ReplicaShape,
    architecture_from_config,
    kv_cache_layout,
    replica_footprint,
    weights_per_rank,
)
from memroute.footprint.kv_cache import resolved_dtype
from memroute.footprint.weights.beside import with_quantization
from memroute.footprint.weights.towers import vision_tower_bytes
from memroute.units import GIB

LLAMA = {
    "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 2816, "vocab_size": 32000,
    "max_position_embeddings": 4096,
}  # fmt: skip
# By hand: 4 layers of 1024 x (1024 + 2 x 256 + 1024 + 3 x 2816) and 2 norms, tables, a norm.
LLAMA_PARAMETERS = 4 * (1024 * (1024 + 512 + 1024 + 3 * 2816) + 2048) + 2 * 32000 * 1024 + 1024
LATENT = {
    "model_type": "deepseek_v3", "hidden_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 8, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "vocab_size": 1000,
    "intermediate_size": 512,
}  # fmt: skip
STATIC_FP8 = {"num_bits": 8, "type": "float", "dynamic": False}
COMPRESSED = {"quant_method": "compressed-tensors", "config_groups": {}}

CACHES = [
    (LLAMA, {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_scheme": STATIC_FP8},
     KVCacheDtype.FP8_E4M3),
    (LLAMA, {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [],
             "kv_cache_scheme": {"num_bits": 4, "type": "float"}}, KVCacheDtype.NVFP4),
    (LLAMA, {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8",
             "kv_cache_quant_algo": "FP8"}}, KVCacheDtype.FP8_E4M3),
    (LLAMA, {"quant_method": "modelopt", "quantization": {"quant_algo": None,
             "kv_cache_quant_algo": "FP8"}}, KVCacheDtype.FP8_E4M3),
    # What vLLM does not know it leaves at auto, and counting less would be too small.
    (LLAMA, {"quant_method": "modelopt", "quant_algo": "FP8",
             "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": True}},
     KVCacheDtype.AUTO),
    (LLAMA, {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "INT8"},
     KVCacheDtype.AUTO),
    (LLAMA, COMPRESSED | {"kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": True}},
     KVCacheDtype.FP8),
    (LLAMA, {"quant_method": "fp8", "kv_cache_scheme": STATIC_FP8}, KVCacheDtype.AUTO),
    # Latent attention does not ask compressed-tensors, and does ask ModelOpt.
    (LATENT, COMPRESSED | {"kv_cache_scheme": STATIC_FP8}, KVCacheDtype.AUTO),
    (LATENT, {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": STATIC_FP8},
     KVCacheDtype.FP8_E4M3),
]  # fmt: skip


@pytest.mark.parametrize(("config", "quantization", "dtype"), CACHES)
def test_the_dtype_of_the_cache_comes_with_the_checkpoint(config, quantization, dtype):
    """By vLLM 0.32's torch_utils.py and attention.py; twice too much cache was reserved for it."""
    architecture = architecture_from_config({**config, "quantization_config": quantization})
    assert resolved_dtype(architecture, KVCacheDtype.AUTO) is dtype


def test_a_cache_that_is_asked_for_goes_before_the_checkpoints():
    said = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": STATIC_FP8}
    architecture = architecture_from_config({**LLAMA, "quantization_config": said})
    halved = kv_cache_layout(architecture).bytes_per_token
    whole = kv_cache_layout(architecture, kv_cache_dtype=KVCacheDtype.BFLOAT16).bytes_per_token
    # 4 layers x 2 heads x 128 dims x (key, value), a byte each.
    assert (halved, whole) == (2048, 4096)


def test_vllm_asks_for_the_cache_at_the_top_of_a_configuration_alone():
    said = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": STATIC_FP8}
    nested = {"model_type": "llava", "text_config": {**LLAMA, "quantization_config": said}}
    architecture = architecture_from_config(nested)
    assert resolved_dtype(architecture, KVCacheDtype.AUTO) is KVCacheDtype.AUTO
    assert weights_per_rank(architecture).format_name == "fp8"


CONTEXTS = [
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 8192),
    ({"rope_scaling": {"rope_type": "linear", "factor": 4}}, 16384),
    ({"rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 1e4}}, 6144),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 4096),
    ({"rope_scaling": {"type": "su", "factor": 32}}, 4096),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 4096),
    ({"rope_scaling": {"rope_type": "longrope", "factor": 32.0}}, 4096),
    ({"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, 4096),
    ({"rope_scaling": {"type": "linear", "factor": None}}, 4096),
    # One set of parameters for each kind of layer.
    ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0},
                          "sliding_attention": {"rope_type": "default"}}}, 32768),
    # The smallest of the fields; a model_max_length goes before them all.
    ({"seq_length": 2048}, 2048),
    ({"n_positions": 1024, "max_sequence_length": 3000}, 1024),
    ({"model_max_length": 131072}, 131072),
    ({"model_max_length": 8192, "rope_scaling": {"type": "linear", "factor": 2}}, 16384),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "longest"), CONTEXTS)
def test_the_longest_context_is_the_engines(fields, longest):
    """VLLM 0.32 starts with up to so many tokens; tests/conformance asks vLLM itself."""
    assert architecture_from_config({**LLAMA, **fields}).max_context_tokens == longest


def test_how_a_limit_came_to_be_is_said():
    """YaRN's factor was multiplied once, and is not any more: people expect it to be."""
    dynamic = {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    assert architecture_from_config(dynamic).context_note == (
        "max_position_embeddings of 4096 x 2 by its dynamic rotary scaling"
    )
    yarn = {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    assert architecture_from_config(yarn).context_note == (
        "the factor 4 of its yarn rotary scaling is in max_position_embeddings already"
    )


TOWERS = [
    # Qwen2-VL: hidden_size is the text's, embed_dim its own. 32 x (4 + 2 x 4) x 1280^2 values.
    ({"embed_dim": 1280, "hidden_size": 3584, "depth": 32, "mlp_ratio": 4},
     2 * 32 * 12 * 1280**2, False),
    # Qwen2.5-VL: a gated feed-forward of 3420.
    ({"hidden_size": 1280, "depth": 32, "intermediate_size": 3420, "hidden_act": "silu"},
     2 * 32 * (4 * 1280**2 + 3 * 1280 * 3420), False),
    # Other names for the same things.
    ({"vt_hidden_size": 1152, "vt_num_hidden_layers": 27, "vt_intermediate_size": 4304},
     2 * 27 * (4 * 1152**2 + 2 * 1152 * 4304), True),
    ({"encoder_d_model": 512, "num_blocks": 3, "encoder_layers": 6},
     2 * 6 * 12 * 512**2, True),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "layers_bytes", "is_guessed"), TOWERS)
def test_a_tower_is_read_by_its_shape(fields, layers_bytes, is_guessed):
    """The projector comes on top: two matrices into the text's 1,024."""
    architecture = architecture_from_config({"text_config": LLAMA, "vision_config": fields})
    tower = architecture.vision
    projector = 2 * (tower.hidden_size * 1024 + 1024 * 1024)
    assert vision_tower_bytes(tower, 1024) == layers_bytes + projector
    estimate = weights_per_rank(architecture)
    assert not estimate.is_vision_exact
    assert tower.is_guessed == is_guessed
    assert ("not known" in estimate.note) == is_guessed


@pytest.mark.parametrize(
    "key",
    ["vision_config", "audio_config", "vit_config", "image_encoder", "vision_tower", "visual"],
)
def test_a_tower_of_unknown_shape_weighs_no_nothing(key):
    """It counted as 0 bytes, and exact: the engine then did not start."""
    config = {"model_type": "x", "text_config": LLAMA, key: {"blocks": 12, "channels": 64}}
    with pytest.raises(UnknownWeightsError, match=f"the shape of its {key}"):
        weights_per_rank(architecture_from_config(config))
    # Its files tell.
    architecture = architecture_from_config(config, checkpoint_bytes=2 * LLAMA_PARAMETERS + GIB)
    estimate = weights_per_rank(architecture, parallelism=Parallelism(tensor_parallel_size=2))
    assert estimate.vision_bytes == pytest.approx(GIB, rel=1e-3)
    assert estimate.is_vision_exact


@pytest.mark.parametrize(
    ("more", "counts", "is_said"), [(0.9, 0.9, False), (0.1, 1.0, True), (3.0, 3.0, True)]
)
def test_files_that_contradict_a_known_tower_are_said(more, counts, is_said):
    """Within 15 % the files tell what the tower weighs; beyond it something else is wrong."""
    shape = {"hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096}
    config = {"text_config": LLAMA, "vision_config": shape}
    tower = weights_per_rank(architecture_from_config(config)).vision_bytes
    size = 2 * LLAMA_PARAMETERS + int(tower * more)
    estimate = weights_per_rank(architecture_from_config(config, checkpoint_bytes=size))
    assert estimate.vision_bytes == pytest.approx(tower * counts, rel=1e-6)
    assert bool(estimate.note) == is_said


def test_a_tower_of_sounds_counts_beside_that_of_images():
    """Whisper's encoder: 32 layers of 1,280, 12 x 1280^2 values each."""
    config = {
        "text_config": LLAMA,
        "vision_config": {"hidden_size": 512, "num_hidden_layers": 4, "intermediate_size": 2048},
        "audio_config": {"d_model": 1280, "encoder_layers": 32, "encoder_ffn_dim": 5120},
    }
    assert weights_per_rank(architecture_from_config(config)).vision_bytes > 2 * 32 * 12 * 1280**2


def test_what_is_left_to_a_class_is_read_as_transformers_does():
    """A nested configuration leaves out what equals the defaults: llava-1.5-7b says nothing."""
    config = {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}}
    architecture = architecture_from_config(config)
    assert (architecture.num_layers, architecture.hidden_size) == (32, 4096)
    # Llama-2-7B has 6,738,415,616 parameters, and 64 rows more in two tables.
    assert weights_per_rank(architecture).bytes_per_rank == 2 * (6_738_415_616 + 2 * 64 * 4096)
    named = architecture_from_config({"model_type": "llava", "text_config": {"vocab_size": 32064}})
    assert named.family == "llama"


def test_a_part_of_a_part_is_found():
    """Omni models: what is served is the thinker, with a text and towers of its own."""
    thinker = {"text_config": {**LLAMA, "model_type": "qwen2_5_omni_text"}}
    config = {"model_type": "qwen2_5_omni", "thinker_config": thinker, "talker_config": {"a": 1}}
    assert architecture_from_config(config).family == "qwen2_5_omni_text"


@pytest.mark.parametrize("key", ["text_config", "llm_config", "lm_config", "decoder_config"])
def test_the_language_model_is_found_by_any_of_its_names(key):
    architecture = architecture_from_config({"model_type": "acme_vl", key: LLAMA})
    assert (architecture.family, architecture.is_wrapped) == ("llama", True)


def test_a_class_that_is_not_known_says_what_to_give():
    config = {"model_type": "acme_vl", "text_config": {"model_type": "acme", "vocab_size": 5}}
    with pytest.raises(InvalidConfigError, match="leaves it to its class") as caught:
        architecture_from_config(config, checkpoint_bytes=GIB)
    assert "num_attention_heads" in str(caught.value)


SIZE = 2 * LLAMA_PARAMETERS


def test_bytes_within_a_percent_of_the_formula_change_nothing():
    architecture = architecture_from_config(LLAMA, checkpoint_bytes=int(SIZE * 1.009))
    estimate = weights_per_rank(architecture)
    assert (estimate.bytes_per_rank, estimate.source, estimate.note) == (SIZE, "formula", "")


@pytest.mark.parametrize(("ratio", "counts"), [(1.5, 1.5), (0.4, 1.0)])
def test_bytes_that_contradict_the_formula_are_said_and_the_larger_counts(ratio, counts):
    """A size three times off was dropped in silence."""
    architecture = architecture_from_config(LLAMA, checkpoint_bytes=int(SIZE * ratio))
    estimate = weights_per_rank(architecture)
    assert estimate.bytes_per_rank == pytest.approx(SIZE * counts)
    assert f"{ratio - 1:+.1%}" in estimate.note
    assert "being larger" in estimate.note


def test_what_more_the_files_hold_is_spread_over_ranks_and_a_little_more():
    architecture = architecture_from_config(LLAMA, checkpoint_bytes=2 * SIZE)
    one = weights_per_rank(architecture).bytes_per_rank
    two = weights_per_rank(architecture, parallelism=Parallelism(tensor_parallel_size=2))
    assert one / 2 < two.bytes_per_rank < one / 2 * 1.06
    # Asked for in FP8: what is not known is not made narrower.
    fp8 = weights_per_rank(architecture, quantization=Quantization.FP8).bytes_per_rank
    assert fp8 > SIZE


def test_files_of_32_bit_are_loaded_as_16():
    wide = architecture_from_config({**LLAMA, "dtype": "float32"}, checkpoint_bytes=2 * SIZE)
    assert weights_per_rank(wide).note == ""
    assert weights_per_rank(wide).bytes_per_rank == SIZE


def test_layers_for_prediction_are_in_the_files_and_not_loaded():
    """Qwen3-Next-80B: 81.3 billion parameters in the files, 79.7 of which are the model.

    One more layer like the last (1.62 billion) that its configuration does not mention.
    """
    config = MODELS["Qwen/Qwen3-Next-80B-A3B-Instruct"]
    formula = weights_per_rank(architecture_from_config(config)).bytes_per_rank
    whole = architecture_from_config(config, checkpoint_bytes=162_650_000_000)
    assert whole.checkpoint_bytes > 1.015 * formula
    estimate = weights_per_rank(whole)
    assert (estimate.bytes_per_rank, estimate.note) == (formula, "")


def test_a_tied_table_may_be_in_the_files_twice():
    tied = {**LLAMA, "tie_word_embeddings": True}
    own = SIZE - 2 * 32000 * 1024
    estimate = weights_per_rank(architecture_from_config(tied, checkpoint_bytes=SIZE))
    assert (estimate.bytes_per_rank, estimate.note) == (own, "")


def test_where_no_formula_fits_the_bytes_decide_for_known_families_too():
    said = {"quant_method": "aqlm"}
    config = {**LLAMA, "quantization_config": said}
    with pytest.raises(UnknownFormatError, match=r"aqlm.*give the bytes of the checkpoint"):
        weights_per_rank(architecture_from_config(config))
    estimate = weights_per_rank(architecture_from_config(config, checkpoint_bytes=GIB))
    assert (estimate.bytes_per_rank, estimate.source) == (GIB, "checkpoint")
    assert not estimate.has_formula
    assert "'aqlm' has no formula" in estimate.note


def test_asking_for_what_the_checkpoint_is_already_changes_nothing():
    """A ModelDeployment that named its GPTQ checkpoint as such keeps its footprint."""
    said = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 128,
        "dynamic": {".*q_proj": {"bits": 8}},
    }
    architecture = architecture_from_config({**LLAMA, "quantization_config": said})
    asked = weights_per_rank(architecture, quantization=Quantization.GPTQ)
    assert asked.bytes_per_rank == weights_per_rank(architecture).bytes_per_rank


def test_a_tower_that_is_guessed_is_reserved_with_its_doubt():
    """The high end is what a placement reserves: half of the tower more, never less."""
    tower = {"vt_hidden_size": 1152, "vt_num_hidden_layers": 27}
    config = {"text_config": LLAMA, "vision_config": tower}
    shape = ReplicaShape(
        architecture=architecture_from_config(config), max_context_tokens=1024, concurrency=1
    )
    footprint = replica_footprint(shape)
    vision = footprint.weights_estimate.vision_bytes
    assert footprint.weights.high > footprint.weights_estimate.bytes_per_rank + vision // 2


BESIDE = [
    ({"hf_quant_config.json": {"producer": {"name": "modelopt"},
                               "quantization": {"quant_algo": "FP8"}}}, "fp8"),
    ({"quantize_config.json": {"bits": 4, "group_size": 128}}, "int4"),
    ({"quant_config.json": {"w_bit": 4, "q_group_size": 128, "zero_point": True}}, "int4"),
    ({"quantization_config.json": {"quant_method": "auto-round", "bits": 8}}, "int8"),
    ({}, "bf16"),
]  # fmt: skip


@pytest.mark.parametrize(("documents", "name"), BESIDE)
def test_a_quantization_that_lies_beside_the_configuration_counts(documents, name):
    config = with_quantization(LLAMA, documents)
    assert weights_per_rank(architecture_from_config(config)).format_name == name


@pytest.mark.parametrize("is_deeper", [False, True])
def test_older_tools_call_the_quantization_a_compression(is_deeper):
    """compressed-tensors' first releases: another key, and for a while one level deeper."""
    weights = {"num_bits": 8, "type": "int", "strategy": "channel"}
    said = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}
    config = {**LLAMA, "compression_config": {"quantization_config": said} if is_deeper else said}
    assert weights_per_rank(architecture_from_config(config)).format_name == "int8"


def test_what_the_configuration_says_itself_goes_before_what_lies_beside():
    said = {"quant_method": "fp8"}
    config = {"text_config": {**LLAMA, "quantization_config": said}}
    assert with_quantization(config, {"quantize_config.json": {"bits": 4}}) == config


@pytest.mark.parametrize("is_deeper", [False, True])
def test_mixed_precision_may_name_its_layers_in_the_file_alone(is_deeper):
    """Older ModelOpt checkpoints; vLLM falls through to the file as well."""
    layers = {"model.layers.0.mlp.up_proj": {"quant_algo": "NVFP4"}}
    inner = {"quant_algo": "MIXED_PRECISION"}
    own = {"quantization": inner} if is_deeper else inner
    config = {**LLAMA, "quantization_config": {"quant_method": "modelopt", **own}}
    beside = {"hf_quant_config.json": {"quantization": {**inner, "quantized_layers": layers}}}
    found = with_quantization(config, beside)
    assert weights_per_rank(architecture_from_config(found)).format_name == "nvfp4"
    assert json.loads(json.dumps(found))["quantization_config"]["quant_method"] == "modelopt"


ODD = [
    {"quant_method": "gptq", "bits": "four"},
    {"quant_method": "gptq", "bits": 4, "dynamic": {"(": {"bits": 8}}},
    {"quant_method": "compressed-tensors", "config_groups": {"a": {"targets": ["re:("]}}},
    {"quant_method": "compressed-tensors", "config_groups": []},
    {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp3"}}},
    {"quant_method": "torchao", "quant_type": {"default": {"_type": "SomethingConfig"}}},
    {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"},
    {"bits": 0, "group_size": 1},
]


@pytest.mark.parametrize("said", ODD)
def test_a_configuration_that_makes_no_sense_is_refused_in_words(said):
    """Anybody may have written it: a refusal, never a traceback or a number."""
    from memroute.errors import UnsupportedShapeError

    with pytest.raises(UnsupportedShapeError):
        weights_per_rank(architecture_from_config({**LLAMA, "quantization_config": said}))


@pytest.mark.parametrize("said", ["fp8", ["fp8"], 8])
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_quantization_that_is_no_object_is_refused(said, is_nested):
    """It is not 16 bit because nobody can read it."""
    config = {**LLAMA, "quantization_config": said}
    with pytest.raises(InvalidConfigError, match="quantization_config must be an object"):
        architecture_from_config({"text_config": config} if is_nested else config)
