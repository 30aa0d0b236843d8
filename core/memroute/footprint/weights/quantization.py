"""How weights are stored: bits per value, scales, and the layers that a format leaves alone.

A checkpoint says it in ``quantization_config``; somebody who plans names a format. Effective
bits per quantized weight, scales included: FP8 in 128 x 128 blocks 8 + 32/16384, int4 in
groups of 128 with zero points 4 + 16/128 + 4/128, MXFP4 4.25, NVFP4 4.5. Embeddings, output
head, norms, routers and convolutions stay at 16 bit, unless a format says otherwise.

Sources: llm-compressor and ModelOpt checkpoints, vLLM 0.32's ``quantization`` layers,
``ggml-common.h``; sizes checked against published files (Qwen3-8B-AWQ 5.680 GiB computed,
5.68 GiB in the repository).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

from memroute.errors import UnsupportedShapeError
from memroute.footprint.weights.modules import Module
from memroute.units import ceil_div


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How one linear layer's matrix is stored. Scales lie along the inputs."""

    name: str
    bits: float
    """Of one weight, without scales."""
    group_size: int | None = None
    """Weights along the inputs that share a scale; None: all of an output channel do."""
    scale_bits: int = 0
    zero_point_bits: int = 0
    block_shape: tuple[int, int] | None = None
    """(outputs, inputs) of a block with one scale; instead of groups."""
    covers_tables: bool = False
    """Whether embedding and output head are stored so too (GGUF)."""
    only: tuple[str, ...] = ()
    """Patterns of modules that alone are quantized; empty for all linear layers."""
    excluded: tuple[str, ...] = ()
    """Patterns of modules that are left at 16 bit."""

    def covers(self, module: Module) -> bool:
        """Whether the module's matrix is stored in this format."""
        if module.is_table:
            return self.covers_tables
        if not module.is_linear or self.bits >= UNQUANTIZED_BITS:
            return False
        if self.only and not any(_matches(pattern, module.name) for pattern in self.only):
            return False
        return not any(_matches(pattern, module.name) for pattern in self.excluded)

    def matrix_bytes(self, *, num_outputs: int, num_inputs: int) -> int:
        """Bytes of one matrix of that shape, scales and zero points included."""
        payload = ceil_div(int(num_outputs * num_inputs * self.bits * 64), 8 * 64)
        if self.block_shape is not None:
            rows, columns = self.block_shape
            num_scales = ceil_div(num_outputs, rows) * ceil_div(num_inputs, columns)
        elif self.scale_bits or self.zero_point_bits:
            groups = ceil_div(num_inputs, self.group_size) if self.group_size else 1
            num_scales = num_outputs * groups
        else:
            num_scales = 0
        return payload + ceil_div(num_scales * (self.scale_bits + self.zero_point_bits), 8)

    @property
    def bits_per_weight(self) -> float:
        """Effective bits of one quantized weight, its share of the scales included."""
        extra = self.scale_bits + self.zero_point_bits
        if self.block_shape is not None:
            return self.bits + extra / (self.block_shape[0] * self.block_shape[1])
        return self.bits + (extra / self.group_size if self.group_size else 0)


UNQUANTIZED_BITS = 16
SIXTEEN_BIT = WeightFormat(name="bf16", bits=16)
FP8_TENSOR = WeightFormat(name="fp8", bits=8)
FP8_CHANNEL = WeightFormat(name="fp8", bits=8, scale_bits=32)
FP8_BLOCK = WeightFormat(name="fp8", bits=8, scale_bits=32, block_shape=(128, 128))
INT8_CHANNEL = WeightFormat(name="int8", bits=8, scale_bits=32)
INT4_GROUP = WeightFormat(name="int4", bits=4, group_size=128, scale_bits=16, zero_point_bits=4)
NF4 = WeightFormat(name="nf4", bits=4, group_size=64, scale_bits=32)
NF4_DOUBLE = WeightFormat(name="nf4", bits=4.127)
# 4 bit, an 8-bit scale per 64, and a 32-bit scale per 256 of those.
MXFP4 = WeightFormat(name="mxfp4", bits=4, group_size=32, scale_bits=8)
NVFP4 = WeightFormat(name="nvfp4", bits=4, group_size=16, scale_bits=8)
GGUF_BITS = {
    # ggml-common.h; the mixes as measured on Llama-3.1-8B by llama.cpp's quantize tool.
    "q4_0": 4.5, "q4_1": 5.0, "q5_0": 5.5, "q5_1": 6.0, "q8_0": 8.5, "q2_k": 3.159,
    "q3_k_m": 3.996, "iq4_xs": 4.460, "q4_k_s": 4.667, "q4_k_m": 4.894, "q5_k_m": 5.704,
    "q6_k": 6.563, "f16": 16.0,
}  # fmt: skip


