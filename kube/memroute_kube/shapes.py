"""Parts of objects, taken for what they are: whoever may write an object may write anything there.

The API server checks the shape of pods and of custom resources, but labels and annotations are
texts of anybody, and a schema may be newer or older than the program that reads by it.
"""

import re
from collections.abc import Mapping
from typing import Any

# As the schema has it, in characters: of spec.model.servedName.
MAX_NAME_LENGTH = 256
# Names of objects: DNS subdomains. In characters.
MAX_OBJECT_NAME_LENGTH = 253
# No accelerator holds more KV tokens (the schema's own bound, see memory.concurrency): what says
# more is nonsense, or wants to look like the emptiest replica.
MAX_TOKENS = 2**30
# Ten digits: 2^30. A longer text is not converted at all.
_DIGITS = re.compile(r"[0-9]{1,10}", re.ASCII)
# As the API server writes times. Such texts sort by time.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


class OddObjectError(Exception):
    """An object, or a part of it, has another shape than its schema says."""


def tokens(value: object) -> int | None:
    """A number of tokens from 1 to ``MAX_TOKENS``, or its digits; None for anything else."""
    if isinstance(value, str):
        # Not str.isdigit: that takes "²", which int() refuses.
        number = int(value) if _DIGITS.fullmatch(value) else 0
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        return None
    return number if 0 < number <= MAX_TOKENS else None


def name_of(value: object) -> str | None:
    """A name that clients may ask for; None for what is none.

    One that cannot be printed would forge lines in logs and in what people are told.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_LENGTH:
        return None
    return value if value.isprintable() else None


def is_object_name(value: object) -> bool:
    """Whether it may be the name, the namespace or the uid of an object."""
    return isinstance(value, str) and 0 < len(value) <= MAX_OBJECT_NAME_LENGTH


def is_time(value: object) -> bool:
    """Whether it is a time as the API server writes them."""
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def mapping(value: object) -> Mapping[str, Any]:
    """The mapping, or an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def is_terminal(pod: Mapping[str, Any]) -> bool:
    """Whether a pod's containers have ended for good; its object may stay for weeks."""
    return mapping(pod.get("status")).get("phase") in ("Succeeded", "Failed")


def listed(value: object) -> list[Any]:
    """The list, or an empty one for anything else."""
    return value if isinstance(value, list) else []


def shown(value: object) -> str:
    """What it is, for a person, in 80 characters at the most. Raises nothing."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # a number of thousands of digits
        return f"a {type(value).__name__}"
