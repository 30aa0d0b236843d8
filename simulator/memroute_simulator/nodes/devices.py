"""HBM of one node's devices, counted as a driver counts it.

What an engine asks for is granted while it is free and refused when it is not: that is the
hardware's whole policy, and the one that every reservation is tried against. Owns the counters.
"""

import uuid as uuid_module
from dataclasses import dataclass, field

from memroute_simulator.nodes.machines import GpuModel


class OutOfMemoryError(Exception):
    """A device has fewer free bytes than were asked for."""

    def __init__(self, device: "EmulatedDevice", wanted_bytes: int) -> None:
        super().__init__(f"{device.uuid}: {wanted_bytes} bytes wanted, {device.free_bytes} free")
        self.device = device
        self.wanted_bytes = wanted_bytes
        self.free_bytes = device.free_bytes


@dataclass(slots=True, kw_only=True)
class EmulatedDevice:
    """One GPU."""

    node: str
    index: int
    uuid: str
    model: GpuModel
    allocations: dict[str, int] = field(default_factory=dict)
    """Bytes by container instance."""
    foreign_bytes: int = 0
    """What a tenant outside Kubernetes uses (a fault to be had on demand)."""
    is_lost: bool = False
    """Fallen off the bus."""

    @property
    def usable_bytes(self) -> int:
        """What ``cudaMemGetInfo`` calls total."""
        return self.model.accelerator.usable_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes in use by anyone; a foreign tenant gets no more than there is either."""
        ours = sum(self.allocations.values())
        return ours + min(self.foreign_bytes, self.usable_bytes - ours)

    @property
    def free_bytes(self) -> int:
        """What ``cudaMemGetInfo`` calls free."""
        return max(0, self.usable_bytes - self.used_bytes)


class DeviceTable:
    """The devices of one node, and which pod the device plugin gave which."""

    def __init__(self, node: str, gpus: tuple[GpuModel, ...], *, cluster: str) -> None:
        self.devices = [
            EmulatedDevice(node=node, index=index, uuid=_uuid(cluster, node, index), model=gpu)
            for index, gpu in enumerate(gpus)
        ]
        self.assigned: dict[str, tuple[str, ...]] = {}
        """Pod uid → device UUIDs, by the device plugin."""

    def by_uuid(self, uuid: str) -> EmulatedDevice | None:
        """The device of that UUID, if it is here."""
        return next((device for device in self.devices if device.uuid == uuid), None)

    @property
    def num_healthy(self) -> int:
        """Devices that have not been lost."""
        return sum(not device.is_lost for device in self.devices)

    def assign(self, pod_uid: str, count: int) -> tuple[str, ...] | None:
        """Whole devices for a pod; None when fewer are left (the plugin sees no bytes)."""
        taken = {uuid for uuids in self.assigned.values() for uuid in uuids}
        free = [d.uuid for d in self.devices if d.uuid not in taken and not d.is_lost]
        if len(free) < count:
            return None
        self.assigned[pod_uid] = tuple(free[:count])
        return self.assigned[pod_uid]

    def unassign(self, pod_uid: str) -> None:
        """Take a pod's devices back."""
        self.assigned.pop(pod_uid, None)

    def visible(self, selection: str | None) -> list[EmulatedDevice]:
        """The devices that ``NVIDIA_VISIBLE_DEVICES`` (UUIDs, indexes, ``all``) makes visible."""
        if not selection or selection in ("none", "void"):
            return []
        if selection == "all":
            return [device for device in self.devices if not device.is_lost]
        names = selection.split(",")
        by_name = {d.uuid: d for d in self.devices} | {str(d.index): d for d in self.devices}
        return [by_name[name] for name in names if name in by_name and not by_name[name].is_lost]

    def allocate(self, owner: str, uuid: str, num_bytes: int) -> None:
        """Grant bytes to a container instance. Raises ``OutOfMemoryError``."""
        device = self.by_uuid(uuid)
        if device is None or device.is_lost:
            msg = f"no device {uuid}"
            raise LookupError(msg)
        if num_bytes > device.free_bytes:
            raise OutOfMemoryError(device, num_bytes)
        device.allocations[owner] = device.allocations.get(owner, 0) + num_bytes

    def release(self, owner: str) -> None:
        """Free everything of a container instance: its process has ended."""
        for device in self.devices:
            device.allocations.pop(owner, None)


def _uuid(cluster: str, node: str, index: int) -> str:
    # The same fleet in the same cluster keeps its UUIDs when the node agent restarts.
    return f"GPU-{uuid_module.uuid5(uuid_module.NAMESPACE_DNS, f'{cluster}/{node}/{index}')}"
