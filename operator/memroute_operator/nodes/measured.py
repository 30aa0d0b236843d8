"""Devices as the node's exporter reports them, as far as the hardware can be so.

An exporter is a process, and may be wrong or somebody else's. Where what it says cannot be, its
memory is left out and the reason noted; the device itself, its UUID and its pod stay.
"""

from collections.abc import Collection

from memroute.catalog.accelerators import accelerator_for_product
from memroute.units import format_gib
from memroute_operator.nodes.facts import DeviceFacts, Fact, NodeFacts, Source
from memroute_operator.readings.device_metrics import DeviceReading, NodeReading

# An exporter's total as a share of what is known of the device otherwise. Drivers and ECC take
# up to 8 % (A10 with ECC: 22,528 of 24,564 MiB); a page in other units is off by a factor of
# thousand, and a forged one has a reason to say more.
MIN_TOTAL_RATIO = 0.85
MAX_TOTAL_RATIO = 1.02
# What the driver keeps for itself, as a share of the total: up to 8 % (ECC, as above). An exporter
# that says much more would make every full device of the fleet look overbooked. Chosen by hand.
MAX_RESERVED_RATIO = 0.15


def devices_of_exporter(
    reading: NodeReading,
    said: NodeFacts,
    *,
    is_fresh: bool,
    existing_pods: Collection[str] | None,
) -> tuple[tuple[DeviceFacts, ...], tuple[str, ...]]:
    """The devices of a reading, and notes on what of it was left out.

    ``said``: what the node's labels say. ``existing_pods``: ``namespace/name`` of pods that hold
    devices; None where nobody knows. A device that is attributed to a pod that has gone is free,
    and its reading is from before: no use of it is known.
    """
    notes: list[str] = []
    found: list[DeviceFacts] = []
    label_product = None if said.product is None else said.product.value
    products = {one.product for one in reading.devices}
    # Labels of a mixed node are right about one of its devices. Of none: somebody is wrong.
    is_foreign = (
        label_product is not None
        and accelerator_for_product(label_product) is not None
        and None not in products
        and not any(_same_product(label_product, product) for product in products)
    )
    if is_foreign:
        listed = ", ".join(sorted(product or "?" for product in products))
        notes.append(f"the exporter reports {listed}, and the node is labelled {label_product}")
    for device in reading.devices:
        problem = None if is_foreign else _contradiction(device, said)
        if problem is not None:
            notes.append(problem)
        believed = not is_foreign and problem is None
        named = device.assigned_pods if is_fresh else ()
        existing = [one for one in named if existing_pods is None or one in existing_pods]
        has_gone = bool(named) and not existing
        total = device.total_bytes if believed else None
        product = device.product if not is_foreign else None
        if product is not None and device.slice_profile is not None:
            product = f"{product}-MIG-{device.slice_profile}"
        found.append(
            DeviceFacts(
                index=device.index,
                uuid=device.uuid if device.slice_id is None else None,
                product=None if product is None else Fact(product, Source.EXPORTER),
                memory_bytes=None if total is None else Fact(total, Source.EXPORTER),
                reserved_bytes=device.reserved_bytes if believed else None,
                free_bytes=device.free_bytes if believed and is_fresh and not has_gone else None,
                assigned_pod=existing[0] if existing else None,
                slice_profile=_resource_profile(device.slice_profile),
                problem="DeviceFailing" if device.is_failing else None,
            )
        )
    return tuple(found), tuple(notes)


def _resource_profile(profile: str | None) -> str | None:
    # "1g.10gb+me" is "1g.10gb.me" in the name of a resource.
    return None if profile is None else profile.replace("+", ".")


def _same_product(label: str, product: str | None) -> bool:
    if product is None:
        return False
    if product == label or label.startswith(f"{product}-MIG-"):
        return True
    ours, theirs = accelerator_for_product(label), accelerator_for_product(product)
    return ours is not None and theirs is not None and ours.name.split("/")[0] == theirs.name


def _contradiction(device: DeviceReading, said: NodeFacts) -> str | None:
    """Why the device's memory cannot be what its exporter says; None when it can."""
    total, free = device.total_bytes, device.free_bytes
    if total is None:
        return None
    name = f"device {device.index} ({device.uuid})"
    if total <= 0 or (free is not None and free > total):
        return f"the exporter's values for {name} cannot be: {total} bytes, {free} of them free"
    if (device.reserved_bytes or 0) > MAX_RESERVED_RATIO * total:
        return (
            f"the exporter says that the driver keeps {format_gib(device.reserved_bytes or 0)} of "
            f"the {format_gib(total)} of {name}, which cannot be"
        )
    expected = _expected_bytes(device, said)
    if expected is None or MIN_TOTAL_RATIO <= total / expected <= MAX_TOTAL_RATIO:
        return None
    return (
        f"the exporter says that {name} has {format_gib(total)}, and it should have "
        f"{format_gib(expected)}"
    )


def _expected_bytes(device: DeviceReading, said: NodeFacts) -> int | None:
    if device.slice_profile is not None:
        return next(
            (
                one.memory_bytes.value
                for one in said.slices
                if one.profile == _resource_profile(device.slice_profile)
                and one.memory_bytes is not None
            ),
            None,
        )
    label = None if said.product is None else said.product.value
    if (
        said.memory_bytes is not None
        and said.slice_profile is None
        and (device.product is None or label is None or _same_product(label, device.product))
    ):
        return said.memory_bytes.value
    accelerator = accelerator_for_product(device.product or "")
    return None if accelerator is None else accelerator.reported_bytes
