"""What clouds say of their GPU nodes where no GPU feature discovery runs.

GKE labels the accelerator and their number; Karpenter labels what EC2 says of an instance type;
EKS and AKS without either leave the instance type. What was rented tells what it is, so the
memory is the catalogue's. EC2's own ``instance-gpu-memory`` is the number on the box (81,920 MiB
for an H100 of 81,559), and only used for products that the catalogue does not know.

Sources: GKE "About GPUs", Karpenter "Scheduling", and the providers' pages of instance types.
"""

import re
from collections.abc import Mapping

from memroute.catalog.accelerators import accelerator_by_name
from memroute.units import MIB
from memroute_kube.quantities import parse_count
from memroute_operator.nodes.facts import Fact, NodeFacts, Sharing, Source

GKE_ACCELERATOR = "cloud.google.com/gke-accelerator"
GKE_COUNT = "cloud.google.com/gke-accelerator-count"
GKE_PARTITION = "cloud.google.com/gke-gpu-partition-size"
GKE_SHARING = "cloud.google.com/gke-gpu-sharing-strategy"
GKE_CLIENTS = "cloud.google.com/gke-max-shared-clients-per-gpu"
KARPENTER = "karpenter.k8s.aws/instance-gpu-"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
# A box that says 80 GiB reports at least this share of them: 22,528 of 24,576 MiB (A10G with
# ECC) is the least that is known, 0.917.
REPORTED_RATIO = 0.91
MAX_DEVICES = 16

# GKE's name of an accelerator → the catalogue's.
_GKE = {
    "nvidia-tesla-t4": "T4", "nvidia-l4": "L4", "nvidia-tesla-a100": "A100-40",
    "nvidia-a100-80gb": "A100-80", "nvidia-h100-80gb": "H100", "nvidia-h100-mega-80gb": "H100",
    "nvidia-h200-141gb": "H200", "nvidia-b200": "B200", "nvidia-gb200": "GB200",
    "nvidia-rtx-pro-6000": "RTX-PRO-6000",
}  # fmt: skip
# EC2's name of a GPU, as Karpenter writes it → the catalogue's. An "a100" is of 40 or 80 GB:
# its memory tells.
_KARPENTER = {
    "t4": "T4", "a10g": "A10G", "l4": "L4", "l40s": "L40S", "h100": "H100", "h200": "H200",
    "b200": "B200", "b300": "B300", "gb200": "GB200",
}  # fmt: skip
# Instance types of AWS and Azure: pattern, the catalogue's name, devices. The first that matches.
_INSTANCE_TYPES: tuple[tuple[str, str, int], ...] = (
    (r"p4d\.24xlarge", "A100-40", 8),
    (r"p4de\.24xlarge", "A100-80", 8),
    (r"p5\.4xlarge", "H100", 1),
    (r"p5\.48xlarge", "H100", 8),
    (r"p5en?\.48xlarge", "H200", 8),
    (r"p6-b200\.48xlarge", "B200", 8),
    (r"p6-b300\.48xlarge", "B300", 8),
    (r"g4dn\.(?:2|4|8|16)?xlarge", "T4", 1),
    (r"g4dn\.12xlarge", "T4", 4),
    (r"g4dn\.metal", "T4", 8),
    (r"g5\.(?:2|4|8|16)?xlarge", "A10G", 1),
    (r"g5\.(?:12|24)xlarge", "A10G", 4),
    (r"g5\.48xlarge", "A10G", 8),
    (r"g6\.(?:2|4|8|16)?xlarge", "L4", 1),
    (r"g6\.(?:12|24)xlarge", "L4", 4),
    (r"g6\.48xlarge", "L4", 8),
    (r"g6e\.(?:2|4|8|16)?xlarge", "L40S", 1),
    (r"g6e\.(?:12|24)xlarge", "L40S", 4),
    (r"g6e\.48xlarge", "L40S", 8),
    (r"standard_nc(?:4|8|16)as_t4_v3", "T4", 1),
    (r"standard_nc64as_t4_v3", "T4", 4),
    (r"standard_nc24ads_a100_v4", "A100-80", 1),
    (r"standard_nc48ads_a100_v4", "A100-80", 2),
    (r"standard_nc96ads_a100_v4", "A100-80", 4),
    (r"standard_nd96asr_(?:a100_)?v4", "A100-40", 8),
    (r"standard_nd96amsr_a100_v4", "A100-80", 8),
    (r"standard_nc40adi?s_h100_v5", "H100-NVL", 1),
    (r"standard_nc80adis_h100_v5", "H100-NVL", 2),
    (r"standard_nd96isr_h100_v5", "H100", 8),
    (r"standard_nd96isr_h200_v5", "H200", 8),
    (r"standard_nd96isr_mi300x_v5", "MI300X", 8),
    (r"standard_nv36adm?s_a10_v5", "A10", 1),
    (r"standard_nv72ads_a10_v5", "A10", 2),
)


