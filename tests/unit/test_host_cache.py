"""``spec.memory.hostKVCacheGiB``: the flag, the memory of the node, and what routers are told."""

import pytest

from memroute.catalog import accelerator_by_name
from memroute.footprint import host_request
from memroute.hierarchy.links import PCIE_5
from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.traffic.replica import HostCache
from memroute.units import GIB, MIB
from memroute_kube.resources import ANNOTATION_HOST_KV_NANOSECONDS, ANNOTATION_HOST_KV_TOKENS
from memroute_operator.engines.host_cache import host_cache_of
from memroute_operator.nodes.annotations import bad_link, read_host_link
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


def where(*, needed_bytes=GIB, product=H100, host_link=None):
    """One whole H100."""
    return Placed(
        key=ReplicaKey(namespace="default", name="m", index=0), node="a",
        mode=PlacementMode.EXCLUSIVE, device_uuids=(), num_devices=1,
        bytes_per_device=79 * GIB, needed_bytes_per_device=needed_bytes,
        usable_bytes_per_device=79 * GIB, product=product, why="", host_link=host_link,
    )  # fmt: skip


def pod_of(of, product=H100):
    """The manifest of its first replica, on one H100."""
    placed = where(needed_bytes=of.footprint.total_bytes, product=product)
    return replica_pod(of, placed, is_gated=False, default_image="i", shared_runtime_class=None)


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


def test_a_measured_link_of_the_node_counts_instead_of_the_data_sheet():
    """`python -m bench.device --annotate` says it: 12.5 GB/s are a quarter of PCIe 5."""
    of = deployment(hostKVCacheGiB=64)
    usual = host_cache_of(of, where()).token_seconds
    slow = host_cache_of(of, where(host_link="0.1us-12.5GBps"))
    assert slow.token_seconds == pytest.approx(147_456 / 12.5e9, rel=0.05)
    assert host_cache_of(of, where(host_link="pcie5")).token_seconds == usual
    unknown = where(host_link="26-25GBps", product="NVIDIA-NEW")
    assert host_cache_of(of, unknown).token_seconds is not None


def test_a_node_says_how_its_devices_reach_its_memory():
    """By annotation, else by label; what nobody can read is nobody's word, and is told."""
    said = {"memroute.dev/host-link": "3.7us-55.1-56.4GBps"}
    assert read_host_link(said, {}) == read_host_link({}, said) == "3.7us-55.1-56.4GBps"
    wrong = {"memroute.dev/host-link": "fast"}
    assert read_host_link(wrong, {}) is None
    assert "memroute.dev/host-link='fast' is neither" in bad_link(wrong, {})
