"""What kinds of nodes have, by everything that is said of them; or what would tell."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.footprint import ReplicaShape, replica_footprint
from memroute.placement import (
    ANYWHERE,
    Inventory,
    Ledger,
    PlacementMode,
    RefusedReason,
    ReplicaKey,
    WantedReplica,
    plan,
)
from memroute.units import GIB, MIB
from memroute_operator.nodes import read_node
from memroute_operator.nodes.node import MAX_DEVICES
from memroute_operator.nodes.resource_slices import kept_slices, read_resource_slices
from memroute_operator.readings.device_metrics import DeviceMetrics
from sizes import examples

EXAMPLES = examples()
H100 = "NVIDIA-H100-80GB-HBM3"
H100_USABLE = accelerator_by_name("H100").usable_bytes


@dataclass
class Kind:
    """A kind of node: what stands on the Node, and what the operator must make of it."""

    labels: dict[str, str]
    allocatable: dict[str, str]
    annotations: dict[str, str] = field(default_factory=dict)
    page: str = ""
    slices: tuple = ()
    num_devices: int = 0
    """Of the first resource with devices."""
    usable_gib: float | None = None
    product: str | None = None
    source: str | None = None
    num_allocatable: int | None = None
    resource: str = "nvidia.com/gpu"
    is_slice: bool = False
    reason: str | None = None
    unknown: str | None = None
    """Words of the remedy; None where the devices are known."""


def gfd(product=H100, memory=81559, count=8, **more):
    """Labels of GPU feature discovery."""
    labels = {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.count": str(count),
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.sharing-strategy": "none",
    }
    if memory is not None:
        labels["nvidia.com/gpu.memory"] = str(memory)
    return labels | {f"nvidia.com/{name}": value for name, value in more.items()}


def gpus(count, name="nvidia.com/gpu"):
    return {name: str(count)}


def dcgm(model, free, used, count=1, *, reserved=0, extra="", first=0):
    return "".join(
        f'DCGM_FI_DEV_FB_{kind}{{gpu="{i}",UUID="GPU-{i}",modelName="{model}"{extra}}} {value}\n'
        for i in range(first, first + count)
        for kind, value in (("FREE", free), ("USED", used), ("RESERVED", reserved))
    )


def mig_page(profile, count, free, used):
    return "".join(
        f'DCGM_FI_DEV_FB_{kind}{{gpu="0",UUID="GPU-0",modelName="NVIDIA H100 80GB HBM3",'
        f'GPU_I_PROFILE="{profile}",GPU_I_ID="{7 + i}"}} {value}\n'
        for i in range(count)
        for kind, value in (("FREE", free), ("USED", used))
    )


def resource_slice(*devices, generation=1, driver="gpu.nvidia.com"):
    pool = {"name": "n", "generation": generation, "resourceSliceCount": 1}
    spec = {"driver": driver, "nodeName": "n", "pool": pool, "devices": list(devices)}
    return {"metadata": {"name": f"n-{generation}"}, "spec": spec}


def dra_gpu(uuid="GPU-0", memory="81559Mi", taints=(), **attributes):
    said = {"type": "gpu", "uuid": uuid, "productName": "NVIDIA H100 80GB HBM3"} | attributes
    device = {
        "name": "gpu-0",
        "attributes": {name: {"string": value} for name, value in said.items()},
        "taints": list(taints),
    }
    return device | ({"capacity": {"memory": {"value": memory}}} if memory else {})


GKE = "cloud.google.com/gke-"
KARPENTER = "karpenter.k8s.aws/instance-gpu-"
INSTANCE = "node.kubernetes.io/instance-type"

KINDS = {
    "DGX H100 with GPU feature discovery": Kind(
        gfd(), gpus(8), num_devices=8, usable_gib=79.2, product=H100, source="label",
    ),
    "the same with its exporter": Kind(
        gfd(count=1), gpus(1), page=dcgm("NVIDIA H100 80GB HBM3", 80000, 1000, reserved=559),
        num_devices=1, usable_gib=79.1, product=H100, source="dcgm",
    ),
    "an exporter and no labels (GKE's managed one, a bare cluster)": Kind(
        {}, gpus(2), page=dcgm("NVIDIA L4", 22500, 0, 2, reserved=534), num_devices=2,
        usable_gib=22.0, product="NVIDIA-L4", source="dcgm",
    ),
    "a mixed workstation, whose labels are right about its last GPU only": Kind(
        gfd("NVIDIA-L4", 23034, 2), gpus(2),
        page=dcgm("NVIDIA L40S", 45000, 500) + dcgm("NVIDIA L4", 22500, 0, first=1),
        num_devices=2, usable_gib=43.8, product="NVIDIA-L40S", source="dcgm",
    ),
    "memory in bytes, as some versions of GPU feature discovery wrote": Kind(
        gfd("NVIDIA-A100-SXM4-40GB", 42505273344, 1), gpus(1), num_devices=1, usable_gib=39.08,
        product="NVIDIA-A100-SXM4-40GB", source="label",
    ),
    "time-sliced by four": Kind(
        gfd(f"{H100}-SHARED", count=1, **{"gpu.replicas": "4",
                                          "gpu.sharing-strategy": "time-slicing"}),
        gpus(4), num_devices=1, usable_gib=79.2, product=H100, num_allocatable=1, is_slice=True,
    ),
    "time-sliced by a thousand, two devices": Kind(
        gfd(f"{H100}-SHARED", count=2, **{"gpu.replicas": "1000"}), gpus("2k"), num_devices=2,
        usable_gib=79.2, num_allocatable=2, is_slice=True,
    ),
    "time-sliced, and renamed": Kind(
        gfd(count=1), gpus(4, "nvidia.com/gpu.shared"), num_devices=1, usable_gib=79.2,
        num_allocatable=1, is_slice=True, resource="nvidia.com/gpu.shared",
    ),
    "more devices to be had than there are, and no label that says so": Kind(
        {"nvidia.com/gpu.product": H100, "nvidia.com/gpu.memory": "81559",
         "nvidia.com/gpu.count": "1"},
        gpus(4), num_devices=1, usable_gib=79.2, num_allocatable=1, is_slice=True,
    ),
    "shared by MPS": Kind(
        gfd(f"{H100}-SHARED", count=1, **{"gpu.replicas": "4", "gpu.sharing-strategy": "mps"}),
        gpus(4), num_devices=1, usable_gib=79.2, num_allocatable=1, is_slice=True,
        reason="SharedByMPS",
    ),
    "MIG, strategy single": Kind(
        gfd(f"{H100}-MIG-1g.10gb", 9984, 7, **{"mig.strategy": "single"}), gpus(7),
        num_devices=7, usable_gib=9.7, product=f"{H100}-MIG-1g.10gb", is_slice=True,
        num_allocatable=7,
    ),
    "MIG, strategy single, in lower case": Kind(
        gfd(f"{H100}-MIG-1g.10gb".lower(), 9984, 7, **{"mig.strategy": "single"}), gpus(7),
        num_devices=7, usable_gib=9.7, product=f"{H100}-MIG-1g.10gb".lower(), is_slice=True,
        source="label",
    ),
    "MIG, strategy single, without media extensions": Kind(
        gfd("NVIDIA-B200-MIG-1g.23gb-me", 20992, 7, **{"mig.strategy": "single"}), gpus(7),
        num_devices=7, usable_gib=20.3, product="NVIDIA-B200-MIG-1g.23gb-me", is_slice=True,
        source="label",
    ),
    "MIG, compute instances that share a slice": Kind(
        gfd("NVIDIA-A100-SXM4-80GB-MIG-1c.3g.40gb", 40192, 3, **{"mig.strategy": "single"}),
        gpus(3), unknown="share the memory of one MIG slice",
    ),
    "time slices, in lower case": Kind(
        gfd(f"{H100}-shared".lower(), 81559, 1), gpus(3), num_devices=1, usable_gib=79.2,
        product=H100.lower(), is_slice=True,
    ),
    "MIG, strategy single, with its exporter": Kind(
        gfd(f"{H100}-MIG-1g.10gb", 9984, 2, **{"mig.strategy": "single"}), gpus(2),
        page=mig_page("1g.10gb", 2, 9900, 84), num_devices=2, usable_gib=9.7, source="dcgm",
        is_slice=True, num_allocatable=2,
    ),
    "MIG, strategy mixed, all of the device in slices": Kind(
        gfd(count=1, **{"mig.strategy": "mixed", "mig-3g.40gb.count": "2",
                        "mig-3g.40gb.memory": "40448"}),
        {"nvidia.com/gpu": "0", "nvidia.com/mig-3g.40gb": "2"}, num_devices=2, usable_gib=39.2,
        product=f"{H100}-MIG-3g.40gb", resource="nvidia.com/mig-3g.40gb", is_slice=True,
    ),
    "MIG, strategy mixed, nothing but resources": Kind(
        {"nvidia.com/gpu.product": H100}, {"nvidia.com/mig-1g.10gb": "7"}, num_devices=7,
        usable_gib=9.6, resource="nvidia.com/mig-1g.10gb", is_slice=True,
    ),
    "MIG, strategy mixed, whose exporter names the device as well": Kind(
        gfd(count=1, **{"mig.strategy": "mixed", "mig-3g.40gb.memory": "40448"}),
        {"nvidia.com/gpu": "0", "nvidia.com/mig-3g.40gb": "2"},
        page=dcgm("NVIDIA H100 80GB HBM3", 80000, 1559) + mig_page("3g.40gb", 2, 40000, 448),
        num_devices=2, usable_gib=39.2, resource="nvidia.com/mig-3g.40gb", is_slice=True,
        source="dcgm",
    ),
    "MIG that is not configured": Kind(
        gfd(f"{H100}-MIG-INVALID", 0, 0), gpus(0), unknown="mig.config",
    ),
    "GKE": Kind(
        {f"{GKE}accelerator": "nvidia-h100-80gb", f"{GKE}accelerator-count": "1",
         f"{GKE}gpu": "true"},
        gpus(1), num_devices=1, usable_gib=79.2, product=H100, source="provider-label",
    ),
    "GKE, time-shared": Kind(
        {f"{GKE}accelerator": "nvidia-l4", f"{GKE}accelerator-count": "1",
         f"{GKE}gpu-sharing-strategy": "time-sharing", f"{GKE}max-shared-clients-per-gpu": "8"},
        gpus(8), num_devices=1, usable_gib=22.06, num_allocatable=1, is_slice=True,
    ),
    "GKE, MIG": Kind(
        {f"{GKE}accelerator": "nvidia-a100-80gb", f"{GKE}gpu-partition-size": "1g.10gb"},
        gpus(7), num_devices=7, usable_gib=9.41, is_slice=True, num_allocatable=7,
    ),
    "EKS with Karpenter": Kind(
        {f"{KARPENTER}name": "a10g", f"{KARPENTER}count": "4", f"{KARPENTER}memory": "24576"},
        gpus(4), num_devices=4, usable_gib=21.7, product="NVIDIA-A10G", source="provider-label",
    ),
    "EKS without Karpenter, by its instance type": Kind(
        {INSTANCE: "p4d.24xlarge"}, gpus(8), num_devices=8, usable_gib=39.49,
        product="NVIDIA-A100-SXM4-40GB", source="provider-label",
    ),
    "AKS, by its instance type": Kind(
        {INSTANCE: "Standard_ND96isr_H200_v5", "kubernetes.azure.com/accelerator": "nvidia"},
        gpus(8), num_devices=8, usable_gib=139.81, product="NVIDIA-H200",
        source="provider-label",
    ),
    "k3s with nothing but the device plugin": Kind(
        {"node.kubernetes.io/instance-type": "k3s"}, gpus(2), unknown="memroute.dev/device-memory",
    ),
    "the same with the annotation": Kind(
        {}, gpus(2), {"memroute.dev/device-memory": "24Gi"}, num_devices=2, usable_gib=23.25,
        source="annotation",
    ),
    "the same with the product only": Kind(
        {}, gpus(2), {"memroute.dev/device-product": "NVIDIA-GeForce-RTX-4090"}, num_devices=2,
        usable_gib=23.52, source="annotation",
    ),
    "GB10, whose driver knows no memory of its own": Kind(
        gfd("NVIDIA-GB10", None, 1), gpus(1), page=dcgm("NVIDIA GB10", 2147483632, 2147483632),
        unknown="memroute.dev/device-memory",
    ),
    "GB10 with the annotation": Kind(
        gfd("NVIDIA-GB10", None, 1), gpus(1), {"memroute.dev/device-memory": "110Gi"},
        page=dcgm("NVIDIA GB10", 2147483632, 2147483632), num_devices=1, usable_gib=109.25,
        source="annotation",
    ),
    "AMD's labeller": Kind(
        {"amd.com/gpu.vram": "192G", "amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"},
        gpus(8, "amd.com/gpu"), num_devices=8, usable_gib=191.2, product="AMD-Instinct-MI300X",
        resource="amd.com/gpu", source="label",
    ),
    "AMD's old labels, a product that nobody knows": Kind(
        {"beta.amd.com/gpu.vram.64G": "4"}, gpus(4, "amd.com/gpu"), num_devices=4,
        usable_gib=62.75, resource="amd.com/gpu",
    ),
    "DRA beside the device plugin": Kind(
        {}, gpus(1), slices=(resource_slice(dra_gpu()),), num_devices=1, usable_gib=79.2,
        product=H100, source="resource-slice",
    ),
    "DRA alone: claims hand its devices out, and memroute makes none": Kind(
        {}, {}, slices=(resource_slice(dra_gpu()),), num_devices=1, usable_gib=79.2,
        reason="HandedOutByDRA",
    ),
    "DRA with slices of an older generation left over": Kind(
        {}, gpus(1),
        slices=(resource_slice(dra_gpu("GPU-old"), dra_gpu("GPU-older"), generation=1),
                resource_slice(dra_gpu(), generation=2)),
        num_devices=1, usable_gib=79.2,
    ),
    "DRA whose driver cannot tell the memory, with labels": Kind(
        gfd(count=1), gpus(1), slices=(resource_slice(dra_gpu(memory=None)),), num_devices=1,
        usable_gib=79.2, source="label",
    ),
    "a node without accelerators": Kind({"kubernetes.io/os": "linux"}, {"cpu": "16"}),
}  # fmt: skip


def node_of(kind):
    return {
        "metadata": {"name": "n", "labels": kind.labels, "annotations": kind.annotations},
        "spec": {},
        "status": {
            "allocatable": kind.allocatable,
            "capacity": kind.allocatable,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def read(kind, *, foreign=(), existing_pods=None, now=101.0):
    metrics = DeviceMetrics(scrape_seconds=5)
    if kind.page:
        metrics.take("n", kind.page, asked_at_seconds=100.0)
    return read_node(
        node_of(kind),
        metrics,
        Counter(dict(foreign)),
        now,
        resource_slices=kind.slices,
        existing_pods=existing_pods,
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_node_is_read_as_what_it_is(name):
    """Each is somebody's cluster; what is not known is said with its remedy, never "never fits"."""
    kind = KINDS[name]
    nodes = read(kind)
    node = next((one for one in nodes if one.devices), nodes[0])
    assert len(node.devices) == kind.num_devices
    assert node.unusable_reason == kind.reason
    if kind.unknown is None:
        assert node.devices_unknown is None
    else:
        assert kind.unknown in node.devices_unknown
    if not node.devices:
        return
    device = node.devices[0]
    assert node.resource == kind.resource
    assert device.usable_bytes / GIB == pytest.approx(kind.usable_gib, abs=0.15)
    assert device.is_slice is kind.is_slice
    assert kind.product in (None, device.product)
    assert kind.source in (None, device.usable_source)
    assert kind.num_allocatable in (None, node.num_allocatable)


