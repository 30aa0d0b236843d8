"""Names that may have been meant, the closest first.

```text
closeness = the larger of: ratio of equal characters (difflib) to the whole name, to its last part
            + 0.2 where one begins with the other (A100 -> A100-80)
            - 0.02 x |ln(a / b)| for each pair of numbers a, b in them (Qwen3-9B: 8B before 4B)
```

Case, dots, dashes and underscores do not count.
"""

import math
import re
from collections.abc import Iterable
from difflib import SequenceMatcher

# Below that closeness a name is no misspelling: chosen by hand, difflib's own cut-off.
LEAST_CLOSENESS = 0.6
MAX_SUGGESTIONS = 3
BEGINNING_BONUS = 0.2
NUMBER_COST = 0.02
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_IGNORED = re.compile(r"[^a-z0-9/]+")


def closest(typed: str, known: Iterable[str], limit: int = MAX_SUGGESTIONS) -> list[str]:
    """Of the known names those that ``typed`` may have meant, the closest first; often none."""
    scores = {name: closeness(typed, name) for name in known}
    likely = [name for name, score in scores.items() if score >= LEAST_CLOSENESS]
    return sorted(likely, key=lambda name: -scores[name])[:limit]


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """The end of a sentence, with its own beginning: ``; did you mean A, or B?``; or nothing."""
    found = closest(typed, known)
    return f"; did you mean {', or '.join(found)}?" if found else ""


def closeness(typed: str, name: str) -> float:
    """How alike two names are: 1 is the same but for case and punctuation, 0 is nothing."""
    wanted, known = _plain(typed), _plain(name)
    tail = known.rpartition("/")[2]
    own_tail = wanted.rpartition("/")[2]
    pairs = (
        [(wanted, known), (own_tail, tail)] if "/" in wanted else [(wanted, known), (wanted, tail)]
    )
    best = max(_ratio(one, other) for one, other in pairs)
    return best - _number_cost(own_tail, tail)


def _plain(text: str) -> str:
    return _IGNORED.sub("", text.casefold())


def _ratio(one: str, other: str) -> float:
    if not one or not other:
        return 0.0
    ratio = SequenceMatcher(None, one, other, autojunk=False).ratio()
    begins = other.startswith(one) or one.startswith(other)
    return min(1.0, ratio + BEGINNING_BONUS) if begins else ratio


def _number_cost(one: str, other: str) -> float:
    """Small: it orders names that are equally alike."""
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=False)
    sizes = [(float(a), float(b)) for a, b in pairs]
    return NUMBER_COST * sum(abs(math.log(a / b)) for a, b in sizes if a > 0 and b > 0)
