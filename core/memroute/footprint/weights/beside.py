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


MODELOPT_FILE = "hf_quant_config.json"


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
        return _with_layers(config, documents.get(MODELOPT_FILE))
    for name, method in QUANTIZATION_FILES.items():
        said = documents.get(name)
        if said:
            named = {"quant_method": method, **said}
            if method == "modelopt":
                named["quant_method"] = method
            return {**config, "quantization_config": named}
    return dict(config)


def needs_layers(config: Mapping[str, Any]) -> bool:
    """Whether a ModelOpt configuration of mixed precision leaves its layers to the file beside."""
    place = _modelopt_part(config)
    is_mixed = str(place.get("quant_algo") or "").upper() == "MIXED_PRECISION"
    return is_mixed and not place.get("quantized_layers")


def _modelopt_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    own = config.get("quantization_config")
    if not isinstance(own, Mapping):
        return {}
    deeper = own.get("quantization")
    return deeper if isinstance(deeper, Mapping) else own


def _with_layers(config: Mapping[str, Any], said: Mapping[str, Any] | None) -> dict[str, Any]:
    """Older ModelOpt checkpoints of mixed precision name their layers in the file alone."""
    inner = said.get("quantization") if said else None
    layers = inner.get("quantized_layers") if isinstance(inner, Mapping) else None
    if not layers or not needs_layers(config):
        return dict(config)
    own = config["quantization_config"]
    filled = {**_modelopt_part(config), "quantized_layers": layers}
    is_deeper = isinstance(own.get("quantization"), Mapping)
    quantization = {**own, "quantization": filled} if is_deeper else filled
    return {**config, "quantization_config": quantization}
