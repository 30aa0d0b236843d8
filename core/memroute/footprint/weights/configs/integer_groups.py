"""GPTQ, AWQ and AutoRound: integers in groups, with single modules at other widths.

GPTQModel's ``dynamic`` are regular expressions, the first that matches decides: ``-:`` leaves the
module alone, ``+:`` (or nothing) replaces fields. AutoRound's ``extra_config`` has names, ends of
names, and expressions that are searched for. Sources: vLLM 0.32 ``gptq_utils.py``,
``auto_awq.py``, ``inc/config_parser.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from memroute.footprint.weights.configs.reading import (
    Config,
    bits_of,
    exclusions,
    group_of,
    integers,
    mapping,
    pair,
    refuse,
    texts,
)
from memroute.footprint.weights.expressions import expression
from memroute.footprint.weights.formats import (
    FP8_BLOCK,
    FP8_CHANNEL,
    MXFP4,
    MXFP8,
    NVFP4,
    SIXTEEN_BIT,
    WeightFormat,
)
from memroute.footprint.weights.names import Names, local_name
from memroute.footprint.weights.patterns import OneExpression, module_list
from memroute.footprint.weights.stored import (
    ANY_MATRIX,
    LINEAR_AND_HEAD,
    LINEAR_ONLY,
    ModuleKind,
    Rule,
    kinds_named,
)

GROUP_SIZE = 128
BYTE_BITS = 8
_SPECIAL = frozenset(r"*+?^$()[]{}|" + "\\")
EXCLUDED = ("modules_to_not_convert", "ignored_layers", "exclude_modules", "ignore")


def awq(config: Config) -> tuple[Rule, ...]:
    """AWQ: a list of what is left alone."""
    bits = bits_of(config.get("bits", config.get("w_bit")), 4)
    group = group_of(config.get("group_size", config.get("q_group_size")), GROUP_SIZE)
    form = integers(bits, group, zero_point_bits=bits)
    return (*exclusions(config, *EXCLUDED), Rule(form=form, kinds=_kinds(config)))


def gptq(config: Config) -> tuple[Rule, ...]:
    """GPTQ, and GPTQModel's overrides.

    Files also have the order of the groups (``g_idx``, 32 bits for each input: a third of a
    percent), which vLLM 0.32 does not keep.
    """
    kinds = _kinds(config)
    rules = list(exclusions(config, *EXCLUDED))
    for pattern, override in mapping(config.get("dynamic")).items():
        said = str(pattern)
        negative = said.startswith("-:") or override is False
        found = expression(said.removeprefix("-:").removeprefix("+:"))
        form = SIXTEEN_BIT if negative else _gptq_form({**config, **mapping(override)})
        kinds_here = ANY_MATRIX if negative else kinds
        rules.append(Rule(form=form, modules=OneExpression(found), kinds=kinds_here))
    listed = frozenset(texts(config.get("modules_in_block_to_quantize")))
    rules.append(
        Rule(form=_gptq_form(config), modules=_has_part(listed) if listed else None, kinds=kinds)
    )
    return tuple(rules)


def _gptq_form(config: Config) -> WeightFormat:
    bits = bits_of(config.get("bits"), 4)
    group = group_of(config.get("group_size"), GROUP_SIZE)
    return integers(bits, group, zero_point_bits=bits)


def _kinds(config: Config) -> frozenset[ModuleKind]:
    return LINEAR_AND_HEAD if config.get("lm_head") is True else LINEAR_ONLY


def _has_part(listed: frozenset[str]) -> Callable[[Names], bool]:
    return lambda names: any(part in name for part in listed for name in names.full)


def auto_round(config: Config) -> tuple[Rule, ...]:
    """AutoRound: names with fields of their own, and blocks that alone are quantized."""
    rules = list(exclusions(config, *EXCLUDED))
    exact: dict[WeightFormat, set[str]] = {}
    searched = []
    for name, override in mapping(config.get("extra_config")).items():
        form = _auto_round_form({**config, **mapping(override)})
        if _SPECIAL.isdisjoint(name):
            exact.setdefault(form, set()).add(local_name(name))
        else:
            rule = Rule(
                form=form,
                modules=OneExpression(expression(name), is_anywhere=True),
                kinds=kinds_named(name),
            )
            searched.append(rule)
    for form, listed in exact.items():
        rules.append(Rule(form=form, modules=_ends_with(frozenset(listed)), kinds=ANY_MATRIX))
    rules += searched
    # Parts of names (``self_attn``) count only where they are the wider: the safe side.
    usual = _auto_round_form(config).bits_per_weight
    for form, listed in exact.items():
        if form.bits_per_weight > usual:
            rules.append(Rule(form=form, modules=module_list(listed)))
    blocks = [
        block.strip()
        for text in texts(config.get("block_name_to_quantize"))
        for block in text.split(",")
        if block.strip()
    ]
    inside = _is_inside(tuple(blocks)) if blocks else None
    rules.append(Rule(form=_auto_round_form(config), modules=inside, kinds=_kinds(config)))
    return tuple(rules)


def _ends_with(listed: frozenset[str]) -> Callable[[Names], bool]:
    lengths = {name.count(".") + 1 for name in listed}

    def is_listed(names: Names) -> bool:
        for name in names.local:
            components = name.split(".")
            if any(".".join(components[-length:]) in listed for length in lengths):
                return True
        return False

    return is_listed


def _is_inside(blocks: tuple[str, ...]) -> Callable[[Names], bool]:
    # ``model.layers.1`` is not ``model.layers.10``.
    begins = tuple(f"{block.rstrip('.')}." for block in blocks)
    return lambda names: any(f"{name}.".startswith(begins) for name in names.full)


def _auto_round_form(config: Config) -> WeightFormat:
    bits = bits_of(config.get("bits"), 4)
    if bits >= SIXTEEN_BIT.bits:
        return SIXTEEN_BIT
    kind = str(config.get("data_type") or "int")
    size = config.get("group_size")
    block = pair(size)
    if "mx_fp" in kind:
        return MXFP4 if bits == 4 else MXFP8  # noqa: PLR2004 - FP4
    if "nv_fp" in kind or "fp4" in kind:
        return replace(NVFP4, group_size=group_of(size, NVFP4.group_size) or NVFP4.group_size)
    if kind.startswith("fp"):
        if bits != BYTE_BITS:
            refuse(f"AutoRound's data_type {kind} of {bits} bits")
        return FP8_CHANNEL if block is None else replace(FP8_BLOCK, block_shape=block)
    return integers(bits, group_of(size, GROUP_SIZE), zero_point_bits=bits)


METHODS: Mapping[str, Callable[[Config], tuple[Rule, ...]]] = {
    **dict.fromkeys(("awq", "awq-marlin", "auto-awq"), awq),
    **dict.fromkeys(("gptq", "gptq-marlin", "auto-gptq", "gptqmodel", "gptq-bitblas"), gptq),
    **dict.fromkeys(("auto-round", "autoround", "intel/auto-round", "inc"), auto_round),
}
