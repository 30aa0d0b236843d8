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
            certain, unsure = _parts(reservation, uuid, ages[uuid])
            (shown if is_shown else maybe)[uuid] += certain
            maybe[uuid] += unsure
    for departed in inventory.departed:
        for uuid in departed.device_bytes.keys() & ages.keys():
            if ages[uuid] >= departed.ended_seconds:
                maybe[uuid] += departed.device_bytes[uuid]
    return {uuid: (shown[uuid], maybe[uuid]) for uuid in shown.keys() | maybe.keys()}


def _parts(reservation: Reservation, uuid: str, age_seconds: float) -> tuple[int, int]:
    """Of an engine that has started: bytes that a reading shows, and those that it may show.

    One that sleeps has little there. One that has just fallen asleep, or woken, may be in the
    reading as it was before.
    """
    size, rest, sleep = reservation.device_bytes[uuid], reservation.rest_on(uuid), reservation.sleep
    if sleep is None:
        return size, 0
    if sleep.settled_seconds is None or sleep.settled_seconds < age_seconds:
        return rest, size - rest
    return (rest if sleep.is_asleep else size), 0


def without_own(device: Device, released: Reservation) -> int:
    """Free bytes of a whole device once the replica that holds it has ended.

    What is used beyond its promise is foreign, and stays.
    """
    if device.live_free_bytes is None:
        return device.usable_bytes
    used = device.usable_bytes - device.live_free_bytes
    return device.usable_bytes - max(0, used - released.exclusive_bytes)