def test_a_mixed_node_has_each_resource_that_it_hands_out():
    """One device whole, one in two halves, one in sevenths: three things a replica can ask for."""
    kind = Kind(
        gfd(count=3, **{"mig.strategy": "mixed"}),
        {"nvidia.com/gpu": "1", "nvidia.com/mig-3g.40gb": "2", "nvidia.com/mig-1g.10gb": "7"},
    )
    foreign = {"nvidia.com/mig-1g.10gb": 3}
    found = {one.resource: one for one in read(kind, foreign=foreign.items())}
    assert [len(one.devices) for one in found.values()] == [1, 7, 2]
    assert found["nvidia.com/mig-1g.10gb"].num_foreign_devices == 3
    assert found["nvidia.com/gpu"].num_foreign_devices == 0
    assert not found["nvidia.com/gpu"].devices[0].is_slice
    assert len({one.key for one in found.values()}) == 3
    assert {one.name for one in found.values()} == {"n"}


ONE = Kind(gfd(count=1), gpus(1))


def with_page(page):
    return Kind(ONE.labels, ONE.allocatable, page=page)


@pytest.mark.parametrize(
    "page",
    [
        dcgm("NVIDIA H100 80GB HBM3", 1_000_000, 0),
        dcgm("NVIDIA H100 80GB HBM3", 80, 1),
        dcgm("NVIDIA H100 80GB HBM3", 60_000, 0),
        dcgm("NVIDIA B300", 275_000, 0),
        dcgm("NVIDIA L4", 23_000, 0),
        'DCGM_FI_DEV_FB_FREE{gpu="0",UUID="G"} 90000\nDCGM_FI_DEV_FB_TOTAL{gpu="0",UUID="G"} 81559',
    ],
    ids=["a terabyte", "in GiB", "too small", "another product", "a smaller product", "free"],
)
def test_an_exporter_is_believed_within_the_bounds_of_the_hardware(page):
    """What cannot be is left out and told, and the label's word counts again."""
    (node,) = read(with_page(page))
    (device,) = node.devices
    assert device.usable_bytes == H100_USABLE
    assert device.live_free_bytes is None
    assert len(node.notes) == 1


