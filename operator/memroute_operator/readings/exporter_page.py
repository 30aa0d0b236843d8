"""The devices of an exporter's page: NVIDIA's dcgm-exporter and AMD's device-metrics-exporter.

NVIDIA: ``DCGM_FI_DEV_FB_FREE``, ``_USED`` and ``_RESERVED`` in MiB per device or MIG slice (no
total by default: it is their sum), ``DCGM_FI_DEV_XID_ERRORS`` with the last XID. AMD:
``gpu_total_vram``, ``gpu_used_vram`` and ``gpu_free_vram`` in MB, which are MiB.

A page is what a process says, not what is true: values outside of what a device can have are
left out here, those that contradict the node's labels where both are known (``nodes``).
"""

from dataclasses import dataclass, field

from memroute.units import MIB
from memroute_operator.readings.samples import Sample, parse_samples

# dcgm_structs.h, DCGM_INT32_BLANK: this and everything above is "no value" (not found, not
# supported, not permitted). No device has 2,147,483,632 MiB.
INT32_BLANK = 0x7FFFFFF0
# Devices and slices of one node that are believed, chosen by hand: 16 devices of 7 slices are
# 112, AMD's 8 of 8 partitions 64. More are a page that is wrong.
MAX_DEVICES = 256
# XIDs that the failure of one application raises, not of the device: those that NVIDIA's device
# plugin leaves out of its health checks too (k8s-device-plugin internal/rm/health.go).
APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})

_FREE, _USED, _RESERVED, _TOTAL, _XID = "free", "used", "reserved", "total", "xid"
_METRICS = {
    "DCGM_FI_DEV_FB_FREE": _FREE,
    "DCGM_FI_DEV_FB_USED": _USED,
    "DCGM_FI_DEV_FB_RESERVED": _RESERVED,
    "DCGM_FI_DEV_FB_TOTAL": _TOTAL,
    "DCGM_FI_DEV_XID_ERRORS": _XID,
    "gpu_free_vram": _FREE,
    "gpu_used_vram": _USED,
    "gpu_total_vram": _TOTAL,
    # With AMD's metrics prefix.
    "amd_gpu_free_vram": _FREE,
    "amd_gpu_used_vram": _USED,
    "amd_gpu_total_vram": _TOTAL,
}
# Of several samples of one series the worst counts: time-shared devices have one per pod.
_WORST = {_FREE: min, _USED: max, _RESERVED: max, _TOTAL: min, _XID: max}


@dataclass(slots=True, kw_only=True)
class DeviceReading:
    """One device, or one MIG slice of it, as its exporter reports it."""

    index: int
    """Of the physical device."""
    uuid: str
    """Of the physical device."""
    product: str | None
    """Dashed, as the label ``nvidia.com/gpu.product`` writes it."""
    slice_id: str | None = None
    """The GPU instance of a MIG slice; None for a whole device."""
    slice_profile: str | None = None
    """``1g.10gb``."""
    free_bytes: int | None = None
    used_bytes: int | None = None
    reserved_bytes: int | None = None
    given_total_bytes: int | None = None
    """The total where the exporter has such a gauge; dcgm-exporter has none by default."""
    xid: int | None = None
    """The last XID error of the driver; None when there was none, or nobody says."""
    assigned_pods: tuple[str, ...] = ()
    """``namespace/name`` of the pods that the exporter attributes it to."""

    @property
    def assigned_pod(self) -> str | None:
        """The pod that the device is attributed to; the first by name of several."""
        return self.assigned_pods[0] if self.assigned_pods else None

    @property
    def total_bytes(self) -> int | None:
        """What the driver calls total; None when the exporter does not say enough."""
        if self.given_total_bytes is not None:
            return self.given_total_bytes
        if self.free_bytes is None or self.used_bytes is None:
            return None
        return self.free_bytes + self.used_bytes + (self.reserved_bytes or 0)

    @property
    def is_failing(self) -> bool:
        """Whether the driver's last error was the device's own."""
        return self.xid is not None and self.xid not in APPLICATION_XIDS


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterPage:
    """What one page says, and what of it could not be used."""

    devices: tuple[DeviceReading, ...]
    """By index, whole devices before their slices."""
    num_unreadable: int
    """Lines that are no samples, and values that no device can have."""
    fingerprint: int
    """Changes when the exporter has collected anew: from values, not from pods' names."""


