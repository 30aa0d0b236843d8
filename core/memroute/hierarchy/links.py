"""How fast bytes move between a device and its host's memory, by the size of each copy.

```text
seconds = copies x seconds_per_copy + bytes / rate
```

A copy of 2 MB reaches 92 % of a link, one of 64 KiB a quarter: engines copy one layer's page at a
time, so their block size decides what a tier is worth. Sources: vLLM's blog of 2026-01-08, figure 4
(H100, 1,000 copies: 1.1 GB/s at 4 KB, 14.4 at 64 KB, 32 at 256 KB, 47.7 at 2 MB, 51 at 16 MB), for
PCIe 5; a GH200 study by KTH for C2C; measurements in public issues for PCIe 3 and 4. That a copy
costs as long on every link is inferred, not measured.
"""

import re
from dataclasses import dataclass, replace

from memroute.catalog import Accelerator

# 0.19 MB at 52 GB/s: with it the law is within 10 % of figure 4 from 32 KB up.
SECONDS_PER_COPY = 0.19e6 / 52e9
# Eight devices that read at once, PCIe 5, two CPU quadrants: 114 GB/s together (73 with one
# quadrant; voipmonitor/rtx6kpro, wrx90 comparison). A host's memory is not a sum of links.
HOST_BYTES_PER_SECOND = 114e9


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLink:
    """One device's way to the memory of its host."""

    name: str
    """``pcie3``, ``pcie4``, ``pcie5``, ``c2c``; what a person writes."""
    read_bytes_per_second: float
    """Host to device, one large copy."""
    write_bytes_per_second: float
    """Device to host."""
    host_bytes_per_second: float | None = HOST_BYTES_PER_SECOND
    """Of all devices of a host together; None where each has memory of its own."""
    seconds_per_copy: float = SECONDS_PER_COPY
    error_ratio: float
    """How far a rate may be off on a host that nobody measured."""
    source: str

    def read_rate(self, copy_bytes: float) -> float:
        """Bytes per second that reach the device in copies of that size."""
        return _rate(self.read_bytes_per_second, copy_bytes, self.seconds_per_copy)

    def write_rate(self, copy_bytes: float) -> float:
        """Bytes per second that leave it in copies of that size."""
        return _rate(self.write_bytes_per_second, copy_bytes, self.seconds_per_copy)

    def shared_by(self, num_devices: int) -> "HostLink":
        """The part of each of so many devices of a host that copy at the same time."""
        if self.host_bytes_per_second is None or num_devices <= 1:
            return self
        part = self.host_bytes_per_second / num_devices
        return replace(
            self,
            read_bytes_per_second=min(self.read_bytes_per_second, part),
            write_bytes_per_second=min(self.write_bytes_per_second, part),
        )


def _rate(bytes_per_second: float, copy_bytes: float, seconds_per_copy: float) -> float:
    if copy_bytes <= 0:
        return bytes_per_second
    return copy_bytes / (copy_bytes / bytes_per_second + seconds_per_copy)


PCIE_3 = HostLink(
    name="pcie3", read_bytes_per_second=11.3e9, write_bytes_per_second=11.3e9, error_ratio=0.2,
    source="10.5 GiB/s, RTX 2080 Ti (lvyufeng/PocketLLM#156)",
)  # fmt: skip
PCIE_4 = HostLink(
    name="pcie4", read_bytes_per_second=26e9, write_bytes_per_second=25e9, error_ratio=0.2,
    source="26 GB/s, RTX 5070 Ti (sglang#39605); the way back at 0.8 of nominal",
)  # fmt: skip
PCIE_5 = HostLink(
    name="pcie5", read_bytes_per_second=52e9, write_bytes_per_second=52e9, error_ratio=0.1,
    source="51 GB/s, H100 (vLLM's blog, 2026-01-08); 55.0 and 56.4, RTX PRO 6000 (rtx6kpro)",
)  # fmt: skip
C2C = HostLink(
    name="c2c", read_bytes_per_second=375e9, write_bytes_per_second=297e9,
    host_bytes_per_second=None, error_ratio=0.3,
    source="GH200, 0.83 and 0.66 of 450 GB/s nominal (KTH, 2024-07); GB200 not measured",
)  # fmt: skip
HOST_LINKS = (PCIE_3, PCIE_4, PCIE_5, C2C)
# By the catalogue's names. AMD and Intel parts are PCIe 5 by their data sheets.
_BY_ACCELERATOR = {
    "T4": PCIE_3, "A10": PCIE_4, "A10G": PCIE_4, "L4": PCIE_4, "L40S": PCIE_4, "A100-40": PCIE_4,
    "A100-80": PCIE_4, "RTX-4090": PCIE_4, "H100": PCIE_5, "H100-PCIe": PCIE_5, "H100-NVL": PCIE_5,
    "H200": PCIE_5, "B200": PCIE_5, "B300": PCIE_5, "RTX-5090": PCIE_5, "RTX-PRO-6000": PCIE_5,
    "MI300X": PCIE_5, "MI325X": PCIE_5, "MI355X": PCIE_5, "Gaudi-3": PCIE_5, "GB200": C2C,
    "L40": PCIE_4, "L20": PCIE_4, "A40": PCIE_4, "A30": PCIE_4, "RTX-A6000": PCIE_4,
    "RTX-6000-Ada": PCIE_4, "RTX-3090": PCIE_4, "H800": PCIE_5, "H20": PCIE_5,
    "GH200": C2C,
}  # fmt: skip


def host_link_of(accelerator: Accelerator) -> HostLink | None:
    """The link that the accelerator has by its data sheet; None where the catalogue does not say.

    A slice of a device has its device's name before the slash, and shares its link.
    """
    return _BY_ACCELERATOR.get(accelerator.name.partition("/")[0])


# 3.7us-55.1-56.4GBps: seconds of a copy, to the device, from it. The first and the last may lack.
_MEASURED = re.compile(
    r"(?:(\d+(?:\.\d+)?)us-)?(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?gbps", re.IGNORECASE
)
# What was measured once on a host may be off by as much on the next start: two runs of one host
# differ by 2 to 3 % (rtx6kpro). Unit: ratio. Source: rounded up.
MEASURED_ERROR_RATIO = 0.05


def host_link_of_text(text: str) -> HostLink | None:
    """A link by its name, or as it was measured: ``3.7us-55.1-56.4GBps``; None where it is neither.

    Microseconds of one copy, GB/s to the device and GB/s back; without the first it is the usual,
    without the last it is as fast both ways.
    """
    found = _MEASURED.fullmatch(text.strip())
    if found is None:
        return host_link_by_name(text)
    copy, read, write = found.groups()
    read_rate = float(read) * 1e9
    write_rate = read_rate if write is None else float(write) * 1e9
    if not read_rate or not write_rate:
        return None
    return HostLink(
        name=text.strip(), read_bytes_per_second=read_rate, write_bytes_per_second=write_rate,
        seconds_per_copy=SECONDS_PER_COPY if copy is None else float(copy) * 1e-6,
        error_ratio=MEASURED_ERROR_RATIO, source="as measured",
    )  # fmt: skip


def host_link_by_name(name: str) -> HostLink | None:
    """The link that a person means: ``pcie5``, ``PCIe-5``, ``c2c``; None when there is none."""
    wanted = name.strip().casefold().replace("-", "").replace(" ", "").replace("gen", "")
    return next((link for link in HOST_LINKS if link.name == wanted), None)
