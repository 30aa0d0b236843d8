"""What checkpoints say of their quantization, and what their files then weigh."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import checkpoint_files as files
from memroute.footprint import architecture_from_config
from memroute.footprint.weights import (
    safetensors_header_bytes,
    weights_bytes,
)

MAX_ERROR = 0.01


def llama(layers=2, **more):
    """A small Llama: wide enough that scales of whole matrices are nothing."""
    return {
        "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": layers,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128,
        "intermediate_size": 2816, "vocab_size": 32000, "tie_word_embeddings": False,
        "max_position_embeddings": 4096, **more,
    }  # fmt: skip


def moe(**more):
    return {
        "model_type": "qwen3_moe", "hidden_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 384, "intermediate_size": 1024,
        "vocab_size": 8192, "tie_word_embeddings": False, "max_position_embeddings": 4096, **more,
    }  # fmt: skip


def formula_bytes(config, quantization):
    return weights_bytes(architecture_from_config({**config, "quantization_config": quantization}))


def file_bytes(config, store):
    return safetensors_header_bytes(files.header(files.checkpoint(config, store)))


def group(targets, *, bits=4, kind="int", size=128, symmetric=True, form=None, strategy="group"):
    weights = {
        "num_bits": bits, "type": kind, "group_size": size, "symmetric": symmetric,
        "strategy": strategy, "dynamic": False,
    }  # fmt: skip
    return {"targets": targets, "weights": weights, **({} if form is None else {"format": form})}


def compressed(groups, **more):
    named = {f"group_{index}": one for index, one in enumerate(groups)}
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": named,
        "ignore": ["lm_head"], **more,
    }  # fmt: skip


INT4 = files.packed(4, 128, symmetric=True)
INT4_ASYMMETRIC = files.packed(4, 32, symmetric=False)
INT8 = files.packed(8, None, symmetric=True)
FP8 = files.byte_channel("F8_E4M3")
FP8_GROUP = group(
    ["re:.*self_attn.*"], bits=8, kind="float", size=None, form="float-quantized",
    strategy="channel",
)  # fmt: skip
NVFP4_GROUP = group(
    ["re:.*mlp.*_proj"], kind="float", size=16, form="nvfp4-pack-quantized",
    strategy="tensor_group",
)  # fmt: skip


def only(part, store):
    return lambda name: store if part in name and name != "lm_head" else None


def linear(store):
    return lambda name: None if name == "lm_head" else store


def mixed(attention, mlp):
    return lambda name: attention if "self_attn" in name else mlp if ".mlp." in name else None


CASES = {
    # Two groups, each with a format of its own.
    "groups": (compressed([FP8_GROUP, NVFP4_GROUP]), mixed(FP8, files.nvfp4)),
    # A class and a name: the name goes before the class, whatever their order.
    "name-before-class": (
        compressed([group(["Linear"]), group(["re:.*down_proj"], bits=8, size=None)]),
        lambda name: None if name == "lm_head" else INT8 if "down_proj" in name else INT4,
    ),
    "exact-target": (
        compressed([group(["model.layers.1.mlp.up_proj"]), group(["LlamaAttention"], bits=8)]),
        lambda name: INT4 if name == "model.layers.1.mlp.up_proj" else None,
    ),
    # A head that is targeted is quantized; that Linear is targeted does not mean the head.
    "head": (
        compressed([group(["Linear", "re:.*lm_head"])], ignore=[]),
        lambda _: INT4,
    ),
    # An expression for everything means the linear layers and the head, and no embedding.
    "everything": (compressed([group(["re:.*"])], ignore=[]), lambda _: INT4),
    "everything-of-quark": (
        {"quant_method": "quark", "global_quant_config": {"weight": None},
         "layer_quant_config": {"*": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}}},
        linear(files.fp8_tensor),
    ),
    "asymmetric": (compressed([group(["Linear"], size=32, symmetric=False)]),
                   linear(INT4_ASYMMETRIC)),
    # Three bits: ten values in a word, 3.2 bits each.
    "three-bits": (compressed([group(["Linear"], bits=3)]),
                   linear(files.packed(3, 128, symmetric=True))),
    "ignored-by-name": (
        compressed([group(["Linear"])], ignore=["lm_head", "model.layers.0.mlp.down_proj"]),
        lambda name: None if name in ("lm_head", "model.layers.0.mlp.down_proj") else INT4,
    ),
    "ignored-by-expression": (
        compressed([group(["Linear"])], ignore=["lm_head", "re:.*layers\\.[1]\\..*"]),
        lambda name: None if name == "lm_head" or ".layers.1." in name else INT4,
    ),
    # An expression is anchored at the beginning: this one matches nothing.
    "expression-is-anchored": (
        compressed([group(["Linear"])], ignore=["lm_head", "re:self_attn"]),
        linear(INT4),
    ),
    # Fused names, as engines have them.
    "ignored-when-fused": (
        compressed([group(["Linear"])],
                   ignore=["lm_head", "model.layers.0.self_attn.qkv_proj",
                           "re:.*layers.1.mlp.gate_up_proj"]),
        lambda name: None
        if name == "lm_head"
        or ("layers.0.self_attn" in name and "o_proj" not in name)
        or ("layers.1.mlp" in name and "down" not in name)
        else INT4,
    ),
    "blocks-by-word": (
        compressed([{
            "targets": ["Linear"], "format": "float-quantized", "weights": {
                "num_bits": 8, "type": "float", "strategy": "block",
                "block_structure": "128x128", "symmetric": True}}]),
        linear(files.fp8_block),
    ),
    "bytes": (
        compressed([group(["Linear"], bits=8, size=None, form="int-quantized")]),
        linear(files.byte_channel("I8")),
    ),
    "nothing-but-the-cache": (
        {"quant_method": "compressed-tensors", "config_groups": {},
         "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
        lambda _: None,
    ),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, linear(files.gptq(4, 128))),
    "gptq-channel": (
        {"quant_method": "gptq", "bits": 8, "group_size": -1}, linear(files.gptq(8, -1))
    ),
    # GPTQModel: the first expression that matches decides; -: leaves modules alone.
    "gptq-dynamic": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128,
         "dynamic": {"-:.*layers\\.0\\.mlp\\.down.*": {}, "+:.*layers\\.0\\..*": {"bits": 8},
                     ".*down_proj": {"bits": 2, "group_size": 64}}},
        lambda name: None if name == "lm_head" or "layers.0.mlp.down" in name
        else files.gptq(8, 128) if "layers.0." in name
        else files.gptq(2, 64) if "down_proj" in name else files.gptq(4, 128),
    ),
    "gptq-some": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128,
         "modules_in_block_to_quantize": [["self_attn.q_proj", "self_attn.k_proj"], ["mlp"]]},
        lambda name: files.gptq(4, 128) if name.endswith(("q_proj", "k_proj")) or "mlp" in name
        else None,
    ),
    "gptq-head": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True},
        lambda _: files.gptq(4, 128),
    ),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128}, linear(files.awq(128))),
    # A part of a word, as AWQ's lists may have it.
    "awq-part": (
        {"quant_method": "awq", "w_bit": 4, "q_group_size": 64,
         "modules_to_not_convert": ["attn", "layers.1.mlp.down_proj"]},
        lambda name: None if name == "lm_head" or "attn" in name
        or "layers.1.mlp.down_proj" in name else files.awq(64),
    ),
    "autoround": (
        {"quant_method": "auto-round", "bits": 4, "group_size": 128, "data_type": "int",
         "extra_config": {"model.layers.0.mlp.up_proj": {"bits": 16},
                          ".*o_proj": {"bits": 8}, "lm_head": {"bits": 4}}},
        lambda name: None if name == "model.layers.0.mlp.up_proj"
        else files.gptq(8, 128) if "o_proj" in name else files.gptq(4, 128),
    ),
    "autoround-blocks": (
        {"quant_method": "auto-round", "bits": 4, "group_size": 128,
         "block_name_to_quantize": "model.layers.1"},
        lambda name: files.gptq(4, 128) if "layers.1." in name else None,
    ),
    "fp8-blocks": (
        {"quant_method": "fp8", "weight_block_size": [128, 128],
         "modules_to_not_convert": ["lm_head", "model.layers.0.self_attn"]},
        lambda name: None if name == "lm_head" or "layers.0.self_attn" in name
        else files.fp8_block,
    ),
    "modelopt-fp8": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
        linear(files.fp8_tensor),
    ),
    # hf_quant_config.json, and its shell patterns: layers.1* is no layers.10.
    "modelopt-file": (
        {"quant_method": "modelopt", "producer": {"name": "modelopt"},
         "quantization": {"quant_algo": "NVFP4", "group_size": 16,
                          "exclude_modules": ["lm_head", "model.layers.1*"]}},
        lambda name: None if name == "lm_head" or "layers.1." in name else files.nvfp4,
    ),
    "modelopt-mixed": (
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {
            "model.layers.0.mlp.gate_up_proj": {"quant_algo": "NVFP4", "group_size": 16},
            "model.layers.0.mlp.down_proj": {"quant_algo": "NVFP4", "group_size": 16},
            "model.layers.1.self_attn.q_proj": {"quant_algo": "FP8"}}},
        lambda name: files.nvfp4 if "layers.0.mlp" in name
        else files.fp8_tensor if name == "model.layers.1.self_attn.q_proj" else None,
    ),
    # A list that does not name the head: it is quantized too (vLLM's modelopt.py).
    "modelopt-head": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": []},
        lambda _: files.fp8_tensor,
    ),
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True,
         "llm_int8_skip_modules": ["lm_head", "model.layers.1.self_attn"]},
        lambda name: None if name == "lm_head" or "layers.1.self_attn" in name else files.nf4,
    ),
    "bitsandbytes-int8": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True}, linear(files.int8_rows)
    ),
    "quark": (
        {"quant_method": "quark", "exclude": ["lm_head", "re:.*layers.0.mlp.*"],
         "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}},
         "layer_quant_config": {"*down_proj": {"weight": {
             "dtype": "int4", "qscheme": "per_group", "group_size": 128, "symmetric": True}}}},
        lambda name: None if name == "lm_head" or "layers.0.mlp" in name
        else INT4 if "down_proj" in name else files.fp8_tensor,
    ),
    "torchao": (
        {"quant_method": "torchao", "quant_type": {"default": {
            "_type": "ModuleFqnToConfig", "_data": {"module_fqn_to_config": {
                "_default": {"_type": "Float8WeightOnlyConfig", "_data": {}},
                "model.layers.0.mlp.up_proj": None}}}}},
        lambda name: None if name in ("lm_head", "model.layers.0.mlp.up_proj") else FP8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_format_holds_per_module(case):
    """Formulas against the files that the tools write, within 1 %: ``checkpoint_files``.

    The files are listed tensor by tensor without any of memroute's formulas.
    """
    quantization, store = CASES[case]
    truth = file_bytes(llama(), store)
    assert formula_bytes(llama(), quantization) == pytest.approx(truth, rel=MAX_ERROR)


MOE_CASES = {
    "experts-alone": (
        compressed([group(["Linear"])], ignore=["lm_head", "re:.*self_attn.*"]),
        only(".experts.", INT4),
    ),
    "experts-by-class": (compressed([group(["FusedMoE"])]), only(".experts.", INT4)),
    # Some experts only: GPTQModel names them by number.
    "some-experts": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128,
         "dynamic": {"+:.*\\.experts\\.[0-3]\\..*": {"bits": 8}}},
        lambda name: None if name == "lm_head"
        else files.gptq(8, 128) if any(f".experts.{n}." in name for n in range(4))
        else files.gptq(4, 128),
    ),
    "experts-by-list": (
        {"quant_method": "auto-round", "bits": 4, "group_size": 128, "extra_config": {
            f"model.layers.{layer}.mlp.experts.{expert}.{leaf}": {"bits": 8}
            for layer in range(2) for expert in (1, 5)
            for leaf in ("gate_proj", "up_proj", "down_proj")}},
        lambda name: None if name == "lm_head"
        else files.gptq(8, 128) if ".experts.1." in name or ".experts.5." in name
        else files.gptq(4, 128),
    ),
    "stacked-experts": (
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {
            f"model.layers.{layer}.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16}
            for layer in range(2)}},
        only(".experts.", files.nvfp4),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", MOE_CASES)
def test_experts_have_formats_of_their_own(case):
    """Engines fuse the experts of a layer; files name them one by one, or as a whole."""
    quantization, store = MOE_CASES[case]
    truth = file_bytes(moe(), store)
    assert formula_bytes(moe(), quantization) == pytest.approx(truth, rel=MAX_ERROR)


STORES = {
    "plain": (None, None),
    "int4": (group([]), INT4),
    "asymmetric": (group([], size=32, symmetric=False), INT4_ASYMMETRIC),
    "fp8": (group([], bits=8, kind="float", size=None, strategy="channel",
                  form="float-quantized"), FP8),
    "nvfp4": (group([], kind="float", size=16, form="nvfp4-pack-quantized"), files.nvfp4),
}  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.sampled_from((512, 1024, 1536)), st.sampled_from((1408, 2816)),
    st.lists(st.sampled_from(sorted(STORES)), min_size=21, max_size=21),
    st.sampled_from(("model.", "model.language_model.", "language_model.model.")), st.booleans(),
)  # fmt: skip
def test_any_mix_of_formats_weighs_what_its_files_do(
    layers, hidden, intermediate, choices, prefix, by_expression
):
    """Each matrix of each layer in a format drawn at random, named as a wrapper's files name it."""
    config = llama(layers, hidden_size=hidden, intermediate_size=intermediate)
    names = [name for name, _, _ in files.llama_matrices(config)]
    chosen = dict(zip(names, choices, strict=False))
    spelled = {name: f"{prefix}{name.removeprefix('model.')}" for name in names}
    targets = {}
    for name, choice in chosen.items():
        text = spelled[name]
        if by_expression:
            text = "re:.*" + text.removeprefix(prefix).replace(".", "\\.") + "$"
        targets.setdefault(choice, []).append(text)
    groups = [
        {**STORES[choice][0], "targets": listed}
        for choice, listed in targets.items()
        if choice != "plain"
    ]
    quantization = compressed(groups, kv_cache_scheme={"num_bits": 8, "type": "float"})
    wrapped = {"model_type": "mllava", "text_config": config, "quantization_config": quantization}
    truth = file_bytes(config, lambda name: STORES[chosen.get(name, "plain")][1])
    found = weights_bytes(architecture_from_config(wrapped))
    assert found == pytest.approx(truth, rel=MAX_ERROR)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(("gptq", "awq", "modelopt", "auto-round")),
    st.sets(st.integers(0, 13), max_size=8),
)
def test_any_list_of_exclusions_leaves_those_at_16_bit(method, excluded):
    """Each tool has its own field for them; the bytes are those of the files in any case."""
    config = llama()
    names = [name for name, _, _ in files.llama_matrices(config)]
    left = {names[index] for index in excluded}
    quantization = {
        "gptq": {"bits": 4, "group_size": 128, "modules_to_not_convert": sorted(left)},
        "awq": {"bits": 4, "group_size": 128, "modules_to_not_convert": sorted(left)},
        "modelopt": {"quant_algo": "NVFP4", "ignore": ["lm_head", *sorted(left)]},
        "auto-round": {"bits": 4, "group_size": 128,
                       "extra_config": {name: {"bits": 16, "data_type": "float"} for name in left}},
    }[method] | {"quant_method": method}  # fmt: skip
    form = {"modelopt": files.nvfp4, "awq": files.awq(128)}.get(method, files.gptq(4, 128))
    truth = file_bytes(config, lambda name: None if name == "lm_head" or name in left else form)
    assert formula_bytes(config, quantization) == pytest.approx(truth, rel=MAX_ERROR)


