"""What is read over HTTP from exporters, routers and engines, each source by itself.

Owns the three readings, and the picture of them that decides whether a plan or a status may
come out differently: numbers that move a little wake nobody up.
"""

import logging
from collections.abc import Awaitable, Callable

import httpx

from memroute.units import MIB
from memroute_operator.calibrations import EngineReports
from memroute_operator.device_metrics import DeviceMetrics, matches_selector
from memroute_operator.router_metrics import RouterMetrics
from memroute_operator.settings import OperatorSettings
from memroute_operator.status import PRESSURE_LEVELS
from memroute_operator.store import Store

LOGGER = logging.getLogger(__name__)
# Free memory that moves by less than this changes no plan: chosen by hand, a tenth of what the
# smallest model needs. Plans still use the exact value.
BUCKET_BYTES = 256 * MIB


class Sources:
    """Reads everything once per call. One source that fails leaves the others alone."""

    def __init__(
        self,
        store: Store,
        settings: OperatorSettings,
        http: httpx.AsyncClient,
        clock: Callable[[], float],
        on_bug: Callable[[str, Exception], None],
    ) -> None:
        """``on_bug``: told of exceptions that nobody expected, and where."""
        self._store = store
        self._settings = settings
        self._http = http
        self._clock = clock
        self._on_bug = on_bug
        self.devices = DeviceMetrics(scrape_seconds=settings.scrape_seconds)
        self.routers = RouterMetrics()
        self.reports = EngineReports()
        self._picture: object = None

    async def read_all(self) -> float:
        """Read exporters and routers, and engines that were not read yet. When that ended.

        Raises nothing.
        """
        pods = list(self._store.pods.values())
        exporters = [p for p in pods if matches_selector(p, self._settings.exporter_selector)]
        routers = [p for p in pods if matches_selector(p, self._settings.router_selector)]
        # One after the other: together they would fill each other's connections.
        await self._read(
            "exporters",
            lambda: self.devices.scrape(
                self._http, exporters, self._settings.exporter_port, self._clock
            ),
        )
        await self._read("routers", lambda: self.routers.scrape(self._http, routers))
        await self._read("engines", lambda: self.reports.scrape(self._http, pods))
        picture = self._take_picture()
        if picture != self._picture:
            self._picture = picture
            self._store.mark_dirty()
        return self._clock()

    async def _read(self, name: str, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        except Exception as error:  # noqa: BLE001 - a named boundary: pages are whatever their authors wrote
            self._on_bug(name, error)

    def _take_picture(self) -> object:
        now = self._clock()
        devices = {
            node: (
                self.devices.is_fresh(node, now_seconds=now),
                tuple(
                    (
                        device.uuid,
                        None if device.free_bytes is None else device.free_bytes // BUCKET_BYTES,
                        device.assigned_pod,
                    )
                    for device in reading.devices
                ),
            )
            for node, reading in self.devices.readings.items()
        }
        pressure = {
            pod: sum(ratio >= limit for limit, _ in PRESSURE_LEVELS)
            for pod, ratio in self.routers.kv_projected_ratio.items()
        }
        idle = {pod for pod, count in self.routers.in_flight.items() if count == 0}
        unmet = {key for key, report in self.routers.targets.items() if report.are_unmet}
        return devices, self.routers.is_known, pressure, idle, unmet, set(self.reports.by_pod)
