"""What a module may be called in a checkpoint's configuration.

The list of modules (``modules``) has one name for each; publishers and engines have several:

```text
model.layers.3.mlp.experts.0.gate_proj   ours; expert 0 stands for all of a layer
layers.3.mlp.experts.0.gate_proj         local: without what wraps the language model
…block_sparse_moe.experts.0.w1           the family's own words (Mixtral, MiniMax)
…mlp.experts.gate_up_proj                fused, as engines and newer files have it
model.language_model.layers.3…           in a wrapper of text and vision
```

A pattern is tried against all of them. Local names serve lists of names, full names serve regular
expressions, which are anchored at the beginning as vLLM does it (``re.match``).
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from memroute.footprint.weights.modules import Module

# What may stand before ``layers.`` and ``lm_head``.
PLAIN_PREFIXES = ("model.",)
WRAPPED_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
_WRAPPERS = re.compile(
    r"^(?:(?:model|language_model|text_model|backbone|transformer|thinker|llm|decoder)\.)+"
)
# Families that call the feed-forward of a layer otherwise.
_FEED_FORWARDS = {
    "mixtral": "block_sparse_moe", "minimax": "block_sparse_moe",
    "minimax_m2": "block_sparse_moe", "llama4_text": "feed_forward",
}  # fmt: skip
_NUMBERED = ("mixtral", "minimax", "minimax_m2")
_NUMBERED_LEAVES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_FALCON = {
    "q_proj": "query_key_value", "k_proj": "query_key_value", "v_proj": "query_key_value",
    "o_proj": "dense", "up_proj": "dense_h_to_4h", "down_proj": "dense_4h_to_h",
}  # fmt: skip
# A matrix that files or engines keep as one with its neighbours.
_FUSED = {
    "q_proj": ("qkv_proj",), "k_proj": ("qkv_proj",), "v_proj": ("qkv_proj",),
    "gate_proj": ("gate_up_proj",), "up_proj": ("gate_up_proj",),
    "q_a_proj": ("fused_qkv_a_proj",), "kv_a_proj_with_mqa": ("fused_qkv_a_proj",),
    "in_proj_qkv": ("in_proj_qkvz",), "in_proj_z": ("in_proj_qkvz",),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}  # fmt: skip
_FIRST_EXPERT = ".experts.0."


@dataclass(frozen=True, slots=True)
class Names:
    """All that one module may be called."""

    local: tuple[str, ...]
    full: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Naming:
    """How one model calls its modules."""

    family: str = ""
    is_wrapped: bool = False
    """Whether the language model is a part of something larger."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What may stand before a local name."""
        if self.family == "nemotron_h":
            return ("backbone.", *PLAIN_PREFIXES)
        if self.family == "falcon":
            return ("transformer.", *PLAIN_PREFIXES)
        return WRAPPED_PREFIXES if self.is_wrapped else PLAIN_PREFIXES

    def names(self, module: Module, expert: int = 0) -> Names:
        """What the module may be called. ``expert``: which of its copies is meant."""
        names = _names(self, module.name)
        return names if expert == 0 else _of_expert(names, expert)


def _of_expert(names: Names, expert: int) -> Names:
    """The names of another expert."""
    number = f".experts.{expert}."
    local, full = (
        tuple(one.replace(_FIRST_EXPERT, number) for one in listed)
        for listed in (names.local, names.full)
    )
    return Names(local=local, full=full)


@lru_cache(maxsize=16_384)
def _names(naming: Naming, name: str) -> Names:
    local = _locals(naming.family, local_name(name))
    full = [f"{prefix}{one}" for one in local for prefix in naming.prefixes]
    return Names(local=local, full=tuple(dict.fromkeys((*full, *local))))


def local_name(name: str) -> str:
    """A name without what wraps the language model: ``layers.0.mlp.up_proj``, ``lm_head``."""
    return _WRAPPERS.sub("", name)


def _locals(family: str, name: str) -> tuple[str, ...]:
    found = [name]
    other = _FEED_FORWARDS.get(family)
    if other is not None:
        found += [one.replace(".mlp.", f".{other}.") for one in found]
    if family == "falcon":
        found += [one.replace("layers.", "h.").replace(".self_attn.", ".self_attention.")
                  for one in found]  # fmt: skip
    found += [one.replace(".shared_experts.", ".shared_expert.") for one in found]
    for one in tuple(found):
        parent, _, leaf = one.rpartition(".")
        leaves = _FUSED.get(leaf, ())
        if family in _NUMBERED and leaf in _NUMBERED_LEAVES:
            leaves = (*leaves, _NUMBERED_LEAVES[leaf])
        if family == "falcon" and leaf in _FALCON:
            leaves = (*leaves, _FALCON[leaf])
        found += [f"{parent}.{leaf}" for leaf in leaves]
    # Files that stack the experts of a layer have no number.
    found += [one.replace(_FIRST_EXPERT, ".experts.") for one in found if _FIRST_EXPERT in one]
    return tuple(dict.fromkeys(found))
