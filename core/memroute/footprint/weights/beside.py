"""Files beside ``config.json`` that say how a checkpoint is quantized. Pure: documents in.

Older tools wrote them instead of ``quantization_config``; what ``config.json`` itself says wins, as
in engines.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from memroute.footprint.architecture.nesting import nested_config

# Which file is whose, the first that is there counts: ModelOpt, AutoRound, GPTQ, AWQ.
QUANTIZATION_FILES: Mapping[str, str] = MappingProxyType(
    {
        "hf_quant_config.json": "modelopt",
        "quantization_config.json": "auto-round",
        "quantize_config.json": "gptq",
        "quant_config.json": "awq",
    }
)


def says_quantization(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` describes its quantization itself, at any of the usual places."""
    nested = [one for one in config.values() if isinstance(one, Mapping)]
    return any(nested_config(one).quantization for one in (config, *nested))


def with_quantization(
    config: Mapping[str, Any], documents: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, Any]:
    """The configuration with what a file beside it says of its quantization.

    ``documents``: the files by name; what is missing is None or left out.
    """
    if says_quantization(config):
        return dict(config)
    for name, method in QUANTIZATION_FILES.items():
        said = documents.get(name)
        if said:
            named = {"quant_method": method, **said}
            if method == "modelopt":
                named["quant_method"] = method
            return {**config, "quantization_config": named}
    return dict(config)
