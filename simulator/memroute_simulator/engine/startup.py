"""What an engine allocates when it starts, in vLLM's order, refused with vLLM's words.

```text
context → snapshot → start gate (utilization) → weights → activation peak → KV pool → graphs
```

The bytes are drawn (seeded by the model's name) from the ranges of public start logs, below
the constants that memroute reserves: as on hardware, an estimate is only ever an estimate.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from memroute.catalog import accelerator_for_product
from memroute.footprint import (
    KVCacheLayout,
    ModelArchitecture,
    Parallelism,
    weights_per_rank,
)
from memroute.units import GIB
from memroute_simulator.engine.arguments import EngineArguments
from memroute_simulator.engine.hub_models import ModelNotFoundError, architecture_of
from memroute_simulator.engine.spec import EngineSpec

if TYPE_CHECKING:  # whoever only reads flags needs no HTTP client
    import aiohttp

LOAD_BYTES_PER_SECOND = 16e9
# Weights from a local NVMe cache: 8B parameters load in about a second.
PROFILE_SECONDS = 0.3


class EngineStartError(Exception):
    """The engine cannot start; the message is the engine's own."""


class DriverClient:
    """The node's driver, as a process sees it. Close the session when done.

    Owns what the process holds: ``held``.
    """

    def __init__(self, url: str, session: "aiohttp.ClientSession") -> None:
        self.held: dict[int, tuple[str, int, int]] = {}
        """Rank → its device, the device's bytes, and those that it has allocated."""
        self.url = url
        self._session = session

    async def devices(self) -> list[dict[str, int | str]]:
        """The visible devices: uuid, product, total_bytes, free_bytes."""
        async with self._session.get(f"{self.url}/devices") as response:
            response.raise_for_status()
            devices: list[dict[str, int | str]] = await response.json()
            return devices

    async def allocate(self, rank: int, uuid: str, num_bytes: int, total_bytes: int) -> None:
        """Allocate on one device. Raises ``EngineStartError`` with torch's message."""
        body = {"uuid": uuid, "bytes": num_bytes}
        async with self._session.post(f"{self.url}/allocate", json=body) as response:
            if response.status == 507:  # noqa: PLR2004 - Insufficient Storage: out of memory
                free = (await response.json())["free_bytes"]
                msg = (
                    f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate "
                    f"{num_bytes / GIB:.2f} GiB. GPU {rank} has a total capacity of "
                    f"{total_bytes / GIB:.2f} GiB of which {free / GIB:.2f} GiB is free."
                )
                raise EngineStartError(msg)
            if response.status >= 400:  # noqa: PLR2004
                msg = f"RuntimeError: CUDA error: device unavailable ({await response.text()})"
                raise EngineStartError(msg)
        _, _, before = self.held.get(rank, (uuid, total_bytes, 0))
        self.held[rank] = (uuid, total_bytes, before + num_bytes)

    async def free(self, rank: int, uuid: str, num_bytes: int) -> None:
        """Give bytes of one device back."""
        body = {"uuid": uuid, "bytes": num_bytes}
        async with self._session.post(f"{self.url}/free", json=body) as response:
            response.raise_for_status()
        _, total_bytes, before = self.held[rank]
        self.held[rank] = (uuid, total_bytes, before - num_bytes)

    async def hold_host(self, num_bytes: int) -> None:
        """So much of the node's memory is pinned by now, all together.

        A node that has not as much kills a process for it: this one, or another.
        """
        async with self._session.post(f"{self.url}/host", json={"bytes": num_bytes}) as response:
            response.raise_for_status()


Start = Callable[[EngineArguments, DriverClient], Awaitable[tuple[EngineSpec, dict[str, float]]]]
"""Allocates all that an engine holds; the engine, and what its page says of its start."""


async def start_vllm(
    arguments: EngineArguments, driver: DriverClient
) -> tuple[EngineSpec, dict[str, float]]:
    """As vLLM does it, whose page says nothing of its start. Raises ``EngineStartError``."""
    return await _start_engine(arguments, driver), {}


async def _start_engine(arguments: EngineArguments, driver: DriverClient) -> EngineSpec:
    """Allocate everything on every rank's device. Raises ``EngineStartError``."""
    try:
        architecture = await architecture_of(arguments)
    except ModelNotFoundError as error:
        raise EngineStartError(str(error)) from error
    tp = arguments.tensor_parallel_size
    devices = await driver.devices()
    if arguments.link is None and devices and devices[0].get("link"):
        arguments = replace(arguments, link=str(devices[0]["link"]))
    if len(devices) < tp:
        msg = (
            f"ValueError: tensor parallel size ({tp}) exceeds the number of visible "
            f"devices ({len(devices)})"
        )
        raise EngineStartError(msg)
    accelerator = accelerator_for_product(str(devices[0]["product"]))
    if accelerator is None:
        msg = f"RuntimeError: unknown device {devices[0]['product']}"
        raise EngineStartError(msg)
    layout = arguments.spec(architecture, accelerator).layout
    rng = random.Random(f"{arguments.model}/{arguments.seed}")  # noqa: S311 - not for secrets
    kv_bytes = [
        await _start_rank(arguments, architecture, driver, device, rank, rng)
        for rank, device in enumerate(devices[:tp])
    ]
    num_blocks = layout.num_blocks_in(min(kv_bytes))
    max_model_len = arguments.max_model_len or architecture.max_context_tokens or 0
    _check_capacity(layout, num_blocks, max_model_len, min(kv_bytes))
    return arguments.spec(architecture, accelerator, num_blocks=num_blocks)