@dataclass(slots=True)
class _Builder:
    devices: dict[tuple[str, str], DeviceReading] = field(default_factory=dict)
    num_unreadable: int = 0

    def take(self, sample: Sample) -> None:
        labels = sample.labels
        uuid = labels.get("UUID") or labels.get("gpu_uuid") or labels.get("GPU_UUID")
        index = _index(labels.get("gpu") or labels.get("gpu_id") or labels.get("GPU_ID"))
        if not uuid and index is not None and sample.name.endswith("_vram"):
            # AMD's exporter names devices by number where it is not told to name them by UUID.
            uuid = f"amd-{index}"
        if not uuid or index is None:
            self.num_unreadable += 1
            return
        key = (uuid, labels.get("GPU_I_ID") or "")
        device = self.devices.get(key)
        if device is None:
            if len(self.devices) >= MAX_DEVICES:
                self.num_unreadable += 1
                return
            device = self.devices[key] = _device(uuid, index, labels)
        self._take_pod(device, labels)
        self._take_value(device, _METRICS[sample.name], sample.value)

    def _take_pod(self, device: DeviceReading, labels: dict[str, str]) -> None:
        pod = labels.get("pod") or labels.get("exported_pod")
        if not pod:
            return
        namespace = labels.get("namespace") or labels.get("exported_namespace") or ""
        key = f"{namespace}/{pod}"
        if key not in device.assigned_pods:
            device.assigned_pods = tuple(sorted((*device.assigned_pods, key)))

    def _take_value(self, device: DeviceReading, kind: str, value: float | None) -> None:
        if value is None or not 0 <= value < INT32_BLANK:
            # A blank of DCGM is a value that the device does not have: nothing to count.
            if value is None or value < 0:
                self.num_unreadable += 1
            return
        if kind == _XID:
            if value > 0:
                device.xid = int(value) if device.xid is None else max(device.xid, int(value))
            return
        name = "given_total_bytes" if kind == _TOTAL else f"{kind}_bytes"
        before, now = getattr(device, name), int(value) * MIB
        setattr(device, name, now if before is None else _WORST[kind](before, now))


def _index(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 4 else None  # noqa: PLR2004 - no node has 10,000


def _device(uuid: str, index: int, labels: dict[str, str]) -> DeviceReading:
    model = labels.get("modelName") or labels.get("card_series") or labels.get("CARD_SERIES")
    return DeviceReading(
        index=index,
        uuid=uuid,
        product=model.strip().replace(" ", "-") if model else None,
        slice_id=labels.get("GPU_I_ID") or None,
        slice_profile=labels.get("GPU_I_PROFILE") or None,
    )


def read_exporter_page(text: str) -> ExporterPage:
    """The devices of a page. Never raises; what cannot be read is counted and left out."""
    page = parse_samples(text, _METRICS)
    builder = _Builder(num_unreadable=page.num_unreadable)
    for sample in page:
        builder.take(sample)
    devices = sorted(
        builder.devices.values(), key=lambda one: (one.index, one.uuid, one.slice_id or "")
    )
    return ExporterPage(
        devices=tuple(devices),
        num_unreadable=builder.num_unreadable,
        fingerprint=_fingerprint(text),
    )


def parse_exporter_page(text: str) -> tuple[DeviceReading, ...]:
    """The devices of an exporter's page; a value that the page does not give is None."""
    return read_exporter_page(text).devices


def _fingerprint(text: str) -> int:
    """A hash of the values of all device metrics, power and temperature among them.

    Those change with almost every collection, also on an idle device. Pods' names are left out:
    the exporter attributes devices anew at every scrape, whatever the age of its values.
    """
    values = [
        (line[: line.find("{")], line[line.rfind("}") + 1 :])
        for line in text.split("\n")
        if line.startswith(("DCGM_", "gpu_", "amd_"))
    ]
    return hash(tuple(values))
