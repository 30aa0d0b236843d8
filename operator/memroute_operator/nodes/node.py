"""A node as placement plans on it: what it has, by every source there is, and what is free.

One Kubernetes node is several to placement when its device plugin hands out MIG slices under
names of their own (strategy "mixed"): the whole devices are one, the slices of each profile
another, each with the resource that a replica must ask for.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from memroute.catalog.accelerators import usable_bytes
from memroute.placement import Device, Node, PlacementMode
from memroute_kube import KubeObject
from memroute_kube.resources import (
    GPU_RESOURCE,
    LABEL_GPU_SHARING,
)
from memroute_operator.nodes.annotations import (
    bad_link,
    ignored_xids,
    is_cordoned,
    read_annotations,
    read_host_link,
    read_link,
)
from memroute_operator.nodes.facts import DeviceFacts, Fact, NodeFacts, Sharing, SliceFacts
from memroute_operator.nodes.labels import read_labels
from memroute_operator.nodes.measured import devices_of_exporter
from memroute_operator.nodes.merging import filled, merge_devices
from memroute_operator.nodes.objects import counts_of, taints_of, texts_of, unusable_reason
from memroute_operator.nodes.providers import read_provider
from memroute_operator.nodes.resource_slices import read_resource_slices
from memroute_operator.pod.pod_resources import ANY_RESOURCE
from memroute_operator.readings.device_metrics import DeviceMetrics

# Devices of one node that are planned on: no node has more, whatever its status says.
MAX_DEVICES = 256
SHARED_RESOURCE = f"{GPU_RESOURCE}.shared"
AMD_RESOURCE = "amd.com/gpu"
MIG_PREFIX = "nvidia.com/mig-"


def read_node(
    obj: KubeObject,
    metrics: DeviceMetrics,
    foreign_devices: Mapping[str, int],
    now_seconds: float,
    *,
    resource_slices: Iterable[KubeObject] = (),
    existing_pods: Collection[str] | None = None,
) -> tuple[Node, ...]:
    """The node: its whole devices first, then the MIG slices of each profile.

    ``foreign_devices``: what pods of others hold there, by resource (``pod_resources``).
    ``existing_pods``: ``namespace/name`` of pods that may hold devices; None where nobody knows.
    """
    return _NodeReader(obj, metrics, foreign_devices, now_seconds).read(
        resource_slices, existing_pods
    )


def planned(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Those of ``read_node`` that are planned on: without the whole devices where all are cut."""
    whole, *slices = nodes
    if slices and not (whole.devices or whole.num_allocatable):
        return tuple(slices)
    return nodes


