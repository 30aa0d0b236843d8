"""``spec.memory.weightsOnHostGiB``: the flag, the footprint, the memory of the node."""

import pytest

from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.footprint import host_request
from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.units import GIB, MIB
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.readings.calibrations import calibration_key
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.deployments import ENGINE_REFUSES, read_deployments
from memroute_operator.store.reading_cache import Cache
from memroute_simulator.engine.arguments import parse_arguments
from operator_rig import mdep

H100 = accelerator_by_name("H100").products[0]
FLAG = "--cpu-offload-gb"


def deployment(model="Qwen/Qwen3-32B", mode="exclusive", **memory):
    return read_deployment(mdep("m", model=model, mode=mode, **memory))


def two_ranks(**memory):
    obj = mdep("m", model="Qwen/Qwen3-32B", mode="exclusive", **memory)
    obj["spec"]["parallelism"]["tensorParallelSize"] = 2
    return read_deployment(obj)


def engine_of(of, *, num_devices=1, mode=PlacementMode.EXCLUSIVE):
    """The container of its first replica."""
    where = Placed(
        key=ReplicaKey(namespace="default", name="m", index=0), node="a", mode=mode,
        device_uuids=() if mode is PlacementMode.EXCLUSIVE else ("GPU-1",),
        num_devices=num_devices, bytes_per_device=79 * GIB,
        needed_bytes_per_device=of.footprint.total_bytes, usable_bytes_per_device=79 * GIB,
        product=H100, why="",
    )  # fmt: skip
    pod = replica_pod(of, where, is_gated=False, default_image="i", shared_runtime_class=None)
    return next(one for one in pod["spec"]["containers"] if one["name"] == "engine")


def test_flag_footprint_and_request_say_the_same():
    """Pinned memory that is not requested kills the pod; it is not on the device as well."""
    plain, of = (two_ranks(**memory) for memory in ({}, {"weightsOnHostGiB": 20}))
    container = engine_of(of, num_devices=2)
    arguments = container["args"]
    assert arguments[arguments.index(FLAG) + 1] == "20"
    assert plain.footprint.total_bytes - of.footprint.total_bytes == 20 * GIB
    own = host_request(of.footprint).memory_bytes
    assert container["resources"]["requests"]["memory"] == f"{-(-own // MIB) + 40 * 1024}Mi"


def test_both_tiers_of_the_host_add_up():
    of = deployment(weightsOnHostGiB=20, hostKVCacheGiB=64)
    own = host_request(of.footprint).memory_bytes
    memory = engine_of(of)["resources"]["requests"]["memory"]
    assert memory == f"{-(-own // MIB) + 84 * 1024}Mi"


def test_without_it_nothing_changes():
    """An upgrade restarts no engine."""
    assert FLAG not in engine_of(deployment())["args"]


def test_a_shared_device_is_asked_for_as_much_less():
    """The share that has to be free at the start shrinks with the weights."""

    def share(**memory):
        arguments = engine_of(deployment(mode="shared", **memory), mode=PlacementMode.SHARED)[
            "args"
        ]
        return float(arguments[arguments.index("--gpu-memory-utilization") + 1])

    assert share() - share(weightsOnHostGiB=20) == pytest.approx(20 / 79, abs=0.011)


def test_another_size_is_another_revision_and_another_measurement():
    """An engine takes it at its start; what it measured with it is not true without."""
    found = {deployment(weightsOnHostGiB=size).revision for size in (8, 16)}
    assert len(found | {deployment().revision}) == 3
    keys = {
        calibration_key(mdep("m", model="Qwen/Qwen3-32B", **memory)["spec"], H100, "i").flags
        for memory in ({}, {"weightsOnHostGiB": 8}, {"weightsOnHostGiB": 16})
    }
    assert len(keys) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"type": "SGLang", "image": "lmsysorg/sglang:v0.5.23"}, "is for vLLM"),
        ({"args": ["--cpu-offload-gb=8"]}, "leave one of them out"),
        ({"args": ["--cpu-offload-g=8"]}, "--cpu-offload-g=8 in engine.args"),
        ({"args": ["--offload_group_size", "8"]}, "leave one of them out"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(engine, words):
    obj = mdep("m", model="Qwen/Qwen3-32B", mode="exclusive", weightsOnHostGiB=8)
    obj["spec"]["engine"] = engine
    found = read_deployments([obj], [], [], {}, {}, Cache(), "vllm/vllm-openai", {}).wanted[0]
    assert found.failure.reason == ENGINE_REFUSES
    assert words in found.failure.message


@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        ("openai/gpt-oss-20b", 4, "several kinds of KV cache"),
        ("Qwen/Qwen3-8B", 40, "the layers have"),
    ],
)
def test_what_the_model_does_not_allow_is_refused_with_its_reason(model, size, words):
    failure = deployment(model, weightsOnHostGiB=size).failure
    assert words in failure.message


def test_a_simulated_engine_takes_the_flag_and_becomes_slower():
    """20 GiB more of KV cache, and 0.4 s more for each step."""

    def spec(*flags):
        return parse_arguments(["--model", "Qwen/Qwen3-32B", *flags]).standalone_spec()

    plain, offload = spec("--max-model-len", "8192"), spec("--max-model-len", "8192", FLAG, "20")
    more = (offload.total_blocks - plain.total_blocks) * plain.layout.bytes_per_block
    assert more == pytest.approx(20 * GIB, rel=0.01)
    slower = offload.step_time.decode_seconds(1, 100) - plain.step_time.decode_seconds(1, 100)
    assert slower == pytest.approx(20 * GIB / 52e9)
    assert architecture_for_model("Qwen/Qwen3-32B") is plain.architecture
