"""The command line of the simulated engine: vLLM's flags, as far as they matter to it."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from memroute.footprint import KVCacheDtype, Quantization
from memroute.footprint.replica import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS

DEFAULT_GPU_MEMORY_UTILIZATION = 0.92
# vLLM's default from 0.20 on.


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArguments:
    """How the engine was started."""

    model: str
    served_model_name: str
    host: str
    port: int
    max_model_len: int | None
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float
    kv_cache_memory_bytes: int | None
    kv_cache_dtype: KVCacheDtype
    quantization: Quantization
    tensor_parallel_size: int
    shutdown_timeout_seconds: float
    seed: int
    time_scale: float


def parse_arguments(argv: Sequence[str]) -> EngineArguments:
    """Read the flags; an unknown one ends the program, as it does vLLM."""
    parser = argparse.ArgumentParser(
        prog="memroute-simulator engine", description="A simulated vLLM engine."
    )
    parser.add_argument("--model", required=True, help="Hugging Face name, from the catalogue")
    parser.add_argument("--served-model-name", help="the name clients ask for (default: the model)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-num-seqs", type=int, default=MAX_NUM_SEQS)
    parser.add_argument("--max-num-batched-tokens", type=int, default=MAX_NUM_BATCHED_TOKENS)
    parser.add_argument(
        "--gpu-memory-utilization", type=float, default=DEFAULT_GPU_MEMORY_UTILIZATION
    )
    parser.add_argument("--kv-cache-memory-bytes", type=int)
    parser.add_argument("--kv-cache-dtype", type=KVCacheDtype, default=KVCacheDtype.AUTO)
    parser.add_argument("--quantization", type=Quantization, default=Quantization.NONE)
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument(
        "--shutdown-timeout", dest="shutdown_timeout_seconds", type=float, default=0.0
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--simulator-time-scale",
        dest="time_scale",
        type=float,
        default=1.0,
        help="seconds that pass per simulated second (below 1: faster than the hardware)",
    )
    known = vars(parser.parse_args(argv))
    known["served_model_name"] = known["served_model_name"] or known["model"]
    return EngineArguments(**known)
