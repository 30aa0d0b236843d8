"""What is read of the API server from time to time, beside the objects that are watched.

| what | who writes it |
| --- | --- |
| grants of names, quotas of HBM, PriorityClasses | administrators |
| calibrations, which nodes have which weights | the operator itself, in earlier terms too |
| the version | the API server |
"""

import asyncio
from collections.abc import Awaitable, Callable

from memroute_kube import KubernetesClient
from memroute_operator.boundary import Boundary
from memroute_operator.readings.calibration_book import CalibrationBook
from memroute_operator.rules.cluster_rules import ClusterRules
from memroute_operator.rules.name_grants import GRANTS_NAME, GRANTS_SECONDS, NameGrants
from memroute_operator.weights.book import WeightsBook
from memroute_operator.weights.choosing import server_version


class ClusterRecords:
    """Owns what was read last of each."""

    def __init__(
        self,
        client: KubernetesClient,
        *,
        namespace: str,
        boundary: Boundary,
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        """``namespace``: the operator's own; ``on_change``: a step has something new to go by."""
        self._client = client
        self._boundary = boundary
        self._clock = clock
        self._on_change = on_change
        self.grants = NameGrants(client=client, namespace=namespace)
        self.rules = ClusterRules(client=client, namespace=namespace)
        self.calibrations = CalibrationBook(client=client, namespace=namespace, clock=clock)
        self.weights = WeightsBook(client=client, namespace=namespace, clock=clock)

    @property
    def unread(self) -> set[str]:
        """Those of administrators that cannot be read now."""
        missing = set() if self.grants.error is None else {GRANTS_NAME}
        return missing | set(self.rules.unread)

    async def read(self) -> None:
        """All of them, again. Raises what reading grants raises: nothing is served without."""
        await self._read_grants()
        await self._boundary.guarded("rules", self._read_rules)
        await self._boundary.guarded("calibrations", self._read_books)

    async def follow(self) -> None:
        """Read what administrators write, for ever."""
        while True:
            await asyncio.sleep(GRANTS_SECONDS)
            await self._boundary.guarded("grants", self._read_grants)
            await self._boundary.guarded("rules", self._read_rules)

    async def read_version(self, know: Callable[[tuple[int, int] | None], None]) -> None:
        """Ask of which Kubernetes the API server is, and tell."""

        async def ask() -> float:
            know(server_version(await self._client.request("GET", "/version")))
            return self._clock()

        await self._boundary.guarded("version", ask)

    async def _read_grants(self) -> float:
        return await self._read(self.grants.read)

    async def _read_rules(self) -> float:
        return await self._read(self.rules.read)

    async def _read_books(self) -> float:
        began = await self._read(self.calibrations.read)
        await self.weights.read()
        return began

    async def _read(self, read: Callable[[], Awaitable[bool]]) -> float:
        """Read it again; when, by our clock."""
        began = self._clock()
        if await read():
            self._on_change()
        return began
