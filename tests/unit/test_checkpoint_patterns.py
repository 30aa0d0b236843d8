"""Which modules a checkpoint's patterns mean, and that no pattern holds the program up.

A pattern that is not understood leaves a module in the narrow format: too few bytes, and an engine
that does not start. A pattern that takes for ever stops the operator, for every tenant.
"""

import re
import re._parser as parser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.errors import MemrouteError, UnknownFormatError
from memroute.footprint import architecture_from_config
from memroute.footprint.weights import weights_bytes
from memroute.footprint.weights.expressions import (
    MAX_TRIES,
    Expression,
    _can_be_walked,
    _tries,
    _Walk,
    expression,
)

LAYERS = 12
ATTENTION = [f"model.layers.{n}.self_attn.{p}_proj" for n in range(LAYERS) for p in "qkvo"]
NAME = "model.language_model.layers.79.mlp.shared_experts.gate_up_proj"


def weights(quantization):
    config = {
        "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": LAYERS,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128,
        "intermediate_size": 2816, "vocab_size": 32000, "tie_word_embeddings": False,
        "max_position_embeddings": 4096, "quantization_config": quantization,
    }  # fmt: skip
    return weights_bytes(architecture_from_config(config))


def fp8(left_alone):
    return {"quant_method": "fp8", "modules_to_not_convert": left_alone}


def modelopt(left_alone):
    return {"quant_algo": "FP8", "quant_method": "modelopt", "ignore": left_alone}


def awq(left_alone):
    return {"quant_method": "awq", "bits": 4, "modules_to_not_convert": left_alone}


def of_layers(*numbers):
    return [
        f"model.layers.{n}.{m}"
        for n in numbers
        for m in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                  "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("as_written", "listed", "of"),
    [
        # transformers takes the list for expressions, and marks none.
        ([r"model\.layers\.\d+\.self_attn"], ATTENTION, fp8),
        (["(self_attn|lm_head)"], ATTENTION, fp8),
        ([r"^model\.layers\.(0|1)\."], of_layers(0, 1), fp8),
        # Older tools wrote an object of flags.
        ({"self_attn": True}, ATTENTION, fp8),
        # A shell pattern may have classes of characters.
        (["lm_head", "model.layers.[0-3].*"], ["lm_head", *of_layers(0, 1, 2, 3)], modelopt),
        (["lm_head", "model.layers.1*"], ["lm_head", *of_layers(1)], modelopt),
        # AutoAWQ looks for the text anywhere in a name.
        (["mlp.down"], [f"model.layers.{n}.mlp.down_proj" for n in range(LAYERS)], awq),
        (["attn.o_proj"], [f"model.layers.{n}.self_attn.o_proj" for n in range(LAYERS)], awq),
        # The router of a layer that has none is no part of its gate.
        (["mlp.gate"], [], awq),
    ],
)
def test_what_a_list_leaves_alone_is_at_16_bit_however_it_is_written(as_written, listed, of):
    """Too few bytes are an engine that does not start."""
    assert weights(of(as_written)) == weights(of(listed))


def test_a_part_of_a_name_that_autoround_keeps_wide_is_counted_wide():
    """Its own files list whole names; people shorten them."""
    wide = {"bits": 16, "data_type": "float"}
    said = {"quant_method": "auto-round", "bits": 4, "group_size": 128}
    assert weights({**said, "extra_config": {"self_attn": wide}}) == weights(
        {**said, "extra_config": dict.fromkeys(ATTENTION, wide)}
    )


def test_a_block_that_alone_is_quantized_is_not_ten_others():
    """``model.layers.1`` is not ``model.layers.10``: those would be counted at a quarter."""
    said = {"quant_method": "auto-round", "bits": 4, "group_size": 128}
    wide = {"bits": 16, "data_type": "float"}
    others = of_layers(*(number for number in range(LAYERS) if number != 1))
    assert weights({**said, "block_name_to_quantize": "model.layers.1"}) == weights(
        {**said, "extra_config": dict.fromkeys(others, wide)}
    )