def test_a_reading_comes_with_its_age():
    """A first reading may be as old as the exporter's interval of 30 s: 35 with the margin."""
    (node,) = read(with_page(dcgm("NVIDIA H100 80GB HBM3", 80000, 1559)), now=101.0)
    (device,) = node.devices
    assert device.live_free_bytes == 80000 * MIB
    assert device.live_age_seconds == 36.0
    assert not node.notes


def test_a_stale_reading_gives_no_free_bytes_and_still_the_devices():
    (node,) = read(with_page(dcgm("NVIDIA H100 80GB HBM3", 80000, 1559)), now=200.0)
    assert node.devices[0].uuid == "GPU-0"
    assert node.devices[0].live_free_bytes is None
    assert node.devices[0].live_age_seconds is None


@pytest.mark.parametrize(("existing", "assigned"), [({"a/gone"}, "a/gone"), (set(), None)])
def test_a_device_belongs_to_a_pod_that_exists_or_to_nobody(existing, assigned):
    """For 30 s after a pod has gone the exporter still gives it the device: the GPU is idle."""
    page = dcgm("NVIDIA H100 80GB HBM3", 500, 81059, extra=',namespace="a",pod="gone"')
    (node,) = read(with_page(page), existing_pods=existing)
    (device,) = node.devices
    assert device.assigned_pod == assigned
    assert (device.live_free_bytes is None) is (assigned is None)


