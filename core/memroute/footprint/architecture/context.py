"""The longest context that a model serves, as vLLM 0.32 works it out.

The smallest of several fields; multiplied by the factor of the rotary scaling, except for kinds
whose limit is in the field already (YaRN, Llama 3, LongRoPE) and for Gemma 3. A
``model_max_length`` goes before the other fields. What a tokenizer says is not asked: engines cap
by it only models that embed with absolute positions. Sources: ``config/model.py``
(``_get_and_verify_max_len``) and ``transformers_utils/model_arch_config_convertor.py``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from memroute.footprint.architecture.config import ConfigReader

LIMITS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
OVERRIDE = "model_max_length"
# Kinds of rotary scaling whose factor is in max_position_embeddings already.
SCALED_ALREADY = frozenset(
    {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling",
     "telechat3-yarn"}
)  # fmt: skip
# A factor beyond it is nonsense: no published model has more than some hundred.
MAX_FACTOR = 1e6
# Kinds that scale nothing.
UNSCALED = frozenset({"default", "mrope", ""})


@dataclass(frozen=True, slots=True)
class ContextLimit:
    """A number of tokens, and how it came to be."""

    tokens: int | None
    """None where the configuration does not say."""
    note: str = ""
    """A clause, where it is not just one field."""


def context_limit(text: Mapping[str, Any]) -> ContextLimit:
    """The longest ``--max-model-len`` that vLLM takes for a (text) configuration.

    Raises ``InvalidConfigError`` for a limit that is no number.
    """
    reader = ConfigReader(text)
    found = {name: value for name in LIMITS if (value := reader.optional_int(name))}
    override = reader.optional_int(OVERRIDE) or None
    if override is not None:
        name, limit = OVERRIDE, override
    elif found:
        name = min(found, key=lambda one: found[one])
        limit = found[name]
    else:
        return ContextLimit(None)
    factor, kind, given = _factor(text)
    if factor != 1:
        said = f"{name} of {limit} x {factor:g} by its {kind} rotary scaling"
        return ContextLimit(max(int(limit * factor), override or 0), said)
    if given is not None:
        said = f"the factor {given:g} of its {kind} rotary scaling is in {name} already"
        return ContextLimit(limit, said)
    return ContextLimit(limit)


def _factor(text: Mapping[str, Any]) -> tuple[float, str, float | None]:
    """By how much the limit grows; the kind; the factor of a kind that has it already."""
    if "gemma3" in str(text.get("model_type") or ""):
        return 1.0, "", None
    factor, kind, given = 1.0, "", None
    for one in _rope_parameters(text):
        said = str(one.get("rope_type") or one.get("type") or "")
        value = one.get("factor")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not 0 < value < MAX_FACTOR:
            continue
        if said in SCALED_ALREADY:
            kind, given = said, float(value)
        elif said not in UNSCALED or value != 1:
            factor, kind = float(value), said or "default"
    return factor, kind, given


def _rope_parameters(text: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """One set of parameters, or one for each kind of layer."""
    said = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(said, Mapping):
        return
    nested = [one for one in said.values() if isinstance(one, Mapping)]
    yield from nested or [said]
