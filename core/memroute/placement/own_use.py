"""What of a reading is our own replicas', so that the rest is known to be of others."""

from collections import Counter

from memroute.placement.inventory import Device, Inventory, Reservation


def own_bytes(inventory: Inventory) -> dict[str, tuple[int, int]]:
    """By device, the bytes in its last reading that are our own replicas'.

    Those that it shows; and those of which it may show anything between nothing and all, because
    the engine loads, or may have ended before the reading.
    """
    ages = {
        device.uuid: device.live_age_seconds
        for node in inventory.nodes
        for device in node.devices
        if device.uuid is not None and device.live_age_seconds is not None
    }
    shown, maybe = Counter[str](), Counter[str]()
    for reservation in inventory.reservations:
        if reservation.replaces is not None:
            continue  # a claim: nothing runs on it yet
        for uuid in reservation.device_bytes.keys() & ages.keys():
            ready = reservation.ready_seconds
            is_shown = ready is not None and ages[uuid] <= ready
            (shown if is_shown else maybe)[uuid] += reservation.device_bytes[uuid]
    for departed in inventory.departed:
        for uuid in departed.device_bytes.keys() & ages.keys():
            if ages[uuid] >= departed.ended_seconds:
                maybe[uuid] += departed.device_bytes[uuid]
    return {uuid: (shown[uuid], maybe[uuid]) for uuid in shown.keys() | maybe.keys()}


def without_own(device: Device, released: Reservation) -> int:
    """Free bytes of a whole device once the replica that holds it has ended.

    What is used beyond its promise is foreign, and stays.
    """
    if device.live_free_bytes is None:
        return device.usable_bytes
    used = device.usable_bytes - device.live_free_bytes
    return device.usable_bytes - max(0, used - released.exclusive_bytes)
