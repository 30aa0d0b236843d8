from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.catalog import MODELS, accelerator_by_name, architecture_for_model
from memroute.catalog.accelerators import accelerator_for_product, usable_bytes
from memroute.errors import UnsupportedShapeError
from memroute.footprint import (
    Calibration,
    CalibrationKey,
    KVCacheDtype,
    Quantization,
    ReplicaFootprint,
    ReplicaShape,
    replica_footprint,
    smaller_alternatives,
)
from memroute.footprint.calibration import measured_overhead_bytes, read_start_log
from memroute.units import GIB, MIB

SHAPES = st.builds(
    ReplicaShape,
    architecture=st.sampled_from(sorted(MODELS)).map(architecture_for_model),
    max_context_tokens=st.integers(256, 131072),
    concurrency=st.integers(1, 64),
    quantization=st.sampled_from(Quantization),
    kv_cache_dtype=st.sampled_from((KVCacheDtype.AUTO, KVCacheDtype.FP8)),
    tensor_parallel_size=st.just(1),
)
QWEN3_8B = architecture_for_model("Qwen/Qwen3-8B")


def footprint_or_none(shape: ReplicaShape) -> ReplicaFootprint | None:
    """The footprint; None where the checkpoint is quantized in another way already."""
    try:
        return replica_footprint(shape)
    except UnsupportedShapeError:
        return None


@pytest.mark.slow
@given(SHAPES)
def test_the_footprint_is_the_sum_of_its_terms_and_holds_what_was_asked(shape):
    footprint = footprint_or_none(shape)
    if footprint is None:
        return
    terms = (
        footprint.weights_bytes,
        footprint.kv_cache_bytes,
        footprint.peak_activation.high,
        footprint.cuda_graphs.high,
        footprint.non_torch.high,
        footprint.context.high,
        footprint.margin_bytes,
    )
    assert footprint.total_bytes == sum(terms)
    assert footprint.total.low <= footprint.total.expected <= footprint.total_bytes
    assert footprint.kv_capacity_tokens >= shape.concurrency * shape.max_context_tokens


@pytest.mark.slow
@given(SHAPES, st.integers(1, 8))
def test_more_context_and_more_sequences_never_need_less(shape, factor):
    footprint = footprint_or_none(shape)
    if footprint is None:
        return
    longer = replace(shape, max_context_tokens=shape.max_context_tokens * factor)
    more = replace(shape, concurrency=shape.concurrency * factor)
    for larger in (longer, more):
        assert replica_footprint(larger).total_bytes >= footprint.total_bytes


@pytest.mark.slow
@given(SHAPES)
def test_every_alternative_needs_less_per_device(shape):
    """A suggestion that does not help would be worse than none."""
    footprint = footprint_or_none(shape)
    if footprint is None:
        return
    need = footprint.total_bytes
    for alternative in smaller_alternatives(shape):
        assert alternative.footprint.total_bytes < need


def test_usable_bytes_are_what_cuda_reports_not_what_the_label_says():
    """An H100's label says 81,559 MiB; cudaMemGetInfo says 79.20 GiB."""
    label = 81559 * MIB
    known = usable_bytes(product="NVIDIA-H100-80GB-HBM3", reported_bytes=label)
    assert known / GIB == pytest.approx(79.20, abs=0.01)
    assert usable_bytes(product="NVIDIA-NEW", reported_bytes=label) == label - 768 * MIB


def test_dcgm_names_and_shared_labels_find_the_same_accelerator():
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA-H100-80GB-HBM3-SHARED", "NVIDIA-H100-80GB-HBM3")
    assert {accelerator_for_product(name) for name in names} == {
        accelerator_for_product("NVIDIA-H100-80GB-HBM3")
    }


def test_adapters_and_drafts_come_on_top():
    """Every kind of extra is in the weights: LoRA slots, a draft model, prediction layers."""
    plain = ReplicaShape(architecture=QWEN3_8B, max_context_tokens=4096, concurrency=1)
    extras = (
        {"max_adapters": 4},
        {"draft": architecture_for_model("Qwen/Qwen3-0.6B"), "num_speculative_tokens": 3},
    )
    for extra in extras:
        with_extra = ReplicaShape(
            architecture=QWEN3_8B, max_context_tokens=4096, concurrency=1, **extra
        )
        assert replica_footprint(with_extra).weights_bytes > replica_footprint(plain).weights_bytes


