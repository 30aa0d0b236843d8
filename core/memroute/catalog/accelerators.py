"""Accelerators: what the driver reports, what a process can use, how fast it is.

Three totals are told apart, because mixing them is how estimators go wrong:

* the name on the box ("80 GB");
* ``reported_bytes``: what nvidia-smi, NVML and the GPU feature discovery label report;
* ``usable_bytes``: what ``cudaMemGetInfo`` reports to a process, 0.4 to 0.75 GiB less.

Rates are data-sheet peaks for dense matrices. Sources: ``reported_bytes`` from published
nvidia-smi dumps (modal-labs/modal-client PR 2797, aiconfigurator ``systems/*.yaml``);
``usable_bytes`` from engine logs quoted in public issues, or, where ``is_usable_measured`` is
False, the reported bytes less the widest gap seen; rates from aiconfigurator and the vendors'
pages.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from memroute.catalog.slices import MIG_COMPUTE_SLICES, slice_of, split_slice
from memroute.units import GIB, MIB

UNKNOWN_DRIVER_GAP_BYTES = 768 * MIB
# 0.75 GiB: the widest gap seen between NVML's total and cudaMemGetInfo's is 0.70 GiB (B200).


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One kind of accelerator."""

    name: str
    products: tuple[str, ...]
    """Values of the label ``nvidia.com/gpu.product`` and of DCGM's ``modelName`` (dashed)."""
    reported_bytes: int
    usable_bytes: int
    bandwidth_bytes_per_second: float
    bf16_flops: float
    """Dense bf16 floating point operations per second."""
    fp8_flops: float | None = None
    """Dense fp8 operations per second; None where there are none."""
    link_bytes_per_second: float = 32e9
    """To its neighbours, per direction: NVLink, xGMI, or PCIe."""
    is_usable_measured: bool = True
    vendor: str = "nvidia"
    is_sliceable: bool = False
    """Whether it can be cut into MIG slices."""
    num_compute_slices: int = MIG_COMPUTE_SLICES
    """Parts that MIG cuts its compute into."""
    is_slice: bool = False
    """Whether it is such a slice: no tensor-parallel group spans several (NCCL does not)."""


def _gib(value: float) -> int:
    return int(value * GIB)


def _row(
    name: str,
    products: tuple[str, ...],
    reported_mib: int,
    usable_gib: float | None,
    rates: tuple[float, float, float | None, float],
    *,
    vendor: str = "nvidia",
    is_sliceable: bool = False,
    num_compute_slices: int = MIG_COMPUTE_SLICES,
) -> Accelerator:
    """``rates``: GB/s of memory, TFLOP/s of bf16 and of fp8, GB/s of link per direction."""
    bandwidth, bf16, fp8, link = rates
    reported = reported_mib * MIB
    return Accelerator(
        name=name,
        products=products,
        reported_bytes=reported,
        usable_bytes=(
            reported - UNKNOWN_DRIVER_GAP_BYTES if usable_gib is None else _gib(usable_gib)
        ),
        bandwidth_bytes_per_second=bandwidth * 1e9,
        bf16_flops=bf16 * 1e12,
        fp8_flops=None if fp8 is None else fp8 * 1e12,
        link_bytes_per_second=link * 1e9,
        is_usable_measured=usable_gib is not None,
        vendor=vendor,
        is_sliceable=is_sliceable,
        num_compute_slices=num_compute_slices,
    )


