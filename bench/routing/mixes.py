"""The traffic mixes of the studies: what requests and answers are like beside their lengths.

``plain`` is what every study had before, ``real`` what a pool meets (``memroute_simulator.virtual.
mix``). The others turn one thing at a time, for the study ``answers``.
"""

from dataclasses import replace

from memroute_simulator.virtual.mix import PLAIN, REAL_MIX, TrafficMix

# Cycles of the tokens that speculation accepts at once, their means 2, 3 and 4.
_ACCEPTED = {2: (1, 3, 2, 2), 3: (3, 1, 5, 3), 4: (4, 1, 7, 4)}

MIXES: dict[str, TrafficMix] = {
    "plain": PLAIN,
    "real": REAL_MIX,
    **{
        f"whole-{percent}": replace(PLAIN, whole_ratio=percent / 100)
        for percent in (30, 50, 80, 95, 100)
    },
    **{f"events-{size}": replace(PLAIN, event_tokens=(size,)) for size in (4, 8, 20)},
    # No client asks for usage: the counters of the engine say what an event carries.
    "events-20-untold": replace(PLAIN, event_tokens=(20,), usage_ratio=0.0),
    **{
        f"speculation-{mean}": replace(PLAIN, event_tokens=sizes)
        for mean, sizes in _ACCEPTED.items()
    },
    **{
        f"choices-{count}": replace(PLAIN, choices_ratio=1.0, choices=(count,))
        for count in (2, 4, 8)
    },
}
"""By name."""
DEFAULT_MIXES = ("plain", "real")
ANSWER_MIXES = ("plain", *(name for name in MIXES if name not in DEFAULT_MIXES))
"""Of the study ``answers``."""
REAL_ROUTERS = 4
"""Routers of a case in the real mix, where the case itself has fewer."""


def num_routers(mix: str, own: int) -> int:
    """How many routers a case has in a mix."""
    return max(own, REAL_ROUTERS) if mix == "real" else own


def scrape_seconds(mix: str) -> float:
    """How often replicas are read: as by default in the real mix, as the old figures else."""
    return 1.0 if mix == "real" else 0.2
