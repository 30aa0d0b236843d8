"""Bytes of the weights, by closed formula from the architecture.

With h hidden, L layers, V vocabulary, n heads, k KV heads, d head dimension, I intermediate:

```text
embedding  V*h            output head  V*h unless tied        final norm  h
per layer  attention h*n*d + 2*h*k*d + n*d*h    MLP 3*h*I    norms 2h
           + (n + 2k)*d biases (Qwen2)          + 2d (Qwen3)
```

Exact to the parameter against transformers 5.19 for every model in the catalogue.
"""

from dataclasses import dataclass
from enum import StrEnum

from memroute.errors import UnsupportedShapeError
from memroute.footprint.architecture import ModelArchitecture
from memroute.units import ceil_div

UNQUANTIZED_BITS = 16.0
VOCAB_PADDING = 64
# vLLM pads the vocabulary to a multiple of 64 (vocab_parallel_embedding.py).


class Quantization(StrEnum):
    """How the linear layers are stored; embeddings, head and norms stay at 16 bit."""

    NONE = "none"
    FP8 = "fp8"
    AWQ = "awq"
    GPTQ = "gptq"

    @property
    def bits_per_weight(self) -> float:
        """Effective bits of one quantized weight, its share of the scales included."""
        return {
            Quantization.NONE: UNQUANTIZED_BITS,
            # 128 x 128 blocks with an fp32 scale each: 8 + 32 / 16384 (Qwen3-FP8).
            Quantization.FP8: 8 + 32 / 16384,
            # Groups of 128 with a 16-bit scale and a 4-bit zero point:
            # Qwen3-8B-AWQ computes to 5.680 GiB, its file is 5.68.
            Quantization.AWQ: 4 + 16 / 128 + 4 / 128,
            Quantization.GPTQ: 4 + 16 / 128 + 4 / 128,
        }[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCount:
    """Parameters of one rank, by what happens to them."""

    linear: int
    """Attention and MLP matrices: quantized, split over the ranks."""
    embedding: int
    """Embedding and output head: 16 bit, split over the ranks."""
    small: int
    """Norms and biases: 16 bit, counted as if on every rank."""

    @property
    def total(self) -> int:
        """All parameters of the rank."""
        return self.linear + self.embedding + self.small


def check_tensor_parallel(architecture: ModelArchitecture, tensor_parallel_size: int) -> None:
    """Raise ``UnsupportedShapeError`` unless an engine can split the model so.

    Query heads must divide evenly; KV heads divide, or are replicated evenly.
    """
    heads, kv_heads = architecture.num_attention_heads, architecture.num_kv_heads
    if heads % tensor_parallel_size:
        msg = f"{heads} attention heads cannot be split over tensor parallel {tensor_parallel_size}"
        raise UnsupportedShapeError(msg)
    if kv_heads % tensor_parallel_size and tensor_parallel_size % kv_heads:
        msg = (
            f"{kv_heads} KV heads can neither be split over nor replicated to tensor parallel "
            f"{tensor_parallel_size}"
        )
        raise UnsupportedShapeError(msg)


def kv_heads_per_rank(architecture: ModelArchitecture, tensor_parallel_size: int) -> int:
    """KV heads that each rank holds: split evenly, but never less than one (replicated)."""
    check_tensor_parallel(architecture, tensor_parallel_size)
    return max(1, architecture.num_kv_heads // tensor_parallel_size)


def count_parameters(
    architecture: ModelArchitecture, *, tensor_parallel_size: int = 1
) -> ParameterCount:
    """Parameters that one rank holds."""
    a = architecture
    tp = tensor_parallel_size
    kv_heads = kv_heads_per_rank(a, tp)
    attention = 2 * a.hidden_size * (a.num_attention_heads // tp) * a.head_dim
    attention += 2 * a.hidden_size * kv_heads * a.head_dim
    mlp = 3 * a.hidden_size * ceil_div(a.intermediate_size, tp)
    norms = 2 * a.hidden_size + (2 * a.head_dim if a.has_qk_norm else 0)
    biases = (
        (a.num_attention_heads // tp + 2 * kv_heads) * a.head_dim if a.has_attention_bias else 0
    )
    vocab = a.vocab_size
    if tp > 1:
        vocab = ceil_div(ceil_div(vocab, VOCAB_PADDING) * VOCAB_PADDING, tp)
    tables = 1 if a.tied_embeddings else 2
    return ParameterCount(
        linear=a.num_layers * (attention + mlp),
        embedding=tables * vocab * a.hidden_size,
        small=a.num_layers * (norms + biases) + a.hidden_size,
    )


def num_parameters(architecture: ModelArchitecture) -> int:
    """Parameters of the whole model, tied embeddings counted once."""
    return count_parameters(architecture).total


def weights_bytes_per_rank(
    architecture: ModelArchitecture,
    *,
    quantization: Quantization = Quantization.NONE,
    tensor_parallel_size: int = 1,
) -> int:
    """Bytes of the weights on one rank.

    Raises ``UnsupportedShapeError`` when the heads do not divide.
    """
    count = count_parameters(architecture, tensor_parallel_size=tensor_parallel_size)
    linear_bytes = count.linear * quantization.bits_per_weight / 8
    return int(linear_bytes) + 2 * (count.embedding + count.small)