def read_provider(labels: Mapping[str, str]) -> NodeFacts:
    """What the provider's labels say, GKE's before Karpenter's before the instance type."""
    found = _gke(labels).or_else(_karpenter(labels))
    return found.or_else(_instance_type(labels.get(INSTANCE_TYPE)))


def _count(text: str | None) -> Fact[int] | None:
    count = parse_count(text)
    in_range = count is not None and 0 < count <= MAX_DEVICES
    return Fact(count, Source.PROVIDER) if count is not None and in_range else None


def _facts(
    name: str | None, *, count: Fact[int] | None = None, memory_bytes: int | None = None
) -> NodeFacts:
    accelerator = accelerator_by_name(name) if name else None
    if accelerator is not None:
        memory_bytes = accelerator.reported_bytes
    product = accelerator.products[0] if accelerator is not None else None
    return NodeFacts(
        count=count,
        product=Fact(product, Source.PROVIDER) if product else None,
        memory_bytes=None if memory_bytes is None else Fact(memory_bytes, Source.PROVIDER),
    )


def _gke(labels: Mapping[str, str]) -> NodeFacts:
    name = _GKE.get(labels.get(GKE_ACCELERATOR) or "")
    count = _count(labels.get(GKE_COUNT))
    strategy = labels.get(GKE_SHARING)
    clients = parse_count(labels.get(GKE_CLIENTS))
    sharing = None
    if strategy == "mps":
        sharing = Sharing.MPS
    elif strategy is not None or (clients is not None and clients > 1):
        sharing = Sharing.TIME_SLICING
    partition = labels.get(GKE_PARTITION)
    if partition and name:
        slice_of = accelerator_by_name(f"{name}/{partition}")
        memory = None if slice_of is None else slice_of.reported_bytes
        base = accelerator_by_name(name)
        product = None if base is None else f"{base.products[0]}-MIG-{partition}"
        return NodeFacts(
            product=Fact(product, Source.PROVIDER) if product else None,
            memory_bytes=None if memory is None else Fact(memory, Source.PROVIDER),
            sharing=sharing,
            slice_profile=partition,
        )
    return NodeFacts(sharing=sharing).or_else(_facts(name, count=count))


def _karpenter(labels: Mapping[str, str]) -> NodeFacts:
    mib = parse_count(labels.get(f"{KARPENTER}memory"))
    name = labels.get(f"{KARPENTER}name") or ""
    known = _KARPENTER.get(name)
    if name == "a100" and mib:
        # 40,960 MiB or 81,920 on the box.
        known = "A100-40" if mib < 60_000 else "A100-80"  # noqa: PLR2004 - between the two
    memory = int(mib * MIB * REPORTED_RATIO) if mib else None
    return _facts(known, count=_count(labels.get(f"{KARPENTER}count")), memory_bytes=memory)


def _instance_type(text: str | None) -> NodeFacts:
    for pattern, name, count in _INSTANCE_TYPES:
        if text and re.fullmatch(pattern, text, re.IGNORECASE):
            return _facts(name, count=Fact(count, Source.PROVIDER))
    return NodeFacts()
