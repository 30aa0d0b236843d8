"""What weights on the host change of a plan: so many GiB, or as few as make a model fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from memroute.catalog import Accelerator
from memroute.sizing.options import NoOption, Option, Question, answer, options_for
from memroute.units import GIB, ceil_div


@dataclass(frozen=True, slots=True, kw_only=True)
class Offloading:
    """One accelerator, without and with weights on its host."""

    without: Option | NoOption
    with_weights: Option | NoOption | None
    """None: it fits without, and nobody named a size."""

    @property
    def fits_only_so(self) -> bool:
        """Whether it is the host that makes it fit."""
        return isinstance(self.without, NoOption) and isinstance(self.with_weights, Option)


def offloading_on(question: Question, accelerator: Accelerator, size_gib: int | None) -> Offloading:
    """Both ways there; ``size_gib``: of each device, None for the fewest that make it fit."""
    without = answer(question, accelerator)
    if size_gib is not None:
        asked = replace(question, weights_on_host_bytes=size_gib * GIB)
        if isinstance(without, Option):
            # The same precision and devices: what is compared is the host alone.
            asked = replace(
                asked,
                quantization=without.shape.quantization,
                tensor_parallel_size=without.shape.tensor_parallel_size,
            )
        return Offloading(without=without, with_weights=answer(asked, accelerator))
    if isinstance(without, Option):
        return Offloading(without=without, with_weights=None)
    found = min(_fitting(question, accelerator), key=_on_hosts_bytes, default=None)
    return Offloading(without=without, with_weights=found)


def _fitting(question: Question, accelerator: Accelerator) -> Iterator[Option]:
    """Ways to run it with as many GiB on the host as each is short of."""
    for short in options_for(question, accelerator):
        size = ceil_div(short.missing_bytes, GIB) * GIB
        asked = replace(
            question,
            quantization=short.shape.quantization,
            tensor_parallel_size=short.shape.tensor_parallel_size,
            weights_on_host_bytes=size,
        )
        found = answer(asked, accelerator)
        if isinstance(found, Option):
            yield found


def _on_hosts_bytes(option: Option) -> int:
    return option.shape.weights_on_host_bytes * option.num_devices
