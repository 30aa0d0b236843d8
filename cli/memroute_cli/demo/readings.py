"""What operator and router export, for the demo's table and its checks."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

# Of one answer, in seconds: what does not come is shown as unknown. Source: chosen by hand.
TIMEOUT_SECONDS = 10.0


@dataclass(slots=True)
class DeviceRow:
    """One device, in bytes."""

    node: str
    device: str
    product: str
    usable_bytes: float = 0
    reserved_bytes: float = 0
    live_free_bytes: float | None = None


@dataclass(slots=True)
class ReplicaRow:
    """One replica as the router sees it."""

    pod: str
    deployment: str
    in_flight: int = 0
    reserved_tokens: int = 0
    projected_ratio: float | None = None
    capacity_tokens: int | None = None
    is_routable: bool = False


@dataclass(slots=True)
class Readings:
    """One look at both programs; empty where one did not answer."""

    devices: list[DeviceRow] = field(default_factory=list)
    replicas: list[ReplicaRow] = field(default_factory=list)


def read_programs(operator_url: str, ops_url: str) -> Readings:
    """Read both programs' metrics once."""
    readings = Readings()
    _read_operator(readings, operator_url)
    _read_router(readings, ops_url)
    return readings


def _read_operator(readings: Readings, url: str) -> None:
    devices: dict[tuple[str, str], DeviceRow] = {}
    for name, labels, value in _samples(f"{url}/metrics"):
        if name.startswith("memroute_device_"):
            key = (labels["node_name"], labels["device"])
            row = devices.setdefault(key, DeviceRow(*key, labels["product"]))
            attribute = name.removeprefix("memroute_device_")
            if attribute in ("usable_bytes", "reserved_bytes", "live_free_bytes"):
                setattr(row, attribute, value)
    readings.devices = [devices[key] for key in sorted(devices)]


def _read_router(readings: Readings, url: str) -> None:
    replicas: dict[str, ReplicaRow] = {}
    for name, labels, value in _samples(f"{url}/metrics"):
        if not name.startswith("memroute_router_") or "replica" not in labels:
            continue
        row = replicas.setdefault(
            labels["replica"], ReplicaRow(labels["replica"], labels["model_deployment"])
        )
        match name.removeprefix("memroute_router_"):
            case "requests_in_flight":
                row.in_flight = int(value)
            case "reserved_tokens":
                row.reserved_tokens = int(value)
            case "kv_projected_ratio":
                row.projected_ratio = value
            case "kv_capacity_tokens":
                row.capacity_tokens = int(value)
            case "replica_routable":
                row.is_routable = value == 1
    readings.replicas = [replicas[key] for key in sorted(replicas)]


def _samples(url: str) -> Iterator[tuple[str, dict[str, str], float]]:
    try:
        text = httpx.get(url, timeout=TIMEOUT_SECONDS, trust_env=False).text
    except httpx.HTTPError:
        return
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
