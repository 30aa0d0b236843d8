"""Requests to an engine's surface whose answers can be compared: what, and how to compare.

``CASES`` are sent to a real vLLM 0.32 server (recorded in ``tests/data/vllm-0.32-answers.json``,
or live in the conformance tests) and to the simulated one, both serving a tiny model as ``tiny``
with a context of 1,024 tokens.
"""

import json
import re
import urllib.error
import urllib.request
from typing import Any

TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096,
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 2048, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
FLAGS = [
    "--served-model-name", "tiny", "--max-model-len", "1024", "--max-num-seqs", "16",
    "--max-num-batched-tokens", "512", "--kv-cache-memory-bytes", str(4 * 1024 * 1024),
    "--block-size", "128", "--enable-prompt-tokens-details", "--enable-server-load-tracking",
    "--simulator-accelerator", "RTX-4090",
]  # fmt: skip


MODEL = {"model": "tiny"}
MESSAGES = [{"role": "user", "content": "Hello"}]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
USAGE = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}

REFUSALS: dict[str, tuple] = {
    "prompt too long": ("POST", COMPLETIONS, MODEL | {"prompt": [5] * 1025, "max_tokens": 1}),
    "prompt fills the context": ("POST", COMPLETIONS, MODEL | {"prompt": [5] * 1024}),
    "max_tokens over the context": (
        "POST", COMPLETIONS, MODEL | {"prompt": [5], "max_tokens": 5000}
    ),
    "chat max_tokens over the context": (
        "POST", CHAT, MODEL | {"messages": MESSAGES, "max_tokens": 5000}
    ),
    "chat text too long": (
        "POST", CHAT, MODEL | {"messages": [{"role": "user", "content": "a b " * 4000}]}
    ),
    "unknown model": ("POST", COMPLETIONS, {"model": "nope", "prompt": "x"}),
    "unknown model, chat": ("POST", CHAT, {"model": "nope", "messages": MESSAGES}),
    "unknown model, stream": (
        "POST", COMPLETIONS, {"model": "nope", "prompt": "x", "stream": True}
    ),
    "no messages": ("POST", CHAT, MODEL),
    "empty messages": ("POST", CHAT, MODEL | {"messages": []}),
    "messages a text": ("POST", CHAT, MODEL | {"messages": "hi"}),
    "no prompt": ("POST", COMPLETIONS, MODEL | {"max_tokens": 1}),
    "empty prompt": ("POST", COMPLETIONS, MODEL | {"prompt": "", "max_tokens": 1}),
    "negative max_tokens": ("POST", COMPLETIONS, MODEL | {"prompt": "x", "max_tokens": -1}),
    "zero max_tokens": ("POST", COMPLETIONS, MODEL | {"prompt": "x", "max_tokens": 0}),
    "negative temperature": ("POST", COMPLETIONS, MODEL | {"prompt": "x", "temperature": -1}),
    "n of 0": ("POST", COMPLETIONS, MODEL | {"prompt": "x", "n": 0}),
    "n a word": ("POST", COMPLETIONS, MODEL | {"prompt": "x", "n": "two"}),
    "stream options without stream": (
        "POST", COMPLETIONS,
        MODEL | {"prompt": "x", "max_tokens": 1, "stream_options": {"include_usage": True}},
    ),
    "not JSON": ("POST", COMPLETIONS, b"{nope"),
    "no body": ("POST", COMPLETIONS, b""),
    "not an object": ("POST", COMPLETIONS, b"[1]"),
    "wrong method": ("GET", COMPLETIONS),
    "unknown path": ("GET", "/nope"),
    "unknown token": ("POST", COMPLETIONS, MODEL | {"prompt": [99_999], "max_tokens": 1}),
    "embeddings of a generating model": ("POST", "/v1/embeddings", MODEL | {"input": "x"}),
    "adapters off": ("POST", "/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/x"}),
}  # fmt: skip
ANSWERS: dict[str, tuple] = {
    "capped by the context": (
        "POST", COMPLETIONS, MODEL | {"prompt": [5] * 1000, "max_tokens": 100, "ignore_eos": True}
    ),
    "completion": (
        "POST", COMPLETIONS, MODEL | {"prompt": [7] * 300, "max_tokens": 3, "ignore_eos": True}
    ),
    "completion again": (
        "POST", COMPLETIONS, MODEL | {"prompt": [7] * 300, "max_tokens": 3, "ignore_eos": True}
    ),
    "chat": ("POST", CHAT, MODEL | {"messages": MESSAGES, "max_tokens": 3, "ignore_eos": True}),
    "two samples": (
        "POST", CHAT, MODEL | {"messages": MESSAGES, "max_tokens": 2, "n": 2, "ignore_eos": True}
    ),
    "two prompts": (
        "POST", COMPLETIONS, MODEL | {"prompt": ["a", "b"], "max_tokens": 2, "ignore_eos": True}
    ),
    "stream": ("POST", COMPLETIONS, MODEL | USAGE | {"prompt": [9], "max_tokens": 2}),
    "stream with usage in every chunk": (
        "POST", COMPLETIONS,
        MODEL | USAGE | {
            "prompt": [9], "max_tokens": 2,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        },
    ),
    "chat stream": ("POST", CHAT, MODEL | USAGE | {"messages": MESSAGES, "max_tokens": 2}),
    "truncated prompt": (
        "POST", COMPLETIONS,
        MODEL | {"prompt": [5] * 500, "truncate_prompt_tokens": 100, "max_tokens": 1},
    ),
    "tokenize": ("POST", "/tokenize", MODEL | {"prompt": "Hello world"}),
    "detokenize": ("POST", "/detokenize", MODEL | {"tokens": [5, 6, 7]}),
    "health": ("GET", "/health"),
    "ping": ("GET", "/ping"),
    "version": ("GET", "/version"),
    "load": ("GET", "/load"),
    "models": ("GET", "/v1/models"),
    "is_sleeping": ("GET", "/is_sleeping"),
    "is_paused": ("GET", "/is_paused"),
    "reset": ("POST", "/reset_prefix_cache", b""),
}  # fmt: skip
CASES = REFUSALS | ANSWERS


