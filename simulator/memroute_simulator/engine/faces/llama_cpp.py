"""llama.cpp's face: llama-server's flags; all of its memory is allocated at the start."""

import argparse
import asyncio
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from memroute.catalog import accelerator_for_product
from memroute.errors import UnsupportedShapeError
from memroute.footprint import ModelArchitecture, num_parameters
from memroute.footprint.kv_cache.llama_cpp import cache_bytes, slot_tokens
from memroute.footprint.runtime_llama_cpp import llama_cpp_step_bytes
from memroute.footprint.weights import gguf_format
from memroute.units import GIB
from memroute_simulator.engine.arguments import EngineArguments
from memroute_simulator.engine.dialect import MetricsDialect
from memroute_simulator.engine.endings import ENDINGS
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.engine.startup import (
    LOAD_BYTES_PER_SECOND,
    DriverClient,
    EngineStartError,
)

# The number of layers in this program's flag that means all of them.
ALL_LAYERS = 99
_TYPE = re.compile(r"[-.](q\d[\w]*|iq\d[\w]*|f16|bf16|mxfp4)\.gguf$", re.IGNORECASE)


class _Parser(argparse.ArgumentParser):
    """Refuses in llama.cpp's words, with its exit code."""

    def error(self, message: str) -> NoReturn:
        flag = message.rpartition(": ")[2].split(" ")[0]
        sys.stderr.write(f"error: invalid argument: {flag}\n")
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    """The flags that the operator uses, and a few that people do."""
    parser = _Parser(prog="llama-server", allow_abbrev=False)
    add = parser.add_argument
    add("-m", "--model")
    add("-hf", "--hf-repo", dest="repository")
    add("-hff", "--hf-file", dest="file")
    add("-a", "--alias")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8080)
    add("-c", "--ctx-size", dest="context", type=int, default=4096)
    add("-np", "--parallel", dest="slots", type=int, default=4)
    add("-ngl", "--n-gpu-layers", dest="layers", type=int, default=ALL_LAYERS)
    add("-ub", "--ubatch-size", type=int, default=512)
    add("-fa", "--flash-attn", choices=("on", "off", "auto"), default="auto")
    add("-fit", "--fit", choices=("on", "off"), default="on")
    add("-cram", "--cache-ram", type=int, default=8192)
    add("--swa-full", action="store_true")
    add("--metrics", action="store_true")
    add("--no-mmproj", action="store_true")
    add("-t", "--threads", type=int)
    add("--simulator-ending", dest="ending", choices=sorted(ENDINGS), metavar="NAME")
    add("--simulator-time-scale", dest="time_scale", type=float, default=1.0)
    return parser


def parse(argv: Sequence[str]) -> tuple[EngineArguments, argparse.Namespace]:
    """The engine that these flags make; and the flags, for its start."""
    flags = parser().parse_args(argv)
    model = str(flags.repository or flags.model or "").removesuffix("-GGUF")
    slot = flags.context // max(1, flags.slots)
    return (
        EngineArguments(
            model=model,
            served_model_names=(flags.alias or model,),
            host=flags.host,
            port=flags.port,
            max_model_len=slot,
            max_num_seqs=flags.slots,
            dialect=MetricsDialect.LLAMA_CPP,
            # It ends its streams at once on SIGTERM.
            shutdown_timeout_seconds=0.0,
            ending=flags.ending,
            time_scale=flags.time_scale,
        ),
        flags,
    )


async def start(
    arguments: EngineArguments, flags: argparse.Namespace, driver: DriverClient
) -> tuple[EngineSpec, dict[str, float]]:
    """Allocate as llama.cpp does; the engine. Raises ``EngineStartError`` in its words."""
    architecture = replace(arguments.architecture())
    devices = await driver.devices()
    if not devices:
        msg = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"
        raise EngineStartError(msg)
    accelerator = accelerator_for_product(str(devices[0]["product"]))
    if accelerator is None:
        msg = f"ggml_cuda_init: unknown device {devices[0]['product']}"
        raise EngineStartError(msg)
    uuid, total = str(devices[0]["uuid"]), int(devices[0]["total_bytes"])
    rng = random.Random(f"{arguments.model}/llama.cpp")  # noqa: S311 - not for secrets
    slot = slot_tokens(arguments.max_model_len or 0)
    weights = file_bytes(architecture, flags.file or flags.model or "")
    parts = {
        "model": weights,
        "kv cache": cache_bytes(
            architecture, context_tokens=slot * flags.slots, num_slots=flags.slots,
            keeps_full_windows=flags.swa_full,
        ),
        "compute pp": llama_cpp_step_bytes(architecture, slot),
    }  # fmt: skip
    await driver.allocate(0, uuid, int(rng.uniform(0.3, 0.8) * GIB), total)
    print("main: loading model", flush=True)
    await asyncio.sleep(weights / LOAD_BYTES_PER_SECOND * arguments.time_scale)
    for part, size in parts.items():
        try:
            await driver.allocate(0, uuid, size, total)
        except EngineStartError:
            msg = (
                f"ggml_backend_cuda_buffer_type_alloc_buffer: allocating {size / 2**20:.2f} MiB on "
                f"device 0: cudaMalloc failed: out of memory\nllama_init_from_model: failed to "
                f"initialize the context: failed to allocate buffer for {part}"
            )
            raise EngineStartError(msg) from None
    blocks_of_slot = -(
        -slot // (arguments.spec(architecture, accelerator).layout.block_size_tokens)
    )
    spec = arguments.spec(
        architecture, accelerator, num_blocks=flags.slots * (blocks_of_slot + 1) + 1
    )
    print(f"srv    load_model: initializing, n_slots = {flags.slots}, n_ctx_slot = {slot}")
    print(f"srv          init: listening on http://{arguments.host}:{arguments.port}", flush=True)
    return spec, {}


def file_bytes(architecture: ModelArchitecture, file: str) -> int:
    """What a GGUF file of that name weighs, by its type; 8.5 bits where its name has none."""
    found = _TYPE.search(file)
    try:
        bits = gguf_format(found[1]).bits if found else gguf_format("q8_0").bits
    except UnsupportedShapeError as error:
        raise EngineStartError(str(error)) from None
    return int(num_parameters(architecture) * bits / 8)