def test_a_driver_that_keeps_half_of_a_device_is_not_believed():
    """An exporter that was updated says so of the whole fleet: every full device overbooked."""
    good = with_page(dcgm("NVIDIA H100 80GB HBM3", 80000, 959, reserved=600))
    off = with_page(dcgm("NVIDIA H100 80GB HBM3", 40000, 959, reserved=40600))
    (usual,), (odd,) = read(good), read(off)
    assert odd.devices[0].usable_bytes >= usual.devices[0].usable_bytes - 600 * MIB
    assert odd.devices[0].live_free_bytes is None
    assert "which cannot be" in odd.notes[0]


def test_of_several_pods_on_a_device_one_that_exists_counts():
    """A time-shared device has one sample per pod; the first by name may be the one that went."""
    pods = ("gone", "here")
    pages = [
        dcgm("NVIDIA H100 80GB HBM3", 500, 81059, extra=f',namespace="a",pod="{name}"')
        for name in pods
    ]
    (node,) = read(with_page("".join(pages)), existing_pods={"a/here"})
    (device,) = node.devices
    assert device.assigned_pod == "a/here"
    assert device.live_free_bytes == 500 * MIB


@pytest.mark.parametrize(
    ("annotations", "xid", "reason"),
    [
        ({}, 0, None),
        ({"memroute.dev/device-cordon": "GPU-0"}, 0, None),
        ({"memroute.dev/device-cordon": "0"}, 0, "DeviceCordoned"),
        ({"memroute.dev/device-cordon": "5, GPU-0aaa"}, 0, "DeviceCordoned"),
        ({}, 79, "DeviceFailing"),
        ({}, 31, None),
        ({"memroute.dev/ignored-xids": "79,63"}, 79, None),
        ({"memroute.dev/device-cordon": "0"}, 79, "DeviceCordoned"),
    ],
)
def test_a_device_can_be_taken_out_of_use(annotations, xid, reason):
    """Nobody moved an engine off a bad GPU, and a new one was put there again."""
    page = dcgm("NVIDIA H100 80GB HBM3", 80000, 1559).replace("GPU-0", "GPU-0aaa")
    page += f'DCGM_FI_DEV_XID_ERRORS{{gpu="0",UUID="GPU-0aaa"}} {xid}\n'
    (node,) = read(Kind(ONE.labels, ONE.allocatable, annotations, page=page))
    assert node.devices[0].unusable_reason == reason


