"""FP8, INT8, bitsandbytes, MXFP4, HQQ: one format and a list of exceptions.

Sources: vLLM 0.32 ``fp8.py`` and ``mxfp4.py``;
transformers' ``quantizers`` for bitsandbytes and HQQ.
"""

from dataclasses import replace

from memroute.footprint.weights.configs.integer_groups import EXCLUDED
from memroute.footprint.weights.configs.reading import (
    Config,
    bits_of,
    exclusions,
    group_of,
    integers,
    mapping,
    pair,
)
from memroute.footprint.weights.formats import (
    FP8_BLOCK,
    FP8_CHANNEL,
    FP8_TENSOR,
    INT8_CHANNEL,
    MXFP4,
    NF4,
    NF4_DOUBLE,
    WeightFormat,
)
from memroute.footprint.weights.patterns import module_list
from memroute.footprint.weights.stored import LINEAR_ONLY, Rule

EXPERTS = r"re:.*\.experts\."
HQQ_GROUP_SIZE = 64


def fp8(config: Config) -> tuple[Rule, ...]:
    """FP8 per tensor or in blocks; experts of a narrower kind where it says so."""
    block = pair(config.get("weight_block_size"))
    form = FP8_TENSOR if block is None else replace(FP8_BLOCK, block_shape=block)
    stored = str(config.get("store_dtype") or config.get("expert_dtype") or "").lower()
    experts = []
    if stored in ("mxfp4", "fp4"):
        experts.append(Rule(form=MXFP4, modules=module_list([EXPERTS])))
    return (*exclusions(config, *EXCLUDED), *experts, Rule(form=form))


def fp8_channel(config: Config) -> tuple[Rule, ...]:
    """FP8 with a scale for each output channel."""
    return (*exclusions(config, *EXCLUDED), Rule(form=FP8_CHANNEL))


def int8_channel(config: Config) -> tuple[Rule, ...]:
    """Eight-bit integers with a scale for each output channel."""
    block = pair(config.get("weight_block_size"))
    form = INT8_CHANNEL if block is None else replace(FP8_BLOCK, name="int8", block_shape=block)
    return (*exclusions(config, *EXCLUDED), Rule(form=form))


def bitsandbytes(config: Config) -> tuple[Rule, ...]:
    """Eight-bit integers, or NF4 with scales that may be quantized themselves."""
    if config.get("load_in_8bit") or config.get("_load_in_8bit"):
        form = INT8_CHANNEL
    else:
        form = NF4_DOUBLE if config.get("bnb_4bit_use_double_quant") else NF4
    return (*exclusions(config, "llm_int8_skip_modules", *EXCLUDED), Rule(form=form))


def mxfp4(config: Config) -> tuple[Rule, ...]:
    """MXFP4 for the experts alone (gpt-oss): vLLM has no other such layers."""
    return (
        *exclusions(config, *EXCLUDED),
        Rule(form=MXFP4, modules=module_list([EXPERTS]), kinds=LINEAR_ONLY),
    )


def hqq(config: Config) -> tuple[Rule, ...]:
    """HQQ: one configuration, or one by the end of the module's name."""
    rules = list(exclusions(config, "skip_modules", *EXCLUDED))
    said = mapping(config.get("quant_config"))
    if said and "weight_quant_params" not in said:
        for name, one in said.items():
            rules.append(Rule(form=_hqq_form(mapping(one)), modules=module_list([str(name)])))
        return tuple(rules)
    rules.append(Rule(form=_hqq_form(said)))
    return tuple(rules)


def _hqq_form(said: Config) -> WeightFormat:
    weights = mapping(said.get("weight_quant_params"))
    bits = bits_of(weights.get("nbits"), 4)
    # Scale and zero point, 16 bit each.
    return integers(bits, group_of(weights.get("group_size"), HQQ_GROUP_SIZE), zero_point_bits=16)
