"""Where a block of KV cache lies, by what engines call it in their events.

| engine | media |
| --- | --- |
| vLLM | ``GPU``, ``CPU``, ``STORAGE``; ``locality`` REMOTE for what another host keeps |
| SGLang | ``GPU``, ``CPU_PINNED`` |
| Mooncake's store | ``cpu`` |
| LMCache | the device as Python prints it: ``device(type='cuda', index=0)`` |
"""

from enum import IntEnum
from typing import Final


class Tier(IntEnum):
    """How far from the device's cores; smaller is nearer."""

    DEVICE = 0
    HOST = 1
    """The memory of the replica's own host."""
    STORAGE = 2
    """Disks, other hosts, and every medium that nobody here knows: it has to be fetched, and how
    fast that goes is not known."""


_DEVICE: Final = ("gpu", "hbm", "cuda", "hip", "xpu", "hpu", "npu", "tpu")
_HOST: Final = ("cpu", "dram", "host")


def tier_of(medium: object, locality: object = None) -> Tier:
    """The tier of an event's medium, whatever its case; without a medium it is the device.

    What another host keeps counts as storage, whatever it keeps it in.
    """
    if medium is None:
        return Tier.DEVICE
    name = str(medium).strip().lower()
    if name.startswith("device("):
        # A device of PyTorch, printed: its type is the first word in quotes.
        parts = name.replace('"', "'").split("'")
        name = parts[1] if len(parts) > 1 else ""
    if name.startswith(_DEVICE):
        return Tier.DEVICE
    if str(locality).lower() == "remote":
        return Tier.STORAGE
    return Tier.HOST if name.startswith(_HOST) else Tier.STORAGE
