"""Memory of one node that engines have pinned, and whom the kernel kills when it is not there.

Pinned memory is neither swapped nor reclaimed. A container that passes its own limit is killed at
once. When the node itself has no more, the kernel takes the process with the greatest score:

```text
score = 1000 x bytes / bytes of the node + adjustment
adjustment = -997 where the pod's memory request is its limit, 1000 without a request, else
             1000 - 1000 x request / bytes of the node, from 3 to 999   (kubelet, qos/policy.go)
```

What an engine takes besides (its code, the page cache) is not counted: it is small, or comes back.
Owns the counters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memroute_kube.quantities import parse_count

GUARANTEED_ADJUSTMENT = -997
BEST_EFFORT_ADJUSTMENT = 1000
_BURSTABLE = (3, 999)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """What a container's spec says of memory, in bytes; None: it says nothing."""

    request_bytes: int | None = None
    limit_bytes: int | None = None

    @classmethod
    def of(cls, container: Mapping[str, Any]) -> "MemoryBudget":
        """As Kubernetes reads it: a limit without a request is the request too."""
        resources = container.get("resources") or {}
        limit = parse_count((resources.get("limits") or {}).get("memory"))
        request = parse_count((resources.get("requests") or {}).get("memory"))
        return cls(request_bytes=limit if request is None else request, limit_bytes=limit)


NO_BUDGET = MemoryBudget()


@dataclass(slots=True)
class HostMemory:
    """The memory of one node, by who holds it."""

    total_bytes: int
    held: dict[str, int] = field(default_factory=dict)
    """Bytes by container instance."""
    peak_bytes: int = 0
    """The most that was ever held at once."""
    num_killed: int = 0
    """Containers that the kernel has killed for want of memory."""
    _budgets: dict[str, MemoryBudget] = field(default_factory=dict)

    @property
    def beyond_request(self) -> list[str]:
        """Containers that hold more than they have asked for: nobody has kept it for them."""
        return sorted(
            owner
            for owner, held in self.held.items()
            if held > (self._budgets[owner].request_bytes or 0)
        )

    def record(self) -> dict[str, Any]:
        """What a test reads of it."""
        return {
            "totalBytes": self.total_bytes,
            "peakBytes": self.peak_bytes,
            "numKilled": self.num_killed,
            "heldBytes": dict(self.held),
            "beyondRequest": self.beyond_request,
        }

    @property
    def used_bytes(self) -> int:
        """Bytes that are held by anyone."""
        return sum(self.held.values())

    def hold(self, owner: str, num_bytes: int, budget: MemoryBudget = NO_BUDGET) -> str | None:
        """A container holds so many bytes from now on; returns whom the kernel kills for it.

        Its bytes are there until ``release``: a killed process frees them when it is gone.
        """
        self.held[owner] = num_bytes
        self._budgets[owner] = budget
        used = self.used_bytes
        self.peak_bytes = max(self.peak_bytes, min(used, self.total_bytes))
        victim = None
        if budget.limit_bytes is not None and num_bytes > budget.limit_bytes:
            victim = owner
        elif used > self.total_bytes:
            victim = max(self.held, key=self._score)
        if victim is not None:
            self.num_killed += 1
        return victim

    def release(self, owner: str) -> None:
        """The container's process is gone."""
        self.held.pop(owner, None)
        self._budgets.pop(owner, None)

    def _score(self, owner: str) -> float:
        return 1000 * self.held[owner] / self.total_bytes + self._adjustment(owner)

    def _adjustment(self, owner: str) -> int:
        budget = self._budgets[owner]
        if budget.request_bytes is None:
            return BEST_EFFORT_ADJUSTMENT
        if budget.request_bytes == budget.limit_bytes:
            return GUARANTEED_ADJUSTMENT
        least, most = _BURSTABLE
        return min(most, max(least, 1000 - 1000 * budget.request_bytes // self.total_bytes))


def host_record(directory: Path, node: str) -> Path:
    """Where a node writes what is held of its memory: ``HostMemory.record`` as JSON."""
    return directory / "host-memory" / f"{node}.json"
