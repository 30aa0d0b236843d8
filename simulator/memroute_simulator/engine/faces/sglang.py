"""SGLang's face: its flags, its arithmetic of memory, its refusals."""

import argparse
import asyncio
import random
from collections.abc import Sequence

from memroute.catalog import accelerator_for_product
from memroute.footprint import KVCacheDtype, Parallelism, Quantization, weights_per_rank
from memroute.footprint.kv_cache.sglang import cell_bytes
from memroute.footprint.weights import adapter_bytes_per_rank
from memroute.units import GIB
from memroute_simulator.engine.arguments import EngineArguments
from memroute_simulator.engine.dialect import MetricsDialect
from memroute_simulator.engine.endings import ENDINGS
from memroute_simulator.engine.spec import EngineKind, EngineSpec
from memroute_simulator.engine.startup import (
    LOAD_BYTES_PER_SECOND,
    PROFILE_SECONDS,
    DriverClient,
    EngineStartError,
)

# SGLang finishes what it has after SIGTERM without a bound of its own.
DRAIN_SECONDS = 3600.0
# Tokens of a block of the simulated pool: SGLang's own page is 1, which would be slow here.
PAGE_TOKENS = 16
_DTYPES = {
    "auto": KVCacheDtype.AUTO, "bf16": KVCacheDtype.BFLOAT16, "fp8_e4m3": KVCacheDtype.FP8_E4M3,
    "fp8_e5m2": KVCacheDtype.FP8_E5M2,
}  # fmt: skip
_QUANTIZATIONS = ("fp8", "awq", "gptq", "mxfp4", "bitsandbytes")


def parser() -> argparse.ArgumentParser:
    """The flags that the operator uses, and a few that people do."""
    parser = argparse.ArgumentParser(prog="sglang.launch_server", allow_abbrev=True)
    add = parser.add_argument
    add("--model-path", "--model", dest="model", required=True)
    add("--served-model-name")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=30000)
    add("--context-length", type=int)
    add("--max-running-requests", type=int, default=256)
    add("--chunked-prefill-size", type=int, default=2048)
    add("--tp-size", "--tensor-parallel-size", "--tp", dest="tp", type=int, default=1)
    add("--kv-cache-dtype", choices=tuple(_DTYPES), default="auto")
    add("--quantization", choices=_QUANTIZATIONS)
    add("--mem-fraction-static", type=float, default=0.88)
    add("--max-total-tokens", type=int)
    add("--page-size", type=int)
    add("--enable-lora", action="store_true")
    add("--max-loras-per-batch", type=int, default=8)
    add("--max-lora-rank", type=int, default=16)
    add("--lora-target-modules", nargs="*")
    add("--disable-cuda-graph", action="store_true")
    add("--enable-metrics", action="store_true")
    add("--log-level", default="info")
    add("--simulator-ending", dest="ending", choices=sorted(ENDINGS), metavar="NAME")
    add("--simulator-time-scale", dest="time_scale", type=float, default=1.0)
    return parser


def parse(argv: Sequence[str]) -> tuple[EngineArguments, argparse.Namespace]:
    """The engine that these flags make; and the flags, for its start."""
    flags = parser().parse_args(argv)
    return (
        EngineArguments(
            model=flags.model,
            served_model_names=(flags.served_model_name or flags.model,),
            host=flags.host,
            port=flags.port,
            max_model_len=flags.context_length,
            max_num_seqs=flags.max_running_requests,
            max_num_batched_tokens=flags.chunked_prefill_size,
            kv_cache_dtype=_DTYPES[flags.kv_cache_dtype],
            quantization=Quantization(flags.quantization or "none"),
            tensor_parallel_size=flags.tp,
            block_size=flags.page_size or PAGE_TOKENS,
            kind=EngineKind.SGLANG,
            dialect=MetricsDialect.SGLANG,
            shutdown_timeout_seconds=DRAIN_SECONDS,
            ending=flags.ending,
            enable_lora=flags.enable_lora,
            max_loras=flags.max_loras_per_batch,
            max_lora_rank=flags.max_lora_rank,
            time_scale=flags.time_scale,
        ),
        flags,
    )


