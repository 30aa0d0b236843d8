"""vLLM servers on the CPU, with a small model made here: real engines where there is no GPU.

They run in a virtual environment of their own (``make conformance`` makes it: 6 GB).
"""

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

START_SECONDS = 240
STOP_SECONDS = 30
MODEL = "tiny"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")
TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096,
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 2048, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "bos_token_id": 0, "eos_token_id": 1, "rms_norm_eps": 1e-5, "hidden_act": "silu",
}  # fmt: skip
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


class VllmError(RuntimeError):
    """A server did not start; the message has its last words."""


def make_model(folder: Path, config: Mapping[str, Any]) -> Path:
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
def vllm_server(
    python: Path,
    model: Path,
    *,
    port: int,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The base URL of a vLLM server with random weights. Raises ``VllmError``."""
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--served-model-name", MODEL, "--load-format", "dummy", "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "bfloat16", "--enforce-eager", *flags,
    ]  # fmt: skip
    settings = os.environ | dict.fromkeys(OFFLINE, "1") | dict(environment or {})
    with running(command, settings, model / f"server-{port}.log", port) as base:
        yield base


@contextlib.contextmanager
def running(
    command: Sequence[str], settings: Mapping[str, str], log: Path, port: int
) -> Iterator[str]:
    """The base URL of a server, once it is healthy. Raises ``VllmError``."""
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603 - a command made here
            command, stdout=output, stderr=output, env=settings, start_new_session=True
        )
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(base):
            if process.poll() is not None or time.monotonic() > deadline:
                msg = f"the server did not start: {log.read_text()[-3000:]}"
                raise VllmError(msg)
            time.sleep(0.5)
        yield base
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(base: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base}/health", timeout=5):  # noqa: S310 - ours
            return True
    except OSError:
        return False
