"""Which files of a source an engine needs. Pure.

Repositories hold the same weights several times (safetensors, ``.bin``, ONNX, GGUF of ten sizes,
Meta's own ``original/``), and pictures. Fetching all of it doubles or trebles the bytes.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from memroute.units import format_gib
from memroute_fetch.failures import ExitCode, FetchError
from memroute_fetch.remotes.remote import RemoteFile
from memroute_hub.facts import WEIGHT_SUFFIXES, RepositoryFile, is_index_needed, weight_files

# What tokenizers, configurations, chat templates and a model's own code are written in.
SMALL_SUFFIXES = (
    ".json", ".jsonl", ".txt", ".model", ".tiktoken", ".jinja", ".py", ".spm", ".yaml", ".yml",
)  # fmt: skip
# Folders of copies in other layouts.
OTHER_LAYOUTS = ("original", "onnx", "openvino", "coreml", "metal", "gguf", "runs", "checkpoint-")
# Weights of the modules of sentence-transformers, in folders such as 2_Dense.
_MODULE = re.compile(r"\d+_[A-Za-z]+/(?:model\.safetensors|pytorch_model\.bin)")
# One of the parts of a GGUF model: name-00001-of-00003.gguf.
_GGUF_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)
INDEX = "model.safetensors.index.json"
GGUF = ".gguf"
# Weights of a LoRA adapter, in the order of preference.
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
ADAPTER_CONFIG = "adapter_config.json"
# Beside them, where an adapter was trained with tokens of its own.
ADAPTER_EMBEDDINGS = ("new_embeddings.safetensors", "new_embeddings.bin")
# As many candidates are named in a refusal.
MAX_NAMED = 8


def needs_index(files: Iterable[RemoteFile], pattern: str | None) -> bool:
    """Whether only the index of the weights says which of several checkpoints is the model."""
    listed = {file.path: _listed(file) for file in files}
    has_safetensors = any("/" not in path and path.endswith(".safetensors") for path in listed)
    return pattern is None and has_safetensors and INDEX in listed and is_index_needed(listed)


def model_files(
    files: list[RemoteFile], pattern: str | None, indexed: Iterable[str] | None = None
) -> list[RemoteFile]:
    """The files to fetch, of a model. Raises ``FetchError``.

    ``pattern``: chooses the GGUF file, by its name or whole path. ``indexed``: the weight files
    that the index names; None where it was not needed.
    """
    ggufs = [file for file in files if file.path.lower().endswith(GGUF)]
    weights = {one.path for one in weight_files(map(_listed, files), indexed)}
    if pattern is not None:
        chosen = _gguf(ggufs, pattern)
    elif weights:
        chosen = [file for file in files if file.path in weights or _MODULE.fullmatch(file.path)]
        if any(file.path.endswith(".safetensors") for file in chosen):
            chosen = [file for file in chosen if file.path.endswith(".safetensors")]
    else:
        chosen = _gguf(ggufs, None)
    small = [file for file in files if _is_small(file.path)]
    wanted = {file.path for file in (*chosen, *small)}
    return [file for file in files if file.path in wanted]


def adapter_files(files: list[RemoteFile]) -> list[RemoteFile]:
    """The files to fetch, of a LoRA adapter. Raises ``FetchError``."""
    paths = {file.path for file in files}
    weights = next((name for name in ADAPTER_WEIGHTS if name in paths), None)
    if weights is None or ADAPTER_CONFIG not in paths:
        absent = ADAPTER_CONFIG if ADAPTER_CONFIG not in paths else " or ".join(ADAPTER_WEIGHTS[:2])
        message = f"it is no LoRA adapter: it has no {absent} ({_named(files)})"
        raise FetchError(ExitCode.NOT_FOUND, message)
    embeddings = next((name for name in ADAPTER_EMBEDDINGS if name in paths), None)
    return [
        file
        for file in files
        if file.path in {weights, embeddings} or ("/" not in file.path and _is_small(file.path))
    ]


def _gguf(ggufs: list[RemoteFile], pattern: str | None) -> list[RemoteFile]:
    """The one GGUF file that is meant, or all parts of it."""
    found = [
        file
        for file in ggufs
        if pattern is None
        or fnmatchcase(file.path, pattern)
        or fnmatchcase(file.path.rpartition("/")[2], pattern)
    ]
    # The eyes and ears of a model are files of their own, which another option names.
    models = [file for file in found if not file.path.rpartition("/")[2].startswith("mmproj")]
    found = models if pattern is None else found
    if not ggufs:
        what = "no weights that an engine loads" if pattern is None else "no GGUF file"
        message = f"it holds {what}: there is no {', '.join(WEIGHT_SUFFIXES)} or {GGUF} at its top"
        raise FetchError(ExitCode.NOT_FOUND, message)
    if not found:
        message = f"no GGUF file is called {pattern!r:.80}; there are {_named(ggufs)}"
        raise FetchError(ExitCode.NOT_FOUND, message)
    series = {
        (part[1], part[2]) if (part := _GGUF_PART.fullmatch(f.path)) else f.path for f in found
    }
    if len(series) > 1:
        how = (
            "choose one with --file"
            if pattern is None
            else f"{pattern!r:.80} chooses more than one of them"
        )
        message = f"it holds several GGUF models ({_named(found)}): {how}"
        raise FetchError(ExitCode.USAGE, message)
    return found


def _is_small(path: str) -> bool:
    """Whether it is a configuration, a tokenizer or the like, and not in a copy's folder."""
    folder = path.partition("/")[0] if "/" in path else ""
    return (
        path.endswith(SMALL_SUFFIXES)
        and not folder.startswith(OTHER_LAYOUTS)
        and not any(part.startswith(".") for part in path.split("/"))
    )


def _listed(file: RemoteFile) -> RepositoryFile:
    return RepositoryFile(path=file.path, size_bytes=file.size_bytes)


def _named(files: list[RemoteFile]) -> str:
    names = [f"{file.path:.80}, {format_gib(file.size_bytes)}" for file in files[:MAX_NAMED]]
    more = len(files) - len(names)
    return "; ".join([*names, *([f"{more} more"] if more else [])]) or "it is empty"
