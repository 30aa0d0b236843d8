"""What only the operator can see, in one object that a kubeconfig reaches: for ``memroute top``.

Exporters and routers answer inside of the cluster. Promises are in pods, sizes in Nodes; what is
*used* of a device, and how full a replica's KV cache is, only the operator reads. It keeps the
last readings in a ConfigMap of its own namespace, so that the command line computes with the
operator's own functions what the operator computes:

```yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: memroute-fleet, namespace: memroute-system}
data:
  view: '{"version": 1, "at": "2026-11-29T04:00:00Z", "scrapeSeconds": 5.0, "replicas": {…},
    "nodes": {"gpu-a": {"taken": 3.1, "collected": 12.4, "devices": [["GPU-1f3c…", 0, …]]}}}'
```

A status would be the wrong place: this is telemetry, and belongs to no ModelDeployment. Nobody
but people reads it; the operator does not.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from memroute.units import MIB
from memroute_kube import KubeObject, KubernetesClient
from memroute_kube.packed import packed_text, unpacked_text
from memroute_operator.readings.device_metrics import DeviceMetrics, DeviceReading, NodeReading
from memroute_operator.readings.own_promises import (
    OwnPromises,
    read_promises,
    written_promises,
)
from memroute_operator.readings.router_metrics import RouterMetrics
from memroute_operator.store.notices import UNCHANGED_SECONDS, Notice

VIEW_NAME = "memroute-fleet"
VIEW_KEY = "view"
VIEW_VERSION = 1
# A view that is twice as old as it should ever be, in seconds.
OLD_SECONDS = 2 * UNCHANGED_SECONDS
# What of a reading counts as a change, in bytes: an engine's own use moves by some MiB.
CHANGE_BYTES = 64 * MIB
CHANGE_RATIO = 0.02
_DEVICE_FIELDS = (
    "uuid", "index", "product", "slice_id", "slice_profile", "free_bytes", "used_bytes",
    "reserved_bytes", "given_total_bytes", "xid",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaUse:
    """What routers have said of one replica."""

    kv_projected_ratio: float | None = None
    num_in_flight: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """What the operator has read, at one moment."""

    at: datetime
    """By the operator's clock."""
    scrape_seconds: float
    readings: Mapping[str, NodeReading]
    """By node; their times count from ``at``, in seconds: 0 is then, and before is negative."""
    replicas: Mapping[str, ReplicaUse] = field(default_factory=dict)
    """By ``namespace/pod``."""
    waiting: Mapping[str, int] = field(default_factory=dict)
    """Requests that routers hold, by ``namespace/name`` of the ModelDeployment."""
    are_routers_known: bool = False
    """Whether every router had answered: else what is not there is unknown, and not nothing."""
    avoided_nodes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """ModelDeployment → nodes that have just refused one of its pods."""
    own: OwnPromises = field(default_factory=OwnPromises)
    """What replicas held then, so that what has ended since is told apart from foreign use."""

    def is_old(self, now: datetime) -> bool:
        """Whether it is so old that the operator must have been kept from writing it."""
        return (now - self.at).total_seconds() > OLD_SECONDS

    def devices(self) -> DeviceMetrics:
        """The readings as a planner takes them, at ``now_seconds`` 0."""
        return DeviceMetrics(scrape_seconds=self.scrape_seconds, readings=dict(self.readings))


def written_view(
    devices: DeviceMetrics,
    routers: RouterMetrics,
    avoided_nodes: Mapping[str, frozenset[str]],
    own: OwnPromises,
    *,
    now_seconds: float,
    now: datetime,
) -> dict[str, Any]:
    """The view as JSON has it."""
    pods = routers.in_flight.keys() | routers.kv_projected_ratio.keys()
    return {
        "version": VIEW_VERSION,
        "at": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "scrapeSeconds": devices.scrape_seconds,
        "routersKnown": routers.is_known,
        "replicas": {
            pod: [_rounded(routers.kv_projected_ratio.get(pod)), routers.in_flight.get(pod)]
            for pod in sorted(pods)
        },
        "waiting": dict(sorted(routers.waiting.items())),
        "avoided": {key: sorted(nodes) for key, nodes in sorted(avoided_nodes.items())},
        "nodes": {
            node: _written_reading(reading, now_seconds) | written_promises(own, reading)
            for node, reading in sorted(devices.readings.items())
        },
    }


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 3)


