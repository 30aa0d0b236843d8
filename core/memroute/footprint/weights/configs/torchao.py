"""torchao: one configuration for all linear layers, or one by name of the module.

Source: vLLM 0.32 ``torchao.py``; how torchao's tensors keep their values.
"""

from collections.abc import Mapping

from memroute.footprint.weights.configs.integer_groups import EXCLUDED
from memroute.footprint.weights.configs.reading import (
    Config,
    exclusions,
    group_of,
    integers,
    mapping,
    refuse,
)
from memroute.footprint.weights.formats import (
    FP8_CHANNEL,
    INT8_CHANNEL,
    MXFP4,
    NVFP4,
    SIXTEEN_BIT,
    WeightFormat,
)
from memroute.footprint.weights.patterns import REGEX, module_list
from memroute.footprint.weights.stored import Rule, kinds_named

# torchao's own defaults: of int4 weights, and of narrow integers with 8-bit activations.
INT4_GROUP_SIZE, INTX_GROUP_SIZE = 128, 32
DEFAULT = "_default"
# By the beginning of their names: one format, whatever else is said. Eight-bit integers have a
# scale for each row.
_WHOLE = (
    ("float8", FP8_CHANNEL), ("nvfp4", NVFP4), ("int8weightonly", INT8_CHANNEL),
    ("int8dynamicactivationint8", INT8_CHANNEL),
)  # fmt: skip


def torchao(config: Config) -> tuple[Rule, ...]:
    """The rules. Raises ``UnknownFormatError`` for a configuration without a formula."""
    rules = list(exclusions(config, *EXCLUDED))
    said = config.get("quant_type")
    usual = mapping(said).get("default") if isinstance(said, Mapping) else said
    by_name = _by_name(usual)
    if by_name is None:
        rules.append(Rule(form=_form(usual, config.get("quant_type_kwargs"))))
        return tuple(rules)
    # Names go before expressions, and what neither names is the default.
    for name, one in sorted(by_name.items(), key=lambda item: item[0].startswith(REGEX)):
        if name != DEFAULT:
            form = SIXTEEN_BIT if one is None else _form(one)
            rules.append(Rule(form=form, modules=module_list([name]), kinds=kinds_named(name)))
    if by_name.get(DEFAULT) is not None:
        rules.append(Rule(form=_form(by_name[DEFAULT])))
    return tuple(rules)


def _by_name(usual: object) -> Config | None:
    data = mapping(mapping(usual).get("_data"))
    for field in ("module_fqn_to_config", "fqn_to_config"):
        if isinstance(data.get(field), Mapping):
            return mapping(data[field])
    return None


def _form(said: object, arguments: object = None) -> WeightFormat:
    spelled = str(said.get("_type") or "") if isinstance(said, Mapping) else str(said or "")
    name = spelled.lower().replace("_", "").removesuffix("config")
    data = {**mapping(arguments), **mapping(mapping(said).get("_data"))}
    if name == "int4weightonly":
        # A scale and a zero point of 16 bit for each group.
        size = group_of(data.get("group_size"), INT4_GROUP_SIZE)
        return integers(4, size, zero_point_bits=16)
    if name.startswith("mx") and "float4" in str(data.get("elem_dtype") or ""):
        return MXFP4
    whole = next((form for start, form in _WHOLE if name.startswith(start)), None)
    if whole is not None:
        return whole
    if name.startswith(("int8", "intx")):
        # Narrower integers are stored in bytes of their own, with a scale and a zero point.
        size = group_of(data.get("group_size"), INTX_GROUP_SIZE)
        return integers(8, size, zero_point_bits=8)
    return refuse(f"torchao's {spelled or 'quant_type'}")
