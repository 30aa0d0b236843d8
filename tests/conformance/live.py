"""A live vLLM server on the CPU beside a simulated engine, of the same model."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.server import Server, serving
from bench.vllm_cpu import MODEL, START_SECONDS, TINY, make_model, vllm_server

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
    real = vllm_server(
        Path(sys.executable), folder, port=port, flags=flags, environment=settings | environment
    )
    with serving(real, within_seconds=START_SECONDS):
        yield real.url


@contextlib.contextmanager
def simulated(folder: Path, port: int, flags: list[str]) -> Iterator[str]:
    """The base URL of a simulated engine of the same model."""
    command = [
        sys.executable, "-m", "memroute_simulator", "engine", "--model", str(folder),
        "--served-model-name", MODEL, "--port", str(port), *flags,
        "--simulator-accelerator", "RTX-4090",
    ]  # fmt: skip
    engine = Server(
        command,
        url=f"http://127.0.0.1:{port}",
        log=folder / "simulated.log",
        environment={"VLLM_SERVER_DEV_MODE": "1", "MEMROUTE_DRIVER_URL": ""},
    )
    with serving(engine, within_seconds=START_SECONDS):
        yield engine.url