def test_prediction_layers_are_loaded_and_cached_only_to_speculate():
    """DeepSeek-V3 has 61 layers and one for prediction: 62/61 of the cache, 14.4 GiB more."""
    v3 = architecture_for_model("deepseek-ai/DeepSeek-V3")
    shape = ReplicaShape(architecture=v3, max_context_tokens=4096, concurrency=1)
    plain, speculating = (
        replica_footprint(one) for one in (shape, replace(shape, num_speculative_tokens=1))
    )
    assert speculating.kv_layout.bytes_per_block * 61 == plain.kv_layout.bytes_per_block * 62
    assert speculating.weights.low - plain.weights.low == 15_424_227_552


def test_a_measurement_replaces_the_laws_of_overhead():
    """What an engine has measured is reserved next time, with 0.1 GiB of spread.

    An RTX 4090 with 23.53 GiB at 0.8: 8.60 GiB of KV and 8.80 of weights leave 1.42.
    """
    measured = measured_overhead_bytes(
        budget_bytes=int(18.82 * GIB), kv_cache_bytes=int(8.60 * GIB), weights_bytes=int(8.80 * GIB)
    )
    assert measured == pytest.approx(1.42 * GIB, rel=1e-6)
    key = CalibrationKey(model="m", engine="e", flags="", product="p")
    calibration = Calibration(
        key=key, overhead_bytes=measured, expected_overhead_bytes=int(2 * GIB)
    )
    shape = ReplicaShape(architecture=QWEN3_8B, max_context_tokens=4096, concurrency=1)
    footprint = replica_footprint(shape, calibration)
    assert footprint.source == "calibrated"
    assert footprint.total_bytes < replica_footprint(shape).total_bytes
    assert footprint.peak_activation.high == measured + int(0.1 * GIB)


def test_a_report_that_contradicts_itself_measures_nothing():
    assert measured_overhead_bytes(budget_bytes=10, kv_cache_bytes=8, weights_bytes=5) is None


def test_a_start_log_is_read_in_bytes():
    """Lines of vLLM 0.10 to 0.32."""
    log = read_start_log(
        "INFO Model loading took 15.27 GiB and 36.4 seconds\n"
        "INFO Available KV cache memory: 17.33 GiB\n"
        "INFO GPU KV cache size: 89,040 tokens, Maximum concurrency for 32,768 tokens per "
        "request: 2.72x\n"
        "INFO Graph capturing finished in 25 secs, took 2.37 GiB\n"
        "INFO Free memory on device (139.21/139.81 GiB) on startup."
    )
    assert log.weights_bytes == int(15.27 * GIB)
    assert log.kv_cache_bytes == int(17.33 * GIB)
    assert (log.kv_cache_tokens, log.max_context_tokens) == (89_040, 32_768)
    assert log.cuda_graph_bytes == int(2.37 * GIB)
    assert (log.free_bytes, log.total_bytes) == (int(139.21 * GIB), int(139.81 * GIB))
    assert log.peak_activation_bytes is None
    assert log.overhead_bytes(GIB) is None


def test_a_mig_slice_reports_no_more_than_it_has():
    """By `nvidia-smi mig -lgip`, but for B200's 2g.45gb (mig-parted#166); never more than that.

    An engine on a slice that is smaller than planned does not start.
    """
    slices = {
        "B200/1g.23gb": 20.50, "b200/2g.45gb": 44.25, "A100-80/1g.10gb": 9.50,
        "A100-40/1g.5gb": 4.75, "A100-40/2g.10gb": 9.75, "H100/1g.10gb": 9.75,
        "H100/1g.20gb": 19.62, "H100/3g.40gb": 39.50, "H100/7g.80gb": 79.25,
    }  # fmt: skip
    for name, gib in slices.items():
        reported = accelerator_by_name(name).reported_bytes / GIB
        assert 0.93 * gib < reported <= gib, name
    assert accelerator_by_name("L4/1g.5gb") is None
