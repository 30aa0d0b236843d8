"""What several sources say of one device, put together."""

from dataclasses import replace

from memroute.catalog.accelerators import accelerator_for_product
from memroute_operator.nodes.facts import DeviceFacts, Fact, NodeFacts


def merge_devices(
    published: tuple[DeviceFacts, ...], measured: tuple[DeviceFacts, ...]
) -> tuple[DeviceFacts, ...]:
    """Devices by two sources that name each: joined by UUID, ``published`` believed first."""
    if not published:
        return measured
    by_uuid = {one.uuid: one for one in measured if one.uuid is not None}
    return tuple(
        one
        if (live := by_uuid.get(one.uuid or "")) is None
        else replace(
            one,
            index=live.index,
            product=one.product or live.product,
            memory_bytes=one.memory_bytes or live.memory_bytes,
            reserved_bytes=live.reserved_bytes,
            free_bytes=live.free_bytes,
            assigned_pod=live.assigned_pod,
            problem=one.problem or live.problem,
        )
        for one in published
    )


def filled(device: DeviceFacts, said: NodeFacts) -> DeviceFacts:
    """The device with what is said of all devices where nothing is said of this one."""
    product = device.product or said.product
    memory = device.memory_bytes
    speaks_of_it = (
        device.product is None
        or said.product is None
        or accelerator_for_product(device.product.value)
        == accelerator_for_product(said.product.value)
    )
    if memory is None and said.memory_bytes is not None and speaks_of_it:
        memory = said.memory_bytes
    if memory is None and product is not None:
        accelerator = accelerator_for_product(product.value)
        if accelerator is not None:
            memory = Fact(accelerator.reported_bytes, product.source)
    return replace(device, product=product, memory_bytes=memory)
