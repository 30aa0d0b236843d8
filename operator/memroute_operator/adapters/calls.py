"""How engines are told of adapters: addresses, words, and what answers mean. Pure.

| engine | load | unload | a client's name | the engine's |
| --- | --- | --- | --- | --- |
| vLLM | ``POST /v1/load_lora_adapter`` | ``POST /v1/unload_lora_adapter`` | ``sql`` | ``sql`` |
| SGLang | ``POST /load_lora_adapter`` | ``POST /unload_lora_adapter`` | ``chat:sql`` | ``sql`` |

Both list what they have loaded at ``GET /v1/models``: an entry with a ``parent`` is an adapter,
and its ``root`` is the folder that it was loaded from.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from memroute.footprint import EngineType
from memroute_kube.shapes import mapping

# Of an engine's own words in a message, in characters: chosen by hand, a sentence or two.
MAX_WORDS = 300
# Of adapters in an engine's list: more than any can have loaded.
MAX_LOADED = 4096
_RANK = re.compile(r"LoRA rank (\d+) is greater than max_lora_rank (\d+)")
_NO_ROUTE = (404, 405)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCalls:
    """The calls of one engine."""

    load_path: str
    unload_path: str
    is_name_prefixed: bool = False
    """Whether clients name an adapter ``MODEL:ADAPTER``."""

    def engine_name(self, name: str, served_name: str) -> str:
        """What the engine calls the adapter that clients call ``name``."""
        return name.removeprefix(f"{served_name}:") if self.is_name_prefixed else name

    def client_name(self, name: str, served_name: str) -> str:
        """The way back."""
        return f"{served_name}:{name}" if self.is_name_prefixed else name


CALLS: Final[Mapping[EngineType, AdapterCalls]] = MappingProxyType({
    EngineType.VLLM: AdapterCalls(
        load_path="/v1/load_lora_adapter", unload_path="/v1/unload_lora_adapter"
    ),
    EngineType.SGLANG: AdapterCalls(
        load_path="/load_lora_adapter", unload_path="/unload_lora_adapter", is_name_prefixed=True
    ),
})  # fmt: skip
"""Of the engines that load adapters while they run."""


def read_loaded(page: str) -> dict[str, str] | None:
    """The adapters of ``/v1/models``, each with its folder; None where it cannot be read."""
    try:
        entries = mapping(json.loads(page)).get("data")
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list):
        return None
    found = {}
    for one in map(mapping, entries[:MAX_LOADED]):
        name, root = one.get("id"), one.get("root")
        if one.get("parent") and isinstance(name, str):
            found[name] = root if isinstance(root, str) else ""
    return found


def is_loaded_already(words: str) -> bool:
    """Whether a refusal to load says that the adapter is there."""
    return "already" in words and "loaded" in words


def is_absent_already(words: str) -> bool:
    """Whether a refusal to unload says that the adapter is not there."""
    return any(said in words for said in ("cannot be found", "not loaded", "does not exist"))


def engine_words(body: str) -> str:
    """What an engine says in a refusal, as it may stand in a sentence."""
    try:
        said = mapping(json.loads(body))
    except (ValueError, RecursionError):
        said = {}
    inner = mapping(said.get("error"))
    candidates = (inner.get("message"), said.get("error_message"), said.get("message"), body)
    words = next((one for one in candidates if isinstance(one, str) and one.strip()), "")
    return plain_words(words)[:MAX_WORDS]


def plain_words(text: str) -> str:
    """What a program says, on one line and without characters that cannot be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@dataclass(frozen=True, slots=True)
class Refused:
    """That an engine has not loaded an adapter."""

    why: str
    """As a sentence, with what helps."""
    is_pending: bool = False
    """Whether the pod that replaces this one will: nobody has to do anything."""


def why_refused(status: int, body: str, *, max_rank: int, base_model: str | None) -> Refused:
    """Why an engine did not load an adapter. ``max_rank``: that its spec asks for by now."""
    words = engine_words(body)
    found = _RANK.search(words)
    if found is None:
        return Refused(_why_refused(status, words, base_model))
    rank, has = int(found[1]), int(found[2])
    if has < rank <= max_rank:
        why = f"its rank is {rank}, and slots of pods from before take {has}: a rollout brings more"
        return Refused(why, is_pending=True)
    return Refused(rank_too_large(rank, max_rank))


def _why_refused(status: int, words: str, base_model: str | None) -> str:
    if status in _NO_ROUTE and "adapter" not in words.lower():
        return (
            f"the engine has no such call (HTTP {status}): its image is too old to load adapters "
            f"while it runs, or spec.engine.env takes VLLM_ALLOW_RUNTIME_LORA_UPDATING away"
        )
    hint = "" if base_model is None else f"; it says of itself that it was made for {base_model}"
    return f"the engine does not load it (HTTP {status}): {words or 'without a word'}{hint}"


def rank_too_large(rank: int, max_rank: int) -> str:
    """That no slot takes it."""
    return (
        f"its rank is {rank}, and the engine's slots take {max_rank}: set its rank to {rank} in "
        f"spec.adapters, or spec.engine.maxAdapterRank, which replaces the replicas"
    )
