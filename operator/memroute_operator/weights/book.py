"""Which nodes have which weights, in an object of the operator's own: it outlives pods and us.

```yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: memroute-weights, namespace: memroute-system}
data:
  1f3c9a70b2d4e5f6: '["gpu-a", "gpu-b"]'      # hash of folder, source and files → nodes
```

It is learned from pods: one whose fetcher has ended well shows what its node has. It is a belief,
because a fetcher makes room by least use, and a disk may be changed. A wrong one costs a download,
and nothing else: placement never lets it decide whether a replica fits.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from memroute_kube import ApiError, KubeObject, KubernetesClient
from memroute_kube.shapes import MAX_OBJECT_NAME_LENGTH, mapping
from memroute_operator.ahead.facts import Ahead
from memroute_operator.replicas.replica import Replica
from memroute_operator.store.own_objects import patch_config_map, read_config_map

LOGGER = logging.getLogger(__name__)
BOOK_NAME = "memroute-weights"
# How many pairs of weights and node are kept: chosen by hand. Of 64 bytes each, half of what an
# object may have; names of nodes are four times as long at the most, which the API server refuses.
MAX_PAIRS = 4096
MAX_KEY_CHARACTERS = 64
# How long a write that failed is left alone, in seconds: chosen by hand. Nothing waits for it.
RETRY_SECONDS = 30.0

Known = Mapping[str, frozenset[str]]
"""Key of weights → nodes that have them."""


def learned(replicas: Iterable[Replica | Ahead]) -> dict[str, frozenset[str]]:
    """What pods that exist show: the nodes on which their weights have been fetched."""
    found: dict[str, set[str]] = {}
    for replica in replicas:
        key = replica.weights_key
        if key and len(key) <= MAX_KEY_CHARACTERS and replica.has_fetched:
            found.setdefault(key, set()).add(replica.node)
    return {key: frozenset(nodes) for key, nodes in found.items()}


def read_book(obj: KubeObject) -> dict[str, frozenset[str]]:
    """All that the ConfigMap says. What cannot be read is left out; raises nothing."""
    found: dict[str, frozenset[str]] = {}
    left = MAX_PAIRS
    for key, text in mapping(obj.get("data")).items():
        try:
            said = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            continue
        nodes = frozenset(
            name
            for name in (said if isinstance(said, list) else ())
            if isinstance(name, str) and 0 < len(name) <= MAX_OBJECT_NAME_LENGTH
        )
        left -= len(nodes)
        if left < 0:
            break
        if nodes:
            found[str(key)] = nodes
    return found


def merged(before: Known, learned_now: Known, nodes: Collection[str]) -> dict[str, frozenset[str]]:
    """What is known by now, the newest last. ``nodes``: those that exist; empty: nobody knows.

    Of too many pairs those go first that nobody has shown for the longest.
    """
    found = dict(before)
    for key, more in learned_now.items():
        known = found.pop(key, frozenset())
        found[key] = known | more
    if nodes:
        there = frozenset(nodes)
        found = {key: names & there for key, names in found.items() if names & there}
    left = MAX_PAIRS
    kept: dict[str, frozenset[str]] = {}
    for key, names in reversed(found.items()):
        left -= len(names)
        if left < 0:
            break
        kept[key] = names
    return dict(reversed(kept.items()))


@dataclass(slots=True, kw_only=True)
class WeightsBook:
    """Owns what is known, and what of it is written."""

    client: KubernetesClient
    namespace: str
    clock: Callable[[], float]
    known: dict[str, frozenset[str]] = field(default_factory=dict)
    _written: dict[str, frozenset[str]] = field(default_factory=dict)
    _due_seconds: float = 0.0

    async def read(self) -> bool:
        """Read it again; whether anything is other than before. What was learned here stays."""
        obj = await read_config_map(self.client, self.namespace, BOOK_NAME)
        before, self._written = self.known, read_book(obj)
        self.known = merged(self._written, before, ())
        return self.known != before

    async def keep(self, replicas: Iterable[Replica | Ahead], nodes: Collection[str]) -> None:
        """Remember what pods show, and write what is new. Raises nothing."""
        self.known = merged(self.known, learned(replicas), nodes)
        changed = {
            key: names for key, names in self.known.items() if self._written.get(key) != names
        }
        gone = self._written.keys() - self.known.keys()
        if not (changed or gone) or self.clock() < self._due_seconds:
            return
        data: dict[str, str | None] = {
            key: json.dumps(sorted(names)) for key, names in changed.items()
        }
        data |= dict.fromkeys(gone)
        writing = dict(self.known)
        try:
            await patch_config_map(self.client, self.namespace, BOOK_NAME, {"data": data})
        except ApiError as error:
            self._due_seconds = self.clock() + RETRY_SECONDS
            LOGGER.warning(
                "nodes that have weights not written configmap=%s/%s error=%s retry_seconds=%.0f",
                self.namespace, BOOK_NAME, error, RETRY_SECONDS,
            )  # fmt: skip
        else:
            self._written = writing
