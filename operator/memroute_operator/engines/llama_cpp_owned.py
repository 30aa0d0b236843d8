"""Flags and variables of llama.cpp's server (b11434) that are memroute's own.

Each flag has a variable, which counts where no flag says otherwise (``owned_variables``). What
``/etc/llama.cpp/config.ini`` of an image says is not seen: flags go before it.
"""

from collections.abc import Mapping, Sequence

from memroute_operator.engines.command_lines import Flag
from memroute_operator.engines.llama_cpp_flags import parse_arguments
from memroute_operator.engines.ownership import (
    ADDRESS,
    CACHE_DTYPE,
    CONFIG,
    CONTEXT,
    DEVICES,
    DRAFT,
    ENDS,
    MEMORY,
    NAME,
    UNCOUNTED,
    Owner,
    refusal_of,
)

# What the server does with a word that belongs to no flag.
STRAY = "the engine would end at once (invalid argument)"
_MODEL = Owner("the footprint is that of spec.model", "model.name and spec.model.file")
_MODELS = Owner("the engine would load models that nobody has reserved memory for")
_SLOTS = Owner("the KV cache has a slot for each", "memory.concurrency")
_ADAPTERS = Owner("the footprint does not count what adapters take")
_KEY = Owner("routers go by the engine's metrics, which a key closes")
_LAYERS = Owner("the footprint counts all of the model on the devices, evenly")
OWNED: Mapping[str, Owner] = {
    "--help": ENDS,
    "--version": ENDS,
    "--cache-list": ENDS,
    "--completion-bash": ENDS,
    "--list-devices": ENDS,
    "--model": _MODEL,
    "--model-url": _MODEL,
    "--docker-repo": _MODEL,
    "--hf-repo": _MODEL,
    "--hf-file": _MODEL,
    "--embd-gemma-default": _MODEL,
    "--fim-qwen-1.5b-default": _MODEL,
    "--fim-qwen-3b-default": _MODEL,
    "--fim-qwen-7b-default": _MODEL,
    "--fim-qwen-7b-spec": _MODEL,
    "--fim-qwen-14b-spec": _MODEL,
    "--fim-qwen-30b-default": _MODEL,
    "--gpt-oss-20b-default": _MODEL,
    "--gpt-oss-120b-default": _MODEL,
    "--vision-gemma-4b-default": _MODEL,
    "--vision-gemma-12b-default": _MODEL,
    "--models-dir": _MODELS,
    "--models-preset": _MODELS,
    "--models-max": _MODELS,
    "--alias": NAME,
    "--ctx-size": CONTEXT,
    "--parallel": _SLOTS,
    "--kv-unified": _SLOTS,
    "--kv-unified-per-slot": _SLOTS,
    "--cache-type-k": CACHE_DTYPE,
    "--cache-type-v": CACHE_DTYPE,
    "--ubatch-size": Owner("activations take memory for each"),
    "--flash-attn": MEMORY,
    "--fit": MEMORY,
    "--fit-target": MEMORY,
    "--fit-ctx": MEMORY,
    "--gpu-layers": _LAYERS,
    "--kv-offload": _LAYERS,
    "--tensor-split": _LAYERS,
    "--split-mode": _LAYERS,
    "--override-tensor": _LAYERS,
    "--main-gpu": DEVICES,
    "--device": DEVICES,
    "--rpc": DEVICES,
    "--lora": _ADAPTERS,
    "--lora-scaled": _ADAPTERS,
    "--spec-draft-model": DRAFT,
    "--spec-draft-hf": DRAFT,
    "--spec-default": DRAFT,
    "--mmproj": UNCOUNTED,
    "--mmproj-url": UNCOUNTED,
    "--sleep-idle-seconds": Owner("a model that sleeps has to be loaded again by a request"),
    "--host": ADDRESS,
    "--port": ADDRESS,
    "--api-prefix": ADDRESS,
    "--ssl-key-file": ADDRESS,
    "--ssl-cert-file": ADDRESS,
    "--api-key": _KEY,
    "--api-key-file": _KEY,
}
# The variable of each, where it has one: read off the same list.
VARIABLES: Mapping[str, str] = {
    "LLAMA_API_KEY": "--api-key",
    "LLAMA_ARG_ALIAS": "--alias",
    "LLAMA_ARG_API_KEY_FILE": "--api-key-file",
    "LLAMA_ARG_API_PREFIX": "--api-prefix",
    "LLAMA_ARG_CACHE_TYPE_K": "--cache-type-k",
    "LLAMA_ARG_CACHE_TYPE_V": "--cache-type-v",
    "LLAMA_ARG_CTX_SIZE": "--ctx-size",
    "LLAMA_ARG_DEVICE": "--device",
    "LLAMA_ARG_DOCKER_REPO": "--docker-repo",
    "LLAMA_ARG_FIT": "--fit",
    "LLAMA_ARG_FIT_CTX": "--fit-ctx",
    "LLAMA_ARG_FIT_TARGET": "--fit-target",
    "LLAMA_ARG_FLASH_ATTN": "--flash-attn",
    "LLAMA_ARG_HF_FILE": "--hf-file",
    "LLAMA_ARG_HF_REPO": "--hf-repo",
    "LLAMA_ARG_HOST": "--host",
    "LLAMA_ARG_KV_OFFLOAD": "--kv-offload",
    "LLAMA_ARG_KV_UNIFIED": "--kv-unified",
    "LLAMA_ARG_KV_UNIFIED_PER_SLOT": "--kv-unified-per-slot",
    "LLAMA_ARG_MAIN_GPU": "--main-gpu",
    "LLAMA_ARG_MMPROJ": "--mmproj",
    "LLAMA_ARG_MMPROJ_URL": "--mmproj-url",
    "LLAMA_ARG_MODEL": "--model",
    "LLAMA_ARG_MODELS_DIR": "--models-dir",
    "LLAMA_ARG_MODELS_MAX": "--models-max",
    "LLAMA_ARG_MODELS_PRESET": "--models-preset",
    "LLAMA_ARG_MODEL_URL": "--model-url",
    "LLAMA_ARG_N_GPU_LAYERS": "--gpu-layers",
    "LLAMA_ARG_N_PARALLEL": "--parallel",
    # Of a flag that has a --no- form, a variable of that form counts as well, whatever it says.
    "LLAMA_ARG_NO_KV_OFFLOAD": "--kv-offload",
    "LLAMA_ARG_NO_KV_UNIFIED": "--kv-unified",
    "LLAMA_ARG_OVERRIDE_TENSOR": "--override-tensor",
    "LLAMA_ARG_PORT": "--port",
    "LLAMA_ARG_RPC": "--rpc",
    "LLAMA_ARG_SPEC_DRAFT_HF_REPO": "--spec-draft-hf",
    "LLAMA_ARG_SPEC_DRAFT_MODEL": "--spec-draft-model",
    "LLAMA_ARG_SPEC_TYPE": "--spec-type",
    "LLAMA_ARG_SPLIT_MODE": "--split-mode",
    "LLAMA_ARG_SSL_CERT_FILE": "--ssl-cert-file",
    "LLAMA_ARG_SSL_KEY_FILE": "--ssl-key-file",
    "LLAMA_ARG_TENSOR_SPLIT": "--tensor-split",
    "LLAMA_ARG_UBATCH": "--ubatch-size",
}


def refusal(words: Sequence[str]) -> str | None:
    """Why ``engine.args`` cannot be taken, a sentence for each flag; None when they can."""
    return refusal_of(parse_arguments(words), OWNED, stray=STRAY, by_value=_owner_of_value)


def _owner_of_value(flag: Flag) -> Owner | None:
    """Flags of which only some values decide memory."""
    values = (flag.values[0] if flag.values else "").split(",")
    if flag.name == "--mmproj-auto" and not flag.is_negated:
        return UNCOUNTED
    if flag.name == "--spec-type" and any(one.startswith("draft") for one in values):
        return DRAFT
    if flag.name == "--override-kv" and not all(one.startswith("tokenizer.") for one in values):
        return CONFIG
    return None
