"""Bytes of the weights: which matrices there are, how they are stored, who holds them.

``modules`` lists every matrix of an architecture, ``quantization`` says how many bytes each
takes, ``sharding`` which part of it a rank holds, ``model`` adds up, ``adapters`` sizes what
comes on top, ``checkpoint`` reads sizes from published files.
"""

from memroute.footprint.weights.adapters import adapter_bytes_per_rank
from memroute.footprint.weights.checkpoint import (
    index_total_bytes,
    safetensors_header_bytes,
)
from memroute.footprint.weights.model import (
    WeightsEstimate,
    WeightsSource,
    active_parameters,
    mtp_bytes_per_rank,
    num_parameters,
    resolve_format,
    weights_bytes,
    weights_per_rank,
)
from memroute.footprint.weights.quantization import (
    Quantization,
    WeightFormat,
    checkpoint_format,
    gguf_format,
)
from memroute.footprint.weights.sharding import SINGLE, Parallelism, check_parallelism

__all__ = [
    "SINGLE",
    "Parallelism",
    "Quantization",
    "WeightFormat",
    "WeightsEstimate",
    "WeightsSource",
    "active_parameters",
    "adapter_bytes_per_rank",
    "check_parallelism",
    "checkpoint_format",
    "gguf_format",
    "index_total_bytes",
    "mtp_bytes_per_rank",
    "num_parameters",
    "resolve_format",
    "safetensors_header_bytes",
    "weights_bytes",
    "weights_per_rank",
]
