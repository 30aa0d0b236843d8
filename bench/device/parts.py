"""What is measured, in which order, and how long each part may take: 7.5 minutes together.

| part | question |
| --- | --- |
| ``context`` | what does a process with nothing on the device take of it? |
| ``host`` | bytes per second between host and device by size of copy: pinned both ways, both at once, and pageable |
| ``shapes`` | four models' weights and KV cache, allocated as the footprint counts them: what is missing of the free memory? |
| ``sharing`` | two processes that move memory at once: what does each keep of what one has alone? |
| ``peer`` | the same rates between two devices, where there are two |

A part that has no time left is left out, and named. Each result is told as soon as it is there.
"""  # noqa: E501 - a table

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from bench.device.driver import Device, DriverError, Way
from memroute.catalog import architecture_for_model
from memroute.footprint import Quantization, ReplicaShape, replica_footprint
from memroute.units import MIB

# Of everything, the start of Python included. Unit: seconds. Source: what was asked for, less 30 s.
TOTAL_SECONDS: Final = 450.0
PART_SECONDS: Final[Mapping[str, float]] = {
    "context": 30.0, "host": 150.0, "shapes": 90.0, "sharing": 60.0, "peer": 60.0,
}  # fmt: skip
# One layer's page of a block of 16 tokens has 64 KiB with 8 KV heads of 128; larger blocks and
# merged layers have up to 2 MiB.
BLOCK_BYTES: Final = (4096, 16_384, 65_536, 262_144, MIB, 2 * MIB, 16 * MIB)
PAGEABLE_BYTES: Final = (65_536, 2 * MIB)
# Copies of one point take about so long at a usual rate: 0.2 s measure a rate to a percent.
POINT_SECONDS: Final = 0.2
MAX_COPIES: Final = 20_000
LOCAL_BYTES: Final = 64 * MIB
# How many allocations weights are taken to be: two for each layer of a large model.
NUM_TENSORS: Final = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model whose footprint is allocated."""

    model: str
    quantization: Quantization = Quantization.NONE
    context_tokens: int = 8192
    concurrency: int = 4


CASES: Final = (
    Case(model="Qwen/Qwen3-0.6B"),
    Case(model="meta-llama/Llama-3.1-8B"),
    Case(model="openai/gpt-oss-20b"),
    Case(model="Qwen/Qwen3-32B"),
    Case(model="Qwen/Qwen3-32B", quantization=Quantization.FP8),
)
NUM_CASES: Final = 4


class Machine(Protocol):
    """What there is to measure, and other processes on it."""

    devices: Sequence[Device]

    def hold(self, index: int) -> AbstractContextManager[None]:
        """While it lasts, another process has a context on the device and nothing else."""
        ...

    def sharers(self, index: int, count: int, seconds: float) -> list[float]:
        """Bytes per second that each of so many processes moves within the device at once."""
        ...


class Budget:
    """Seconds that are left, of all and of a part."""

    def __init__(self, clock: Callable[[], float], total_seconds: float = TOTAL_SECONDS) -> None:
        self._clock = clock
        self._end = clock() + total_seconds
        self._part_end = self._end

    def begin(self, seconds: float) -> bool:
        """Begin a part of at most so long; False where less than a tenth of that is left."""
        now = self._clock()
        self._part_end = min(self._end, now + seconds)
        return self._part_end - now >= seconds / 10

    @property
    def is_over(self) -> bool:
        """Whether the part has to come to an end."""
        return self._clock() >= self._part_end


Result = dict[str, Any]


def measure(machine: Machine, budget: Budget) -> Iterator[tuple[str, Result | None]]:
    """Each part's result as it comes; None of one that had no time, or for which nothing is there.

    A part that fails is told by its error, and the others go on.
    """
    device = machine.devices[0]
    parts: dict[str, Callable[[], Result | None]] = {
        "context": lambda: context(machine, device),
        "host": lambda: host_rates(device, budget),
        "shapes": lambda: shapes(device, budget),
        "sharing": lambda: sharing(machine, device),
        "peer": lambda: peer_rates(machine, budget),
    }
    for name, part in parts.items():
        if not budget.begin(PART_SECONDS[name]):
            yield name, None
            continue
        try:
            yield name, part()
        except DriverError as error:
            yield name, {"error": str(error)}


def context(machine: Machine, device: Device) -> Result:
    """What another process's bare context takes: seen from this one's."""
    device.open()
    before, total = device.memory()
    with machine.hold(device.index):
        during, _ = device.memory()
    after, _ = device.memory()
    return {
        "totalBytes": total,
        "freeBytes": before,
        "contextBytes": before - during,
        "givenBackBytes": after - during,
    }


def num_copies(block_bytes: int) -> int:
    """Copies that take about ``POINT_SECONDS`` at 50 GB/s and 4 us of each."""
    return max(8, min(MAX_COPIES, int(POINT_SECONDS / (4e-6 + block_bytes / 50e9))))


def host_rates(device: Device, budget: Budget) -> Result:
    """Bytes per second by size of copy. Both ways first: what is left out is the least needed."""
    device.open()
    points: list[Result] = []
    wanted = [(way, True, size) for size in BLOCK_BYTES for way in (Way.READ, Way.WRITE)]
    wanted += [(Way.BOTH, True, size) for size in BLOCK_BYTES[2::2]]
    wanted += [(way, False, size) for size in PAGEABLE_BYTES for way in (Way.READ, Way.WRITE)]
    wanted += [(Way.LOCAL, True, LOCAL_BYTES)]
    for way, pinned, size in wanted:
        if budget.is_over:
            break
        count = num_copies(size)
        seconds = device.copy_seconds(way, size, count, pinned=pinned)
        moved = size * count * (2 if way in {Way.BOTH, Way.LOCAL} else 1)
        points.append(
            {
                "way": way.value, "isPinned": pinned, "blockBytes": size,
                "bytesPerSecond": moved / seconds,
            }
        )  # fmt: skip
    return {"points": points, "numLeftOut": len(wanted) - len(points)}


def shapes(device: Device, budget: Budget) -> Result:
    """Four models: bytes that the formulas say, and what is missing of the free memory then."""
    device.open()
    found: list[Result] = []
    for case in CASES:
        if budget.is_over or len(found) == NUM_CASES:
            break
        footprint = replica_footprint(
            ReplicaShape(
                architecture=architecture_for_model(case.model),
                max_context_tokens=case.context_tokens,
                concurrency=case.concurrency,
                quantization=case.quantization,
            )
        )
        weights, kv_cache = footprint.weights.low, footprint.kv_cache_bytes
        free, _ = device.memory()
        if weights + kv_cache > free:
            continue
        taken = _taken(device, [*_tensors(weights), kv_cache])
        found.append(
            {
                "model": case.model, "quantization": case.quantization.value,
                "weightsBytes": weights, "kvCacheBytes": kv_cache, "takenBytes": taken,
                "errorRatio": taken / (weights + kv_cache) - 1,
            }
        )  # fmt: skip
    return {"shapes": found}


def _tensors(size: int) -> Iterator[int]:
    each = max(1, size // NUM_TENSORS)
    for _ in range(NUM_TENSORS - 1):
        yield each
    yield size - each * (NUM_TENSORS - 1)


def _taken(device: Device, sizes: Sequence[int]) -> int:
    before, _ = device.memory()
    addresses: list[int] = []
    try:
        addresses += [device.allocate(size) for size in sizes]
        return before - device.memory()[0]
    finally:
        for address in addresses:
            device.free(address)


def sharing(machine: Machine, device: Device, seconds: float = 5.0) -> Result:
    """One process that moves memory within the device, then two at once."""
    (alone,) = machine.sharers(device.index, 1, seconds)
    both = machine.sharers(device.index, 2, seconds)
    return {
        "aloneBytesPerSecond": alone,
        "togetherBytesPerSecond": both,
        "keptRatio": sum(both) / alone if alone else None,
    }


def peer_rates(machine: Machine, budget: Budget) -> Result | None:
    """From the first device to the second; None where there is one alone, or no peer access."""
    if len(machine.devices) < 2:  # noqa: PLR2004 - two ends
        return None
    device, other = machine.devices[0], machine.devices[1]
    device.open()
    points: list[Result] = []
    for size in BLOCK_BYTES[2:]:
        if budget.is_over:
            break
        count = num_copies(size)
        seconds = device.peer_seconds(other.index, size, count)
        if seconds is None:
            return {"hasPeerAccess": False, "points": []}
        points.append({"blockBytes": size, "bytesPerSecond": size * count / seconds})
    return {"hasPeerAccess": True, "points": points}
