"""A ``config.json`` is somebody else's text: what is odd in it is told, and nothing is guessed low.

Whoever may create a ModelDeployment may name a repository of their own.
"""

import json

import pytest

from memroute.catalog.accelerators import accelerator_by_name, accelerator_for_product
from memroute.errors import InvalidConfigError, UnknownWeightsError
from memroute.footprint import architecture_from_config, architecture_from_json
from memroute.footprint.weights import (
    index_total_bytes,
    safetensors_header_bytes,
    weights_per_rank,
)
from memroute_cli.plan.files import PlanError, read_document

LLAMA = {
    "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 2816, "vocab_size": 32000,
    "tie_word_embeddings": False, "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.mark.parametrize("listed", [3, "0,1", ["0"], {"a": 1}, 1.5])
@pytest.mark.parametrize(
    ("family", "field"),
    [("qwen3_moe", "mlp_only_layers"), ("llama4_text", "moe_layers"),
     ("llama4_text", "no_rope_layers"), ("deepseek_v3", "mlp_layer_types"),
     ("nemotron_h", "layers_block_type"), ("gemma4_text", "per_layer_config")],
)  # fmt: skip
def test_a_list_of_layers_that_is_none_is_told_by_its_name(family, field, listed):
    """Dense layers that are taken for sparse change every byte; a traceback tells nobody why."""
    config = {
        **LLAMA, "model_type": family, "num_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 384, "num_local_experts": 8, "kv_lora_rank": 64,
        "qk_nope_head_dim": 64, "qk_rope_head_dim": 64, "v_head_dim": 64, "n_routed_experts": 8,
        field: listed,
    }  # fmt: skip
    with pytest.raises(InvalidConfigError):
        architecture_from_config(config)


@pytest.mark.parametrize(
    "number", ["1e400", "1e300", "-1e400", "NaN", "Infinity", '"1024"', "[1024]", "true"]
)
def test_a_size_that_is_no_number_is_told_by_its_name(number):
    """Python's JSON has infinities and NaN: they ended the reading in a traceback."""
    text = json.dumps(LLAMA).replace('"hidden_size": 1024', f'"hidden_size": {number}')
    with pytest.raises(InvalidConfigError, match="hidden_size"):
        architecture_from_json(text)


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[" * 100_000, '{"a": ' + "9" * 5_000 + "}"])
def test_a_text_that_json_cannot_read_is_told_so(text):
    """Nested too deep is no JSON either."""
    with pytest.raises(InvalidConfigError, match="not JSON"):
        architecture_from_json(text)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe", b"", b"{"])
def test_a_file_that_json_cannot_read_is_told_so(tmp_path, content):
    """`memroute plan FILE` ends in a sentence."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(PlanError, match="not JSON"):
        read_document(path)


@pytest.mark.parametrize("factor", [1e308, 1e6, float("nan"), float("inf"), -2, 0, "8", None, [8]])
def test_a_factor_that_cannot_be_scales_no_context(factor):
    """A context that overflows is an error of one model, and of no other."""
    config = {**LLAMA, "rope_scaling": {"type": "linear", "factor": factor}}
    assert architecture_from_config(config).max_context_tokens == 4096


@pytest.mark.parametrize(("said", "is_tied"), [("false", False), ("False", False), ("true", True)])
def test_tied_embeddings_are_read_where_they_are_a_text(said, is_tied):
    """``"false"`` taken for true leaves out a table: 6 % too few of an 8B model."""
    found = architecture_from_config({**LLAMA, "tie_word_embeddings": said})
    assert found.tied_embeddings is is_tied


@pytest.mark.parametrize(
    "tower",
    [{"vision_config": {}}, {"vision_config": "siglip"}, {"mm_vision_tower": "openai/clip"},
     {"vision_config": [{"hidden_size": 1024}]}, {"audio_config": {}}],
)  # fmt: skip
def test_a_tower_that_is_only_named_is_not_nothing(tower):
    """A tower of 0 bytes is an engine that does not start; the bytes of the files settle it."""
    config = {"model_type": "llava", "text_config": LLAMA, **tower}
    with pytest.raises(UnknownWeightsError):
        weights_per_rank(architecture_from_config(config))
    settled = architecture_from_config(config, checkpoint_bytes=2 * 1024**3)
    assert weights_per_rank(settled).bytes_per_rank == 2 * 1024**3


@pytest.mark.parametrize(
    "nothing", [{"vision_config": None}, {"vision_config": False}, {"image": ""}]
)
def test_no_tower_is_no_tower(nothing):
    """A text model of a family that may see is sized without asking."""
    config = {"model_type": "llava", "text_config": LLAMA, **nothing}
    assert weights_per_rank(architecture_from_config(config)).vision_bytes == 0


def test_products_are_the_same_in_any_case():
    """Some labellers lower what they write; a node that is not known gets no replica."""
    product = "NVIDIA-A100-80GB-PCIe"
    assert accelerator_for_product(product.lower()) == accelerator_for_product(product)
    assert accelerator_for_product(f"{product.lower()}-shared") == accelerator_for_product(product)
    found = accelerator_by_name(product.lower())
    assert found is not None
    assert found.products[0] == product


@pytest.mark.parametrize(
    "text",
    ['{"metadata": [5]}', '{"metadata": "x"}', '{"metadata": {"total_size": NaN}}', "[" * 100_000,
     '{"metadata": {"total_size": 1e400}}', '{"metadata": {"total_size": true}}', "[]"],
)  # fmt: skip
def test_an_index_without_a_size_is_told_so(text):
    """It comes with the repository, and is as odd as that may be."""
    with pytest.raises(InvalidConfigError):
        index_total_bytes(text)


@pytest.mark.parametrize(
    "offsets", ['["a", "b"]', "[null, 1]", "[0, 1e400]", "[-5, 3]", "[1]", "7"]
)
def test_a_header_with_offsets_that_cannot_be_is_told_so(offsets):
    """Negative ones would make a checkpoint smaller than it is."""
    with pytest.raises(InvalidConfigError):
        safetensors_header_bytes(f'{{"a": {{"data_offsets": {offsets}}}}}')
