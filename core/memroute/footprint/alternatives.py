"""What would make it fit: smaller shapes of the same replica, the smallest change first.

A refusal that only says "too large" leaves the reader to guess. Each alternative here is one
field of the ModelDeployment changed, with the footprint that it would have.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from memroute.errors import UnknownWeightsError, UnsupportedShapeError
from memroute.footprint.kv_cache import KVCacheDtype
from memroute.footprint.replica import ReplicaFootprint, ReplicaShape, replica_footprint
from memroute.footprint.weights import Quantization

MIN_CONTEXT_TOKENS = 1024
# Below this an alternative is not an answer any more.
TENSOR_PARALLEL_SIZES = (2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One change to the ModelDeployment, and what the replica would then need."""

    field: str
    """The field that changes: alternatives of one field are ordered, first is nearest."""
    change: str
    """As a person would write it into a ModelDeployment: ``kvCacheDtype=FP8``."""
    value: int | str
    """What the field then is."""
    footprint: ReplicaFootprint


def smaller_alternatives(shape: ReplicaShape) -> Iterator[Alternative]:
    """Shapes that need less per accelerator than ``shape``, lazily, nearest first per field.

    What does not help is left out: two ranks of a tiny model need more for communication than
    they save, and the padded pages of a hybrid do not shrink with their dtype.
    """
    need = replica_footprint(shape).total_bytes
    for field, change, value, smaller in _variants(shape):
        try:
            footprint = replica_footprint(smaller)
        except (UnsupportedShapeError, UnknownWeightsError):
            continue
        if footprint.total_bytes >= need:
            continue
        yield Alternative(field=field, change=change, value=value, footprint=footprint)


def _variants(shape: ReplicaShape) -> Iterator[tuple[str, str, int | str, ReplicaShape]]:
    """Field, change, value, and the shape that it makes."""
    if not shape.is_cache_quantized:
        smaller = replace(shape, kv_cache_dtype=KVCacheDtype.FP8)
        yield "kvCacheDtype", "kvCacheDtype=FP8", "FP8", smaller
    for concurrency in _halvings(shape.concurrency, 1):
        yield (
            "concurrency",
            f"concurrency <= {concurrency}",
            concurrency,
            replace(shape, concurrency=concurrency),
        )
    for tokens in _halvings(shape.max_context_tokens, MIN_CONTEXT_TOKENS):
        yield (
            "maxContextTokens",
            f"maxContextTokens <= {tokens}",
            tokens,
            replace(shape, max_context_tokens=tokens),
        )
    if shape.quantization is Quantization.NONE:
        for quantization, change in (
            (Quantization.FP8, "quantization=FP8"),
            # Engines quantize to FP8 as they load, and to nothing else.
            (Quantization.AWQ, "an AWQ checkpoint (quantization=AWQ)"),
        ):
            smaller = replace(shape, quantization=quantization)
            yield "quantization", change, quantization.value.upper(), smaller
    for size in TENSOR_PARALLEL_SIZES:
        if size > shape.tensor_parallel_size:
            yield (
                "tensorParallelSize",
                f"tensorParallelSize={size}",
                size,
                replace(shape, tensor_parallel_size=size),
            )


def _halvings(value: int, smallest: int) -> Iterator[int]:
    value //= 2
    while value >= smallest:
        yield value
        value //= 2