def call(base: str, case: tuple) -> dict[str, Any]:
    """Status, content type and body of one case."""
    method, path, *rest = case
    data = rest[0] if rest else None
    if data is not None and not isinstance(data, bytes):
        data = json.dumps(data).encode()
    request = urllib.request.Request(base + path, data=data, method=method)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            status, headers, body = response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        status, headers, body = error.code, error.headers, error.read()
    return {
        "status": status, "content_type": headers.get("content-type"), "body": body.decode(),
    }  # fmt: skip


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what may differ: texts, ids, times. Refusals are kept to the byte."""
    body = answer["body"]
    if answer["status"] >= 400:
        return answer
    if body.startswith("data: "):
        body = re.sub(
            r'"(id|created|text|content|system_fingerprint)":("(?:[^"\\]|\\.)*"|\d+)',
            r'"\1":_', body,
        )  # fmt: skip
        # How many tokens a chat's template takes is the model's own.
        body = re.sub(r'"(prompt_tokens|total_tokens)":\d+', r'"\1":_', body)
    elif body.startswith("{"):
        body = _shape(json.loads(body))
    return answer | {"body": body}


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_shape(item) for item in value]
    return type(value).__name__


def families(page: str) -> dict[str, set[tuple[str, ...]]]:
    """Names of the series of a /metrics page, with their label names."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for line in page.splitlines():
        match = re.match(r"([\w:]+)(?:\{(.*)\})? ", line)
        if match and not line.startswith("#"):
            labels = tuple(sorted(re.findall(r'(\w+)="', match[2] or "")))
            found.setdefault(match[1], set()).add(labels)
    return found


def types(page: str) -> set[str]:
    """The # TYPE lines."""
    return set(re.findall(r"# TYPE (.*)", page))
