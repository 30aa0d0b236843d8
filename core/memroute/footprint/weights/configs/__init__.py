"""Quantization configurations of checkpoints, a file for each kind of tool.

Each reads one ``quantization_config`` into rules: which modules are stored how. What is not known
is refused, because no number is better than a wrong one; where the bytes of the files are known,
they settle it.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from memroute.footprint.architecture import ModelArchitecture
from memroute.footprint.weights.configs import integer_groups, others
from memroute.footprint.weights.configs.compressed_tensors import compressed_tensors
from memroute.footprint.weights.configs.modelopt import modelopt
from memroute.footprint.weights.configs.quark import quark
from memroute.footprint.weights.configs.reading import mapping, refuse
from memroute.footprint.weights.configs.torchao import torchao
from memroute.footprint.weights.names import Naming
from memroute.footprint.weights.stored import Rule, StoredFormats, naming_of, words_of

# A single expert of a layer, in a name or an expression, as JSON has it.
_SINGLE_EXPERT = re.compile(r"experts(?:\\\\)?\.(?:\\\\)?[\d(\[]")

_BY_FIELD = (
    ("quant_algo", "modelopt"), ("config_groups", "compressed-tensors"), ("w_bit", "awq"),
    ("q_group_size", "awq"), ("global_quant_config", "quark"), ("quant_type", "torchao"),
    ("load_in_8bit", "bitsandbytes"), ("load_in_4bit", "bitsandbytes"), ("bits", "gptq"),
)  # fmt: skip

METHODS: Mapping[str, Callable[[Mapping[str, Any]], tuple[Rule, ...]]] = {
    **integer_groups.METHODS,
    "compressed-tensors": compressed_tensors,
    **dict.fromkeys(
        ("modelopt", "modelopt-fp4", "modelopt-fp8", "modelopt-mixed", "modelopt-mxfp8"), modelopt
    ),
    **dict.fromkeys(("fp8", "deepseek-v4-fp8"), others.fp8),
    **dict.fromkeys(("fbgemm-fp8", "ptpc-fp8", "w8a8-fp8"), others.fp8_channel),
    **dict.fromkeys(("eetq", "w8a8-int8", "blockwise-int8"), others.int8_channel),
    "bitsandbytes": others.bitsandbytes,
    **dict.fromkeys(("mxfp4", "gpt-oss-mxfp4"), others.mxfp4),
    "quark": quark,
    "torchao": torchao,
    "hqq": others.hqq,
}


def checkpoint_format(
    config: Mapping[str, Any],
    naming: Naming | None = None,
    words: Callable[[], frozenset[str]] = frozenset,
) -> StoredFormats:
    """The formats that a checkpoint's ``quantization_config`` describes; 16 bit when empty.

    ``naming``: how the model calls its modules; ``words``: the components of those names.
    Raises ``UnsupportedShapeError`` for a method that is not known.
    """
    if not config:
        return StoredFormats(())
    method = method_of(config)
    read = METHODS.get(method)
    if read is None:
        refuse(f"quantization method {method or sorted(config)!r:.200}")
    return StoredFormats(
        read(config),
        naming=naming,
        words=words(),
        tells_experts_apart=_SINGLE_EXPERT.search(json.dumps(dict(config), default=str))
        is not None,
    )


def method_of(config: Mapping[str, Any]) -> str:
    """The method of a configuration, spelled with dashes; by its fields where it does not say."""
    inner = config.get("quantization")
    said = config.get("quant_method") or (inner if isinstance(inner, str) else None)
    if said:
        return str(said).lower().replace("_", "-")
    if mapping(config.get("producer")).get("name") == "modelopt" or isinstance(inner, Mapping):
        return "modelopt"
    # Older tools left the method to whoever reads the file; its fields tell.
    return next((method for field, method in _BY_FIELD if config.get(field) is not None), "")


@lru_cache(maxsize=1024)
def stored_formats(architecture: ModelArchitecture) -> StoredFormats:
    """The formats of a model's own checkpoint. Raises as ``checkpoint_format``."""
    return checkpoint_format(
        architecture.quantization_config, naming_of(architecture), lambda: words_of(architecture)
    )