def _written_reading(reading: NodeReading, now_seconds: float) -> dict[str, Any]:
    collected = reading.collected_after_seconds
    return {
        "taken": round(now_seconds - reading.taken_at_seconds, 1),
        "collected": None if collected is None else round(now_seconds - collected, 1),
        "devices": [
            [*(getattr(device, name) for name in _DEVICE_FIELDS), list(device.assigned_pods)]
            for device in reading.devices
        ],
    }


def packed(document: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` (and ``binaryData``, of a large fleet) of the ConfigMap."""
    return packed_text(VIEW_KEY, json.dumps(document, separators=(",", ":")))


def read_view(obj: KubeObject) -> FleetView | None:
    """The view of a ConfigMap; None when it holds none that can be read. Raises nothing."""
    try:
        document = json.loads(unpacked_text(obj, VIEW_KEY))
        if document["version"] != VIEW_VERSION:
            return None
        readings = {str(node): _read_reading(one) for node, one in document["nodes"].items()}
        return FleetView(
            at=datetime.fromisoformat(document["at"]).astimezone(UTC),
            scrape_seconds=float(document["scrapeSeconds"]),
            are_routers_known=document["routersKnown"] is True,
            readings=readings,
            own=read_promises(document["nodes"], readings),
            replicas={
                str(pod): ReplicaUse(kv_projected_ratio=ratio, num_in_flight=in_flight)
                for pod, (ratio, in_flight) in document["replicas"].items()
            },
            waiting={str(key): int(number) for key, number in document["waiting"].items()},
            avoided_nodes={
                str(key): frozenset(map(str, nodes)) for key, nodes in document["avoided"].items()
            },
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _read_reading(entry: Mapping[str, Any]) -> NodeReading:
    collected = entry["collected"]
    return NodeReading(
        devices=tuple(
            DeviceReading(
                **dict(zip(_DEVICE_FIELDS, fields[:-1], strict=True)),
                assigned_pods=tuple(map(str, fields[-1])),
            )
            for fields in entry["devices"]
        ),
        taken_at_seconds=-float(entry["taken"]),
        collected_after_seconds=None if collected is None else -float(collected),
    )


class FleetBoard:
    """Writes the view."""

    def __init__(
        self, *, client: KubernetesClient, namespace: str, clock: Callable[[], float]
    ) -> None:
        self.client = client
        self._notice = Notice(client=client, namespace=namespace, name=VIEW_NAME, clock=clock)
        self._clock = clock

    async def tell(
        self,
        devices: DeviceMetrics,
        routers: RouterMetrics,
        avoided_nodes: Mapping[str, frozenset[str]],
        own: OwnPromises,
        *,
        now: datetime,
    ) -> float:
        """Write what is read, where that is due; when. An error is logged and tried again."""
        seconds = self._clock()
        if self._notice.is_due:
            await self._notice.put(
                _content(devices, routers, avoided_nodes),
                lambda: packed(
                    written_view(devices, routers, avoided_nodes, own, now_seconds=seconds, now=now)
                ),
            )
        return seconds


def _content(
    devices: DeviceMetrics, routers: RouterMetrics, avoided_nodes: Mapping[str, frozenset[str]]
) -> object:
    """What of the view is worth a write when it changes."""
    return (
        {
            (node, device.uuid, device.slice_id): (
                None if device.free_bytes is None else device.free_bytes // CHANGE_BYTES,
                device.assigned_pods,
            )
            for node, reading in devices.readings.items()
            for device in reading.devices
        },
        routers.is_known,
        {pod: round(ratio / CHANGE_RATIO) for pod, ratio in routers.kv_projected_ratio.items()},
        dict(routers.in_flight),
        dict(routers.waiting),
        dict(avoided_nodes),
    )
