"""compressed-tensors: several groups of modules, each with its own weights.

A target is a name, a regular expression (``re:``) or the class of a module. Names go before
expressions before classes, as in vLLM 0.32 (``compressed_tensors/utils.py``); what no group
targets, and what is ignored, stays at 16 bit. ``Linear`` are all linear layers and experts, but
not the output head (``ParallelLMHead`` is none to vLLM): that one has to be targeted by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from memroute.footprint.weights.configs.reading import (
    Config,
    bits_of,
    exclusions,
    group_of,
    is_false,
    mapping,
    pair,
    refuse,
    texts,
)
from memroute.footprint.weights.formats import (
    FP8_BLOCK,
    MXFP4,
    MXFP8,
    NVFP4,
    SIXTEEN_BIT,
    WeightFormat,
)
from memroute.footprint.weights.names import Names, local_name
from memroute.footprint.weights.patterns import REGEX, module_list
from memroute.footprint.weights.stored import (
    ANY_MATRIX,
    LINEAR_AND_HEAD,
    LINEAR_ONLY,
    OUTPUT_HEAD,
    Rule,
    kinds_named,
)

# Values of one 32-bit word are whole: ten of three bits.
WORD_BITS = 32
BYTE_BITS = 8
# Formats of files that keep each value in a byte of its own, however narrow it is.
_BYTE_FORMATS = ("int-quantized", "float-quantized", "naive-quantized")
# Formats whose bytes follow another rule (2:4 sparsity), and those that quantize nothing.
_UNKNOWN_FORMATS = ("marlin-24", "marlin_24", "sparse-24-bitmask", "sparse-bitmask")
_CLASSES_OF_EXPERTS = ("expert", "moe")


def compressed_tensors(config: Config) -> tuple[Rule, ...]:
    """The rules. Raises ``UnsupportedShapeError`` for a format without a formula."""
    groups = mapping(config.get("config_groups"))
    if not groups and config.get("kv_cache_scheme") is None:
        refuse("quantization_config of compressed-tensors without config_groups")
    names, expressions, classes = [], [], []
    for group in groups.values():
        form = group_format(mapping(group), str(config.get("format") or ""))
        for target in texts(mapping(group).get("targets")):
            if target.startswith(REGEX):
                listed, kinds = module_list([target]), kinds_named(target)
                expressions.append(Rule(form=form, modules=listed, kinds=kinds | LINEAR_AND_HEAD))
            elif "." in target or target == OUTPUT_HEAD:
                names.append((local_name(target), form))
            else:
                classes += _of_class(target, form)
    ignored = exclusions(config, "ignore")
    return (*ignored, *_by_name(dict(names)), *expressions, *classes)


def _by_name(names: Mapping[str, WeightFormat]) -> list[Rule]:
    by_form: dict[WeightFormat, set[str]] = {}
    for name, form in names.items():
        by_form.setdefault(form, set()).add(name)
    return [
        Rule(form=form, modules=_is_one_of(frozenset(listed)), kinds=ANY_MATRIX)
        for form, listed in by_form.items()
    ]


def _is_one_of(listed: frozenset[str]) -> Callable[[Names], bool]:
    return lambda names: not listed.isdisjoint(names.local)


def _of_class(target: str, form: WeightFormat) -> list[Rule]:
    lowered = target.casefold()
    if lowered == "linear":
        return [Rule(form=form, kinds=LINEAR_ONLY)]
    if any(word in lowered for word in _CLASSES_OF_EXPERTS):
        listed = module_list([f"{REGEX}.*\\.experts\\."])
        return [Rule(form=form, modules=listed, kinds=LINEAR_ONLY)]
    # Classes of attention quantize the cache, not the weights; others are not in a decoder.
    return []


def group_format(group: Config, usual_format: str = "") -> WeightFormat:
    """How the weights of one group are stored. Raises ``UnsupportedShapeError``."""
    weights = mapping(group.get("weights"))
    name = str(group.get("format") or usual_format)
    if not weights or name == "dense":
        return SIXTEEN_BIT
    if name in _UNKNOWN_FORMATS:
        refuse(f"the format {name} of compressed-tensors")
    bits = bits_of(weights.get("num_bits"))
    if bits >= SIXTEEN_BIT.bits:
        return SIXTEEN_BIT
    if weights.get("type") == "float":
        narrow = _narrow_float(bits, name, group_of(weights.get("group_size")))
        if narrow is not None:
            return narrow
    return _plain(bits, name, weights)


def _narrow_float(bits: int, name: str, group_size: int | None) -> WeightFormat | None:
    """FP4, and FP8 in groups with scales that are powers of two."""
    if name.startswith("nvfp4") or (bits == 4 and group_size == NVFP4.group_size):  # noqa: PLR2004 - FP4
        return replace(NVFP4, group_size=group_size or NVFP4.group_size)
    if name.startswith("mxfp4") or bits == 4:  # noqa: PLR2004 - FP4
        return replace(MXFP4, group_size=group_size or MXFP4.group_size)
    return MXFP8 if bits == BYTE_BITS and group_size == MXFP8.group_size else None


def _plain(bits: int, name: str, weights: Config) -> WeightFormat:
    called = f"{'fp' if weights.get('type') == 'float' else 'int'}{bits}"
    block = pair(weights.get("block_structure"))
    if weights.get("strategy") == "block" and block is not None:
        return replace(FP8_BLOCK, name=called, block_shape=block)
    is_symmetric = not is_false(weights.get("symmetric"))
    stored = _stored_bits(bits, name)
    return WeightFormat(
        name=called, bits=stored, group_size=group_of(weights.get("group_size")),
        scale_bits=0 if weights.get("strategy") == "tensor" else 16,
        zero_point_bits=0 if is_symmetric else int(stored),
        bits_per_input=32 if weights.get("actorder") in ("group", "dynamic") else 0,
    )  # fmt: skip


def _stored_bits(bits: int, name: str) -> float:
    if name in _BYTE_FORMATS:
        return BYTE_BITS
    return WORD_BITS / (WORD_BITS // bits)
