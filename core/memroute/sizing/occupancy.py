"""How much of a card's time an engine takes while it has work."""

from functools import lru_cache

from memroute.bandwidth import StepTime
from memroute.catalog import Accelerator, accelerator_for_product
from memroute.errors import MemrouteError
from memroute.footprint import ReplicaShape

MAX_REMEMBERED = 4096
# Shapes and accelerators whose law is remembered: some milliseconds each, asked in every plan.


def occupancies_by_product(shape: ReplicaShape, products: frozenset[str]) -> dict[str, float]:
    """The share of each kind of accelerator's time; without those of which it is not known."""
    found = {}
    for product in products:
        accelerator = accelerator_for_product(product)
        ratio = None if accelerator is None else occupancy_ratio(shape, accelerator)
        if ratio is not None:
            found[product] = ratio
    return found


@lru_cache(maxsize=MAX_REMEMBERED)
def occupancy_ratio(shape: ReplicaShape, accelerator: Accelerator) -> float | None:
    """Share of a decode step in which the card moves or computes; None for an unknown family.

    With as many sequences as the shape asks for, half of their context there. What traffic an
    engine gets is not known before it comes: a share of the time in which it has work.
    """
    try:
        law = StepTime.of(
            shape.architecture,
            accelerator,
            quantization=shape.quantization,
            kv_cache_dtype=shape.kv_cache_dtype,
            parallelism=shape.parallelism,
            is_eager=shape.is_eager,
        )
    except MemrouteError:
        return None
    count = max(1, min(shape.concurrency, shape.max_num_seqs))
    step = law.decode_seconds(count, max(1, shape.max_context_tokens // 2))
    return round(max(0.0, 1 - law.idle_seconds(count) / step), 3)