def test_a_taint_of_the_dra_driver_takes_a_device_out_of_use():
    tainted = dra_gpu(taints=({"key": "gpu.nvidia.com/xid", "effect": "NoSchedule"},))
    harmless = dra_gpu("GPU-1", taints=({"key": "x", "effect": "None"},))
    (node,) = read(Kind({}, gpus(2), slices=(resource_slice(tainted, harmless),)))
    assert [one.unusable_reason for one in node.devices] == ["DeviceTainted", None]


def claim(*results):
    """A ResourceClaim that has these devices: (device,) or (driver, pool, device, adminAccess)."""
    listed = [
        {"driver": driver, "pool": pool, "device": name, "request": "r"}
        | ({} if admin is None else {"adminAccess": admin})
        for driver, pool, name, admin in (
            one if len(one) == 4 else ("gpu.nvidia.com", "n", one[0], None) for one in results
        )
    ]
    return {"metadata": {}, "status": {"allocation": {"devices": {"results": listed}}}}


def claimed_reasons(slices, *claims):
    kept = kept_slices(slices, claims)["n"]
    (node,) = read(Kind({}, gpus(len(slices[0]["spec"]["devices"])), slices=tuple(kept)))
    return [one.unusable_reason for one in node.devices]


TWO = (resource_slice(dra_gpu(), dra_gpu("GPU-1") | {"name": "gpu-1"}),)


