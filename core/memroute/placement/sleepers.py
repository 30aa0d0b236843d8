"""Who may sleep on each device, and what those lend that sleep.

Of a device with sleepers of ``size`` and ``rest`` bytes, beside ``others`` that never sleep:

```text
lent          sum(size - rest) over those that sleep
one wakes     others + sum(rest) + max(size - rest)     must fit, so that each of them can wake
```
"""

from memroute.placement.inventory import Reservation
from memroute.placement.ways import still_lent


class Sleepers:
    """The replicas of a ledger that may sleep. Owned by it."""

    def __init__(self) -> None:
        self._on_device: dict[str, dict[str, tuple[int, int]]] = {}
        """Device → pod → its bytes there, and those that it keeps while it sleeps."""
        self._lent: dict[str, int] = {}

    def count(self, reservation: Reservation, predecessor: Reservation | None, sign: int) -> None:
        """Add (1) or take away (-1) a promise; ``predecessor``: whose claim it is, if it is one."""
        if reservation.replaces is not None:
            if predecessor is not None:
                self._count_claim(reservation, predecessor, sign)
            return
        if reservation.sleep is None:
            return
        for uuid, size in reservation.device_bytes.items():
            there = self._on_device.setdefault(uuid, {})
            if sign > 0:
                there[reservation.owner] = (size, reservation.rest_on(uuid))
            else:
                there.pop(reservation.owner, None)
            self._lend(uuid, reservation.lent_on(uuid) * sign)

    def _count_claim(self, claim: Reservation, predecessor: Reservation, sign: int) -> None:
        """A successor starts awake: what a sleeping predecessor lends there is called back."""
        for uuid, size in claim.device_bytes.items():
            lent = predecessor.lent_on(uuid)
            if lent:
                left = still_lent(predecessor.device_bytes[uuid], lent, size)
                self.call_back(uuid, (lent - left) * sign)

    def call_back(self, uuid: str, num_bytes: int) -> None:
        """So many bytes of a device are lent no more; below 0: they are lent again."""
        self._lend(uuid, -num_bytes)

    def _lend(self, uuid: str, num_bytes: int) -> None:
        self._lent[uuid] = self._lent.get(uuid, 0) + num_bytes

    def lent_bytes(self, uuid: str) -> int:
        """Bytes of a device that are promised to replicas that sleep, and that those do not use."""
        return self._lent.get(uuid, 0)

    def spare_when_one_wakes(self, uuid: str) -> int:
        """Bytes of sleepers' promises that are not needed while only the largest of them is awake.

        0 where none may sleep.
        """
        there = self._on_device.get(uuid)
        if not there:
            return 0
        grows = [size - rest for size, rest in there.values()]
        return sum(grows) - max(grows)