FAMILY_NAMES = [
    # Mixtral and MiniMax M2 call their feed-forward otherwise, and number its matrices.
    ("mixtral", "model.layers.0.block_sparse_moe.experts.0.w1", "mlp.experts.0.gate_proj"),
    ("mixtral", "model.layers.0.block_sparse_moe", "mlp.experts.0.down_proj"),
    ("minimax_m2", "re:.*block_sparse_moe.*w2", "mlp.experts.0.down_proj"),
    ("llama4_text", "re:.*feed_forward.*", "mlp.experts.0.up_proj"),
    ("llama4_text", "language_model.model.layers.0.feed_forward.shared_expert.up_proj",
     "mlp.shared_experts.up_proj"),
    ("qwen3_next", "re:.*shared_expert\\..*", "mlp.shared_experts.down_proj"),
    ("qwen3_next", "model.layers.0.linear_attn.in_proj_qkvz", "linear_attn.in_proj_z"),
    ("deepseek_v3", "*kv_a_proj_with_mqa*", "self_attn.kv_a_proj_with_mqa"),
    ("deepseek_v3", "model.layers.0.self_attn.fused_qkv_a_proj", "self_attn.q_a_proj"),
    ("nemotron_h", "backbone.layers.0.mixer.in_proj", "mixer.in_proj"),
    ("falcon", "transformer.h.0.self_attention.query_key_value", "self_attn.k_proj"),
    ("phi3", "model.layers.0.self_attn.qkv_proj", "self_attn.v_proj"),
    ("gpt_oss", "model.layers.*.self_attn", "self_attn.o_proj"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "pattern", "module"), FAMILY_NAMES)
