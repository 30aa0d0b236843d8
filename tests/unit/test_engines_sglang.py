"""SGLang gets just what was reserved: its arithmetic is repeated here from its own source."""

import copy
import itertools
import random

import pytest

from memroute.errors import UnsupportedShapeError
from memroute.footprint import (
    EngineType,
    KVCacheDtype,
    Quantization,
    ReplicaShape,
    architecture_from_config,
    replica_footprint,
)
from memroute.footprint.runtime_sglang import num_prefill_graphs
from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.units import GIB, MIB
from memroute_kube.memory_words import ENGINE_TYPES
from memroute_operator.engines.registry import PartsReport, engine_of
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.readings.calibrations import measure, read_report
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.deployments import ENGINE_REFUSES, read_deployments
from memroute_operator.store.reading_cache import Cache
from operator_rig import mdep

IMAGE = "lmsysorg/sglang:v0.5.23"


def deployment(mode="shared", model="Qwen/Qwen3-8B", tp=1, **memory):
    obj = mdep("m", model=model, mode=mode, **memory)
    obj["spec"]["engine"] = {"type": "SGLang", "image": IMAGE}
    obj["spec"]["parallelism"]["tensorParallelSize"] = tp
    return read_deployment(obj)


def placed(of, usable_gib=79.2):
    usable = int(usable_gib * GIB)
    need = of.footprint.total_bytes
    shared = of.mode is PlacementMode.SHARED
    count = of.footprint.num_devices
    return Placed(
        key=ReplicaKey(namespace="default", name="m", index=0), node="a", mode=of.mode,
        device_uuids=tuple(f"GPU-{i}" for i in range(count)) if shared else (),
        num_devices=count, bytes_per_device=need if shared else usable,
        needed_bytes_per_device=need, usable_bytes_per_device=usable, product=None, why="",
    )  # fmt: skip


def flags_of(of, where):
    arguments = engine_of(of.engine).arguments(of, where)
    return dict(zip(arguments[::2], arguments[1::2], strict=False))


def sglang_pool_bytes(flags, *, free_before, weights, cell_bytes):
    """``_profile_available_bytes`` and ``max_total_tokens`` of 0.5.23, in bytes.

    Free after loading is what was free before, less the weights.
    """
    share = float(flags["--mem-fraction-static"])
    rest = (free_before - weights) - free_before * (1 - share)
    tokens = int(rest // cell_bytes)
    if "--max-total-tokens" in flags:
        tokens = min(tokens, int(flags["--max-total-tokens"]))
    return tokens * cell_bytes


def cell_bytes_of(of):
    layout = of.shape.kv_layout
    return layout.bytes_per_block // layout.block_size_tokens


def shapes():
    rng = random.Random(7)
    for model in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "google/gemma-3-27b-it"):
        for _ in range(6):
            yield pytest.param(
                model, rng.choice((1, 2, 4)), rng.choice((2048, 8192, 32768)), rng.choice((1, 4, 8))
            )


@pytest.mark.parametrize(("model", "tp", "context", "concurrency"), list(shapes()))
@pytest.mark.parametrize("neighbours_gib", [0, 20, 1000])
def test_on_a_shared_device_the_pool_is_what_was_given_whatever_the_neighbours_take(
    model, tp, context, concurrency, neighbours_gib
):
    """Too little and requests do not fit; too much and a neighbour dies.

    From nothing to all that was not promised to this replica is the neighbours'.
    """
    of = deployment(model=model, tp=tp, maxContextTokens=context, concurrency=concurrency)
    where = placed(of, usable_gib=139.0)
    promised = of.footprint.total_bytes
    outside = of.footprint.context.high + of.footprint.non_torch.high
    others = min(neighbours_gib * GIB, where.usable_bytes_per_device - promised)
    pool = sglang_pool_bytes(
        flags_of(of, where),
        free_before=where.usable_bytes_per_device - others - outside,
        weights=of.footprint.weights_bytes,
        cell_bytes=cell_bytes_of(of),
    )
    padding = of.shape.kv_layout.bytes_per_block
    assert pool + padding == of.footprint.kv_cache_bytes
    assert pool // cell_bytes_of(of) >= context * concurrency


