"""What others use of devices: what a reading shows beyond our own replicas.

Worked out once, from the whole snapshot: it stays where it is when a plan asks what would be free
without one of our replicas. What a reading may show of a replica that never served is taken out of
it for as long as that replica is (``attribute``, ``restore``).
"""

from collections import Counter

from memroute.placement.inventory import Device, Inventory, Reservation

# What a replica may keep on a device while it sleeps, in what is counted for it. Source: chosen by
# hand; a context and graphs that a backend does not give back are 0.5 to 2 GiB beside 1.2.
MOST_RESTS = 3


class ForeignUse:
    """Bytes of devices that others use. Owned by the ledger."""

    def __init__(self, inventory: Inventory | None) -> None:
        """None: as if nobody used anything."""
        self._bytes: dict[str, int] = {}
        self._certain_bytes: dict[str, int] = {}
        self._attributed: dict[str, int] = {}
        if inventory is not None:
            self._measure(inventory)

    def _measure(self, inventory: Inventory) -> None:
        own = own_bytes(inventory)
        for node in inventory.nodes:
            for device in node.devices:
                if device.uuid is None or device.live_free_bytes is None:
                    continue
                used = device.usable_bytes - device.live_free_bytes
                shown, maybe = own.get(device.uuid, (0, 0))
                if used > shown:
                    self._bytes[device.uuid] = used - shown
                if used > shown + maybe:
                    self._certain_bytes[device.uuid] = used - shown - maybe

    def on(self, uuid: str) -> int:
        """Bytes of a device that processes of others use, as far as a reading shows."""
        return self._bytes.get(uuid, 0)

    def certain_on(self, uuid: str) -> int:
        """Those that no replica of ours that starts or has just ended explains."""
        return self._certain_bytes.get(uuid, 0)

    def attribute(self, released: Reservation) -> None:
        """Take what a reading may show of an engine that never served out of what others use."""
        if released.ready_seconds is not None:
            return
        for uuid, size in released.device_bytes.items():
            own = min(size, self._bytes.get(uuid, 0))
            if own:
                self._bytes[uuid] -= own
                self._attributed[uuid] = self._attributed.get(uuid, 0) + own

    def restore(self) -> None:
        """Count again as others' what ``attribute`` has taken out."""
        for uuid, own in self._attributed.items():
            self._bytes[uuid] += own
        self._attributed = {}


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

    One that sleeps has little there, and may keep more than is counted: were that certainly of
    others, one that fills its device could never wake. One that has just fallen asleep, or woken,
    may be in the reading as it was before.
    """
    size, rest, sleep = reservation.device_bytes[uuid], reservation.rest_on(uuid), reservation.sleep
    if sleep is None:
        return size, 0
    if sleep.settled_seconds is None or sleep.settled_seconds < age_seconds:
        return rest, size - rest
    if not sleep.is_asleep:
        return size, 0
    return rest, min(size - rest, (MOST_RESTS - 1) * rest)


def without_own(device: Device, released: Reservation) -> int:
    """Free bytes of a whole device once the replica that holds it has ended.

    What is used beyond its promise is foreign, and stays.
    """
    if device.live_free_bytes is None:
        return device.usable_bytes
    used = device.usable_bytes - device.live_free_bytes
    return device.usable_bytes - max(0, used - released.exclusive_bytes)
