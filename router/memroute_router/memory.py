"""How much memory the process may take, and what of it bodies of requests may hold."""

import os
from pathlib import Path
from typing import Final

# What a router takes beside the bodies: its code, ledgers and connections' buffers.
# Unit: bytes. Source: measured; a router of 400 replicas has 90 MiB, a thousand streams 10 more.
OWN_BYTES: Final = 128 * 1024**2
# What a body may take while it is read, over its own bytes: the body, its copy on the way to an
# engine, its document as objects. Unit: ratio. Source: chosen by hand; texts take 3, lists of
# token ids more, for some milliseconds.
BYTES_PER_BODY_BYTE: Final = 4
# Least that bodies may hold, whatever the limit. Unit: bytes. Source: chosen by hand.
MIN_BODIES_BYTES: Final = 16 * 1024**2
_CGROUP_FILES: Final = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def memory_limit_bytes(files: tuple[str, ...] = _CGROUP_FILES) -> int:
    """What the container may take; where it has no limit, half of the machine's memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in files:
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < machine:
            return int(text)
    return machine // 2


def bodies_bytes(limit_bytes: int) -> int:
    """What bodies may hold in all, so that the process stays under the limit."""
    return max(MIN_BODIES_BYTES, (limit_bytes - OWN_BYTES) // BYTES_PER_BODY_BYTE)
