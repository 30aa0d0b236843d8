"""For how long kubelets have said nothing, by their Leases, and without comparing clocks.

A kubelet renews the Lease of its node every 10 s. Kubernetes calls a node ``Unknown`` when that
has not happened for 40 s (50 s since 1.32), and marks all silent nodes within about 15 s of each
other. Who only sees those marks cannot tell the first of a thousand from the only one, and has to
wait. The Leases tell at once: of one dead node the others' are renewed, of an outage none is.

``renewTime`` is of the kubelets' clocks. The version of a Lease is not: versions of one resource
are numbers that grow, so what has a lower one than the whole collection had at a moment of ours
was not renewed since. Those moments are marks, taken every 10 s by a list of one object. Whole
lists are taken only while a node is unreachable and not given up.

Owns the marks and the last list. What is not known is left out: then others wait as without it.
"""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from memroute_kube import LEASES, ApiError, KubeObject, KubernetesClient
from memroute_operator.replicas.lost_nodes import TOLD_SHORT_SECONDS

LOGGER = logging.getLogger(__name__)
NAMESPACE = "kube-node-lease"
# A kubelet renews when a quarter of its Lease's duration has passed: every 10 s by default
# (``nodeLeaseDurationSeconds`` 40). Shorter ones count as the default: marks are no finer.
RENEWAL_RATIO = 0.25
RENEWAL_SECONDS = 10.0
# How often a mark is taken, in seconds: as often as kubelets renew. A silence is told too short
# by as much at the most.
MARK_SECONDS = TOLD_SHORT_SECONDS
# For how long marks are kept, in seconds: silences longer than that are told as this long.
KEPT_SECONDS = 600.0
# How old a list may be and still tell of the present, in seconds: half of a renewal's interval.
FRESH_SECONDS = 5.0
# How long a step waits for the list, in seconds: 5,000 Leases take less than one.
LIST_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """What the Lease of one node tells."""

    seconds: float
    """For how long at least its kubelet has said nothing."""
    renewal_seconds: float
    """How often it renews."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lease:
    version: int
    renewal_seconds: float


@dataclass(slots=True, kw_only=True)
class NodeLeases:
    """Silences of kubelets, in seconds."""

    client: KubernetesClient
    clock: Callable[[], float]
    _marks: list[tuple[int, float]] = field(default_factory=list)
    """Versions that the collection had, and when; both grow."""
    _silences: Mapping[str, Silence] = field(default_factory=dict)
    _listed_at: float | None = None
    _trouble: str | None = None

    async def mark(self) -> float:
        """Remember which version the Leases have now; when that was. Raises nothing of a call."""
        try:
            answer = await self.client.request("GET", LEASES.path(NAMESPACE), query={"limit": 1})
            version = int(answer["metadata"]["resourceVersion"])
        except (ApiError, KeyError, TypeError, ValueError) as error:
            self._tell(repr(error))
            return self.clock()
        self._tell(None)
        now = self.clock()
        if self._marks and version < self._marks[-1][0]:
            self._marks.clear()  # another etcd, or an older one: no version is of any use any more
        self._marks.append((version, now))
        while now - self._marks[0][1] > KEPT_SECONDS:
            del self._marks[0]
        return now

    async def look(self) -> None:
        """Take a whole list, unless the last one is young enough. Raises nothing of a call."""
        now = self.clock()
        if self._listed_at is not None and now - self._listed_at < FRESH_SECONDS:
            return
        self._listed_at, self._silences = now, {}
        try:
            async with asyncio.timeout(LIST_SECONDS):
                leases, _ = await self.client.list(LEASES, NAMESPACE)
            found = {str(one["metadata"]["name"]): _read(one) for one in leases}
        except (ApiError, TimeoutError, KeyError, TypeError, AttributeError, ValueError) as error:
            self._tell(repr(error))
            return
        self._silences = silences(found, self._marks, now_seconds=now)

    def silences(self) -> Mapping[str, Silence]:
        """By node; without what is not known, and empty while no list is young enough."""
        is_fresh = self._listed_at is not None and self.clock() - self._listed_at < FRESH_SECONDS
        return self._silences if is_fresh else {}

    def _tell(self, trouble: str | None) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            LOGGER.info("leases can be read namespace=%s", NAMESPACE)
        else:
            LOGGER.warning(
                "leases cannot be read, lost nodes are given up later namespace=%s error=%s",
                NAMESPACE, trouble,
            )  # fmt: skip


def silences(
    leases: Mapping[str, _Lease], marks: list[tuple[int, float]], *, now_seconds: float
) -> dict[str, Silence]:
    """By node. A Lease was written before the first mark with a greater version.

    Without any mark nothing is known.
    """
    if not marks:
        return {}
    found: dict[str, Silence] = {}
    for node, lease in leases.items():
        after = bisect_right(marks, lease.version, key=lambda mark: mark[0])
        seconds = max(0.0, now_seconds - marks[after][1]) if after < len(marks) else 0.0
        found[node] = Silence(seconds=seconds, renewal_seconds=lease.renewal_seconds)
    return found


def _read(lease: KubeObject) -> _Lease:
    duration = (lease.get("spec") or {}).get("leaseDurationSeconds")
    told = duration * RENEWAL_RATIO if isinstance(duration, int) else 0.0
    return _Lease(
        version=int(lease["metadata"]["resourceVersion"]),
        renewal_seconds=max(RENEWAL_SECONDS, told),
    )