class Quantization(StrEnum):
    """What precision is asked for; the values are those of the ModelDeployment."""

    NONE = "none"
    """As the checkpoint is: its own ``quantization_config``, else 16 bit."""
    FP8 = "fp8"
    INT8 = "int8"
    AWQ = "awq"
    GPTQ = "gptq"
    MXFP4 = "mxfp4"
    NVFP4 = "nvfp4"
    BITSANDBYTES = "bitsandbytes"

    @property
    def weight_format(self) -> WeightFormat:
        """The format of the linear layers of a 16-bit checkpoint when asked for this."""
        return _FORMATS[self]

    @property
    def bits_per_weight(self) -> float:
        """Effective bits of one quantized weight, its share of the scales included."""
        return self.weight_format.bits_per_weight


_FORMATS = {
    Quantization.NONE: SIXTEEN_BIT,
    Quantization.FP8: FP8_TENSOR,
    Quantization.INT8: INT8_CHANNEL,
    Quantization.AWQ: INT4_GROUP,
    Quantization.GPTQ: INT4_GROUP,
    Quantization.MXFP4: MXFP4,
    Quantization.NVFP4: NVFP4,
    Quantization.BITSANDBYTES: NF4_DOUBLE,
}


def gguf_format(name: str) -> WeightFormat:
    """The format of a GGUF file by its type (``Q4_K_M``). Raises ``UnsupportedShapeError``."""
    bits = GGUF_BITS.get(name.lower())
    if bits is None:
        msg = f"GGUF type {name!r} is not known; known: {', '.join(sorted(GGUF_BITS))}"
        raise UnsupportedShapeError(msg)
    return WeightFormat(name=name.lower(), bits=bits, covers_tables=True)


def checkpoint_format(config: Mapping[str, Any]) -> WeightFormat:
    """The format that a checkpoint's ``quantization_config`` describes; 16 bit when empty.

    Raises ``UnsupportedShapeError`` for a method that is not known: better no number than a
    wrong one.
    """
    if not config:
        return SIXTEEN_BIT
    method = str(config.get("quant_method") or config.get("quantization") or "").lower()
    excluded = _patterns(
        config, "modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules",
        "llm_int8_skip_modules",
    )  # fmt: skip
    read = _METHODS.get(method.replace("_", "-"))
    if read is None:
        msg = f"quantization method {method or config!r} has no formula"
        raise UnsupportedShapeError(msg)
    base = read(config)
    return replace(base, excluded=base.excluded + excluded)


def _fp8(config: Mapping[str, Any]) -> WeightFormat:
    block = config.get("weight_block_size")
    if not block:
        return FP8_TENSOR
    return replace(FP8_BLOCK, block_shape=(int(block[0]), int(block[1])))


def _bitsandbytes(config: Mapping[str, Any]) -> WeightFormat:
    if config.get("load_in_8bit") or config.get("_load_in_8bit"):
        return INT8_CHANNEL
    return NF4_DOUBLE if config.get("bnb_4bit_use_double_quant") else NF4


def _integer_groups(config: Mapping[str, Any]) -> WeightFormat:
    bits = int(config.get("bits") or config.get("w_bit") or 4)
    group = int(config.get("group_size") or config.get("q_group_size") or 128)
    return WeightFormat(
        name=f"int{bits}", bits=bits, group_size=group if group > 0 else None, scale_bits=16,
        # GPTQ files carry packed zero points even where they are symmetric.
        zero_point_bits=bits, covers_tables=bool(config.get("lm_head")),
    )  # fmt: skip


