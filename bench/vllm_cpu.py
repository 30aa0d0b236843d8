"""vLLM servers on the CPU, with a small model made here: real engines where there is no GPU.

They run in a virtual environment of their own (``make conformance`` makes it: 6 GB).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.server import Server

START_SECONDS = 240.0
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


def make_model(folder: Path, config: Mapping[str, Any]) -> Path:
    """A configuration, and a byte-level tokenizer trained on Python's own sources."""
    # Here, because what runs no vLLM can do without the library.
    from tokenizers import (  # noqa: PLC0415
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        trainers,
    )  # fmt: skip

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


def vllm_server(
    python: Path,
    model: Path,
    *,
    port: int,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Server:
    """A vLLM server with random weights, to be started; it needs up to ``START_SECONDS``."""
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--served-model-name", MODEL, "--load-format", "dummy", "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "bfloat16", "--enforce-eager", *flags,
    ]  # fmt: skip
    return Server(
        command,
        url=f"http://127.0.0.1:{port}",
        log=model / f"server-{port}.log",
        environment=dict.fromkeys(OFFLINE, "1") | dict(environment or {}),
    )
