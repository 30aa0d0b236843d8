"""What GPU feature discovery and AMD's node labeller say of a node.

NVIDIA (k8s-device-plugin ``docs/gpu-feature-discovery/README.md``): ``gpu.count`` physical
devices, ``gpu.memory`` in MiB of one of them, ``gpu.product`` with the suffixes ``-SHARED`` (time
slices, MPS) and ``-MIG-1g.10gb`` (strategy "single": count and memory then speak of slices).
Of several kinds in one node the last one's labels win, and nothing tells.

AMD (ROCm/k8s-device-plugin ``cmd/k8s-node-labeller``): ``gpu.vram`` in GiB, rounded.
"""

import re
from collections.abc import Mapping

from memroute.catalog.accelerators import ACCELERATORS, accelerator_for_product
from memroute.units import GIB, MIB
from memroute_kube.quantities import parse_count
from memroute_operator.nodes.facts import Fact, NodeFacts, Sharing, SliceFacts, Source

GPU_MEMORY_MIB = "nvidia.com/gpu.memory"
GPU_COUNT = "nvidia.com/gpu.count"
GPU_PRODUCT = "nvidia.com/gpu.product"
GPU_REPLICAS = "nvidia.com/gpu.replicas"
GPU_SHARING = "nvidia.com/gpu.sharing-strategy"
SHARED_SUFFIX = "-SHARED"
INVALID_SUFFIX = "-MIG-INVALID"
# Some versions of GPU feature discovery wrote bytes: no device has a tebibyte.
TIB_IN_MIB = 1024 * 1024
# Devices of one node that a label is believed about; the largest have 16, or 112 slices.
MAX_DEVICES = 256
_MIG_PRODUCT = re.compile(r"-MIG-((\d+c\.)?\d+g\.\d+gb(?:[.+-][a-z.+-]+)?)$", re.IGNORECASE)
_MIG_LABEL = re.compile(
    r"^nvidia\.com/mig-(\d+g\.\d+gb(?:[.-][a-z.-]+?)?)\.(count|memory|product|replicas)$"
)
AMD_VRAM = "amd.com/gpu.vram"
AMD_PRODUCT = "amd.com/gpu.product-name"
_AMD_OLD_VRAM = re.compile(r"^beta\.amd\.com/gpu\.vram\.(\d{1,4})G$")
_AMD_VRAM = re.compile(r"^(\d{1,4})G$")
# The labeller rounds to whole GiB: a device may have half a GiB less than its label says.
AMD_ROUNDING_BYTES = GIB // 2


def read_labels(labels: Mapping[str, str]) -> NodeFacts:
    """What a node's labels say of its devices. Numbers that cannot be are left out."""
    nvidia = _read_nvidia(labels)
    return nvidia if nvidia != NodeFacts() else _read_amd(labels)


def _fact_of_count(labels: Mapping[str, str], name: str) -> Fact[int] | None:
    count = parse_count(labels.get(name))
    return Fact(count, Source.LABEL) if count is not None and 0 < count <= MAX_DEVICES else None


def memory_of(text: str | None) -> int | None:
    """Bytes that a memory label in MiB says; None where it says nothing that can be."""
    mib = parse_count(text)
    if mib is None or mib == 0:
        return None
    return mib if mib >= TIB_IN_MIB else mib * MIB


def _read_nvidia(labels: Mapping[str, str]) -> NodeFacts:
    product = labels.get(GPU_PRODUCT) or None
    is_shared = product is not None and product.upper().endswith(SHARED_SUFFIX)
    if product is not None and is_shared:
        product = product[: -len(SHARED_SUFFIX)]
    if product is not None and product.upper().endswith(INVALID_SUFFIX):
        return NodeFacts(
            problem=(
                f"{GPU_PRODUCT} says {product}: MIG is on, and its slices are not the ones that "
                "the strategy wants; see the label nvidia.com/mig.config"
            )
        )
    memory = memory_of(labels.get(GPU_MEMORY_MIB))
    mig = _MIG_PRODUCT.search(product or "")
    if mig is not None and mig[2]:
        return NodeFacts(
            problem=(
                f"{GPU_PRODUCT} says {product}: several compute instances share the memory of one "
                "MIG slice, and nothing keeps them apart; cut slices without them (3g.40gb)"
            )
        )
    return NodeFacts(
        count=_fact_of_count(labels, GPU_COUNT),
        product=Fact(product, Source.LABEL) if product else None,
        memory_bytes=None if memory is None else Fact(memory, Source.LABEL),
        sharing=_sharing(labels, is_shared=is_shared),
        slice_profile=mig[1].lower() if mig else None,
        slices=_slices(labels),
    )


def _sharing(labels: Mapping[str, str], *, is_shared: bool) -> Sharing | None:
    strategy = labels.get(GPU_SHARING)
    if strategy == Sharing.MPS.value:
        return Sharing.MPS
    replicas = parse_count(labels.get(GPU_REPLICAS))
    is_sliced = strategy == Sharing.TIME_SLICING.value or (replicas is not None and replicas > 1)
    if is_sliced or is_shared:
        return Sharing.TIME_SLICING
    return Sharing.NONE if strategy is not None or replicas is not None else None


def _slices(labels: Mapping[str, str]) -> tuple[SliceFacts, ...]:
    found: dict[str, dict[str, str]] = {}
    for name, value in labels.items():
        if match := _MIG_LABEL.match(name):
            found.setdefault(match[1], {})[match[2]] = value
    slices = []
    for profile, said in sorted(found.items()):
        memory, product = memory_of(said.get("memory")), said.get("product")
        count = parse_count(said.get("count"))
        slices.append(
            SliceFacts(
                profile=profile,
                count=count if count is not None and count <= MAX_DEVICES else None,
                memory_bytes=None if memory is None else Fact(memory, Source.LABEL),
                product=(
                    Fact(product.removesuffix(SHARED_SUFFIX), Source.LABEL) if product else None
                ),
            )
        )
    return tuple(slices)


def _read_amd(labels: Mapping[str, str]) -> NodeFacts:
    product = amd_product(labels.get(AMD_PRODUCT))
    accelerator = accelerator_for_product(product or "")
    gib = _AMD_VRAM.match(labels.get(AMD_VRAM) or "")
    sizes = {match[1] for name in labels if (match := _AMD_OLD_VRAM.match(name))}
    size = gib[1] if gib else next(iter(sizes)) if len(sizes) == 1 else None
    memory = None if size is None else int(size) * GIB - AMD_ROUNDING_BYTES
    if accelerator is not None and (
        memory is None or abs(memory - accelerator.reported_bytes) <= GIB
    ):
        memory = accelerator.reported_bytes
    return NodeFacts(
        product=Fact(product, Source.LABEL) if product else None,
        memory_bytes=None if memory is None or memory <= 0 else Fact(memory, Source.LABEL),
    )


def amd_product(text: str | None) -> str | None:
    """The catalogue's name for AMD's product (``AMD_Instinct_MI300X_OAM``); else the text."""
    if not text:
        return None
    words = re.split(r"[^A-Za-z0-9]+", text.upper())
    for row in ACCELERATORS:
        if row.vendor == "amd" and row.name.upper() in words:
            return row.products[0]
    return text
