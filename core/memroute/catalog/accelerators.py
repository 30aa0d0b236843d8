"""Accelerators: what the driver reports, what a process can use, how fast it is.

Three totals are told apart, because mixing them is how estimators go wrong:

* the name on the box ("80 GB");
* ``reported_bytes``: what nvidia-smi, NVML and the GPU feature discovery label report;
* ``usable_bytes``: what ``cudaMemGetInfo`` reports to a process, 0.4 to 0.75 GiB less.

Rates are data-sheet peaks for dense matrices. Sources: ``reported_bytes`` from published
nvidia-smi dumps (modal-labs/modal-client PR 2797, aiconfigurator ``systems/*.yaml``);
``usable_bytes`` from engine logs quoted in public issues; rates from aiconfigurator and
the vendors' pages.
"""

from dataclasses import dataclass

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


def _gib(value: float) -> int:
    return int(value * GIB)


ACCELERATORS: tuple[Accelerator, ...] = (
    Accelerator(
        name="L4",
        products=("NVIDIA-L4",),
        reported_bytes=23034 * MIB,
        usable_bytes=_gib(22.06),
        bandwidth_bytes_per_second=300e9,
        bf16_flops=121e12,
    ),
    Accelerator(
        name="L40S",
        products=("NVIDIA-L40S",),
        reported_bytes=46068 * MIB,
        usable_bytes=_gib(44.4),
        bandwidth_bytes_per_second=864e9,
        bf16_flops=362e12,
    ),
    Accelerator(
        name="A100-40",
        products=("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"),
        reported_bytes=40960 * MIB,
        usable_bytes=_gib(39.49),
        bandwidth_bytes_per_second=1555e9,
        bf16_flops=312e12,
    ),
    Accelerator(
        name="A100-80",
        products=("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe"),
        reported_bytes=81920 * MIB,
        usable_bytes=_gib(79.25),
        bandwidth_bytes_per_second=2039e9,
        bf16_flops=312e12,
    ),
    Accelerator(
        name="H100",
        products=("NVIDIA-H100-80GB-HBM3",),
        reported_bytes=81559 * MIB,
        usable_bytes=_gib(79.20),
        bandwidth_bytes_per_second=3350e9,
        bf16_flops=989e12,
    ),
    Accelerator(
        name="H100-PCIe",
        products=("NVIDIA-H100-PCIe",),
        reported_bytes=81559 * MIB,
        usable_bytes=_gib(79.10),
        bandwidth_bytes_per_second=2000e9,
        bf16_flops=756e12,
    ),
    Accelerator(
        name="H200",
        products=("NVIDIA-H200",),
        reported_bytes=143771 * MIB,
        usable_bytes=_gib(139.81),
        bandwidth_bytes_per_second=4800e9,
        bf16_flops=989e12,
    ),
    Accelerator(
        name="B200",
        products=("NVIDIA-B200",),
        reported_bytes=183359 * MIB,
        usable_bytes=_gib(178.36),
        bandwidth_bytes_per_second=7700e9,
        bf16_flops=2250e12,
    ),
)


def accelerator_for_product(product: str) -> Accelerator | None:
    """The catalogue's row for a product label or a DCGM model name; None when unknown.

    ``NVIDIA H100 80GB HBM3`` (DCGM) and ``NVIDIA-H100-80GB-HBM3-SHARED`` (time-sliced) are
    the same accelerator as ``NVIDIA-H100-80GB-HBM3``.
    """
    normalized = product.strip().replace(" ", "-").removesuffix("-SHARED")
    for accelerator in ACCELERATORS:
        if normalized in accelerator.products:
            return accelerator
    return None


def usable_bytes(*, product: str | None, reported_bytes: int) -> int:
    """Bytes that processes on this device can use, of the bytes that its driver reports.

    Takes the catalogue's gap for a known product, the widest known gap otherwise.
    """
    accelerator = accelerator_for_product(product) if product else None
    if accelerator is None:
        return max(0, reported_bytes - UNKNOWN_DRIVER_GAP_BYTES)
    return max(0, reported_bytes - (accelerator.reported_bytes - accelerator.usable_bytes))
