"""Strings and parts of objects that repeat, kept once in the whole process.

Ten thousand pods of one node pool tolerate the same taints; the replicas of a model have the same
containers, owner and labels. As Python objects each copy takes hundreds of bytes. Whatever is
projected is never changed by anybody, so copies may be one.
"""

import marshal
import sys
from functools import lru_cache
from typing import Any, Final

# Fields whose values are another one in each object: to keep them once would keep them twice.
_UNIQUE_FIELDS = frozenset(
    {"name", "uid", "resourceVersion", "podIP", "ip", "message", "image", "containerID", "content"}
)
# Fields whose values are the same in many objects, as a whole.
_SHARED_FIELDS = frozenset(
    {"labels", "tolerations", "affinity", "containers", "initContainers", "ownerReferences",
     "schedulingGates", "taints", "capacity", "allocatable", "engine", "memory", "parallelism",
     "placement", "routing"}
)  # fmt: skip
# Fields of which each item may be the same as in other objects.
_SHARED_ITEMS = frozenset({"conditions"})
# Parts that are remembered, those used last: some 300 bytes each. Chosen by hand: a fleet of 500
# nodes and 5,000 models and workloads has that many. What is forgotten is only found no more.
MAX_PARTS: Final = 16384
# Without references, so that equal values have equal bytes.
_FORMAT: Final = 2


def interned(value: Any, field: str = "") -> Any:
    """The same value, with what repeats kept once. ``field``: whose value it is."""
    if isinstance(value, str):
        return value if field in _UNIQUE_FIELDS else sys.intern(value)
    if field in _SHARED_FIELDS:
        return shared(value)
    if isinstance(value, dict):
        return {interned(key): interned(item, key) for key, item in value.items()}
    if isinstance(value, list):
        if field in _SHARED_ITEMS:
            return [shared(item) for item in value]
        return [interned(item, field) for item in value]
    return value


def shared(value: Any) -> Any:
    """A value that equals this one in all its types, the same object for all that are equal."""
    try:
        return _part(marshal.dumps(value, _FORMAT))
    except ValueError:  # no JSON
        return value


@lru_cache(maxsize=MAX_PARTS)
def _part(content: bytes) -> Any:
    return interned(marshal.loads(content))  # noqa: S302 - written by ``shared`` in this process
