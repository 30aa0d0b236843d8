"""HBM of one node's devices, counted as a driver counts it.

What an engine asks for is granted while it is free and refused when it is not: that is the
hardware's whole policy, and the one that every reservation is tried against. Owns the counters.
"""

import uuid as uuid_module
from collections import Counter
from dataclasses import dataclass, field, replace

from memroute.catalog.accelerators import mig_slice
from memroute_kube.resources import GPU_RESOURCE
from memroute_simulator.nodes.machines import GpuModel
from memroute_simulator.nodes.spec import NodeSpec

AMD_RESOURCE = "amd.com/gpu"


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
    resource: str = GPU_RESOURCE
    """What the device plugin hands it out as."""
    num_slots: int = 1
    """How often it is handed out: more than once where it is shared in time."""
    slice_profile: str | None = None
    """``1g.10gb`` for a MIG slice."""
    slice_id: int | None = None
    """The GPU instance of a MIG slice."""
    physical_uuid: str = ""
    """Of the device that a slice is cut from; its own for a whole device."""
    xid: int = 0
    """The driver's last error, 0 for none."""

    @property
    def physical_name(self) -> str:
        """DCGM's ``modelName`` of the device, also for its slices."""
        return self.model.dcgm_name.split(" MIG ", 1)[0]

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
    """The devices and slices of one node, and which pod the device plugin gave which."""

    def __init__(
        self,
        node: str,
        gpus: tuple[GpuModel, ...],
        *,
        cluster: str,
        spec: NodeSpec | None = None,
    ) -> None:
        """``spec``: how the devices are shared; without it each is handed out whole."""
        self.devices: list[EmulatedDevice] = []
        for index, gpu in enumerate(gpus):
            uuid = _uuid("GPU", cluster, node, str(index))
            whole = EmulatedDevice(
                node=node,
                index=index,
                uuid=uuid,
                model=gpu,
                resource=AMD_RESOURCE if gpu.is_amd else GPU_RESOURCE,
                num_slots=1 if spec is None else spec.replicas_per_gpu,
                physical_uuid=uuid,
            )
            self.devices += [whole] if spec is None else _cut(whole, spec, cluster)
        self.assigned: dict[str, tuple[str, ...]] = {}
        """Pod uid → device UUIDs, by the device plugin."""

    def by_uuid(self, uuid: str) -> EmulatedDevice | None:
        """The device of that UUID, if it is here."""
        return next((device for device in self.devices if device.uuid == uuid), None)

    @property
    def num_healthy(self) -> int:
        """Devices that have not been lost."""
        return sum(not device.is_lost for device in self.devices)

    def resources(self, *, healthy_only: bool = False) -> dict[str, int]:
        """What the device plugin advertises: resource → how many can be handed out."""
        found: Counter[str] = Counter()
        for device in self.devices:
            if not (healthy_only and device.is_lost):
                found[device.resource] += device.num_slots
            else:
                found[device.resource] += 0
        return dict(found)

    def assign(
        self, pod_uid: str, count: int, resource: str = GPU_RESOURCE
    ) -> tuple[str, ...] | None:
        """Devices for a pod; None when fewer are left (the plugin sees no bytes).

        Shared devices are handed out evenly, as NVIDIA's plugin prefers it: two slots of one
        pod may still be one device.
        """
        taken = Counter(uuid for uuids in self.assigned.values() for uuid in uuids)
        chosen: list[str] = []
        usable = [d for d in self.devices if d.resource == resource and not d.is_lost]
        for _ in range(count):
            free = [device for device in usable if taken[device.uuid] < device.num_slots]
            if not free:
                return None
            uuid = min(free, key=lambda device: taken[device.uuid]).uuid
            taken[uuid] += 1
            chosen.append(uuid)
        self.assigned[pod_uid] = (*self.assigned.get(pod_uid, ()), *chosen)
        return tuple(chosen)

    def unassign(self, pod_uid: str) -> None:
        """Take a pod's devices back."""
        self.assigned.pop(pod_uid, None)

    def visible(self, selection: str | None) -> list[EmulatedDevice]:
        """The devices that ``NVIDIA_VISIBLE_DEVICES`` (UUIDs, indexes, ``all``) makes visible."""
        if not selection or selection in ("none", "void"):
            return []
        if selection == "all":
            return [device for device in self.devices if not device.is_lost]
        # A slot that is named twice is one device: a process sees each once.
        names = dict.fromkeys(selection.split(","))
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

    def free(self, owner: str, uuid: str, num_bytes: int) -> None:
        """Take bytes back from a container instance that goes on.

        Raises ``LookupError`` where it does not hold as many there.
        """
        device = self.by_uuid(uuid)
        held = 0 if device is None else device.allocations.get(owner, 0)
        if device is None or num_bytes > held:
            msg = f"{num_bytes} bytes to free of {uuid}, where {held} are held"
            raise LookupError(msg)
        device.allocations[owner] = held - num_bytes

    def release(self, owner: str) -> None:
        """Free everything of a container instance: its process has ended."""
        for device in self.devices:
            device.allocations.pop(owner, None)


def _cut(whole: EmulatedDevice, spec: NodeSpec, cluster: str) -> list[EmulatedDevice]:
    """The MIG slices of a device by its node's spec; the device itself where there are none."""
    slices: list[EmulatedDevice] = []
    for profile, count in spec.mig_slices.items():
        accelerator = mig_slice(whole.model.accelerator, profile)
        if accelerator is None:
            continue
        # A slice's own name, as the driver gives it.
        named = replace(accelerator, products=(f"{whole.model.product}-MIG-{profile}",))
        for _ in range(count):
            slice_id = len(slices) + 1
            slices.append(
                replace(
                    whole,
                    uuid=_uuid("MIG", cluster, whole.node, f"{whole.index}/{slice_id}"),
                    model=replace(whole.model, accelerator=named),
                    allocations={},
                    resource=(
                        GPU_RESOURCE
                        if spec.mig_strategy == "single"
                        else f"nvidia.com/mig-{profile}"
                    ),
                    slice_profile=profile,
                    slice_id=slice_id,
                )
            )
    return slices or [whole]


def _uuid(kind: str, cluster: str, node: str, name: str) -> str:
    # The same fleet in the same cluster keeps its UUIDs when the node agent restarts.
    return f"{kind}-{uuid_module.uuid5(uuid_module.NAMESPACE_DNS, f'{cluster}/{node}/{name}')}"
