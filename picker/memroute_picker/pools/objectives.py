"""Priorities of requests by the name of their objective: InferenceObjectives, or flags."""

import logging
from collections.abc import Mapping
from typing import Final

from memroute_kube import KubeObject
from memroute_kube.shapes import mapping

LOGGER = logging.getLogger(__name__)
# Of an objective, either way. Source: ``x-memroute-priority``.
MAX_PRIORITY: Final = 1000


def priority_of(objective: KubeObject) -> int:
    """What an InferenceObjective says, within ``MAX_PRIORITY``; 0 where it says nothing."""
    given = mapping(objective.get("spec")).get("priority")
    if not isinstance(given, int) or isinstance(given, bool):
        return 0
    return max(-MAX_PRIORITY, min(MAX_PRIORITY, given))


class Objectives:
    """Owns what is known of them."""

    def __init__(self, given: Mapping[bytes, int]) -> None:
        """``given``: by flags, for where no object has the name."""
        self._given = given
        self._known: dict[tuple[str, bytes], int] = {}
        """By namespace and name."""
        self._anywhere: dict[bytes, int | None] = {}
        """By name; None: namespaces disagree."""

    def replace(self, objects: Mapping[str, KubeObject]) -> None:
        """The InferenceObjectives that there are, by ``namespace/name``."""
        known: dict[tuple[str, bytes], int] = {}
        anywhere: dict[bytes, int | None] = {}
        for key, obj in objects.items():
            namespace, _, name = key.partition("/")
            priority = priority_of(obj)
            known[namespace, name.encode()] = priority
            if anywhere.setdefault(name.encode(), priority) != priority:
                anywhere[name.encode()] = None
        self._known, self._anywhere = known, anywhere

    def of(self, name: bytes, namespace: str | None) -> int | None:
        """The priority of an objective; None: nobody knows it.

        ``namespace``: of the pool that the request is for; None: the gateway does not say.
        """
        if namespace is not None:
            found = self._known.get((namespace, name))
        else:
            found = self._anywhere.get(name)
        return self._given.get(name) if found is None else found
