"""How much memory the process may take, and what of it clients may hold.

Beside the router's own part there are four equal ones:

| part | what for | how it is kept |
| --- | --- | --- |
| bytes | bodies, large heads, answers that slow clients have not taken | ``http/budget.py`` |
| documents | bodies as objects, while they are read | ``lifecycle/documents.py`` |
| connections | their objects, small heads, up to 16 KiB of an answer each | fewer connections |
| the rest | copies on the way to engines, memory that is free and in pieces | ``MemoryWatch`` |
"""

import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOGGER = logging.getLogger(__name__)
# What a router takes beside what clients hold: its code, and ledgers.
# Unit: bytes. Source: measured; a router of 400 replicas has 90 MiB, a thousand streams 10 more.
OWN_BYTES: Final = 128 * 1024**2
# Of what is left, one part in so many.
NUM_PARTS: Final = 4
# Least that bodies may hold, whatever the limit. Unit: bytes. Source: chosen by hand.
MIN_BODIES_BYTES: Final = 16 * 1024**2
# Least that documents may hold. Unit: bytes. Source: chosen by hand; 32 MiB of plain text as such.
MIN_DOCUMENTS_BYTES: Final = 128 * 1024**2
# What a connection is taken to need. Unit: bytes. Source: measured (``python -m bench.bounds``): an
# idle one 5 KB, one with a stream 10 KB; and half of a head or of what its client has not taken.
CONNECTION_BYTES: Final = 16 * 1024
MIN_CONNECTIONS: Final = 256
# Of the limit, from where on free memory is given back to the kernel. Source: chosen by hand.
TIGHT_RATIO: Final = 0.7
# Between two looks, and between two times that it is given back. Unit: seconds. Source: chosen by
# hand; a look costs 20 us, to give back a gigabyte some 50 ms.
LOOK_SECONDS: Final = 0.5
TRIM_SECONDS: Final = 5.0
_CGROUP_FILES: Final = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def memory_limit_bytes(files: tuple[str, ...] = _CGROUP_FILES) -> int:
    """What the container may take; where it has no limit, half of the machine's memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
    for name in files:
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < machine:
            return int(text)
    return machine // 2


def bodies_bytes(limit_bytes: int) -> int:
    """What clients' bytes may hold in all, so that the process stays under the limit."""
    return max(MIN_BODIES_BYTES, (limit_bytes - OWN_BYTES) // NUM_PARTS)


def documents_bytes(limit_bytes: int) -> int:
    """What bodies may take as objects, likewise."""
    return max(MIN_DOCUMENTS_BYTES, (limit_bytes - OWN_BYTES) // NUM_PARTS)


def num_connections(limit_bytes: int) -> int:
    """Clients' connections that there may be, likewise."""
    return max(MIN_CONNECTIONS, (limit_bytes - OWN_BYTES) // NUM_PARTS // CONNECTION_BYTES)


class MemoryWatch:
    """Gives memory that is free back to the kernel where the process comes near its limit.

    The allocator keeps what was freed, and after a flood it lies in pieces between what is used:
    the next flood of another kind would come on top.
    """

    def __init__(
        self,
        limit_bytes: int,
        *,
        resident_bytes: Callable[[], int] | None = None,
        trim: Callable[[], object] | None = None,
    ) -> None:
        """``resident_bytes``, ``trim``: the kernel's and the allocator's; None: this process's."""
        self._tight_bytes = int(TIGHT_RATIO * limit_bytes)
        self._resident_bytes = resident_bytes or _resident_bytes
        self._trim = trim or _trim
        self._look_at = 0.0
        self._trim_at = 0.0

    def tick(self, now_seconds: float) -> None:
        """Time passes."""
        if now_seconds < self._look_at:
            return
        self._look_at = now_seconds + LOOK_SECONDS
        if now_seconds < self._trim_at or self._resident_bytes() < self._tight_bytes:
            return
        self._trim_at = now_seconds + TRIM_SECONDS
        self._trim()


def _resident_bytes() -> int:
    """What of the process is in memory; 0 where the kernel does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _trim() -> None:
    """Nothing where the C library has no such call (musl)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