ACCELERATORS: tuple[Accelerator, ...] = (
    _row("T4", ("Tesla-T4", "NVIDIA-T4", "NVIDIA-Tesla-T4"), 15360, None, (320, 65, None, 16)),
    _row("A10", ("NVIDIA-A10",), 23028, None, (600, 125, None, 32)),
    _row("A10G", ("NVIDIA-A10G",), 23028, None, (600, 70, None, 32)),
    _row("L4", ("NVIDIA-L4",), 23034, 22.06, (300, 121, 242, 32)),
    _row("L40S", ("NVIDIA-L40S",), 46068, 44.4, (864, 362, 733, 32)),
    _row("L40", ("NVIDIA-L40",), 46068, None, (864, 181, 362, 32)),
    _row("L20", ("NVIDIA-L20",), 46068, None, (864, 119, 239, 32)),
    _row("A40", ("NVIDIA-A40",), 46068, None, (696, 149, None, 32)),
    _row(
        "A30", ("NVIDIA-A30",), 24576, None, (933, 165, None, 100), is_sliceable=True,
        num_compute_slices=4,
    ),
    _row(
        "A100-40",
        ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB", "A100-SXM4-40GB", "A100-PCIE-40GB"),
        40960, 39.49, (1555, 312, None, 300), is_sliceable=True,
    ),
    _row(
        "A100-80",
        ("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe", "A100-SXM4-80GB", "A100-SXM-80GB",
         "NVIDIA-A100-SXM-80GB", "NVIDIA-A800-SXM4-80GB", "NVIDIA-A800-80GB-PCIe"),
        81920, 79.25, (2039, 312, None, 300), is_sliceable=True,
    ),
    _row(
        "H100", ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-SXM5-80GB"), 81559, 79.20,
        (3350, 989, 1979, 450), is_sliceable=True,
    ),
    _row("H800", ("NVIDIA-H800",), 81559, None, (3350, 989, 1979, 200), is_sliceable=True),
    _row("H20", ("NVIDIA-H20",), 97871, None, (4000, 148, 296, 450), is_sliceable=True),
    _row(
        "GH200", ("NVIDIA-GH200-480GB", "GH200-480GB"), 97871, None, (4000, 989, 1979, 450),
        is_sliceable=True,
    ),
    _row(
        "H100-PCIe", ("NVIDIA-H100-PCIe",), 81559, 79.10, (2000, 756, 1513, 64),
        is_sliceable=True,
    ),
    _row("H100-NVL", ("NVIDIA-H100-NVL",), 95830, None, (3900, 835, 1671, 300), is_sliceable=True),
    _row(
        "H200", ("NVIDIA-H200", "NVIDIA-H200-NVL"), 143771, 139.81, (4800, 989, 1979, 450),
        is_sliceable=True,
    ),
    _row("B200", ("NVIDIA-B200",), 183359, 178.36, (7700, 2250, 4500, 900), is_sliceable=True),
    _row("GB200", ("NVIDIA-GB200",), 189471, None, (8000, 2500, 5000, 900), is_sliceable=True),
    _row(
        "B300", ("NVIDIA-B300-SXM6-AC", "NVIDIA-B300", "NVIDIA-GB300"), 275040, 268.0,
        (7750, 2250, 4500, 900), is_sliceable=True,
    ),
    _row("RTX-A6000", ("NVIDIA-RTX-A6000",), 49140, None, (768, 154, None, 32)),
    _row(
        "RTX-6000-Ada", ("NVIDIA-RTX-6000-Ada-Generation",), 49140, None, (960, 364, 728, 32)
    ),
    _row("RTX-3090", ("NVIDIA-GeForce-RTX-3090",), 24576, None, (936, 71, None, 32)),
    _row("RTX-4090", ("NVIDIA-GeForce-RTX-4090",), 24564, 23.52, (1008, 165, 330, 32)),
    _row("RTX-5090", ("NVIDIA-GeForce-RTX-5090",), 32607, 31.36, (1792, 209, 419, 64)),
    _row(
        "RTX-PRO-6000",
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
         "NVIDIA-RTX-PRO-6000-Blackwell-Workstation-Edition",
         "NVIDIA-RTX-PRO-6000-Blackwell-Max-Q-Workstation-Edition"),
        97887, 94.97, (1792, 468, 936, 64), is_sliceable=True, num_compute_slices=4,
    ),
    _row(
        "MI300X", ("AMD-Instinct-MI300X", "AMD-Instinct-MI300X-OAM"),
        196592, None, (5300, 1307, 2615, 64), vendor="amd",
    ),
    _row(
        "MI325X", ("AMD-Instinct-MI325X", "AMD-Instinct-MI325X-OAM"),
        262128, None, (6000, 1307, 2615, 64), vendor="amd",
    ),
    _row(
        "MI355X", ("AMD-Instinct-MI355X", "AMD-Instinct-MI355X-OAM"),
        294896, None, (8000, 2500, 5000, 77), vendor="amd",
    ),
    _row(
        "Gaudi-3", ("Intel-Gaudi-3", "HL-325L"), 131072, None, (3700, 1678, 1678, 300),
        vendor="intel",
    ),
)  # fmt: skip

