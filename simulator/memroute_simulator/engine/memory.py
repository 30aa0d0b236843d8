"""What a running engine holds of its devices and of its node, and gives back while it sleeps.

```text
awake    device: all that the start took              host: KV tier + backup (from the first sleep)
asleep   device: 1.2 GiB (context, NCCL's buffers)    host: the same
```

A driver grants what is free. So a device that was lent to somebody else meanwhile refuses the wake.
The backup stays with the process after it has woken (vllm#16663).
"""

import random
from dataclasses import dataclass

from memroute.footprint import ReplicaFootprint
from memroute.hierarchy import HostLink, SleepLevel, host_link_of, sleep_of
from memroute.hierarchy.links import PCIE_3
from memroute.hierarchy.sleep import DEVICE_REST_BYTES, RUNTIME_BYTES, WAKE_SECONDS
from memroute_simulator.engine.arguments import EngineArguments
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.engine.startup import DriverClient

WEIGHTS, KV_CACHE = "weights", "kv_cache"
TAGS = (WEIGHTS, KV_CACHE)
# How fast the pinned allocator takes pages for the first backup: Qwen3-8B at level 1 on an A100
# fell asleep in 10.57 s, of which the copy is 0.65: 22 GiB in 9.9 s (vllm#48337).
PIN_BYTES_PER_SECOND = 2.4e9
# Host bytes per byte of weights: between no rounding and every tensor up to the next power of two,
# drawn per model. 22 GiB for 16 GB is 1.48.
BACKUP_RATIOS = (1.1, 1.9)
# Runtime and graph pools, of the bytes that are reserved for them: drawn per model.
RUNTIME_RATIOS = (0.3, 1.0)


@dataclass(slots=True)
class RankMemory:
    """What one rank holds on its device."""

    rank: int
    uuid: str
    total_bytes: int
    """Of the device."""
    awake_bytes: int
    """All that it holds while it is awake."""
    held_bytes: int
    weights_bytes: int


class EngineMemory:
    """The bytes of all ranks, and of their host. Owns what the driver was told."""

    def __init__(
        self,
        footprint: ReplicaFootprint,
        link: HostLink,
        *,
        name: str,
        host_kv_bytes: int = 0,
        driver: DriverClient | None = None,
    ) -> None:
        """``name``: of the model; what is drawn is its own. ``driver`` None: nobody counts."""
        self._driver = driver
        self._sleeps = {level: sleep_of(footprint, level, link) for level in SleepLevel}
        self._write_bytes_per_second = link.shared_by(footprint.num_devices).write_bytes_per_second
        rng = random.Random(f"backup/{name}")  # noqa: S311 - not for secrets
        ranks = self._num_ranks = footprint.num_devices
        self._weights = footprint.weights.expected
        runtime = int(ranks * RUNTIME_BYTES * rng.uniform(*RUNTIME_RATIOS))
        copied = int(ranks * self._weights * rng.uniform(*BACKUP_RATIOS))
        self._backups = {
            SleepLevel.WEIGHTS_ON_HOST: copied + runtime,
            SleepLevel.NOTHING_KEPT: runtime,
        }
        self._host_kv_bytes = host_kv_bytes
        self._backup_bytes = 0
        self.ranks: list[RankMemory] = []
        if driver is not None:
            self.ranks = [
                RankMemory(rank, uuid, total, held, held, min(held, self._weights))
                for rank, (uuid, total, held) in sorted(driver.held.items())
            ]

    @classmethod
    def of(
        cls, arguments: EngineArguments, spec: EngineSpec, driver: DriverClient | None
    ) -> "EngineMemory":
        """The memory of an engine that has started.

        An accelerator whose link nobody knows has the slowest. Raises ``MemrouteError`` where
        nobody knows the model's bytes.
        """
        link = spec.host_link or host_link_of(spec.accelerator) or PCIE_3
        return cls(
            spec.footprint, link, name=arguments.model, host_kv_bytes=host_kv_bytes(spec),
            driver=driver,
        )  # fmt: skip

    @property
    def host_bytes(self) -> int:
        """Pinned by the engine on its node by now."""
        return self._host_kv_bytes + self._backup_bytes

    @property
    def device_bytes(self) -> int:
        """Held on all of its devices."""
        return sum(rank.held_bytes for rank in self.ranks)

    async def back_up(self, level: SleepLevel) -> float:
        """Pin what this level keeps on the host; seconds that this and the copy take."""
        before = self._backup_bytes
        self._backup_bytes = max(before, self._backups[level])
        if self._driver is not None and self._backup_bytes != before:
            await self._driver.hold_host(self.host_bytes)
        # Every rank pins its own.
        pinning = (self._backup_bytes - before) / self._num_ranks / PIN_BYTES_PER_SECOND
        copied = self._weights if level is SleepLevel.WEIGHTS_ON_HOST else 0
        return pinning + copied / self._write_bytes_per_second

    async def free_devices(self) -> None:
        """Give every device back all but what stays of a sleeping process."""
        for rank in self.ranks:
            freed = max(0, rank.held_bytes - DEVICE_REST_BYTES)
            if freed and self._driver is not None:
                await self._driver.free(rank.rank, rank.uuid, freed)
            rank.held_bytes -= freed

    async def take_devices(self, tags: set[str]) -> None:
        """Allocate again what these tags name. Raises ``EngineStartError``: CUDA's refusal."""
        for rank in self.ranks:
            missing = rank.awake_bytes - rank.held_bytes
            if tags == {WEIGHTS}:
                missing = min(missing, rank.weights_bytes)
            elif tags == {KV_CACHE} and rank.held_bytes <= DEVICE_REST_BYTES:
                missing = max(0, missing - rank.weights_bytes)
            if missing and self._driver is not None:
                await self._driver.allocate(rank.rank, rank.uuid, missing, rank.total_bytes)
            rank.held_bytes += missing

    def wake_seconds(self, level: SleepLevel, tag: str) -> float:
        """Seconds to wake what the tag names; of weights at level 2 the mapping alone."""
        own = WAKE_SECONDS / len(TAGS)
        if tag == WEIGHTS and level is SleepLevel.WEIGHTS_ON_HOST:
            return own + self._sleeps[level].wake_seconds - WAKE_SECONDS
        return own

    @property
    def reload_seconds(self) -> float:
        """Seconds to read the weights from storage again."""
        return self._sleeps[SleepLevel.NOTHING_KEPT].wake_seconds - WAKE_SECONDS


def host_kv_bytes(spec: EngineSpec) -> int:
    """What the engine pins of its node from the start on: its KV tier, of all its ranks."""
    return (spec.host_kv_bytes or 0) * spec.parallelism.data_parallel_size
