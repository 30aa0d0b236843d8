"""Weights that stay on the host and are read in every step (``--cpu-offload-gb``).

```text
step = what the device computes + offloaded bytes / rate of the link      (read where they lie)
```

Memory is won for KV cache at the price of every step: the cost per token falls with the batch. A
mixture of experts reads only the experts that its tokens chose; that share is inferred.
"""

from dataclasses import dataclass

from memroute.hierarchy.links import HostLink
from memroute.units import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsOffload:
    """So many bytes of each device's weights kept on the host."""

    bytes_per_device: int
    num_devices: int
    read_ratio: float = 1.0
    """Share of the bytes that one step reads: 1 where every weight is used."""

    @property
    def host_bytes(self) -> int:
        """Pinned on the node, all ranks."""
        return self.bytes_per_device * self.num_devices

    @property
    def flag_gib(self) -> float:
        """The value of vLLM's ``--cpu-offload-gb``: GiB, of each device."""
        return self.bytes_per_device / GIB

    def step_seconds_added(self, link: HostLink) -> float:
        """What each step takes longer, all devices reading at once."""
        rate = link.shared_by(self.num_devices).read_bytes_per_second
        return self.bytes_per_device * self.read_ratio / rate