def _compressed_tensors(config: Mapping[str, Any]) -> WeightFormat:
    groups = config.get("config_groups") or {}
    if not isinstance(groups, Mapping) or not groups:
        msg = "quantization_config of compressed-tensors without config_groups"
        raise UnsupportedShapeError(msg)
    formats = [_compressed_group(config, group) for group in groups.values()]
    # Groups of one checkpoint mix formats by module; the widest is taken for all of them.
    return max(formats, key=lambda form: form.bits_per_weight)


def _compressed_group(config: Mapping[str, Any], group: Mapping[str, Any]) -> WeightFormat:
    weights = group.get("weights") or {}
    name = str(group.get("format") or config.get("format") or "")
    bits = int(weights.get("num_bits") or UNQUANTIZED_BITS)
    if name.startswith("nvfp4"):
        base = NVFP4
    elif name.startswith("mxfp4"):
        base = MXFP4
    elif weights.get("strategy") == "block" and weights.get("block_structure"):
        rows, columns = weights["block_structure"]
        base = replace(FP8_BLOCK, block_shape=(int(rows), int(columns)))
    else:
        kind = "fp" if weights.get("type") == "float" else "int"
        size = weights.get("group_size")
        scale_bits = 0 if weights.get("strategy") == "tensor" else 16
        symmetric = weights.get("symmetric", True)
        base = WeightFormat(
            name=f"{kind}{bits}", bits=bits, group_size=int(size) if size else None,
            scale_bits=scale_bits, zero_point_bits=0 if symmetric else bits,
        )  # fmt: skip
    targets = tuple(str(target) for target in group.get("targets") or () if str(target) != "Linear")
    return replace(base, only=targets)


def _modelopt(config: Mapping[str, Any]) -> WeightFormat:
    inner = config.get("quantization")
    inner = inner if isinstance(inner, Mapping) else config
    algorithm = str(inner.get("quant_algo") or "").upper()
    formats = {"FP8": FP8_TENSOR, "NVFP4": NVFP4, "W4A16_AWQ": INT4_GROUP, "MXFP8": FP8_CHANNEL}
    base = formats.get(algorithm)
    if base is None:
        msg = f"ModelOpt algorithm {algorithm or 'unknown'} has no formula"
        raise UnsupportedShapeError(msg)
    return replace(base, excluded=_patterns(inner, "exclude_modules", "ignore"))


_METHODS: dict[str, Callable[[Mapping[str, Any]], WeightFormat]] = {
    **dict.fromkeys(("fp8", "deepseek-v4-fp8"), _fp8),
    **dict.fromkeys(("fbgemm-fp8", "ptpc-fp8"), lambda _: FP8_CHANNEL),
    **dict.fromkeys(("awq", "gptq", "awq-marlin", "gptq-marlin", "auto-round"), _integer_groups),
    "compressed-tensors": _compressed_tensors,
    **dict.fromkeys(("modelopt", "modelopt-fp4", "modelopt-mixed"), _modelopt),
    "mxfp4": lambda _: replace(MXFP4, only=("experts",)),
    "bitsandbytes": _bitsandbytes,
}


def _patterns(config: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        listed = config.get(name)
        if isinstance(listed, Sequence) and not isinstance(listed, str):
            found += [str(pattern) for pattern in listed]
    return tuple(found)


def _matches(pattern: str, name: str) -> bool:
    compiled = _compiled(pattern)
    return compiled.search(name) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of a checkpoint as a regular expression over our module names.

    ``re:`` starts an expression; ``*`` is a wildcard; a plain pattern is a run of whole path
    components (``gate`` is the router, never ``gate_proj``).
    """
    if pattern.startswith("re:"):
        try:
            return re.compile(pattern[3:])
        except re.error as error:
            msg = f"quantization_config excludes {pattern!r}, which is no regular expression"
            raise UnsupportedShapeError(msg) from error
    plain = pattern.replace("language_model.", "").replace("backbone.", "model.")
    plain = plain.replace("model.model.", "model.")
    body = re.escape(plain.strip(".")).replace(r"\*", ".*")
    return re.compile(rf"(^|\.){body}($|\.)")