def test_a_flag_that_is_a_text_is_read():
    """``"false"`` is no truth: without it the zero points of small groups are missing."""
    by_text, by_flag = (
        weights({
            "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {
                "g": {"targets": ["Linear"], "weights": {
                    "num_bits": 4, "group_size": 32, "symmetric": one, "strategy": "group"}}},
        })
        for one in ("False", False)
    )  # fmt: skip
    assert by_text == by_flag


@pytest.mark.parametrize(
    "bomb",
    [r"(\w+\.?)+\$", "(.*)*$!", r"((a|b|\w)+)+!", ".*" * 20 + "!", "a?" * 30 + "a" * 30 + "!",
     r"^(?=(\w+\.?)+!)", "(a{0,100}){0,100}!"],
)  # fmt: skip
def test_an_expression_with_too_many_choices_is_walked_instead_of_tried(bomb):
    """``re`` would hold every thread of the operator for years over one name."""
    found = expression(bomb)
    assert found.careful is not None
    assert not found.match(NAME)
    assert not found.search(NAME)


@pytest.mark.parametrize(
    "bomb",
    [r"(.*)(.*)(.*)\1\2\3!", ".*.*.*(?<=mlp).*!", "(?i)" + ".*" * 9 + "!", "a|" * 20_000],
)  # fmt: skip
def test_an_expression_that_cannot_be_walked_either_is_refused(bomb):
    """The bytes of the files settle it, where they are known."""
    with pytest.raises(UnknownFormatError):
        expression(bomb)


@pytest.mark.parametrize(
    "nonsense", ["(" * 3_000, "(" * 3_000 + "a" + ")" * 3_000, "a{99999999999999}", "[", "*"]
)
def test_what_is_no_expression_is_told_in_words(nonsense):
    """A traceback names nothing that a person could change."""
    with pytest.raises(MemrouteError, match="no regular expression"):
        expression(nonsense)


@pytest.mark.parametrize(
    "usual",
    [r".*\.(?:18|19)\..*gate.*", r".*self_attn.*", r"model\.layers\.\d+\.mlp\.experts\.\d+\..*",
     r"^(?!.*mlp).*$", r".*layers.*mlp.*", r"(?:.*\.)?mlp\.(gate|up)_proj$"],
)  # fmt: skip
def test_what_checkpoints_write_is_left_to_re(usual):
    """It is thirty times as fast, and there are hundreds of them."""
    assert expression(usual).careful is None


@pytest.mark.slow
def test_more_expressions_than_can_be_tried_are_refused():
    """A configuration of ten megabytes is a program's mistake, or somebody's attack."""
    with pytest.raises(UnknownFormatError, match="so many expressions"):
        weights(fp8([f"re:.*{number}.*" for number in range(5_000)]))
    with pytest.raises(UnknownFormatError, match="so many expressions"):
        weights(
            {"quant_method": "gptq", "bits": 4, "dynamic": {f"-:.*{n}x": {} for n in range(5_000)}}
        )
    with pytest.raises(UnknownFormatError, match="parts of names"):
        weights(fp8([f"{number}xx" for number in range(5_000)]))


_PIECES = st.sampled_from(
    ["a", "b", ".*", r"\d+", "(a|ab)*", "[a-z_]+", r"\.", "(?!lm)", "(?=m)", "^", "$", r"\b", "ay",
     "(?:x|self_attn)?", r"\w+?", "[^.]+", r"(?:\w+\.?)+", ".", "a{2}", "(a?){3}", r"\D", r"\B"]
)  # fmt: skip


@given(
    pieces=st.lists(_PIECES, min_size=1, max_size=5),
    name=st.sampled_from(["layers.10.self_attn.q_proj", "lm_head", "aab", "layers.0.mlp.up_proj"]),
)
def test_walking_finds_what_re_finds(pieces, name):
    """Two ways to match are one answer, or a model's size depends on how it is written."""
    text = "".join(pieces)
    tree, pattern = parser.parse(text), re.compile(text)
    if not _can_be_walked(tree, 0) or _tries(tree) > 10 * MAX_TRIES:
        return
    walked = Expression(pattern, _Walk(tree))
    assert walked.match(name) == (pattern.match(name) is not None)
    assert walked.search(name) == (pattern.search(name) is not None)
