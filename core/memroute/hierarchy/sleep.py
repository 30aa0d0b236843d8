"""An engine that sleeps: what it keeps on device and host, and how long it takes to wake.

vLLM's two levels:

```text
level 1   weights on the host, KV cache gone     wakes over the link
level 2   weights gone too                       wakes from storage, and loads them again
```

The pinned allocator rounds each tensor up to a power of two: a model of 16 GB took 22 GiB (vllm
#48337). After waking the memory stays with the process (vllm#16663), so it is counted from the
first sleep on, and for good.
"""

from dataclasses import dataclass
from enum import IntEnum

from memroute.footprint import ReplicaFootprint
from memroute.hierarchy.links import HostLink
from memroute.units import GIB

# Host bytes per byte of weights at level 1. Measured: 22 GiB for 16 GB. No tensor takes more than
# twice its size.
PINNED_RATIO = 1.4
PINNED_RATIO_MOST = 2.0
# Runtime and graph pools that both levels copy to the host, and buffers: inferred from what stays
# of a level-2 sleep (Qwen3-8B, A100: 0.31 s over a 25 GB/s link would be at most 7 GB; graphs and
# communication of a replica have 0.5 to 2 GiB).
RUNTIME_BYTES = 2 * GIB
# What an engine keeps of its device while it sleeps: context, and what is not in a pool.
DEVICE_REST_BYTES = int(1.2 * GIB)
# Beyond the copy itself: mapping memory, unpausing, the first step. Qwen3-8B at level 1 on an A100
# woke in 2.19 s (copy 0.65), Qwen3-0.6B in 0.26 to 1.22 s (copy 0.05).
WAKE_SECONDS = 1.5
# Reading a checkpoint from a local disk again, one rank: 3.2 GB/s (Qwen3-8B, level 2: 16 GB in
# 6.53 s, of which 1.5 as above).
STORAGE_BYTES_PER_SECOND = 3.2e9


class SleepLevel(IntEnum):
    """How deep."""

    WEIGHTS_ON_HOST = 1
    NOTHING_KEPT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """What sleeping does to one replica."""

    level: SleepLevel
    freed_device_bytes: int
    """Of each device: what somebody else could use meanwhile."""
    host_bytes: int
    """Of the node, all ranks: what is kept from the first sleep on."""
    host_bytes_most: int
    """The most that the allocator's rounding can make of it."""
    wake_seconds: float
    """From the call until it serves; its queue and prefix cache are empty then."""


def sleep_of(
    footprint: ReplicaFootprint,
    level: SleepLevel,
    link: HostLink,
    *,
    storage_bytes_per_second: float = STORAGE_BYTES_PER_SECOND,
) -> Sleep:
    """The figures of one replica, every rank over its own part of the link."""
    ranks = footprint.num_devices
    weights = footprint.weights.expected
    shared = link.shared_by(ranks)
    if level is SleepLevel.WEIGHTS_ON_HOST:
        host, most = int(weights * PINNED_RATIO), int(weights * PINNED_RATIO_MOST)
        copy = weights / shared.read_bytes_per_second
    else:
        host = most = 0
        copy = weights * ranks / storage_bytes_per_second
    return Sleep(
        level=level,
        freed_device_bytes=max(0, footprint.total_bytes - DEVICE_REST_BYTES),
        host_bytes=ranks * (host + RUNTIME_BYTES),
        host_bytes_most=ranks * (most + RUNTIME_BYTES),
        wake_seconds=WAKE_SECONDS + copy,
    )