def test_exclusions_are_written_in_the_checkpoints_own_names(family, pattern, module):
    """One name for each module is ours; a pattern that matched none left weights too small."""
    from memroute.footprint.weights.configs import checkpoint_format
    from memroute.footprint.weights.modules import Module
    from memroute.footprint.weights.names import Naming

    said = {"quant_method": "fp8", "ignored_layers": [pattern]}
    formats = checkpoint_format(said, Naming(family=family, is_wrapped=family == "llama4_text"))
    meant = Module(
        name=f"model.layers.0.{module}", num_inputs=64, num_outputs=64, is_linear=True, layer=0
    )
    other = Module(
        name="model.layers.10.other.proj", num_inputs=64, num_outputs=64, is_linear=True, layer=10
    )
    assert not formats.covers(meant)
    assert formats.covers(other)


def test_too_many_rules_for_single_experts_are_bounded_from_above(monkeypatch):
    """Anybody may write ten thousand expressions: seconds of matching would stop an operator."""
    from memroute.footprint.weights import stored

    dynamic = {f"+:.*\\.experts\\.{expert}\\..*": {"bits": 8} for expert in range(4)}
    said = {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": dynamic}
    exact = formula_bytes(moe(), said)
    monkeypatch.setattr(stored, "MAX_ASKED", 10)
    bound = formula_bytes(moe(), said)
    assert exact < bound < formula_bytes(moe(), {})
