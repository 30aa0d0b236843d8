"""What a replica asks of its node's own processors and memory, beside its devices.

```text
memory = API server and engine core + ranks x (runtime, CUDA's host side, pinned buffers)
         + the largest tensor while weights are loaded
CPU    = half a core for the API server + half a core for each rank
```

Both are *requests*: what kube-scheduler keeps for it. No limit is set, because what a load takes in
passing (page cache, download buffers) is not memory that it holds. The numbers: three processes of
vLLM 0.32 on a CPU held 569, 536 and 668 MB; the host side of a CUDA context and pinned buffers come
to about another GiB for each rank. They are rounded up, and were not measured on each engine.
"""

from dataclasses import dataclass

from memroute.footprint.replica import ReplicaFootprint
from memroute.units import GIB

# API server and engine core: 569 + 536 MB measured, and room for the tokenizer's and images'.
BASE_BYTES = GIB + GIB // 2
# A rank: 668 MB measured on a CPU, about as much again for CUDA's host side and pinned buffers.
RANK_BYTES = 2 * GIB
# Weights are read through the page cache; one tensor at a time is staged. The largest of a large
# model (an embedding of 150,000 x 8,192 in 16 bit) has 2.5 GB; most have under one.
STAGING_BYTES = GIB
# Half a core each: an engine spins while it computes, and shares well while it does not.
CPU_MILLIS_PER_PROCESS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRequest:
    """What is kept for one replica on its node."""

    memory_bytes: int
    cpu_millis: int
    """Thousandths of a core."""


def host_request(footprint: ReplicaFootprint) -> HostRequest:
    """The request of a replica of that footprint."""
    ranks = footprint.num_devices
    staging = min(footprint.weights_bytes, STAGING_BYTES)
    return HostRequest(
        memory_bytes=BASE_BYTES + ranks * RANK_BYTES + staging,
        cpu_millis=CPU_MILLIS_PER_PROCESS * (1 + ranks),
    )
