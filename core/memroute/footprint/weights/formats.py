"""How one matrix is stored: bits per value, scales, zero points.

Effective bits per quantized weight, scales included: FP8 in 128 x 128 blocks 8 + 32/16384, int4
in groups of 128 with zero points 4 + 16/128 + 4/128, MXFP4 4.25, NVFP4 4.5.

Sources: llm-compressor and ModelOpt checkpoints, vLLM 0.32's ``quantization`` layers,
``ggml-common.h``; sizes checked against published files (Qwen3-8B-AWQ 5.680 GiB computed,
5.68 GiB in the repository).
"""

from dataclasses import dataclass
from enum import StrEnum

from memroute.errors import UnsupportedShapeError
from memroute.units import ceil_div

UNQUANTIZED_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How one linear layer's matrix is stored. Scales lie along the inputs."""

    name: str
    bits: float
    """Of one weight as it is stored, without scales."""
    group_size: int | None = None
    """Weights along the inputs that share a scale; None: all of an output channel do."""
    scale_bits: int = 0
    zero_point_bits: int = 0
    block_shape: tuple[int, int] | None = None
    """(outputs, inputs) of a block with one scale; instead of groups."""
    bits_per_input: int = 0
    """Once for each input, whatever the outputs: the order of groups (``g_idx``)."""

    @property
    def is_quantized(self) -> bool:
        """Whether values are narrower than 16 bit."""
        return self.bits < UNQUANTIZED_BITS

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
        beside = num_scales * (self.scale_bits + self.zero_point_bits)
        return payload + ceil_div(beside + num_inputs * self.bits_per_input, 8)

    @property
    def bits_per_weight(self) -> float:
        """Effective bits of one quantized weight, its share of the scales included."""
        extra = self.scale_bits + self.zero_point_bits
        if self.block_shape is not None:
            return self.bits + extra / (self.block_shape[0] * self.block_shape[1])
        return self.bits + (extra / self.group_size if self.group_size else 0)


SIXTEEN_BIT = WeightFormat(name="bf16", bits=UNQUANTIZED_BITS)
FP8_TENSOR = WeightFormat(name="fp8", bits=8)
FP8_CHANNEL = WeightFormat(name="fp8", bits=8, scale_bits=32)
FP8_BLOCK = WeightFormat(name="fp8", bits=8, scale_bits=32, block_shape=(128, 128))
INT8_CHANNEL = WeightFormat(name="int8", bits=8, scale_bits=32)
INT4_GROUP = WeightFormat(name="int4", bits=4, group_size=128, scale_bits=16, zero_point_bits=4)
NF4 = WeightFormat(name="nf4", bits=4, group_size=64, scale_bits=32)
# 4 bit, an 8-bit scale per 64, and a 32-bit scale per 256 of those.
NF4_DOUBLE = WeightFormat(name="nf4", bits=4.127)
MXFP4 = WeightFormat(name="mxfp4", bits=4, group_size=32, scale_bits=8)
MXFP6 = WeightFormat(name="mxfp6", bits=6, group_size=32, scale_bits=8)
MXFP8 = WeightFormat(name="mxfp8", bits=8, group_size=32, scale_bits=8)
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
    """The format of a GGUF file by its type (``Q4_K_M``); its tables are stored so too.

    Raises ``UnsupportedShapeError``.
    """
    bits = GGUF_BITS.get(name.lower())
    if bits is None:
        msg = f"GGUF type {name!r} is not known; known: {', '.join(sorted(GGUF_BITS))}"
        raise UnsupportedShapeError(msg)
    return WeightFormat(name=name.lower(), bits=bits)
