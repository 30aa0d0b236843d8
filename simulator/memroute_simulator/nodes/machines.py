"""The machines that can be emulated."""

from dataclasses import dataclass

from memroute.catalog import ACCELERATORS, Accelerator
from memroute.units import MIB

GPU_PRESENT_LABEL = "nvidia.com/gpu.present"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """One kind of GPU, as its driver and labels describe it."""

    accelerator: Accelerator
    family: str
    compute_capability: tuple[int, int]

    @property
    def product(self) -> str:
        """The value of ``nvidia.com/gpu.product``."""
        return self.accelerator.products[0]

    @property
    def is_amd(self) -> bool:
        """Whether AMD made it: other resources, labels and exporter."""
        return self.accelerator.vendor == "amd"

    @property
    def dcgm_name(self) -> str:
        """DCGM's ``modelName``: the same with spaces."""
        return self.product.replace("-", " ")

    @property
    def reported_mib(self) -> int:
        """MiB that nvidia-smi, NVML and the label report."""
        return self.accelerator.reported_bytes // MIB

    @property
    def reserved_mib(self) -> int:
        """MiB that the driver keeps for itself (DCGM's FB_RESERVED)."""
        return (self.accelerator.reported_bytes - self.accelerator.usable_bytes) // MIB


def _gpu(name: str, family: str, capability: tuple[int, int]) -> GpuModel:
    accelerator = next(a for a in ACCELERATORS if a.name == name)
    return GpuModel(accelerator=accelerator, family=family, compute_capability=capability)


H100 = _gpu("H100", "hopper", (9, 0))
H200 = _gpu("H200", "hopper", (9, 0))
A100_40 = _gpu("A100-40", "ampere", (8, 0))
L40S = _gpu("L40S", "ada-lovelace", (8, 9))
L4 = _gpu("L4", "ada-lovelace", (8, 9))
MI300X = _gpu("MI300X", "cdna3", (9, 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A kind of node."""

    kind: str
    instance_type: str
    gpus: tuple[GpuModel, ...]
    cpus: int
    memory_gib: int


MACHINES: dict[str, Machine] = {
    machine.kind: machine
    for machine in (
        Machine(kind="plain", instance_type="c7i.4xlarge", gpus=(), cpus=16, memory_gib=32),
        Machine(kind="h100", instance_type="dgx-h100", gpus=(H100,) * 8, cpus=224, memory_gib=2048),
        Machine(kind="h100-1", instance_type="h100-x1", gpus=(H100,), cpus=26, memory_gib=256),
        Machine(kind="h100-2", instance_type="h100-x2", gpus=(H100,) * 2, cpus=52, memory_gib=512),
        Machine(kind="h200", instance_type="dgx-h200", gpus=(H200,) * 8, cpus=224, memory_gib=2048),
        Machine(kind="h200-1", instance_type="h200-x1", gpus=(H200,), cpus=26, memory_gib=256),
        Machine(
            kind="a100-40", instance_type="a100-40-x4", gpus=(A100_40,) * 4, cpus=96, memory_gib=680
        ),
        Machine(
            kind="a100-40-1", instance_type="a100-40-x1", gpus=(A100_40,), cpus=12, memory_gib=85
        ),
        Machine(kind="l40s", instance_type="l40s-x4", gpus=(L40S,) * 4, cpus=48, memory_gib=384),
        Machine(kind="l40s-1", instance_type="l40s-x1", gpus=(L40S,), cpus=12, memory_gib=96),
        Machine(kind="l40s-2", instance_type="l40s-x2", gpus=(L40S,) * 2, cpus=24, memory_gib=192),
        Machine(kind="l4", instance_type="l4-x4", gpus=(L4,) * 4, cpus=48, memory_gib=192),
        Machine(kind="l4-1", instance_type="l4-x1", gpus=(L4,), cpus=8, memory_gib=32),
        Machine(kind="l4-2", instance_type="l4-x2", gpus=(L4,) * 2, cpus=24, memory_gib=96),
        Machine(
            kind="mi300x-1", instance_type="mi300x-x1", gpus=(MI300X,), cpus=24, memory_gib=256
        ),
        # Two kinds in one node: the labels speak of one of them only (see ``labels``).
        Machine(
            kind="mixed", instance_type="workstation", gpus=(L40S, L4), cpus=32, memory_gib=256
        ),
    )
}
