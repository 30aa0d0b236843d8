"""Which pods are read. Looked for again when pods have changed, not at every round.

A cluster has ten thousand pods that are none of ours, and an idle one changes none of them.
"""

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from memroute_kube import KubeObject

T = TypeVar("T")


class Pods(Protocol):
    """What is needed of a store of pods."""

    @property
    def num_changes(self) -> int:
        """How often a pod has come, changed or gone so far."""

    def values(self) -> Iterable[KubeObject]:
        """All pods that are known now."""


class Finder(Generic[T]):
    """What ``find`` finds among the pods that are known now."""

    def __init__(self, pods: Pods, find: Callable[[Iterable[KubeObject]], T]) -> None:
        self._pods, self._find = pods, find
        self._found: tuple[int, T] | None = None

    def __call__(self) -> T:
        """As they are now. Whoever asks must not change it."""
        num_changes = self._pods.num_changes
        if self._found is None or self._found[0] != num_changes:
            self._found = num_changes, self._find(self._pods.values())
        return self._found[1]
