"""Readings of the DCGM exporters: who reports which device, how much of it is free, how old.

Each exporter pod is read at its own address, and speaks for the node it runs on: its
``Hostname`` label may be the pod's own name. Owns the last reading per node; a node that
stopped answering keeps its devices (their UUIDs do not change) and loses its freshness.
"""

import asyncio
import logging
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import httpx

from memroute.units import MIB
from memroute_kube import KubeObject
from memroute_kube.resources import is_condition_true

LOGGER = logging.getLogger(__name__)
INT32_BLANK = 0x7FFFFFF0
# dcgm_structs.h: this and everything above is "no value" (not found, not supported, …).
MAX_AGE_SECONDS = 60.0
# The hard cap on what counts as live: dcgm-exporter itself collects every 30 s by default.
FRESH_SCRAPES = 2
TIMEOUT_SECONDS = 3.0
_SAMPLE = re.compile(r"^(DCGM_FI_DEV_FB_(?:FREE|USED|RESERVED))\{(.*)\}\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(slots=True, kw_only=True)
class DeviceReading:
    """One device as its exporter reports it."""

    index: int
    uuid: str
    product: str | None
    free_bytes: int | None = None
    used_bytes: int | None = None
    reserved_bytes: int | None = None
    assigned_pod: str | None = None

    @property
    def total_bytes(self) -> int | None:
        """What the driver calls total; the exporter has no such gauge by default."""
        if self.free_bytes is None or self.used_bytes is None:
            return None
        return self.free_bytes + self.used_bytes + (self.reserved_bytes or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReading:
    """All devices of one node, and when they were read."""

    devices: tuple[DeviceReading, ...]
    taken_at_seconds: float


def parse_labels(text: str) -> dict[str, str]:
    """The labels between the braces of a Prometheus sample."""
    return dict(_LABEL.findall(text))


def parse_exporter_page(text: str) -> tuple[DeviceReading, ...]:
    """The devices of an exporter's page. Blank values are None; MIG slices are left out."""
    devices: dict[str, DeviceReading] = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is None:
            continue
        labels = parse_labels(match[2])
        uuid = labels.get("UUID")
        if not uuid or labels.get("GPU_I_ID"):
            continue
        device = devices.get(uuid)
        if device is None:
            model = labels.get("modelName")
            device = devices[uuid] = DeviceReading(
                index=int(labels.get("gpu", 0)),
                uuid=uuid,
                product=model.replace(" ", "-") if model else None,
            )
        value = float(match[3])
        num_bytes = None if value >= INT32_BLANK or math.isnan(value) else int(value) * MIB
        pod = labels.get("pod") or labels.get("exported_pod")
        if pod:
            namespace = labels.get("namespace") or labels.get("exported_namespace") or ""
            device.assigned_pod = f"{namespace}/{pod}"
        if match[1].endswith("FREE"):
            device.free_bytes = num_bytes
        elif match[1].endswith("USED"):
            device.used_bytes = num_bytes
        else:
            device.reserved_bytes = num_bytes
    return tuple(sorted(devices.values(), key=lambda d: d.index))


@dataclass(slots=True, kw_only=True)
class DeviceMetrics:
    """The last reading of every node."""

    scrape_seconds: float
    readings: dict[str, NodeReading] = field(default_factory=dict)

    def is_fresh(self, node: str, *, now_seconds: float) -> bool:
        """Whether the node's last reading is recent enough to count as live."""
        reading = self.readings.get(node)
        if reading is None:
            return False
        age = now_seconds - reading.taken_at_seconds
        # One failed scrape and the time-out of the next are still no reason to go blind.
        return age <= min(MAX_AGE_SECONDS, FRESH_SCRAPES * self.scrape_seconds + TIMEOUT_SECONDS)

    async def scrape(
        self,
        client: httpx.AsyncClient,
        exporters: Iterable[KubeObject],
        port: int,
        clock: Callable[[], float],
    ) -> None:
        """Read every exporter once; one that does not answer leaves its reading to age."""

        async def read(pod: KubeObject) -> None:
            address, node = pod["status"]["podIP"], pod["spec"]["nodeName"]
            try:
                response = await client.get(f"http://{address}:{port}/metrics")
                response.raise_for_status()
            except httpx.HTTPError as error:
                LOGGER.warning("exporter does not answer node=%s error=%r", node, error)
                return
            self.readings[node] = NodeReading(
                devices=parse_exporter_page(response.text), taken_at_seconds=clock()
            )

        ready = [pod for pod in exporters if is_condition_true(pod, "Ready")]
        await asyncio.gather(*(read(pod) for pod in ready))


def matches_selector(pod: KubeObject, selector: str) -> bool:
    """Whether a pod's labels satisfy an equality selector (``a=b,c=d``)."""
    labels = pod["metadata"].get("labels") or {}
    pairs = (part.split("=", 1) for part in selector.split(",") if part)
    return all(labels.get(pair[0]) == pair[-1] for pair in pairs)
