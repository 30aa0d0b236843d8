"""A live vLLM server on the CPU beside a simulated engine, of the same model."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.vllm_cpu import MODEL, TINY, make_model, running, vllm_server

__all__ = ["TINY", "TINY_SLIDING", "make_model", "server", "simulated"]
TINY_SLIDING = TINY | {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "num_hidden_layers": 7,
    "sliding_window": 128, "query_pre_attn_scalar": 32,
    "hidden_activation": "gelu_pytorch_tanh", "rope_theta": 10000.0,
}  # fmt: skip


@contextlib.contextmanager
def server(folder: Path, port: int, flags: list[str], environment: dict[str, str]) -> Iterator[str]:
    """The base URL of a running server that can be recorded."""
    settings = {"PYTHONPATH": str(Path(__file__).parent), "VLLM_SERVER_DEV_MODE": "1"}
    with vllm_server(
        Path(sys.executable), folder, port=port, flags=flags, environment=settings | environment
    ) as base:
        yield base


@contextlib.contextmanager
def simulated(folder: Path, port: int, flags: list[str]) -> Iterator[str]:
    """The base URL of a simulated engine of the same model."""
    command = [
        sys.executable, "-m", "memroute_simulator", "engine", "--model", str(folder),
        "--served-model-name", MODEL, "--port", str(port), *flags,
        "--simulator-accelerator", "RTX-4090",
    ]  # fmt: skip
    settings = os.environ | {"VLLM_SERVER_DEV_MODE": "1"}
    settings.pop("MEMROUTE_DRIVER_URL", None)
    with running(command, settings, folder / "simulated.log", port) as base:
        yield base
