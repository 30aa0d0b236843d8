"""The labels of an emulated node: what is installed on it decides what it says of itself."""

from memroute.catalog.accelerators import mig_slice
from memroute.units import GIB, MIB
from memroute_simulator.nodes.machines import GPU_PRESENT_LABEL, GpuModel, Machine
from memroute_simulator.nodes.spec import NodeSpec

AMD_PRESENT_LABEL = "feature.node.kubernetes.io/amd-gpu"
# The catalogue's name of an accelerator → GKE's.
_GKE_NAMES = {
    "H100": "nvidia-h100-80gb",
    "H200": "nvidia-h200-141gb",
    "A100-40": "nvidia-tesla-a100",
    "L4": "nvidia-l4",
}


def node_labels(spec: NodeSpec) -> dict[str, str]:
    """The labels that speak of the node's accelerators."""
    machine = spec.kind
    if not machine.gpus or spec.labels in ("none", "instance-type"):
        return {}
    if spec.labels == "gke":
        gpu = machine.gpus[-1]
        labels = {
            "cloud.google.com/gke-gpu": "true",
            "cloud.google.com/gke-accelerator": _GKE_NAMES.get(gpu.accelerator.name, "unknown"),
            "cloud.google.com/gke-accelerator-count": str(len(machine.gpus)),
        }
        if spec.sharing != "none":
            strategy = "mps" if spec.sharing == "mps" else "time-sharing"
            labels["cloud.google.com/gke-gpu-sharing-strategy"] = strategy
            labels["cloud.google.com/gke-max-shared-clients-per-gpu"] = str(spec.replicas_per_gpu)
        return labels
    if machine.gpus[-1].is_amd:
        return _amd_labels(machine)
    return _discovery_labels(spec)


def gpu_labels(machine: Machine) -> dict[str, str]:
    """The labels of GPU feature discovery for a machine whose devices are handed out whole."""
    return node_labels(NodeSpec(name="", machine=machine.kind))


def _amd_labels(machine: Machine) -> dict[str, str]:
    gpu = machine.gpus[-1]
    return {
        AMD_PRESENT_LABEL: "true",
        "amd.com/gpu.vram": f"{round(gpu.accelerator.reported_bytes / GIB)}G",
        "amd.com/gpu.product-name": f"{gpu.product.replace('-', '_')}_OAM",
        "amd.com/gpu.family": "AI",
    }


def _discovery_labels(spec: NodeSpec) -> dict[str, str]:
    """Those of GPU feature discovery; on mixed machines the last GPU wins, as there."""
    machine = spec.kind
    gpu = machine.gpus[-1]
    major, minor = gpu.compute_capability
    product, memory, count = gpu.product, gpu.reported_mib, len(machine.gpus)
    labels: dict[str, str] = {}
    if spec.mig_strategy == "single":
        ((profile, per_gpu),) = spec.mig_slices.items()
        product, memory = f"{product}-MIG-{profile}", _slice_mib(gpu, profile)
        count *= per_gpu
    elif spec.mig_strategy == "mixed":
        for profile, per_gpu in spec.mig_slices.items():
            prefix = f"nvidia.com/mig-{profile}"
            labels[f"{prefix}.count"] = str(per_gpu * len(machine.gpus))
            labels[f"{prefix}.memory"] = str(_slice_mib(gpu, profile))
            labels[f"{prefix}.product"] = f"{gpu.product}-MIG-{profile}"
    if spec.sharing != "none":
        product += "-SHARED"
    return labels | {
        GPU_PRESENT_LABEL: "true",
        "nvidia.com/gpu.count": str(count),
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": str(memory),
        "nvidia.com/gpu.family": gpu.family,
        "nvidia.com/gpu.compute.major": str(major),
        "nvidia.com/gpu.compute.minor": str(minor),
        "nvidia.com/gpu.machine": machine.instance_type,
        "nvidia.com/gpu.mode": "compute",
        "nvidia.com/gpu.replicas": str(spec.replicas_per_gpu),
        "nvidia.com/gpu.sharing-strategy": spec.sharing,
        "nvidia.com/mig.capable": "false" if gpu.family == "ada-lovelace" else "true",
        "nvidia.com/mig.strategy": spec.mig_strategy if spec.mig_slices else "single",
        "nvidia.com/cuda.driver-version.full": "580.95.05",
        "nvidia.com/cuda.runtime-version.full": "13.0",
    }


def _slice_mib(gpu: GpuModel, profile: str) -> int:
    accelerator = mig_slice(gpu.accelerator, profile)
    return 0 if accelerator is None else accelerator.reported_bytes // MIB
