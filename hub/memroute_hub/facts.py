"""What of a repository decides memory, from its list of files and its small JSON files. Pure."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from memroute.footprint import ModelArchitecture
from memroute.footprint.gguf_facts import architecture_of
from memroute.units import format_gib
from memroute_hub.names import is_commit

# Past it a tokenizer's limit means "none": they write 10^30.
MAX_CONTEXT_TOKENS = 10**9
# Weight files of one checkpoint, chosen by hand: the largest published ones have some 200.
MAX_WEIGHT_FILES = 10_000
# As many files are named when a repository holds no config.json.
MAX_NAMED_FILES = 3
# An exbibyte: a size past it is nonsense.
MAX_FILE_BYTES = 2**60
# One of the parts of a checkpoint: model-00001-of-00004.safetensors.
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
# Engines take the first of these of which there is any file (vLLM's order).
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# Optimizer and training state beside .bin weights, and the same weights in another layout.
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "adapter_", "scaler")
_OTHER_LAYOUT = "consolidated"


class FactsSource(StrEnum):
    """Where the facts were read just now; the value is shown to people."""

    HUB = "hub"
    CACHE = "cache"
    """On this disk: read from the hub earlier, at the same commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryFile:
    """One file of a repository."""

    path: str
    size_bytes: int | None
    """None where the hub's list does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """What the memory model needs to know of one commit of a repository."""

    endpoint: str
    repository: str
    revision: str
    """As it was asked for: a branch, a tag or a commit."""
    commit: str
    """What the revision resolved to: this cannot move."""
    config: Mapping[str, Any]
    """``config.json``; a quantization that lies beside it in a file of its own is in it."""
    weight_files: tuple[RepositoryFile, ...]
    """What an engine would load, in the hub's order; empty where the repository has none."""
    index_total_bytes: int | None = None
    """What ``model.safetensors.index.json`` says of itself. Converted checkpoints often keep
    that of the original: the files' sizes are what counts."""
    tokenizer_max_tokens: int | None = None
    """``model_max_length`` of the tokenizer; None where it says nothing, or 10^30."""
    generation_max_tokens: int | None = None
    """``max_new_tokens`` of ``generation_config.json``: vLLM caps every answer at it."""
    is_gated: bool = False
    file: str | None = None
    """The GGUF file that the facts are of; None where they are of a ``config.json``."""
    gguf_bytes: int | None = None
    """Bytes of its tensors."""
    source: FactsSource = FactsSource.HUB
    stale_because: str | None = None
    """Why the hub itself was not asked about the revision, where it should have been."""

    @property
    def checkpoint_bytes(self) -> int | None:
        """Bytes of the weight files, their headers included; else what the index says.

        None where neither is known.
        """
        if self.gguf_bytes is not None:
            return self.gguf_bytes
        sizes = [one.size_bytes for one in self.weight_files]
        known = [size for size in sizes if size is not None]
        total = sum(known) if len(known) == len(sizes) else 0
        return total or self.index_total_bytes or None

    @property
    def config_text(self) -> str:
        """The configuration as JSON: the same text for the same facts."""
        return json.dumps(self.config, sort_keys=True)

    def architecture(self) -> ModelArchitecture:
        """What the configuration describes: the same object for the same facts.

        Raises what ``architecture_of`` raises.
        """
        return architecture_of(self.config_text, self.checkpoint_bytes)

    def document(self) -> dict[str, Any]:
        """As JSON: what a cache keeps."""
        return {
            "endpoint": self.endpoint,
            "repository": self.repository,
            "revision": self.revision,
            "commit": self.commit,
            "config": dict(self.config),
            "weightFiles": [[one.path, one.size_bytes] for one in self.weight_files],
            "indexTotalBytes": self.index_total_bytes,
            "tokenizerMaxTokens": self.tokenizer_max_tokens,
            "generationMaxTokens": self.generation_max_tokens,
            "isGated": self.is_gated,
        } | ({} if self.file is None else {"file": self.file, "ggufBytes": self.gguf_bytes})


