"""``spec.memory.hostKVCacheGiB``: the flag, the memory of the node, and what routers are told."""

import pytest

from memroute.catalog import accelerator_by_name
from memroute.footprint import host_request
from memroute.hierarchy.links import PCIE_5
from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.traffic.replica import HostCache
from memroute.units import GIB, MIB
from memroute_kube.resources import ANNOTATION_HOST_KV_NANOSECONDS, ANNOTATION_HOST_KV_TOKENS
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.deployments import ENGINE_REFUSES, read_deployments
from memroute_operator.store.reading_cache import Cache
from memroute_router.discovery.kube_objects import read_pod
from operator_rig import mdep

H100 = accelerator_by_name("H100").products[0]


def deployment(**memory):
    """Qwen3-8B on a whole device."""
    return read_deployment(mdep("m", model="Qwen/Qwen3-8B", mode="exclusive", **memory))


def pod_of(of, product=H100):
    """The manifest of its first replica, on one H100."""
    where = Placed(
        key=ReplicaKey(namespace="default", name="m", index=0), node="a",
        mode=PlacementMode.EXCLUSIVE, device_uuids=(), num_devices=1,
        bytes_per_device=79 * GIB, needed_bytes_per_device=of.footprint.total_bytes,
        usable_bytes_per_device=79 * GIB, product=product, why="",
    )  # fmt: skip
    return replica_pod(of, where, is_gated=False, default_image="i", shared_runtime_class=None)


def engine_of_pod(pod):
    """The engine's container."""
    return next(one for one in pod["spec"]["containers"] if one["name"] == "engine")


def test_an_engine_is_given_what_its_node_keeps_for_it():
    """The flag and the request say the same: pinned memory that is not requested kills the pod."""
    of = deployment(hostKVCacheGiB=64)
    container = engine_of_pod(pod_of(of))
    arguments = container["args"]
    assert arguments[arguments.index("--kv-offloading-size") + 1] == "64"
    own = host_request(of.footprint).memory_bytes
    assert container["resources"]["requests"]["memory"] == f"{-(-own // MIB) + 64 * 1024}Mi"


def test_without_it_nothing_changes():
    """An upgrade restarts no engine."""
    of = deployment()
    pod = pod_of(of)
    assert "--kv-offloading-size" not in engine_of_pod(pod)["args"]
    assert ANNOTATION_HOST_KV_TOKENS not in pod["metadata"]["annotations"]


def test_another_size_is_another_revision():
    """An engine takes it at its start, so an edit has to roll out."""
    assert deployment(hostKVCacheGiB=64).revision != deployment(hostKVCacheGiB=32).revision
    assert deployment().revision != deployment(hostKVCacheGiB=32).revision


def test_routers_read_how_much_there_is_and_how_fast_it_comes_back():
    """Qwen3-8B: 147,456 bytes of a token, in copies of 64 KiB over PCIe 5."""
    pod = pod_of(deployment(hostKVCacheGiB=64))
    annotations = pod["metadata"]["annotations"]
    assert annotations[ANNOTATION_HOST_KV_TOKENS] == str(64 * GIB // (147_456 * 16) * 16)
    seconds = int(annotations[ANNOTATION_HOST_KV_NANOSECONDS]) / 1e9
    assert seconds == pytest.approx(147_456 / PCIE_5.read_rate(64 << 10), rel=0.01)
    pod["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    told = read_pod(pod).host
    assert told == HostCache(int(annotations[ANNOTATION_HOST_KV_TOKENS]), seconds)


def test_an_unknown_accelerator_says_nothing_of_time():
    """Unknown is left out: the router credits a half until it knows better."""
    annotations = pod_of(deployment(hostKVCacheGiB=64), product="NVIDIA-NEW")["metadata"][
        "annotations"
    ]
    assert ANNOTATION_HOST_KV_TOKENS in annotations
    assert ANNOTATION_HOST_KV_NANOSECONDS not in annotations


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"type": "SGLang", "image": "lmsysorg/sglang:v0.5.23"}, "is for vLLM"),
        ({"args": ["--kv-offloading-size=8"]}, "leave one of them out"),
        ({"args": ["--kv_transfer_config.kv_connector", "LMCacheMPConnector"]}, "leave one"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(engine, words):
    """A flag that says something else would win, and nobody would have counted it."""
    obj = mdep("m", model="Qwen/Qwen3-8B", mode="exclusive", hostKVCacheGiB=64)
    obj["spec"]["engine"] = engine
    found = read_deployments([obj], [], [], {}, {}, Cache(), "vllm/vllm-openai", {}).wanted[0]
    assert found.failure.reason == ENGINE_REFUSES
    assert words in found.failure.message
