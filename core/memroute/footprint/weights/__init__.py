"""Bytes of the weights: which matrices there are, how they are stored, who holds them.

``modules`` lists every matrix of an architecture, ``names`` what else it may be called,
``configs`` reads what a checkpoint says of its quantization, ``stored`` answers in which of the
``formats`` a module is, ``sharding`` which part of it a rank holds, ``model`` adds up,
``towers`` sizes what stands beside the text, ``settled`` compares with the bytes of the files,
``adapters`` sizes what comes on top, ``checkpoint`` reads sizes from published files.
"""

from memroute.footprint.weights.adapters import adapter_bytes_per_rank
from memroute.footprint.weights.checkpoint import (
    index_total_bytes,
    safetensors_header_bytes,
)
from memroute.footprint.weights.configs import checkpoint_format, stored_formats
from memroute.footprint.weights.formats import Quantization, WeightFormat, gguf_format
from memroute.footprint.weights.model import (
    active_parameters,
    mtp_bytes_per_rank,
    num_parameters,
    resolve_format,
    weights_bytes,
)
from memroute.footprint.weights.settled import (
    WeightsEstimate,
    WeightsSource,
    weights_per_rank,
)
from memroute.footprint.weights.sharding import SINGLE, Parallelism, check_parallelism
from memroute.footprint.weights.stored import StoredFormats

__all__ = [
    "SINGLE",
    "Parallelism",
    "Quantization",
    "StoredFormats",
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
    "stored_formats",
    "weights_bytes",
    "weights_per_rank",
]