def model_from_document(document: Mapping[str, Any]) -> HubModel:
    """What ``document`` wrote, told as cached. Raises ``ValueError`` when it cannot be that."""
    texts = [document.get(name) for name in ("endpoint", "repository", "revision", "commit")]
    config, listed = document.get("config"), document.get("weightFiles")
    if (
        not all(isinstance(text, str) for text in texts)
        or not is_commit(str(texts[3]))
        or not isinstance(config, dict)
        or not isinstance(listed, list)
        or not all(
            isinstance(one, list) and len(one) == 2 and isinstance(one[0], str)  # noqa: PLR2004 - path, size
            for one in listed
        )
    ):
        message = "no facts of a model"
        raise ValueError(message)
    endpoint, repository, revision, commit = (str(text) for text in texts)
    return HubModel(
        endpoint=endpoint,
        repository=repository,
        revision=revision,
        commit=commit,
        config=config,
        weight_files=tuple(
            RepositoryFile(path=path, size_bytes=size_or_none(size)) for path, size in listed
        ),
        index_total_bytes=size_or_none(document.get("indexTotalBytes")),
        tokenizer_max_tokens=tokens_or_none(document.get("tokenizerMaxTokens")),
        generation_max_tokens=tokens_or_none(document.get("generationMaxTokens")),
        is_gated=document.get("isGated") is True,
        file=file if isinstance(file := document.get("file"), str) else None,
        gguf_bytes=size_or_none(document.get("ggufBytes")),
        source=FactsSource.CACHE,
    )


def size_or_none(value: object) -> int | None:
    """A number of bytes, or None for anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_FILE_BYTES:
        return None
    return value


def tokens_or_none(value: object) -> int | None:
    """A limit in tokens, or None for anything that limits nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 1 <= value <= MAX_CONTEXT_TOKENS else None


def weight_files(
    files: Iterable[RepositoryFile], named_by_index: Iterable[str] | None
) -> tuple[RepositoryFile, ...]:
    """The files that an engine loads: at the top of the repository, in its preferred format.

    ``named_by_index``: the files of ``model.safetensors.index.json``; None without one. It
    decides where several checkpoints lie side by side.
    """
    top = [one for one in files if "/" not in one.path and not one.path.startswith(_NO_WEIGHTS)]
    for suffix in WEIGHT_SUFFIXES:
        found = [one for one in top if one.path.endswith(suffix)]
        own = [one for one in found if not one.path.startswith(_OTHER_LAYOUT)]
        if not found:
            continue
        indexed = frozenset(named_by_index or ())
        if suffix == ".safetensors" and indexed <= {one.path for one in own} and indexed:
            own = [one for one in own if one.path in indexed]
        return tuple((own or found)[:MAX_WEIGHT_FILES])
    return ()


def is_index_needed(files: Mapping[str, RepositoryFile]) -> bool:
    """Whether the list alone does not say which files are the weights, or how large they are."""
    listed = weight_files(files.values(), None)
    if any(one.size_bytes is None for one in listed):
        return True
    parts = [_PART.fullmatch(one.path) for one in listed]
    # One file, or all the parts of one series, are what they look like.
    series = {part and (part[1], part[2]) for part in parts}
    return len(listed) > 1 and (len(series) > 1 or None in series)


def index_facts(index: Mapping[str, Any]) -> tuple[int | None, frozenset[str]]:
    """``metadata.total_size`` and the files of ``model.safetensors.index.json``."""
    metadata, weight_map = index.get("metadata"), index.get("weight_map")
    total = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    if isinstance(total, float) and total.is_integer():
        total = int(total)
    names = weight_map.values() if isinstance(weight_map, Mapping) else ()
    return size_or_none(total), frozenset(name for name in names if isinstance(name, str))


def without_config(files: Iterable[RepositoryFile]) -> str:
    """What a repository without ``config.json`` holds instead, and what to do: a clause."""
    listed = list(files)
    paths = {one.path for one in listed}
    if "adapter_config.json" in paths:
        return "it holds an adapter (adapter_config.json); give the model that it was trained on"
    if "model_index.json" in paths:
        return "it holds a pipeline of several models (model_index.json), which no engine here runs"
    if "params.json" in paths:
        return (
            "it holds weights in Mistral's own layout (params.json); give a repository in that of "
            "transformers"
        )
    if not listed:
        return "it is empty"
    return f"it holds {_named(listed)}; give a repository that has one, or a config.json"


def _named(files: list[RepositoryFile]) -> str:
    names = [
        f"{one.path:.80}"
        if one.size_bytes is None
        else f"{one.path:.80}, {format_gib(one.size_bytes)}"
        for one in files[:MAX_NAMED_FILES]
    ]
    more = len(files) - len(names)
    return "; ".join([*names, *([f"{more} more"] if more else [])])
