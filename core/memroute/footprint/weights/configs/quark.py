"""AMD Quark: a format by layer, else by class, else for all; what is excluded stays at 16 bit.

Source: vLLM 0.32 ``quark/quark.py``.
"""

from collections.abc import Callable
from dataclasses import replace
from fnmatch import translate

from memroute.footprint.weights.configs.integer_groups import EXCLUDED
from memroute.footprint.weights.configs.reading import (
    Config,
    bits_of,
    exclusions,
    group_of,
    integers,
    mapping,
    pair,
    refuse,
)
from memroute.footprint.weights.expressions import expression
from memroute.footprint.weights.formats import (
    FP8_BLOCK,
    FP8_CHANNEL,
    FP8_TENSOR,
    INT8_CHANNEL,
    MXFP4,
    MXFP6,
    MXFP8,
    NVFP4,
    SIXTEEN_BIT,
    WeightFormat,
)
from memroute.footprint.weights.patterns import OneExpression
from memroute.footprint.weights.stored import LINEAR_ONLY, Rule, kinds_named


def quark(config: Config) -> tuple[Rule, ...]:
    """The rules. Raises ``UnknownFormatError`` for weights without a formula."""
    rules = list(exclusions(config, "exclude", *EXCLUDED))
    for pattern, said in mapping(config.get("layer_quant_config")).items():
        form = _form(mapping(said).get("weight"))
        named = str(pattern)
        rules.append(
            Rule(
                form=form,
                modules=OneExpression(expression(translate(named))),
                kinds=kinds_named(named),
            )
        )
    by_class = mapping(config.get("layer_type_quant_config"))
    usual = by_class.get("Linear") or by_class.get("nn.Linear") or config.get("global_quant_config")
    rules.append(Rule(form=_form(mapping(usual).get("weight")), kinds=LINEAR_ONLY))
    return tuple(rules)


def _form(weight: object) -> WeightFormat:
    if not weight:
        return SIXTEEN_BIT
    if isinstance(weight, list):
        return _of_steps([mapping(one) for one in weight])
    said = mapping(weight)
    kind = str(said.get("dtype") or "").lower()
    for kinds, read in _KINDS:
        if kind.startswith(kinds):
            return read(kind, said)
    return refuse(f"Quark's weights of {kind or 'no dtype'}")


def _of_steps(steps: list[Config]) -> WeightFormat:
    """Two steps: NVFP4 has a scale of its scales, FP8 that was made int4 is stored as int4."""
    if len(steps) == 1:
        return _form(steps[0])
    if any(one.get("dtype") == "fp4" for one in steps):
        return NVFP4
    for one in steps:
        if "int4" in str(one.get("dtype")):
            return _form(one)
    return refuse(f"Quark's weights of {len(steps)} steps")


def _narrow_float(kind: str, said: Config) -> WeightFormat:
    if "fp6" in kind:
        return MXFP6
    if "fp8" in kind:
        return MXFP8
    if kind == "fp4" and group_of(said.get("group_size")) == NVFP4.group_size:
        return NVFP4
    return MXFP4


def _fp8(_kind: str, said: Config) -> WeightFormat:
    size, block = group_of(said.get("group_size")), pair(said.get("block_size"))
    if said.get("qscheme") == "per_group" and size is not None:
        return replace(MXFP8, group_size=size)
    if block is not None and min(block) > 1:
        return replace(FP8_BLOCK, block_shape=block)
    return FP8_TENSOR if said.get("qscheme") in (None, "per_tensor") else FP8_CHANNEL


def _integer(kind: str, said: Config) -> WeightFormat:
    bits = bits_of(kind.removeprefix("u").removeprefix("int") or None, 8)
    size = group_of(said.get("group_size"))
    if size is None:
        return replace(INT8_CHANNEL, name=f"int{bits}", bits=bits)
    return integers(bits, size, zero_point_bits=0 if said.get("symmetric") is True else bits)


_KINDS: tuple[tuple[tuple[str, ...], Callable[[str, Config], WeightFormat]], ...] = (
    (("fp4", "mx", "fp6"), _narrow_float),
    (("fp8",), _fp8),
    (("int", "uint"), _integer),
    (("bfloat16", "float16", "float32"), lambda _kind, _said: SIXTEEN_BIT),
)
