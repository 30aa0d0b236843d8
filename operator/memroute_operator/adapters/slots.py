"""How many adapters an engine has room for, and of which rank: what the footprint counts. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memroute_kube.shapes import listed, mapping

# Adapters in one step, where nobody says it: chosen by hand. A slot of rank 16 takes 84 MiB of an
# 8B model; four of them are 2 % of its weights. Another number is another footprint, no more.
DEFAULT_MAX_ADAPTERS = 4
# The ranks that engines allocate slots of (vLLM 0.32, ``MaxLoRARanks``, without 1).
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# vLLM's own default, and the rank of most published adapters.
DEFAULT_RANK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSlots:
    """Slots on the devices, allocated when the engine starts whether they are used or not."""

    max_adapters: int
    max_rank: int


def slots_of(spec: Mapping[str, Any]) -> AdapterSlots | None:
    """The slots that a spec asks for by its typed fields; None: for none."""
    engine = mapping(spec.get("engine"))
    wanted = engine.get("maxAdapters")
    sourced = [one for one in map(mapping, listed(spec.get("adapters"))) if one.get("source")]
    if wanted is None and not sourced:
        return None
    ranks = [rank for one in sourced if isinstance(rank := one.get("rank"), int)]
    least = max(ranks, default=DEFAULT_RANK)
    rank = engine.get("maxAdapterRank") or next(
        (one for one in RANKS if one >= max(least, DEFAULT_RANK)), RANKS[-1]
    )
    return AdapterSlots(max_adapters=wanted or DEFAULT_MAX_ADAPTERS, max_rank=rank)
