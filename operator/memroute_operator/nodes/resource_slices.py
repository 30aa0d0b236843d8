"""Devices that a DRA driver publishes (``resource.k8s.io`` ResourceSlices).

The best source there is: each device with its UUID, product, memory in bytes and health. NVIDIA's
``gpu.nvidia.com`` and AMD's ``gpu.amd.com`` are read; the memory is missing where the driver
cannot tell. Only the newest generation of a pool counts: older slices are left over.

A device that a ResourceClaim has is taken. Its pod requests no ``nvidia.com/gpu``, a device plugin
may hand the same device to somebody else, and nobody but the claim's status says so. memroute
itself makes no claims: each of them is somebody else's.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from memroute_kube import KubeObject
from memroute_kube.quantities import parse_quantity
from memroute_operator.nodes.facts import DeviceFacts, Fact, Source
from memroute_operator.nodes.labels import amd_product

DRIVERS = frozenset({"gpu.nvidia.com", "gpu.amd.com"})
# Devices of one node that are believed: 16 devices of 7 slices, and room.
MAX_DEVICES = 256
_BLOCKING_EFFECTS = frozenset({"NoSchedule", "NoExecute"})


DeviceName = tuple[str, str, str]
"""Driver, pool and name of a device, as claims refer to it."""
CLAIMED = "claimed"
"""Beside ``spec`` in a slice as it is kept: names of its devices that claims have."""


def kept_slices(
    slices: Iterable[KubeObject], claims: Iterable[KubeObject]
) -> dict[str, list[KubeObject]]:
    """What is read of slices, by node: their spec, and which of their devices claims have."""
    taken = frozenset(name for claim in claims for name in claimed_devices(claim))
    by_node: dict[str, list[KubeObject]] = {}
    for one in slices:
        spec = one.get("spec")
        node = spec.get("nodeName") if isinstance(spec, dict) else None
        if not isinstance(spec, dict) or not isinstance(node, str):
            continue
        pool = spec.get("pool")
        pool_name = pool.get("name") if isinstance(pool, Mapping) else None
        mine = sorted(
            name
            for driver, other, name in taken
            if (driver, other) == (spec.get("driver"), pool_name)
        )
        by_node.setdefault(node, []).append({"metadata": {}, "spec": spec, CLAIMED: mine})
    return by_node


def claimed_devices(claim: KubeObject) -> Iterator[DeviceName]:
    """The devices that a ResourceClaim has; none before it is allocated.

    One with ``adminAccess`` only looks at its devices (a monitor), and holds nothing.
    """
    found: Any = claim
    for field in ("status", "allocation", "devices", "results"):
        found = found.get(field) if isinstance(found, Mapping) else None
    for result in found if isinstance(found, list) else ():
        if isinstance(result, Mapping) and result.get("adminAccess") is not True:
            driver, pool, name = (result.get(field) for field in ("driver", "pool", "device"))
            if isinstance(driver, str) and isinstance(pool, str) and isinstance(name, str):
                yield driver, pool, name


def read_resource_slices(slices: Iterable[KubeObject], node: str) -> tuple[DeviceFacts, ...]:
    """The devices and MIG slices of a node. What cannot be read is left out."""
    pools: dict[tuple[str, str], dict[int, list[Mapping[str, Any]]]] = {}
    claimed: dict[tuple[str, str], set[str]] = {}
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
        key = (str(driver), str(pool.get("name")))
        claimed.setdefault(key, set()).update(one.get(CLAIMED) or ())
        generations = pools.setdefault(key, {})
        listed = generations.setdefault(generation, [])
        listed += [device for device in devices if isinstance(device, Mapping)]
    found: list[DeviceFacts] = []
    for key, generations in sorted(pools.items()):
        devices = generations[max(generations)]
        taken = _with_relatives(devices, claimed[key])
        for device in devices:
            facts = _device(device, len(found), is_claimed=device.get("name") in taken)
            if facts is not None and len(found) < MAX_DEVICES:
                found.append(facts)
    return tuple(found)


def _with_relatives(devices: Iterable[Mapping[str, Any]], names: set[str]) -> set[object]:
    """The same, with the slices of a device that is taken, and the device of a slice that is."""
    known = {one.get("name"): _said(one) for one in devices}
    taken = [known[name] for name in names if name in known]
    wholes = {_string(said, "uuid") for said in taken} - {None}
    parents = {_string(said, "parentUUID") for said in taken} - {None}
    return names | {
        name
        for name, said in known.items()
        if _string(said, "uuid") in parents or _string(said, "parentUUID") in wholes
    }


def _said(device: Mapping[str, Any]) -> Mapping[str, Any]:
    # v1beta1 has the same fields one level deeper.
    basic = device.get("basic")
    return basic if isinstance(basic, Mapping) else device


def _device(device: Mapping[str, Any], index: int, *, is_claimed: bool) -> DeviceFacts | None:
    said = _said(device)
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
        problem="HeldByResourceClaim"
        if is_claimed
        else "DeviceTainted"
        if _is_tainted(said)
        else None,
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
