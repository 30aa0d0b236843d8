"""Whether new readings are a reason to plan anew.

Most are not: requests come and go at every scrape, and free bytes move a little all the time. A
plan depends on who answers, on which devices there are and on how much they have free. What
routers count is looked at when something is due: each second while a replica drains, and else
with everything (the pressure's word in a status is a measurement, and may be half a minute old).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from memroute.units import MIB
from memroute_kube import KubeObject
from memroute_operator.readings.device_metrics import DeviceMetrics
from memroute_operator.readings.engine_reports import EngineReports
from memroute_operator.readings.router_metrics import RouterMetrics

# A change of free bytes below this is no reason to plan anew: an engine's own use moves by some
# MiB all the time, and no placement turns on that. Chosen by hand.
CHANGE_BYTES = 64 * MIB

_Device = tuple[str, str, str | None]


@dataclass(slots=True)
class News:
    """What a plan saw of the readings when there was news last."""

    _content: tuple[object, ...] | None = None
    _free_bytes: dict[_Device, int | None] = field(default_factory=dict)
    """By device: what counted as its free bytes last. Compared with that and not in steps: a
    value that moves by 1 MiB around the end of a step would be news each time."""

    def look(
        self,
        devices: DeviceMetrics,
        routers: RouterMetrics,
        engines: EngineReports,
        slices: Mapping[str, Sequence[KubeObject]],
        fetches: Mapping[str, str],
        *,
        now_seconds: float,
        asleep: Collection[str] = (),
    ) -> bool:
        """Whether anything has changed that a plan would see.

        ``asleep``: ModelDeployments of which replicas sleep: that one is asked for wakes it.
        """
        before = self._free_bytes
        self._free_bytes = {
            key: _settled(before.get(key), one.free_bytes)
            for node, reading in devices.readings.items()
            for one in reading.devices
            for key in [(node, one.uuid, one.slice_id)]
        }
        content = (
            self._free_bytes,
            {node: devices.is_fresh(node, now_seconds=now_seconds) for node in devices.readings},
            [
                (node, [(one.uuid, one.assigned_pods, one.xid) for one in reading.devices])
                for node, reading in sorted(devices.readings.items())
            ],
            routers.is_known,
            {key: report.are_unmet for key, report in routers.targets.items()},
            dict(engines.by_pod),
            slices,
            fetches,
            {key: at for key, at in routers.demand.last_asked().items() if key in asleep},
        )
        is_news, self._content = content != self._content, content
        return is_news


def _settled(before: int | None, now: int | None) -> int | None:
    """The free bytes that count: those from before, unless they have really changed."""
    if before is None or now is None or abs(now - before) >= CHANGE_BYTES:
        return now
    return before
