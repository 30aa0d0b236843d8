"""Devices that a DRA driver publishes (``resource.k8s.io`` ResourceSlices).

The best source there is: each device with its UUID, product, memory in bytes and health. NVIDIA's
``gpu.nvidia.com`` and AMD's ``gpu.amd.com`` are read; the memory is missing where the driver
cannot tell. Only the newest generation of a pool counts: older slices are left over.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from memroute_kube import KubeObject
from memroute_kube.quantities import parse_quantity
from memroute_operator.nodes.facts import DeviceFacts, Fact, Source
from memroute_operator.nodes.labels import amd_product

DRIVERS = frozenset({"gpu.nvidia.com", "gpu.amd.com"})
# Devices of one node that are believed: 16 devices of 7 slices, and room.
MAX_DEVICES = 256
_BLOCKING_EFFECTS = frozenset({"NoSchedule", "NoExecute"})


def read_resource_slices(slices: Iterable[KubeObject], node: str) -> tuple[DeviceFacts, ...]:
    """The devices and MIG slices of a node. What cannot be read is left out."""
    pools: dict[tuple[str, str], dict[int, list[Mapping[str, Any]]]] = {}
    for one in slices:
        spec = one.get("spec")
        if not isinstance(spec, Mapping) or spec.get("nodeName") != node:
            continue
        driver, pool = spec.get("driver"), spec.get("pool")
        devices = spec.get("devices")
        if driver not in DRIVERS or not isinstance(pool, Mapping) or not isinstance(devices, list):
            continue
        generation = pool.get("generation")
        if not isinstance(generation, int):
            continue
        generations = pools.setdefault((str(driver), str(pool.get("name"))), {})
        listed = generations.setdefault(generation, [])
        listed += [device for device in devices if isinstance(device, Mapping)]
    found: list[DeviceFacts] = []
    for _, generations in sorted(pools.items()):
        for device in generations[max(generations)]:
            facts = _device(device, len(found))
            if facts is not None and len(found) < MAX_DEVICES:
                found.append(facts)
    return tuple(found)


def _device(device: Mapping[str, Any], index: int) -> DeviceFacts | None:
    # v1beta1 has the same fields one level deeper.
    basic = device.get("basic")
    said = basic if isinstance(basic, Mapping) else device
    kind = _string(said, "type")
    if kind not in (None, "gpu", "mig"):
        return None  # vfio and the like: nothing that an engine can use
    product = _string(said, "productName")
    profile = _string(said, "profile")
    memory = _memory(said)
    name = None if product is None else amd_product(product.strip()) or product
    dashed = None if name is None else name.replace(" ", "-")
    if dashed is not None and profile is not None:
        dashed = f"{dashed}-MIG-{profile}"
    return DeviceFacts(
        index=index,
        uuid=_string(said, "uuid"),
        product=None if dashed is None else Fact(dashed, Source.RESOURCE_SLICE),
        memory_bytes=None if memory is None else Fact(memory, Source.RESOURCE_SLICE),
        slice_profile=None if profile is None else profile.replace("+", "."),
        problem="DeviceTainted" if _is_tainted(said) else None,
    )


def _string(device: Mapping[str, Any], name: str) -> str | None:
    attributes = device.get("attributes")
    if not isinstance(attributes, Mapping):
        return None
    attribute = attributes.get(name)
    value = attribute.get("string") if isinstance(attribute, Mapping) else None
    return value if isinstance(value, str) and value else None


def _memory(device: Mapping[str, Any]) -> int | None:
    capacity = device.get("capacity")
    memory = capacity.get("memory") if isinstance(capacity, Mapping) else None
    # v1alpha3 had the quantity itself, later versions wrap it.
    value = parse_quantity(memory.get("value") if isinstance(memory, Mapping) else memory)
    return value if value is not None and value > 0 else None


def _is_tainted(device: Mapping[str, Any]) -> bool:
    taints = device.get("taints")
    if not isinstance(taints, list):
        return False
    return any(
        isinstance(taint, Mapping) and taint.get("effect") in _BLOCKING_EFFECTS for taint in taints
    )
