"""What vLLM 0.32 itself makes of a checkpoint's configuration: modules, cache, context."""

import warnings
from types import SimpleNamespace

import pytest

from memroute.footprint import KVCacheDtype, architecture_from_config
from memroute.footprint.kv_cache import resolved_dtype
from memroute.footprint.weights import stored_formats
from memroute.footprint.weights.modules import modules_of

with warnings.catch_warnings():
    # What the engine and its libraries warn of as they are imported is theirs.
    warnings.simplefilter("ignore")
    import torch
    from transformers import AutoConfig
    from vllm.config.model import _get_and_verify_max_len
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
        CompressedTensorsConfig,
    )
    from vllm.model_executor.layers.quantization.inc.config_parser import INCConfigParser
    from vllm.model_executor.layers.quantization.modelopt import (
        ModelOptFp8Config,
        ModelOptMixedPrecisionConfig,
    )
    from vllm.model_executor.layers.quantization.utils.gptq_utils import get_dynamic_override
    from vllm.transformers_utils.config import patch_rope_parameters
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase
    from vllm.utils.torch_utils import get_kv_cache_quant_algo_string

pytestmark = pytest.mark.filterwarnings("ignore")

LLAMA = {
    "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 12, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 512, "vocab_size": 1024,
    "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
ENGINE_NAMES = {
    "q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj", "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}  # fmt: skip
# A linear layer of the engine: what its class is called is all that is asked of it.
LINEAR = type("MergedColumnParallelLinear", (torch.nn.Module,), {})()


def linear_modules(quantization):
    """Our modules by the engine's names, and how many bits ours say each has."""
    architecture = architecture_from_config({**LLAMA, "quantization_config": quantization})
    formats = stored_formats(architecture)
    found = {}
    for module in modules_of(architecture):
        if module.is_linear:
            parent, _, leaf = module.name.rpartition(".")
            name = f"{parent}.{ENGINE_NAMES.get(leaf, leaf)}"
            found.setdefault(name, set()).add(formats.format_of(module).bits)
    assert all(len(bits) == 1 for bits in found.values())
    return {name: bits.pop() for name, bits in found.items()}


def weights(bits):
    return {"num_bits": bits, "type": "int", "strategy": "group", "group_size": 32,
            "symmetric": True, "dynamic": False}  # fmt: skip


COMPRESSED = [
    ({4: ["Linear"]}, ["lm_head"]),
    ({8: ["Linear"], 4: ["re:.*mlp.*"]}, ["re:.*layers\\.1\\..*"]),
    ({4: ["re:.*self_attn.*_proj"], 8: ["re:model.layers.[0-3].*"]}, []),
    ({4: ["model.layers.2.mlp.down_proj", "LlamaAttention"]}, ["re:mlp"]),
    ({8: [f"model.layers.4.self_attn.{one}_proj" for one in "qkv"], 4: ["Linear"]},
     ["model.layers.5.mlp.gate_proj", "model.layers.5.mlp.up_proj", "model.layers.7.mlp"]),
    ({4: ["re:.*gate_up_proj", "re:.*o_proj$"]}, ["re:.*layers.10.self_attn.qkv_proj"]),
]  # fmt: skip


@pytest.mark.parametrize(("targets", "ignore"), COMPRESSED)
def test_compressed_tensors_names_the_modules_that_vllm_finds(targets, ignore):
    said = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ignore,
        "config_groups": {
            f"group_{bits}": {"targets": list(listed), "weights": weights(bits)}
            for bits, listed in targets.items()
        },
    }  # fmt: skip
    ours = linear_modules(said)
    theirs = CompressedTensorsConfig.from_config(said)
    theirs.packed_modules_mapping = FUSED
    for name, bits in ours.items():
        scheme = theirs.get_scheme_dict(LINEAR, name)
        expected = 16 if scheme is None else scheme["weights"].num_bits
        if name == "model.layers.7.mlp.gate_up_proj" or name.startswith("model.layers.7.mlp"):
            # A list may name a whole block: vLLM asks for equal names, we leave the block alone.
            assert bits >= expected
        else:
            assert bits == expected, name


DYNAMIC = [
    {".*\\.(?:1[01])\\..*": {"bits": 8}, "-:.*down_proj": {}},
    {"+:model\\.layers\\.[02]\\.": {"bits": 8}, ".*mlp.*": {"bits": 2}},
    {"-:.*self_attn.*": {}, "self_attn": {"bits": 8}},
]


@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_overrides_of_gptq_are_those_of_vllm(dynamic):
    said = {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": dynamic}
    config = SimpleNamespace(dynamic=dynamic)
    for name, bits in linear_modules(said).items():
        found = get_dynamic_override(config, name, "bits", 4)
        assert bits == (16 if found is False else found), name


AUTOROUND = [
    {"model.layers.0.mlp.down_proj": {"bits": 16}, ".*o_proj": {"bits": 8}},
    {f"model.layers.3.self_attn.{one}_proj": {"bits": 8} for one in "qkv"},
    {"mlp.down_proj": {"bits": 2}},
]


@pytest.mark.parametrize("extra", AUTOROUND)
@pytest.mark.parametrize("blocks", [None, "model.layers.1"])
def test_overrides_of_autoround_are_those_of_vllm(extra, blocks):
    said = {"quant_method": "auto-round", "bits": 4, "group_size": 128, "extra_config": extra,
            "block_name_to_quantize": blocks}  # fmt: skip
    parser = INCConfigParser(
        SimpleNamespace(
            extra_config=extra, weight_bits=4, group_size=128, sym=True, packing_format="",
            backend="", data_type="int", packed_modules_mapping=FUSED,
            block_name_to_quantize=None if blocks is None else [blocks],
        )
    )  # fmt: skip
    for name, bits in linear_modules(said).items():
        assert bits == parser.resolve(LINEAR, name).bits, name


EXCLUDED = [
    ["lm_head"],
    ["lm_head", "model.layers.1.self_attn*", "*layers.2.mlp*"],
    ["model.layers.*.self_attn.o_proj", "model.layers.0.mlp.gate_up_proj"],
    ["self_attn"],
]


@pytest.mark.parametrize("excluded", EXCLUDED)
def test_exclusions_of_modelopt_are_those_of_vllm(excluded):
    said = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": excluded}
    theirs = ModelOptFp8Config("FP8", True, None, excluded)
    theirs.packed_modules_mapping = FUSED
    for name, bits in linear_modules(said).items():
        assert bits == (16 if theirs.is_layer_excluded(name) else 8), name


def test_layers_of_mixed_precision_are_those_of_vllm():
    layers = {
        "model.layers.0.mlp.gate_up_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "model.layers.1.self_attn.q_proj": {"quant_algo": "FP8"},
        "model.layers.1.self_attn.k_proj": {"quant_algo": "FP8"},
        "model.layers.1.self_attn.v_proj": {"quant_algo": "FP8"},
        "model.layers.2.mlp.down_proj": {"quant_algo": "FP8"},
    }
    said = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    theirs = ModelOptMixedPrecisionConfig.from_config(said)
    theirs.packed_modules_mapping = FUSED
    bits_of = {None: 16, "FP8": 8, "NVFP4": 4}
    for name, bits in linear_modules(said).items():
        assert bits == bits_of[theirs._resolve_quant_algo(name)], name


CACHES = [
    {"quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False}},
    {"quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": True}},
    {"quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 4, "type": "float"}},
    {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}},
    {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "INT8"}},
    {"quant_algo": "FP8"},
]


@pytest.mark.parametrize("said", CACHES)
def test_the_cache_of_a_modelopt_checkpoint_is_what_vllm_makes_of_it(said):
    config = {"quant_method": "modelopt", **said}
    architecture = architecture_from_config({**LLAMA, "quantization_config": config})
    expected = get_kv_cache_quant_algo_string(config) or "auto"
    assert resolved_dtype(architecture, KVCacheDtype.AUTO).value == expected


ROPES = [
    {},
    {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                      "original_max_position_embeddings": 1024}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                      "high_freq_factor": 4.0, "original_max_position_embeddings": 512}},
    {"max_seq_length": 1000},
    {"seq_length": 2048, "rope_scaling": {"type": "linear", "factor": 2.0}},
    {"model_max_length": 9000},
    {"model_max_length": 2000, "rope_scaling": {"type": "dynamic", "factor": 3.0}},
]  # fmt: skip


@pytest.mark.parametrize("fields", ROPES)
def test_vllm_takes_the_longest_context_and_not_a_token_more(fields):
    config = {**LLAMA, **fields}
    theirs = AutoConfig.for_model(**config)
    patch_rope_parameters(theirs)
    arch = SimpleNamespace(
        derived_max_model_len_and_key=ModelArchConfigConvertorBase(
            theirs, theirs
        ).derive_max_model_len_and_key()
    )
    longest = architecture_from_config(config).max_context_tokens

    def accepted(tokens):
        return _get_and_verify_max_len(theirs, arch, None, tokens, False, None)

    assert accepted(longest) == longest
    with pytest.raises(ValueError, match="greater than the derived"):
        accepted(longest + 1)