async def start(
    arguments: EngineArguments, flags: argparse.Namespace, driver: DriverClient
) -> tuple[EngineSpec, dict[str, float]]:
    """Allocate as SGLang does; the engine, and what its page says of its memory.

    Raises ``EngineStartError`` in its words.
    """
    architecture = arguments.architecture()
    devices = await driver.devices()
    if len(devices) < flags.tp:
        msg = f"RuntimeError: No CUDA GPUs are available (tp_size={flags.tp}, {len(devices)} seen)"
        raise EngineStartError(msg)
    accelerator = accelerator_for_product(str(devices[0]["product"]))
    if accelerator is None:
        msg = f"RuntimeError: unknown device {devices[0]['product']}"
        raise EngineStartError(msg)
    rng = random.Random(f"{arguments.model}/sglang")  # noqa: S311 - not for secrets
    weights = int(
        weights_per_rank(
            architecture,
            quantization=arguments.quantization,
            parallelism=Parallelism(tensor_parallel_size=flags.tp),
        ).bytes_per_rank
        * rng.uniform(1.001, 1.015)
    )
    if flags.enable_lora:
        # Its pool of adapters is there before it sizes the other one.
        weights += adapter_bytes_per_rank(
            architecture,
            max_adapters=flags.max_loras_per_batch,
            max_rank=flags.max_lora_rank,
            parallelism=Parallelism(tensor_parallel_size=flags.tp),
        )
    ranks = [(str(d["uuid"]), int(d["total_bytes"])) for d in devices[: flags.tp]]
    for rank, (uuid, total) in enumerate(ranks):
        # Context and communication are there before it looks.
        before = rng.uniform(0.3, 0.5) + (rng.uniform(1.4, 2.0) if flags.tp > 1 else 0.05)
        await driver.allocate(rank, uuid, int(before * GIB), total)
    free_before = min(await _free(driver, ranks))
    print(f"Load weight begin. avail mem={free_before / GIB:.2f} GB")
    await asyncio.sleep(weights / LOAD_BYTES_PER_SECOND * arguments.time_scale)
    for rank, (uuid, total) in enumerate(ranks):
        await driver.allocate(rank, uuid, weights, total)
    free_after = min(await _free(driver, ranks))
    print(
        f"Load weight end. avail mem={free_after / GIB:.2f} GB, mem usage={weights / GIB:.2f} GB."
    )
    cell = cell_bytes(
        architecture, kv_cache_dtype=arguments.kv_cache_dtype, tensor_parallel_size=flags.tp
    )
    page = arguments.block_size or PAGE_TOKENS
    tokens = _pool_tokens(flags, free_before, free_after, cell) // page * page
    pool = (tokens + page) * cell
    # What a chunk and the graphs take beside the static memory: below what it keeps free for them.
    activation = int(rng.uniform(1.0, 2.5) * GIB)
    graphs = 0 if flags.disable_cuda_graph else int(rng.uniform(0.3, 0.8) * GIB)
    await asyncio.sleep(PROFILE_SECONDS * arguments.time_scale)
    for rank, (uuid, total) in enumerate(ranks):
        await driver.allocate(rank, uuid, pool, total)
        await driver.allocate(rank, uuid, activation + graphs, total)
    print(f"KV Cache is allocated. #tokens: {tokens}, K size: {pool / 2 / GIB:.2f} GB")
    print(f"max_total_num_tokens={tokens}, context_len={arguments.max_model_len}")
    constants = {
        "weight_memory_usage_gb": weights / GIB,
        "kv_cache_memory_usage_gb": pool / GIB,
        "graph_memory_usage_gb": graphs / GIB,
    }
    # One block is the simulated pool's own, as SGLang's padding page is.
    spec = arguments.spec(architecture, accelerator, num_blocks=tokens // page + 1)
    print("The server is fired up and ready to roll!", flush=True)
    return spec, constants


def _pool_tokens(
    flags: argparse.Namespace, free_before: int, free_after: int, cell_bytes: int
) -> int:
    share = flags.mem_fraction_static
    rest = free_after - free_before * (1 - share)
    if rest <= 0:
        least = 1 - free_after / free_before
        msg = (
            f"ValueError: Loaded weights leave no GPU memory for the KV cache under "
            f"--mem-fraction-static={share}. Raise --mem-fraction-static above {least:.3f} "
            f"(minimum viable = 1 - available/pre = {least:.4f})."
        )
        raise EngineStartError(msg)
    tokens = int(rest // cell_bytes) if cell_bytes else 0
    if flags.max_total_tokens is not None:
        tokens = min(tokens, flags.max_total_tokens)
    if tokens < PAGE_TOKENS:
        msg = (
            f"RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. "
            f"Current value: mem_fraction_static={share}"
        )
        raise EngineStartError(msg)
    return tokens


async def _free(driver: DriverClient, ranks: Sequence[tuple[str, int]]) -> list[int]:
    free = {str(d["uuid"]): int(d["free_bytes"]) for d in await driver.devices()}
    return [free[uuid] for uuid, _ in ranks]
