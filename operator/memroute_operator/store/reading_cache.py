"""What was read of objects that have not changed since, so that a settled fleet costs little.

The store replaces an object when a newer version comes and never changes one, so the same object
says the same. An entry keeps its object alive: another one cannot have its address meanwhile.
What an object says must depend on nothing else, neither on time nor on other objects.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from memroute_kube import KubeObject

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """Values by object. Owns those of the last round: what was not asked for is forgotten."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[KubeObject, Value]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def round(self) -> Callable[[KubeObject, Callable[[KubeObject], Value]], Value]:
        """Begin a round over all objects: a function that reads one, or knows it already.

        What ``read`` raises is raised, and not remembered.
        """
        before = self._values
        now = self._values = {}

        def get(obj: KubeObject, read: Callable[[KubeObject], Value]) -> Value:
            known = before.get(id(obj))
            if known is None:
                known = (obj, read(obj))
            now[id(obj)] = known
            return known[1]

        return get