@pytest.mark.parametrize(("model", "tp", "context", "concurrency"), list(shapes()))
@pytest.mark.parametrize("spare", [1.0, 1.5, 4.0])
def test_on_a_whole_device_weights_and_pool_leave_what_the_rest_needs(
    model, tp, context, concurrency, spare
):
    """However little its context takes, and on a device that it just fits on too."""
    of = deployment("exclusive", model, tp, maxContextTokens=context, concurrency=concurrency)
    where = placed(of, usable_gib=of.footprint.total_bytes / GIB * spare + 0.001)
    footprint, usable = of.footprint, where.usable_bytes_per_device
    rest = footprint.peak_activation.high + footprint.cuda_graphs.high
    contexts = (footprint.context.low, footprint.context.high)
    libraries = (0, footprint.non_torch.high)
    sizes = (footprint.weights.low, footprint.weights.high)
    for before, weights in itertools.product(
        map(sum, itertools.product(contexts, libraries)), sizes
    ):
        pool = sglang_pool_bytes(
            flags_of(of, where),
            free_before=usable - before, weights=weights, cell_bytes=cell_bytes_of(of),
        )  # fmt: skip
        assert before + weights + pool + rest <= usable
        assert pool >= footprint.kv_cache_bytes - of.shape.kv_layout.bytes_per_block
    told = engine_of(of.engine).capacity_tokens(of, where)
    least = sglang_pool_bytes(
        flags_of(of, where),
        free_before=usable - footprint.context.high - footprint.non_torch.high,
        weights=footprint.weights.high, cell_bytes=cell_bytes_of(of),
    )  # fmt: skip
    assert told <= least // cell_bytes_of(of)


def test_the_graphs_of_a_prefill_are_counted_as_sglang_counts_them():
    """Worked from its list: 8 to 32, 14 to 256, 8 to 512, 8 to 1,024, 4 of 256 to 2,048."""
    assert num_prefill_graphs(2048) == 8 + 14 + 8 + 8 + 4


def test_sglang_reserves_by_its_own_rule_and_never_less_than_was_seen_of_vllm():
    """512 + 1.5 x 2,048 MiB of activations, 2 x 256 + 8 x 42 of graphs, 128 for communication."""
    of = deployment(model="Qwen/Qwen3-0.6B")
    vllm = replica_footprint(
        ReplicaShape(architecture=of.shape.architecture, max_context_tokens=8192, concurrency=4)
    )
    footprint = of.footprint
    assert footprint.peak_activation.expected == (512 + 3072) * MIB
    assert footprint.cuda_graphs.expected == (512 + 336) * MIB
    assert footprint.non_torch.expected == 128 * MIB
    assert footprint.peak_activation.high >= vllm.peak_activation.high
    assert footprint.cuda_graphs.high >= vllm.cuda_graphs.high
    assert footprint.non_torch.high >= vllm.non_torch.high


def test_windows_count_in_full_and_states_are_refused_with_the_way_out():
    """No number is better than a wrong one: a pool of states is sized by rules that we lack."""
    gemma = deployment(model="google/gemma-3-27b-it").shape
    layers = gemma.architecture.num_layers
    assert gemma.kv_layout.bytes_per_token == layers * 16 * 128 * 2 * 2
    hybrid = deployment(model="Qwen/Qwen3-Next-80B-A3B-Instruct", tp=2)
    assert hybrid.failure.reason == "UnsupportedShape"
    assert "serve the model with vLLM" in hybrid.failure.message


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"kv_cache_dtype": KVCacheDtype.NVFP4}, "SGLang has no KV cache of nvfp4; it has auto"),
        ({"quantization": Quantization.INT8}, "SGLang does not quantize to int8"),
    ],
)
def test_what_sglang_cannot_store_is_refused_in_words(asked, says):
    """It would exit with argparse's words after the image was pulled."""
    shape = deployment().shape
    with pytest.raises(UnsupportedShapeError, match=says):
        replica_footprint(
            ReplicaShape(
                architecture=shape.architecture, max_context_tokens=2048, concurrency=1,
                engine=EngineType.SGLANG, **asked,
            )
        )  # fmt: skip


