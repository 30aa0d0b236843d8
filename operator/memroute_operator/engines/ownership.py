"""Why a flag of an engine is memroute's own, and the sentence that says so.

An engine that takes more memory than was reserved for it takes it from its neighbours; one that
listens elsewhere, or tells no metrics, is not seen by operator and router. So ``engine.args`` are
parsed as the engine parses them (``command_lines``, ``llama_cpp_flags``), and what decides these
things is refused by name. Each engine has a table of its own; the reasons that they share are
here.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from memroute_operator.engines.command_lines import Flag, Stray

# Flags that a message names one by one before it only counts.
MAX_LISTED = 3
# Longer words are cut in a message.
MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Owner:
    """Why a flag is memroute's own."""

    why: str
    instead: str | None = None
    """The field of the spec to use."""


MEMORY: Final = Owner("memroute computes it from what it has reserved")
UNCOUNTED: Final = Owner("the footprint does not count what it takes")
PARALLEL: Final = Owner(
    "memroute reserves devices for tensor parallelism alone", "parallelism.tensorParallelSize"
)
ADDRESS: Final = Owner(
    "probes, operator and router reach the engine where memroute has put it, by HTTP"
)
DRAFT: Final = Owner("the footprint does not count what speculative decoding loads")
GRAPHS: Final = Owner(
    "the footprint counts the engine's usual CUDA graphs", "engine.execution (Eager takes none)"
)
EXPERTS: Final = Owner("the footprint does not count redundant experts")
CONFIG: Final = Owner("the footprint goes by the model's own config.json")
FILE_OF_FLAGS: Final = Owner("memroute cannot see what the file says", "engine.args for each flag")
ENDS: Final = Owner("it ends the engine at once")
MODEL: Final = Owner("the footprint is that of spec.model", "model.name")
COMMIT: Final = Owner("the footprint is that of one commit", "model.source.hub.revision")
NAME: Final = Owner("routers and operator go by it", "model.servedName")
CONTEXT: Final = Owner("the KV cache is sized by it", "memory.maxContextTokens")
CACHE_DTYPE: Final = Owner("the KV cache is sized by it", "memory.kvCacheDtype")
QUANTIZATION: Final = Owner("the weights are sized by it", "memory.quantization")
DEVICES: Final = Owner("memroute chooses the devices", "placement")
SLOTS: Final = Owner(
    "memroute counts the slots of adapters", "engine.maxAdapters and spec.adapters"
)
RANK_OF_SLOTS: Final = Owner("memroute counts the rank of adapters' slots", "engine.maxAdapterRank")
METRICS: Final = Owner("routers go by the engine's metrics")

Judge = Callable[[Flag], Owner | None]
"""Why a flag is owned for its value; None where it is not."""


def refusal_of(
    parsed: Iterable[Flag | Stray],
    owned: Mapping[str, Owner],
    *,
    stray: str,
    by_value: Judge | None = None,
) -> str | None:
    """Why these words cannot be taken, a sentence for each flag; None when they can.

    ``stray``: what the engine does with a word that belongs to no flag.
    """
    told = [
        sentence
        for one in parsed
        if (sentence := _sentence(one, owned, stray, by_value)) is not None
    ]
    if not told:
        return None
    more = f"; and {len(told) - MAX_LISTED} more" if told[MAX_LISTED:] else ""
    return "; ".join(told[:MAX_LISTED]) + more


def _sentence(
    one: Flag | Stray, owned: Mapping[str, Owner], stray: str, by_value: Judge | None
) -> str | None:
    where = f"engine.args[{one.position}] {_shown(one.written)}"
    if isinstance(one, Stray):
        return f"{where} belongs to no flag: {stray}"
    if one.could_be:
        names = ", ".join(one.could_be[:MAX_LISTED])
        return f"{where} could be {names}: write it out"
    owner = owned.get(one.name)
    if owner is None and by_value is not None:
        owner = by_value(one)
    if owner is None:
        return None
    called = "" if one.written.partition("=")[0] == one.name else f" (that is {one.name})"
    use = f"use spec.{owner.instead}" if owner.instead else "leave it out"
    return f"{where}{called} is memroute's own, because {owner.why}; {use}"


def _shown(text: str) -> str:
    cut = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return json.dumps(cut, ensure_ascii=False)
