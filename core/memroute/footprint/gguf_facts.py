"""What of a GGUF file's header decides memory, as a small document beside ``config.json``s.

A header has a vocabulary of megabytes; what is kept of it are the numbers of its own architecture,
how many tokens there are, and what the tensors weigh. It is told from a ``config.json`` by its one
key, so that whoever keeps or pins configurations keeps these the same way.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from memroute.errors import InvalidConfigError
from memroute.footprint.architecture import ModelArchitecture, architecture_from_json
from memroute.footprint.gguf import GGUFHeader, architecture_from_gguf

KEY = "gguf"
"""The one key of such a document."""
# Numbers of a list that is kept, chosen by hand: one for each layer, of which no model has as many.
MAX_LISTED = 4096
_TOKENS = "tokenizer.ggml.tokens"


def gguf_facts(header: GGUFHeader) -> dict[str, Any]:
    """The document. The weights of the file are told beside it (``checkpoint_bytes``)."""
    own = f"{header.family}."
    kept = {
        key: value
        for key, value in header.metadata.items()
        if key == "general.architecture" or (key.startswith(own) and _is_number(value))
    }
    tokens = header.metadata.get(_TOKENS)
    if isinstance(tokens, int):
        kept[_TOKENS] = tokens
    return {KEY: kept}


def is_gguf(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is such a document."""
    return set(config) == {KEY} and isinstance(config[KEY], Mapping)


def architecture_of(text: str, checkpoint_bytes: int | None) -> ModelArchitecture:
    """What a ``config.json`` or the facts of a GGUF file describe: for a text the same object.

    Raises what ``architecture_from_json`` and ``architecture_from_gguf`` raise.
    """
    if not text.startswith(f'{{"{KEY}"'):
        return architecture_from_json(text, checkpoint_bytes)
    return _of_gguf(text, checkpoint_bytes)


@lru_cache(maxsize=1024)
def _of_gguf(text: str, checkpoint_bytes: int | None) -> ModelArchitecture:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidConfigError(KEY, text[:80], "JSON") from error
    if not is_gguf(facts):
        return architecture_from_json(text, checkpoint_bytes)
    header = GGUFHeader(metadata=MappingProxyType(facts[KEY]), tensors=())
    return architecture_from_gguf(header, checkpoint_bytes)


def _is_number(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= MAX_LISTED and all(isinstance(one, int | float) for one in value)
    return isinstance(value, int | float)