def test_the_pod_runs_sglang_and_asks_it_what_costs_nothing():
    """Its /health would generate a token at each probe of an idle engine."""
    of = deployment(tp=2)
    pod = replica_pod(
        of, placed(of), is_gated=False, default_image="vllm", shared_runtime_class="nvidia"
    )
    (container,) = pod["spec"]["containers"]
    assert container["image"] == IMAGE
    assert container["command"] == ["python3", "-m", "sglang.launch_server"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["startupProbe"]["httpGet"]["path"] == "/health"
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert env["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "0"
    assert env["SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK"] == "0"
    assert "--max-total-tokens" in container["args"]
    assert "lifecycle" not in container


def test_an_engine_without_an_image_of_its_own_is_refused_before_it_crashes():
    """The operator's --engine-image is vLLM's: it has no sglang inside."""
    obj = mdep("m")
    obj["spec"]["engine"] = {"type": "SGLang"}
    read = read_deployments([obj], [], [], {}, {}, Cache(), "vllm/vllm-openai", {}).wanted
    assert read[0].footprint is None
    assert read[0].failure.reason == ENGINE_REFUSES
    assert "spec.engine.image is needed for SGLang" in read[0].failure.message


PAGE = """
# TYPE sglang:weight_memory_usage_gb gauge
sglang:weight_memory_usage_gb{model_name="m",tp_rank="0"} 15.4
sglang:kv_cache_memory_usage_gb{model_name="m",tp_rank="0"} 4.5
sglang:graph_memory_usage_gb{model_name="m",tp_rank="0",phase="decode"} 0.5
sglang:graph_memory_usage_gb{model_name="m",tp_rank="0",phase="prefill"} 0.25
sglang:max_total_num_tokens{model_name="m",tp_rank="0"} 32768
"""


def test_what_sglang_measured_replaces_the_law_and_what_it_did_not_stays_on_the_safe_side():
    """Weights and graphs are on its page; the peak of its activations is not."""
    report = read_report(PAGE)
    assert report == PartsReport(
        weights_bytes=int(15.4 * GIB), kv_cache_bytes=int(4.5 * GIB),
        graph_bytes=int(0.75 * GIB), kv_tokens=32_768,
    )  # fmt: skip
    of = deployment("exclusive")
    calibration = measure(
        of.obj["spec"], report, of.footprint, product="P", image=IMAGE, usable_bytes=79 * GIB
    )
    loaded = int(15.4 * GIB) - of.footprint.weights.low
    unmeasured = of.footprint.peak_activation.high + of.footprint.non_torch.high
    assert calibration.overhead_bytes == loaded + unmeasured + int(0.75 * GIB)
    measured = replica_footprint(of.shape, calibration)
    assert measured.total_bytes < of.footprint.total_bytes


@pytest.mark.parametrize("line", ["15.4", "NaN", "1e9", "-1", "x"])
def test_a_page_that_makes_no_sense_measures_nothing(line):
    """Weights of another model, of nobody, or of half the number say nothing of this one."""
    page = PAGE.replace('tp_rank="0"} 15.4', f'tp_rank="0"}} {line}')
    report = read_report(page)
    of = deployment("exclusive", model="Qwen/Qwen3-32B")
    measured = report and measure(
        of.obj["spec"], report, of.footprint, product="P", image=IMAGE, usable_bytes=79 * GIB
    )
    assert measured is None


def test_the_api_spells_every_engine_as_the_core_does():
    """One table of words, one enumeration: a third engine cannot be left out of either."""
    assert {one.spelled: one for one in EngineType} == dict(ENGINE_TYPES.meanings)


def test_the_rules_of_a_user_given_configuration_are_sglang_s_too():
    """A model that the catalogue does not know comes with its config.json."""
    config = {
        "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 4, "vocab_size": 4096,
        "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 512,
    }  # fmt: skip
    shape = ReplicaShape(
        architecture=architecture_from_config(copy.deepcopy(config)), max_context_tokens=1024,
        concurrency=2, engine=EngineType.SGLANG,
    )  # fmt: skip
    pages = 2 * 1024 // 64 + 1
    assert replica_footprint(shape).kv_cache_bytes == pages * 64 * 4 * 2 * 32 * 2 * 2


@pytest.mark.parametrize(
    ("word", "flag", "helps"),
    [
        ("--mem-fraction-static=0.95", "--mem-fraction-static", "leave it out"),
        ("--mem_fraction", "--mem-fraction-static", "leave it out"),
        ("--tp", "--tp-size", "use spec.parallelism.tensorParallelSize"),
        ("--max-total", "--max-total-tokens", "leave it out"),
        ("--context-length", "--context-length", "use spec.memory.maxContextTokens"),
        ("--enable-lora", "--enable-lora", "use spec.engine.maxAdapters and spec.adapters"),
    ],
)
def test_flags_that_take_memory_are_refused_in_every_spelling(word, flag, helps):
    """Argparse takes a beginning for the whole (all of them: test_other_engines_arguments)."""
    told = engine_of(EngineType.SGLANG).refusal({"engine": {"args": [word], "image": "i"}})
    assert f'engine.args[0] "{word}"' in told
    assert flag in told
    assert told.endswith(helps)


def test_other_flags_are_the_owners_own_business():
    spec = {
        "engine": {"args": ["--attention-backend", "triton", "--log-level=debug"], "image": "i"}
    }
    assert engine_of(EngineType.SGLANG).refusal(spec) is None


def test_tuning_is_passed_on_and_counted():
    """Fewer sequences and no graphs leave more of the device to the KV pool."""
    usual = deployment("exclusive")
    obj = copy.deepcopy(usual.obj)
    obj["spec"]["engine"] |= {
        "maxSequences": 16, "maxBatchedTokens": 1024, "blockSizeTokens": 16, "execution": "Eager",
    }  # fmt: skip
    tuned = read_deployment(obj)
    flags = flags_of(tuned, placed(tuned))
    assert flags["--max-running-requests"] == "16"
    assert flags["--chunked-prefill-size"] == "1024"
    assert flags["--page-size"] == "16"
    assert "--disable-cuda-graph" in engine_of(tuned.engine).arguments(tuned, placed(tuned))
    assert tuned.footprint.cuda_graphs.high == 0
    assert tuned.footprint.overhead_bytes < usual.footprint.overhead_bytes
    assert tuned.shape.kv_layout.block_size_tokens == 16