class _NodeReader:
    """One reading of one node; lives as long as ``read_node`` runs."""

    def __init__(
        self,
        obj: KubeObject,
        metrics: DeviceMetrics,
        foreign_devices: Mapping[str, int],
        now_seconds: float,
    ) -> None:
        metadata = obj["metadata"]
        self._obj = obj
        self._name: str = metadata["name"]
        self._labels = texts_of(metadata.get("labels"))
        self._annotations = texts_of(metadata.get("annotations"))
        self._foreign = foreign_devices
        status = obj.get("status") or {}
        self._allocatable = counts_of(status.get("allocatable"))
        self._capacity = counts_of(status.get("capacity")) | self._allocatable
        self._is_shared = self._labels.get(LABEL_GPU_SHARING) == "shared"
        self._reading = metrics.readings.get(self._name)
        self._is_fresh = metrics.is_fresh(self._name, now_seconds=now_seconds)
        self._age_seconds = self._reading.age_seconds(now_seconds) if self._reading else None
        self._ignored_xids = ignored_xids(self._annotations)

    def read(
        self, resource_slices: Iterable[KubeObject], existing_pods: Collection[str] | None
    ) -> tuple[Node, ...]:
        said = read_labels(self._labels)
        said = said.or_else(read_provider(self._labels))
        said = said.or_else(read_annotations(self._annotations))
        published = read_resource_slices(resource_slices, self._name)
        measured: tuple[DeviceFacts, ...] = ()
        notes: tuple[str, ...] = ()
        if self._reading is not None:
            reading = replace(
                self._reading,
                devices=tuple(
                    replace(one, xid=None) if one.xid in self._ignored_xids else one
                    for one in self._reading.devices
                ),
            )
            measured, notes = devices_of_exporter(
                reading, said, is_fresh=self._is_fresh, existing_pods=existing_pods
            )
        wrong_link = bad_link(self._annotations, self._labels)
        if wrong_link is not None:
            notes = (*notes, wrong_link)
        known = merge_devices(published, measured)
        whole = self._whole(said, known, notes, is_published=bool(published))
        return (whole, *self._slices(said, known, whole))

    # Whole devices, or slices that go by the name of whole ones.

    def _whole(
        self,
        said: NodeFacts,
        known: tuple[DeviceFacts, ...],
        notes: tuple[str, ...],
        *,
        is_published: bool,
    ) -> Node:
        resource = self._whole_resource()
        allocatable = self._allocatable.get(resource, 0)
        devices = self._whole_devices(said, known, resource)
        sharing = said.sharing or Sharing.NONE
        if resource == SHARED_RESOURCE or (devices and allocatable > len(devices)):
            # More than there are: nobody says so, and the device plugin shares them anyway.
            sharing = sharing if sharing is not Sharing.NONE else Sharing.TIME_SLICING
        is_sliced = sharing is not Sharing.NONE and not self._is_shared
        reason = unusable_reason(self._obj)
        if reason is None and sharing is Sharing.MPS and not self._is_shared:
            reason = "SharedByMPS"
        has_plugin = any(self._allocatable.values())
        if reason is None and is_published and not has_plugin and not self._is_shared:
            reason = "HandedOutByDRA"
        usable = tuple(
            device
            for facts in devices
            if (device := self._device(facts, is_sliced=is_sliced)) is not None
        )
        unknown = None
        if not usable and (allocatable or devices or said.problem):
            unknown = self._unknown(resource, allocatable, said.problem)
        return Node(
            name=self._name,
            mode=PlacementMode.SHARED if self._is_shared else PlacementMode.EXCLUSIVE,
            devices=usable,
            labels=self._labels,
            taints=taints_of(self._obj),
            unusable_reason=reason,
            # A device that is shared in time is one device, however often it is handed out.
            num_allocatable=min(allocatable, max(1, len(devices))) if is_sliced else allocatable,
            num_foreign_devices=self._num_foreign(resource),
            has_fresh_metrics=self._is_fresh,
            resource=resource,
            devices_unknown=unknown,
            notes=notes,
            link=read_link(self._annotations, self._labels),
            host_bytes=self._allocatable.get("memory"),
            host_link=read_host_link(self._annotations, self._labels),
        )

    def _num_foreign(self, resource: str) -> int:
        return self._foreign.get(resource, 0) + self._foreign.get(ANY_RESOURCE, 0)

    def _whole_resource(self) -> str:
        if self._capacity.get(GPU_RESOURCE):
            return GPU_RESOURCE
        for resource in (AMD_RESOURCE, SHARED_RESOURCE):
            if self._capacity.get(resource):
                return resource
        is_amd = any(name.startswith("amd.com/gpu") for name in self._labels)
        return AMD_RESOURCE if is_amd else GPU_RESOURCE

    def _whole_devices(
        self, said: NodeFacts, known: tuple[DeviceFacts, ...], resource: str
    ) -> tuple[DeviceFacts, ...]:
        if said.problem is not None:
            return ()
        capacity = self._capacity.get(resource, 0)
        if said.slice_profile is not None:
            count = capacity if said.count is None else said.count.value
            slices = tuple(one for one in known if one.slice_profile is not None)
            if len(slices) == count:
                return tuple(filled(one, said) for one in slices)
            return self._alike(count, said)
        if not capacity and _mig_profiles(self._capacity):
            return ()  # the exporter may name the device, and it is handed out in slices only
        whole = tuple(one for one in known if one.slice_profile is None)
        if whole:
            return tuple(filled(one, said) for one in whole)
        count = capacity if said.count is None else said.count.value
        if said.slices or _mig_profiles(self._capacity):
            # The label counts all devices, those that are cut into slices among them.
            count = min(count, capacity)
        is_sliced = said.sharing not in (None, Sharing.NONE)
        if said.count is None and is_sliced:
            count = min(1, capacity)  # how many there are is not known, and one there is
        return self._alike(count, said)

    def _alike(self, count: int, said: NodeFacts) -> tuple[DeviceFacts, ...]:
        return tuple(
            filled(DeviceFacts(index=index, slice_profile=said.slice_profile), said)
            for index in range(min(count, MAX_DEVICES))
        )

    # Slices of strategy "mixed".

    def _slices(
        self, said: NodeFacts, known: tuple[DeviceFacts, ...], whole: Node
    ) -> tuple[Node, ...]:
        if said.slice_profile is not None or said.problem is not None:
            return ()
        by_profile = {one.profile: one for one in said.slices}
        nodes = []
        for profile in sorted(_mig_profiles(self._capacity)):
            facts = by_profile.get(profile, SliceFacts(profile=profile))
            devices = self._slices_of(facts, said, known)
            usable = tuple(
                device
                for one in devices
                if (device := self._device(one, is_sliced=True)) is not None
            )
            allocatable = self._allocatable.get(facts.resource, 0)
            unknown = None if usable else self._unknown(facts.resource, allocatable, None)
            nodes.append(
                replace(
                    whole,
                    devices=usable,
                    # Slices may be shared in time as well.
                    num_allocatable=min(allocatable, max(1, len(devices))),
                    num_foreign_devices=self._num_foreign(facts.resource),
                    resource=facts.resource,
                    devices_unknown=unknown,
                )
            )
        return tuple(nodes)

    def _slices_of(
        self, facts: SliceFacts, said: NodeFacts, known: tuple[DeviceFacts, ...]
    ) -> tuple[DeviceFacts, ...]:
        capacity = self._capacity.get(facts.resource, 0)
        count = capacity if facts.count is None else min(facts.count, capacity)
        product = facts.product
        if product is None and said.product is not None:
            name = f"{said.product.value}-MIG-{facts.profile}"
            product = Fact(name, said.product.source)
        of_profile = NodeFacts(product=product, memory_bytes=facts.memory_bytes)
        measured = tuple(one for one in known if one.slice_profile == facts.profile)
        if len(measured) == count:
            return tuple(filled(one, of_profile) for one in measured)
        blank = (
            DeviceFacts(index=index, slice_profile=facts.profile)
            for index in range(min(count, MAX_DEVICES))
        )
        return tuple(filled(one, of_profile) for one in blank)

    # One device.

    def _device(self, facts: DeviceFacts, *, is_sliced: bool) -> Device | None:
        """The device for placement; None while its memory is not known."""
        if facts.memory_bytes is None:
            return None
        product = None if facts.product is None else facts.product.value
        total = facts.memory_bytes.value
        usable = usable_bytes(product=product, reported_bytes=total)
        if facts.reserved_bytes is not None:
            usable = min(usable, total - facts.reserved_bytes)
        problem = facts.problem
        if is_cordoned(self._annotations, index=facts.index, uuid=facts.uuid):
            problem = "DeviceCordoned"
        return Device(
            node=self._name,
            index=facts.index,
            uuid=facts.uuid,
            product=product,
            usable_bytes=max(0, usable),
            usable_source=facts.memory_bytes.source.value,
            product_source=None if facts.product is None else facts.product.source.value,
            live_free_bytes=facts.free_bytes,
            live_age_seconds=None if facts.free_bytes is None else self._age_seconds,
            assigned_pod=facts.assigned_pod,
            unusable_reason=problem,
            is_slice=is_sliced or facts.slice_profile is not None,
        )

    def _unknown(self, resource: str, allocatable: int, problem: str | None) -> str:
        if problem is not None:
            return f"{self._name}: {problem}"
        return (
            f"{self._name} has {allocatable} {resource}, and nothing says how much memory each of "
            "them has: install GPU feature discovery (part of NVIDIA's GPU operator) or a metrics "
            f"exporter, or say so yourself: kubectl annotate node {self._name} "
            "memroute.dev/device-memory=80Gi memroute.dev/device-product=NVIDIA-H100-80GB-HBM3"
        )


def _mig_profiles(counts: Mapping[str, int]) -> set[str]:
    return {
        name.removeprefix(MIG_PREFIX)
        for name, count in counts.items()
        if name.startswith(MIG_PREFIX) and count
    }
