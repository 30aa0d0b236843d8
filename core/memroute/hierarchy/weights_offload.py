"""Weights that stay on the host and are read in every step (``--cpu-offload-gb``).

```text
step = what the device computes + offloaded bytes / rate of the link      (read where they lie)
```

Memory is won for KV cache at the price of every step: the cost per token falls with the batch. A
mixture of experts reads only the experts that its tokens chose; that share is inferred. What the
device no longer reads of its own memory is not taken off: 10 GiB are 3 ms of an H100's, and 200 ms
of its link.
"""

from dataclasses import dataclass

from memroute.hierarchy.links import HostLink
from memroute.units import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsOffload:
    """So many bytes of each device's weights kept on the host."""

    bytes_per_device: int
    num_devices: int

    @property
    def host_bytes(self) -> int:
        """Pinned on the node, all ranks."""
        return self.bytes_per_device * self.num_devices

    @property
    def flag_gib(self) -> float:
        """The value of vLLM's ``--cpu-offload-gb``: GiB, of each device."""
        return self.bytes_per_device / GIB

    def read_seconds(self, link: HostLink) -> float:
        """Seconds to read all of it once, all devices reading at the same time.

        What each step takes longer, where it reads every weight (``StepTime.host_read_seconds``).
        """
        rate = link.shared_by(self.num_devices).read_bytes_per_second
        return self.bytes_per_device / rate