@pytest.mark.parametrize(
    ("claims", "taken"),
    [
        ([], []),
        ([claim(("gpu-1",))], [1]),
        ([claim(("gpu-1",)), claim(("gpu-0",))], [0, 1]),
        # Of another node's pool, another driver, or for looking only.
        ([claim(("gpu.nvidia.com", "other", "gpu-1", None))], []),
        ([claim(("gpu.amd.com", "n", "gpu-1", None))], []),
        ([claim(("gpu.nvidia.com", "n", "gpu-1", True))], []),
        ([claim(("gpu.nvidia.com", "n", "gpu-1", False))], [1]),
        # Not allocated yet, and nonsense.
        ([{"metadata": {}}, {"status": {"allocation": None}}, {"status": 5}, {}], []),
        ([{"status": {"allocation": {"devices": {"results": [5, {"device": 7}, {}]}}}}], []),
    ],
)
def test_a_device_that_somebody_claims_is_taken(claims, taken):
    """r27: such a pod requests no ``nvidia.com/gpu``; its GPU was given to a replica as well."""
    expected = ["HeldByResourceClaim" if number in taken else None for number in (0, 1)]
    assert claimed_reasons(TWO, *claims) == expected


def test_a_slice_that_is_claimed_takes_its_device_and_not_its_siblings():
    """The driver lists a device and the slices that it could be cut into, side by side."""
    devices = [dra_gpu()] + [
        dra_gpu(f"MIG-{i}", "20480Mi", type="mig", profile="1g.20gb", parentUUID="GPU-0")
        | {"name": f"gpu-0-mig-{i}"}
        for i in (0, 1)
    ]
    problems = {
        name: [one.problem for one in read_resource_slices(kept, "n")]
        for name in ("gpu-0-mig-0", "gpu-0")
        for kept in kept_slices((resource_slice(*devices),), (claim((name,)),)).values()
    }
    held = "HeldByResourceClaim"
    assert problems == {"gpu-0-mig-0": [held, held, None], "gpu-0": [held, held, held]}


