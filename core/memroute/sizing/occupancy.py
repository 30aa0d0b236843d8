"""How much of a card's time an engine takes while it has work."""

from collections.abc import Iterator, Mapping
from functools import lru_cache

from memroute.bandwidth import StepTime
from memroute.catalog import Accelerator, accelerator_for_product
from memroute.errors import MemrouteError
from memroute.footprint import ReplicaShape

# Shapes and accelerators whose law is remembered: some milliseconds each, asked in every plan.
MAX_REMEMBERED = 4096


class Occupancies(Mapping[str, float]):
    """The share of each kind of accelerator's time, by product; worked out when it is asked for.

    Products of which it is not known are missing.
    """

    def __init__(self, shape: ReplicaShape) -> None:
        self._shape = shape
        self._known: dict[str, float | None] = {}

    def __getitem__(self, product: str) -> float:
        if product not in self._known:
            accelerator = accelerator_for_product(product)
            known = None if accelerator is None else occupancy_ratio(self._shape, accelerator)
            self._known[product] = known
        found = self._known[product]
        if found is None:
            raise KeyError(product)
        return found

    def __iter__(self) -> Iterator[str]:
        return (product for product, ratio in self._known.items() if ratio is not None)

    def __len__(self) -> int:
        return sum(ratio is not None for ratio in self._known.values())


@lru_cache(maxsize=MAX_REMEMBERED)
def occupancy_ratio(shape: ReplicaShape, accelerator: Accelerator) -> float | None:
    """Share of a decode step in which the card moves or computes; None for an unknown family.

    With as many sequences as the shape asks for, half of their context there. What traffic an
    engine gets is not known before it comes: a share of the time in which it has work.
    """
    if not shape.architecture.is_exact:
        return None
    try:
        law = StepTime.of(
            shape.architecture,
            accelerator,
            quantization=shape.quantization,
            kv_cache_dtype=shape.kv_cache_dtype,
            parallelism=shape.parallelism,
            is_eager=shape.is_eager,
        )
        count = max(1, min(shape.concurrency, shape.max_num_seqs))
        step = law.decode_seconds(count, max(1, shape.max_context_tokens // 2))
        return round(min(1.0, max(0.0, 1 - law.idle_seconds(count) / step)), 3)
    except (MemrouteError, ArithmeticError, LookupError, ValueError):
        # A configuration may hold any number; a share that cannot be worked out is not known.
        return None
