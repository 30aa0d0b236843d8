"""What NVIDIA's DCGM exporter says of a node: framebuffer in MiB per device.

Names, units and labels as in dcgm-exporter 4.5.3's default counters: no FB_TOTAL, which is
free + used + reserved; ``pod`` and ``namespace`` where the device plugin gave the device away.
"""

from collections.abc import Callable, Mapping

from memroute.units import MIB
from memroute_simulator.nodes.devices import DeviceTable, EmulatedDevice

_GAUGES = (
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB)."),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB)."),
    ("DCGM_FI_DEV_FB_RESERVED", "Framebuffer memory reserved (in MiB)."),
)
_VALUES: dict[str, Callable[[EmulatedDevice], int]] = {
    "DCGM_FI_DEV_FB_FREE": lambda device: device.free_bytes // MIB,
    "DCGM_FI_DEV_FB_USED": lambda device: device.used_bytes // MIB,
    "DCGM_FI_DEV_FB_RESERVED": lambda device: device.model.reserved_mib,
}


def render_metrics(node: str, devices: DeviceTable, pods: Mapping[str, tuple[str, str]]) -> str:
    """The exporter's page. ``pods``: pod uid → (namespace, name)."""
    owners = {
        uuid: pods[pod_uid]
        for pod_uid, uuids in devices.assigned.items()
        for uuid in uuids
        if pod_uid in pods
    }
    lines: list[str] = []
    for name, text in _GAUGES:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        for device in devices.devices:
            if device.is_lost:
                continue
            labels = {
                "gpu": str(device.index),
                "UUID": device.uuid,
                "pci_bus_id": f"00000000:{0x18 + device.index:02X}:00.0",
                "device": f"nvidia{device.index}",
                "modelName": device.model.dcgm_name,
                "Hostname": node,
            }
            if device.uuid in owners:
                namespace, pod = owners[device.uuid]
                labels |= {"container": "engine", "namespace": namespace, "pod": pod}
            joined = ",".join(f'{key}="{value}"' for key, value in labels.items())
            lines.append(f"{name}{{{joined}}} {_VALUES[name](device)}")
    return "\n".join(lines) + "\n"