async def _start_rank(
    arguments: EngineArguments,
    architecture: ModelArchitecture,
    driver: DriverClient,
    device: dict[str, int | str],
    rank: int,
    rng: random.Random,
) -> int:
    uuid, total = str(device["uuid"]), int(device["total_bytes"])
    tp = arguments.tensor_parallel_size
    context = int(rng.uniform(0.3, 0.55) * GIB)
    await driver.allocate(rank, uuid, context, total)
    free_at_snapshot = await _free_bytes(driver, uuid)
    requested = math.ceil(total * arguments.gpu_memory_utilization)
    # Also where the pool has an absolute size: vLLM asks in any case (``request_memory``).
    if free_at_snapshot < requested:
        msg = (
            f"ValueError: Free memory on device cuda:{rank} ({free_at_snapshot / GIB:.2f}/"
            f"{total / GIB:.2f} GiB) on startup is less than desired GPU memory utilization "
            f"({arguments.gpu_memory_utilization}, {requested / GIB:.2f} GiB). Decrease GPU memory "
            f"utilization or reduce GPU memory used by other processes."
        )
        raise EngineStartError(msg)
    weights = int(
        weights_per_rank(
            architecture,
            quantization=arguments.quantization,
            parallelism=Parallelism(tensor_parallel_size=tp),
        ).bytes_per_rank
        * rng.uniform(1.001, 1.015)
    )
    non_torch = int((rng.uniform(0.05, 0.25) if tp == 1 else rng.uniform(1.4, 2.0)) * GIB)
    print(f"INFO loading weights of {arguments.model}, rank {rank}: {weights / GIB:.2f} GiB")
    await asyncio.sleep(weights / LOAD_BYTES_PER_SECOND * arguments.time_scale)
    await driver.allocate(rank, uuid, weights + non_torch, total)
    activation = int(rng.uniform(0.9, 1.4) * GIB)
    await asyncio.sleep(PROFILE_SECONDS * arguments.time_scale)
    await driver.allocate(rank, uuid, activation, total)
    free_now = await _free_bytes(driver, uuid)
    consumed = free_at_snapshot - free_now
    if consumed < 0:
        msg = (
            f"AssertionError: Error in memory profiling. Initial free memory "
            f"{free_at_snapshot / GIB:.2f} GiB, current free memory {free_now / GIB:.2f} GiB. "
            f"This happens when other processes sharing the same container release GPU memory "
            f"while vLLM is profiling during initialization."
        )
        raise EngineStartError(msg)
    graphs = int(rng.uniform(0.3, 0.9) * GIB)
    kv_bytes = arguments.kv_cache_memory_bytes
    if kv_bytes is None:
        kv_bytes = requested - consumed - graphs
    if kv_bytes <= 0:
        msg = (
            "ValueError: No available memory for the cache blocks. Try increasing "
            "`gpu_memory_utilization` when initializing the engine."
        )
        raise EngineStartError(msg)
    print(f"INFO Available KV cache memory: {kv_bytes / GIB:.2f} GiB")
    await driver.allocate(rank, uuid, kv_bytes, total)
    await driver.allocate(rank, uuid, graphs, total)
    return kv_bytes


async def _free_bytes(driver: DriverClient, uuid: str) -> int:
    for device in await driver.devices():
        if device["uuid"] == uuid:
            return int(device["free_bytes"])
    msg = "RuntimeError: CUDA error: device lost"
    raise EngineStartError(msg)


def _check_capacity(
    layout: KVCacheLayout, num_blocks: int, max_model_len: int, kv_bytes: int
) -> None:
    needed = layout.blocks_for(max_model_len)
    if num_blocks >= needed:
        return
    longest = layout.longest_context_tokens(kv_bytes, max_model_len)
    msg = (
        f"ValueError: To serve at least one request with the model's max seq len "
        f"({max_model_len}), ({needed * layout.bytes_per_block / GIB:.2f} GiB KV cache is needed, "
        f"which is larger than the available KV cache memory ({kv_bytes / GIB:.2f} GiB). Based on "
        f"the available memory, the estimated maximum model length is "
        f"{longest}. Try increasing `gpu_memory_utilization` or decreasing "
        f" `max_model_len` when initializing the engine."
    )
    raise EngineStartError(msg)