# Products whose row is remembered: asked some ten times for each device of a fleet, and a cluster
# has a handful. Bounded, because labels and exporters say anything.
MAX_REMEMBERED = 256
# What GPU feature discovery adds to the product of devices that are shared in time.
_SHARED = "-SHARED"


@lru_cache(maxsize=MAX_REMEMBERED)
def accelerator_for_product(product: str) -> Accelerator | None:
    """The catalogue's row for a product label or a DCGM model name; None when unknown.

    ``NVIDIA H100 80GB HBM3`` (DCGM) and ``NVIDIA-H100-80GB-HBM3-SHARED`` (time-sliced) are
    the same accelerator as ``NVIDIA-H100-80GB-HBM3``; ``…-MIG-1g.10gb`` is a slice of it.
    """
    normalized = _normalized(product)
    lowered = normalized.casefold()
    for accelerator in ACCELERATORS:
        if any(one.casefold() == lowered for one in accelerator.products):
            return accelerator
    return _slice(normalized)


def accelerator_by_name(name: str) -> Accelerator | None:
    """The catalogue's row for what a person writes: ``h100``, ``A100-80``, ``H100/1g.10gb``.

    A product label (``NVIDIA-A100-80GB-PCIe``) gives its row with that product first: it is the
    one that was meant.
    """
    wanted = name.strip().casefold()
    for accelerator in ACCELERATORS:
        if accelerator.name.casefold() == wanted:
            return accelerator
    found = accelerator_for_product(name)
    return _slice(name.strip()) if found is None else with_product_first(found, name)


def with_product_first(accelerator: Accelerator, product: str) -> Accelerator:
    """The row with that product as the first of its names; the row itself where it has no such."""
    named = _normalized(product)
    spelled = next(
        (one for one in accelerator.products if one.casefold() == named.casefold()), None
    )
    if spelled is None:
        return accelerator
    others = (one for one in accelerator.products if one != spelled)
    return replace(accelerator, products=(spelled, *others))


def _normalized(product: str) -> str:
    name = product.strip().replace(" ", "-")
    return name[: -len(_SHARED)] if name.upper().endswith(_SHARED) else name


def _slice(name: str) -> Accelerator | None:
    found = split_slice(name)
    if found is None:
        return None
    of, profile = found
    base = accelerator_for_product(of) or next(
        (row for row in ACCELERATORS if row.name.casefold() == of.casefold()), None
    )
    return None if base is None else mig_slice(base, profile)


def mig_slice(base: Accelerator, profile: str) -> Accelerator | None:
    """A MIG slice (``2g.20gb``) of an accelerator; None where there is no such profile.

    Memory comes in eighths, compute in sevenths (quarters on smaller chips); bandwidth goes with
    memory. Its bytes are a bound from below (``slices``); a node's label or exporter says them
    exactly.
    """
    if not base.is_sliceable:
        return None
    found = slice_of(
        base.name, base.reported_bytes, profile, num_compute_slices=base.num_compute_slices
    )
    if found is None:
        return None
    return replace(
        base,
        name=f"{base.name}/{found.profile}",
        products=(),
        reported_bytes=found.reported_bytes,
        usable_bytes=int(base.usable_bytes * found.reported_bytes / base.reported_bytes),
        bandwidth_bytes_per_second=base.bandwidth_bytes_per_second * found.memory_ratio,
        bf16_flops=base.bf16_flops * found.compute_ratio,
        fp8_flops=None if base.fp8_flops is None else base.fp8_flops * found.compute_ratio,
        is_usable_measured=False,
        is_sliceable=False,
        is_slice=True,
    )


def usable_bytes(*, product: str | None, reported_bytes: int) -> int:
    """Bytes that processes on this device can use, of the bytes that its driver reports.

    Takes the catalogue's gap for a known product, the widest known gap otherwise.
    """
    accelerator = accelerator_for_product(product) if product else None
    if accelerator is None:
        return max(0, reported_bytes - UNKNOWN_DRIVER_GAP_BYTES)
    return max(0, reported_bytes - (accelerator.reported_bytes - accelerator.usable_bytes))
