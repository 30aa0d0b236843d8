"""What the metrics exporters say of a node: NVIDIA's dcgm-exporter and AMD's.

dcgm-exporter 4.5.3: framebuffer in MiB per device or MIG slice (no FB_TOTAL, which is free + used
+ reserved), power, and the last XID; ``pod`` and ``namespace`` where the device plugin gave the
device away. Values are collected every so many seconds and stay until the next collection, with
no time on them; pods' names are looked up at each scrape. That difference is what a reader must
live with, so it is here too.

AMD's device-metrics-exporter: ``gpu_total_vram``, ``gpu_used_vram`` and ``gpu_free_vram`` in MB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from memroute.units import MIB
from memroute_simulator.nodes.devices import DeviceTable, EmulatedDevice

_NVIDIA = (
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB)."),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB)."),
    ("DCGM_FI_DEV_FB_RESERVED", "Framebuffer memory reserved (in MiB)."),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W)."),
    ("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered."),
)
_AMD = (
    ("gpu_total_vram", "Total VRAM memory of the GPU (in MB)"),
    ("gpu_used_vram", "Used VRAM memory of the GPU (in MB)"),
    ("gpu_free_vram", "Free VRAM memory of the GPU (in MB)"),
)
# Power of an idle device in watts; each collection reads a little more or less of it.
IDLE_WATTS = 70.0
_WATT_STEPS = 7


@dataclass(slots=True)
class Exporter:
    """The exporter of one node. Owns what it collected last."""

    node: str
    devices: DeviceTable
    num_collections: int = 0
    _collected: dict[str, dict[str, float]] = field(default_factory=dict)

    def collect(self) -> None:
        """Read the devices, as the exporter does at its own pace."""
        self.num_collections += 1
        self._collected = {
            device.uuid: self._values(device)
            for device in self.devices.devices
            if not device.is_lost
        }

    def page(self, pods: Mapping[str, tuple[str, str]]) -> str:
        """The page of the last collection. ``pods``: pod uid → (namespace, name), as of now."""
        owners = {
            uuid: pods[pod_uid]
            for pod_uid, uuids in self.devices.assigned.items()
            for uuid in uuids
            if pod_uid in pods
        }
        listed = [one for one in self.devices.devices if one.uuid in self._collected]
        is_amd = any(one.model.is_amd for one in listed)
        lines: list[str] = []
        for name, text in _AMD if is_amd else _NVIDIA:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
            for device in listed:
                labels = self._labels(device)
                if device.uuid in owners:
                    namespace, pod = owners[device.uuid]
                    labels |= {"container": "engine", "namespace": namespace, "pod": pod}
                joined = ",".join(f'{key}="{value}"' for key, value in labels.items())
                lines.append(f"{name}{{{joined}}} {self._collected[device.uuid][name]}")
        return "\n".join(lines) + "\n"

    def _values(self, device: EmulatedDevice) -> dict[str, float]:
        free, used = device.free_bytes // MIB, device.used_bytes // MIB
        if device.model.is_amd:
            total = device.model.reported_mib
            return {
                "gpu_total_vram": total,
                "gpu_used_vram": total - free,
                "gpu_free_vram": free,
            }
        return {
            "DCGM_FI_DEV_FB_FREE": free,
            "DCGM_FI_DEV_FB_USED": used,
            "DCGM_FI_DEV_FB_RESERVED": device.model.reserved_mib,
            "DCGM_FI_DEV_POWER_USAGE": IDLE_WATTS + self.num_collections % _WATT_STEPS,
            "DCGM_FI_DEV_XID_ERRORS": device.xid,
        }

    def _labels(self, device: EmulatedDevice) -> dict[str, str]:
        if device.model.is_amd:
            return {
                "gpu_id": str(device.index),
                "gpu_uuid": device.uuid,
                "card_series": device.model.dcgm_name,
                "hostname": self.node,
            }
        labels = {
            "gpu": str(device.index),
            "UUID": device.physical_uuid,
            "pci_bus_id": f"00000000:{0x18 + device.index:02X}:00.0",
            "device": f"nvidia{device.index}",
            "modelName": device.physical_name,
            "Hostname": self.node,
        }
        if device.slice_id is not None:
            labels |= {
                "GPU_I_PROFILE": device.slice_profile or "",
                "GPU_I_ID": str(device.slice_id),
            }
        return labels


def render_metrics(node: str, devices: DeviceTable, pods: Mapping[str, tuple[str, str]]) -> str:
    """The page of an exporter that collects just now. ``pods``: pod uid → (namespace, name)."""
    exporter = Exporter(node, devices)
    exporter.collect()
    return exporter.page(pods)