def test_nothing_is_placed_on_a_claimed_device_of_a_shared_node():
    """Its bytes are all there by every other source: only the claim says whose they are."""
    kept = kept_slices(TWO, (claim(("gpu-0",)),))["n"]
    labels = {"memroute.dev/gpu-sharing": "shared"}
    (node,) = read(Kind(labels, {}, slices=tuple(kept)))
    ledger = Ledger(Inventory(nodes=(node,), reservations=()))
    assert [ledger.free_bytes(one) > 0 for one in node.devices] == [False, True]


def test_live_readings_join_what_the_driver_publishes():
    kind = Kind({}, gpus(1), page=dcgm("NVIDIA H100 80GB HBM3", 80000, 1559),
                slices=(resource_slice(dra_gpu()),))  # fmt: skip
    (device,) = read(kind)[0].devices
    assert (device.usable_source, device.live_free_bytes) == ("resource-slice", 80000 * MIB)


RECORDED = {
    # name: devices of each resource, what can be had of it
    "a100pcie": {"nvidia.com/gpu": (4, 4)},
    "aks": {"nvidia.com/gpu": (1, 1)},
    "gke": {"nvidia.com/gpu": (1, 1)},
    "migmixed": {"nvidia.com/gpu": (0, 0), "nvidia.com/mig-3g.40gb": (2, 2)},
    "plain": {"nvidia.com/gpu": (1, 1)},
    "timesliced": {"nvidia.com/gpu": (1, 1)},
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_node_is_read(name, data_directory):
    """As ``kubectl get nodes -o json`` printed them."""
    items = json.loads((data_directory / "nodes" / f"{name}.json").read_text())["items"]
    found = read_node(items[0], DeviceMetrics(scrape_seconds=5), Counter(), 0.0)
    assert {one.resource: (len(one.devices), one.num_allocatable) for one in found} == RECORDED[
        name
    ]


@pytest.mark.parametrize(
    "odd",
    [
        {"labels": None, "annotations": None},
        {"labels": {"nvidia.com/gpu.count": "-1", "nvidia.com/gpu.memory": "x"}},
        {"labels": {"nvidia.com/gpu.count": "999999999", "nvidia.com/gpu.memory": "1e30"}},
        {"labels": {"nvidia.com/gpu.product": "", "amd.com/gpu.vram": "G"}},
        {"labels": {"nvidia.com/mig-1g.10gb.count": "x", "cloud.google.com/gke-accelerator": "y"}},
        {"annotations": {"memroute.dev/device-memory": "lots", "memroute.dev/device-count": "-3"}},
        {"annotations": {"memroute.dev/device-cordon": ",,", "memroute.dev/ignored-xids": "a"}},
    ],
)
def test_an_odd_node_is_a_node_of_which_little_is_known(odd):
    """One odd object of one node must not end the reading of all the others."""
    obj = node_of(Kind({}, {"nvidia.com/gpu": "nope", "cpu": "1"}))
    obj["metadata"] |= odd
    (node,) = read_node(obj, DeviceMetrics(scrape_seconds=5), Counter(), 0.0)
    assert node.devices == ()


@pytest.mark.parametrize(
    ("taint", "reason"),
    [
        ({"key": "sku", "value": "gpu", "effect": "NoSchedule"}, "sku=gpu:NoSchedule"),
        ({"key": "spot", "effect": "NoExecute"}, "spot:NoExecute"),
        ({"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}, None),
        ({"key": "nvidia.com/gpu", "effect": "NoExecute"}, "nvidia.com/gpu:NoExecute"),
        ({"key": "sku", "value": "gpu", "effect": "PreferNoSchedule"}, None),
    ],
)
def test_a_taint_is_named_unless_replica_pods_tolerate_it(taint, reason):
    """Told as a mere count, nobody knows which; and a plan tolerates no more than its pods do."""
    obj = node_of(ONE)
    obj["spec"]["taints"] = [taint]
    (node,) = read_node(obj, DeviceMetrics(scrape_seconds=5), Counter(), 0.0)
    assert node.unusable_reason is None
    assert ANYWHERE.refusal(node.name, node.labels, node.taints) == (
        None if reason is None else f"untolerated taint {reason}"
    )


TEXTS = st.one_of(
    st.text(max_size=10),
    st.sampled_from(["1", "8", "80Gi", "1k", "-1", "true", H100, f"{H100}-SHARED", "time-slicing",
                     f"{H100}-MIG-1g.10gb", f"{H100}-MIG-INVALID", "mps", "nvidia-l4", "192G",
                     "81559", "1e30", "GPU-0", "0"]),
)  # fmt: skip
LABEL_NAMES = st.sampled_from(
    ["nvidia.com/gpu.count", "nvidia.com/gpu.memory", "nvidia.com/gpu.product",
     "nvidia.com/gpu.replicas", "nvidia.com/gpu.sharing-strategy", "nvidia.com/mig-1g.10gb.count",
     "nvidia.com/mig-1g.10gb.memory", "amd.com/gpu.vram", "amd.com/gpu.product-name",
     "beta.amd.com/gpu.vram.64G", f"{GKE}accelerator", f"{GKE}accelerator-count",
     f"{GKE}gpu-partition-size", f"{KARPENTER}name", f"{KARPENTER}memory", INSTANCE,
     "memroute.dev/gpu-sharing", "memroute.dev/device-memory", "memroute.dev/device-product",
     "memroute.dev/device-cordon", "memroute.dev/ignored-xids"]
)  # fmt: skip
RESOURCES = st.sampled_from(
    ["nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-1g.10gb", "nvidia.com/mig-",
     "nvidia.com/mig-nonsense", "amd.com/gpu", "cpu"]
)  # fmt: skip
LABELS = st.none() | st.dictionaries(LABEL_NAMES, TEXTS, max_size=6)
COUNTS = st.none() | st.dictionaries(RESOURCES, TEXTS | st.integers(), max_size=4)
PAGES = st.sampled_from(
    ["", dcgm("NVIDIA L4", 22500, 0, 2), mig_page("1g.10gb", 2, 9900, 84),
     dcgm("NVIDIA H100 80GB HBM3", 10**6, 0)]
)  # fmt: skip
SLICES = st.sampled_from(
    [(), (resource_slice(dra_gpu()),), (resource_slice({}, {"attributes": 5}),), ({"spec": None},),
     (resource_slice(generation="x"),)]
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(LABELS, LABELS, COUNTS, COUNTS, PAGES, SLICES)
def test_no_node_is_too_odd_to_be_read(labels, annotations, capacity, allocatable, page, slices):
    """Whatever stands on it: no exception, no device larger than what says so, no endless list."""
    obj = node_of(Kind({}, {}))
    obj["metadata"] |= {"labels": labels, "annotations": annotations}
    obj["status"] |= {"capacity": capacity, "allocatable": allocatable}
    metrics = DeviceMetrics(scrape_seconds=5)
    if page:
        metrics.take("n", page, asked_at_seconds=0.0)
    for node in read_node(obj, metrics, Counter(), 0.0, resource_slices=slices):
        assert len(node.devices) <= MAX_DEVICES
        for device in node.devices:
            free = device.live_free_bytes
            assert device.usable_bytes >= 0
            assert free is None or free >= 0


def test_too_small_here_and_unknown_there_is_unknown():
    """Never is more than anybody knows while a node has not said what it has."""
    small = read(Kind(gfd("NVIDIA-L4", 23034, 1), gpus(1)))
    unknown = read(Kind({}, gpus(1)))
    shape = ReplicaShape(
        architecture=architecture_for_model("Qwen/Qwen3-32B"),
        max_context_tokens=8192,
        concurrency=1,
    )
    wanted = WantedReplica(
        key=ReplicaKey(namespace="d", name="m", index=0),
        shape=shape,
        footprint=replica_footprint(shape),
        mode=PlacementMode.EXCLUSIVE,
    )
    nodes = (small[0], replace(unknown[0], name="other"))
    (refused,) = plan(Inventory(nodes=nodes), [wanted])
    assert refused.reason is RefusedReason.DEVICES_UNKNOWN
    assert "memroute.dev/device-memory" in refused.message
    (refused,) = plan(Inventory(nodes=nodes[:1]), [wanted])
    assert refused.reason is RefusedReason.NO_DEVICE_LARGE_ENOUGH
