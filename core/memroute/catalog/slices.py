"""MIG slices: what a profile reports, never more than it does.

An engine on a slice that is smaller than planned does not start. Profiles that are known are rows,
from ``nvidia-smi mig -lgip``; of several drivers the least counts. Others are bounds from below: a
share of their eighths of the device, by how many they are.

Sources: NVIDIA/mig-parted #31, #101, #120, #139, #166, #187, #227, gpu-operator #900, #1303; the
MIG user guide for A30 and A100.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from memroute.units import GIB

MIG_MEMORY_SLICES = 8
MIG_COMPUTE_SLICES = 7
# GiB that slices of so many eighths report. B200's smallest reports 20.50 or 22.00, by driver;
# GB200's 20.00 or 22.00; H100 NVL's 10.62 or 10.75.
_REPORTED_GIB: Mapping[str, Mapping[int, float]] = MappingProxyType({
    "A30": {2: 5.81, 4: 11.69, 8: 23.44},
    "A100-40": {1: 4.75, 2: 9.62, 4: 19.62, 8: 39.25},
    "A100-80": {1: 9.50, 2: 19.50, 4: 39.25, 8: 78.75},
    "H100": {1: 9.75, 2: 19.62, 4: 39.50, 8: 79.25},
    "H100-PCIe": {1: 9.62, 2: 19.50, 4: 39.25, 8: 78.75},
    "H100-NVL": {1: 10.62, 2: 21.50, 4: 46.12, 8: 92.62},
    "H200": {1: 16.00, 2: 32.25, 4: 69.50, 8: 139.75},
    "B200": {1: 20.50, 2: 44.25},
    "GB200": {1: 20.00, 2: 45.50},
    "RTX-PRO-6000": {2: 23.12},
})  # fmt: skip
# The least share of their eighths that slices report, by how many these are: 20.00 of 23.13 GiB
# (GB200), 32.25 of 35.10 (H200), 39.25 of 40.00 (A100-80), 78.75 of 80.00; each a little lower.
_LEAST_RATIO = MappingProxyType({1: 0.86, 2: 0.91, 4: 0.96, 8: 0.97})
# How far a nominal size (23 GB) is from its eighths at the most: 23 of 22.38, 39 of 40.
NOMINAL_RATIO = 0.12
# What follows the size: media extensions (+me, .me.all), graphics (+gfx), or their lack (-me).
_PROFILE = re.compile(r"(\d)g\.(\d+)gb(?:[.+-](?:me|gfx|no|all|media)[a-z.+-]*)?", re.IGNORECASE)
_SLICE = re.compile(
    rf"(?P<base>.+?)[-/ ](?:MIG[- ])?(?P<profile>{_PROFILE.pattern})", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a device."""

    profile: str
    reported_bytes: int
    memory_ratio: float
    """Of the device's memory and bandwidth."""
    compute_ratio: float


def split_slice(name: str) -> tuple[str, str] | None:
    """Device and profile of a slice's name (``H100/1g.10gb``, ``…-MIG-1g.5gb.me``); or None."""
    match = _SLICE.fullmatch(name)
    return None if match is None else (match["base"], match["profile"])


def slice_of(
    name: str, reported_bytes: int, profile: str, *, num_compute_slices: int = MIG_COMPUTE_SLICES
) -> Slice | None:
    """A slice of a device; None where there is no such profile."""
    match = _PROFILE.fullmatch(profile)
    if match is None:
        return None
    compute, nominal = int(match[1]), int(match[2])
    eighth = reported_bytes / MIG_MEMORY_SLICES
    # Profiles are named by their nominal size: the number of eighths that is nearest to it.
    eighths = min(_LEAST_RATIO, key=lambda count: abs(count - nominal * GIB / eighth))
    is_near = abs(eighths - nominal * GIB / eighth) < eighths * NOMINAL_RATIO
    if not is_near or not 1 <= compute <= num_compute_slices:
        return None
    known = _REPORTED_GIB.get(name, {}).get(eighths)
    reported = int(eighth * eighths * _LEAST_RATIO[eighths]) if known is None else int(known * GIB)
    return Slice(
        profile=profile.casefold(),
        reported_bytes=reported,
        memory_ratio=eighths / MIG_MEMORY_SLICES,
        compute_ratio=compute / num_compute_slices,
    )
