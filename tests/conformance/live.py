"""A live vLLM server on the CPU, with a model made here."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

START_SECONDS = 240
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")
TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096,
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 2048, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "bos_token_id": 0, "eos_token_id": 1, "rms_norm_eps": 1e-5, "hidden_act": "silu",
}  # fmt: skip
TINY_SLIDING = TINY | {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "num_hidden_layers": 7,
    "sliding_window": 128, "query_pre_attn_scalar": 32,
    "hidden_activation": "gelu_pytorch_tanh", "rope_theta": 10000.0,
}  # fmt: skip
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def make_model(folder: Path, config: dict) -> Path:
    """A configuration, and a byte-level tokenizer trained on Python's own sources."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sources = sorted(Path(json.__file__).parent.parent.glob("*.py"))[:60]
    trainer = trainers.BpeTrainer(
        vocab_size=config["vocab_size"], special_tokens=["<s>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator((p.read_text(errors="ignore") for p in sources), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "chat_template": TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@contextlib.contextmanager
def server(folder: Path, port: int, flags: list[str], environment: dict[str, str]) -> Iterator[str]:
    """The base URL of a running server."""
    here = str(Path(__file__).parent)
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
        "--served-model-name", "tiny", "--load-format", "dummy", "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "bfloat16", "--enforce-eager", *flags,
    ]  # fmt: skip
    settings = os.environ | dict.fromkeys(OFFLINE, "1")
    settings |= {"PYTHONPATH": here, "VLLM_SERVER_DEV_MODE": "1"} | environment
    with _running(command, settings, folder / "server.log", port) as base:
        yield base


@contextlib.contextmanager
def simulated(folder: Path, port: int, flags: list[str]) -> Iterator[str]:
    """The base URL of a simulated engine of the same model."""
    command = [
        sys.executable, "-m", "memroute_simulator", "engine", "--model", str(folder),
        "--served-model-name", "tiny", "--port", str(port), *flags,
        "--simulator-accelerator", "RTX-4090",
    ]  # fmt: skip
    settings = os.environ | {"VLLM_SERVER_DEV_MODE": "1"}
    settings.pop("MEMROUTE_DRIVER_URL", None)
    with _running(command, settings, folder / "simulated.log", port) as base:
        yield base


@contextlib.contextmanager
def _running(command: list[str], settings: dict[str, str], log: Path, port: int) -> Iterator[str]:
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=settings, start_new_session=True
        )
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(base):
            if process.poll() is not None or time.monotonic() > deadline:
                msg = f"the server did not start: {log.read_text()[-3000:]}"
                raise RuntimeError(msg)
            time.sleep(0.5)
        yield base
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(base: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False
