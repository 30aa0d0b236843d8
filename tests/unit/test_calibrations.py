import json

import pytest

from memroute.catalog import architecture_for_model
from memroute.footprint import Calibration, ReplicaShape, replica_footprint
from memroute.units import GIB
from memroute_operator.readings.calibration_book import entry_name, read_book, written
from memroute_operator.readings.calibrations import (
    PoolReport,
    agreed,
    calibration_key,
    calibrations_of,
    drift_ratio,
    measure,
    read_report,
)

SPEC = {
    "model": {"name": "Qwen/Qwen3-8B"},
    "engine": {"type": "VLLM"},
    "memory": {"quantization": "Auto", "kvCacheDtype": "Auto"},
    "parallelism": {"tensorParallelSize": 1},
}
SHAPE = ReplicaShape(
    architecture=architecture_for_model("Qwen/Qwen3-8B"), max_context_tokens=8192, concurrency=1
)
FOOTPRINT = replica_footprint(SHAPE)
PAGE = (
    'vllm:cache_config_info{block_size="16",engine="0",gpu_memory_utilization="0.92",'
    'kv_cache_memory_bytes="%s",num_gpu_blocks="5565"} 1.0\n'
)


def test_only_an_engine_that_sized_its_own_pool_has_measured():
    """With --kv-cache-memory-bytes the pool is what was asked for: it says nothing of the rest."""
    report = read_report(PAGE % "None")
    assert report == PoolReport(num_blocks=5565, utilization_ratio=0.92, block_size_tokens=16)
    assert read_report(PAGE % "4194304") is None
    assert read_report("up 1\n") is None


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        # 5,565 blocks of 16, less the null block.
        ('num_gpu_blocks="5565"', 89_024),
        # What it says counts: the blocks of a hybrid model hold other numbers of tokens.
        ('num_gpu_blocks="5565",kv_cache_size_tokens="40000"', 39_984),
        ('num_gpu_blocks="5565",kv_cache_size_tokens="None"', 89_024),
    ],
)
def test_what_a_pool_holds_is_counted_as_routers_count_it(labels, expected):
    """Two numbers for one cache would be one too many."""
    page = PAGE.replace('num_gpu_blocks="5565"', labels) % "None"
    assert read_report(page).kv_tokens == expected
    # Each data-parallel rank has a series, and the sum of all blocks in it.
    blocks = labels.replace("5565", "11130")
    series = page.replace(labels, blocks)
    assert (
        read_report(series + series.replace('engine="0"', 'engine="1"')).kv_tokens == 2 * expected
    )


def test_a_report_becomes_the_overhead_of_the_next_placement():
    """RTX 5090: 0.92 x 31.36 GiB less 5,565 blocks of 2.25 MiB less 15.256 of weights = 1.37."""
    calibration = measure(
        SPEC,
        PoolReport(num_blocks=5565, utilization_ratio=0.92),
        FOOTPRINT,
        product="NVIDIA-GeForce-RTX-5090",
        image="i",
        usable_bytes=int(31.36 * GIB),
    )
    assert abs(calibration.overhead_bytes / GIB - 1.37) < 0.01
    assert replica_footprint(SHAPE, calibration).total_bytes < FOOTPRINT.total_bytes
    assert -0.1 < drift_ratio(calibration, FOOTPRINT) < 0


def test_measurements_survive_in_the_book_and_count_for_equal_flags_only():
    report = PoolReport(num_blocks=5565, utilization_ratio=0.92)
    calibration = measure(
        SPEC, report, FOOTPRINT, product="P", image="i", usable_bytes=int(31.36 * GIB)
    )
    known = read_book({"data": {entry_name(calibration.key): written(calibration)}})
    assert calibrations_of(SPEC, known, "i") == {"P": calibration}
    other = SPEC | {"memory": {"quantization": "FP8", "kvCacheDtype": "Auto"}}
    assert calibration_key(other, "P", "i") != calibration.key
    assert calibrations_of(other, known, "i") == {}


def test_a_report_larger_than_its_budget_is_dropped():
    report = PoolReport(num_blocks=10**6, utilization_ratio=0.9)
    assert measure(SPEC, report, FOOTPRINT, product="P", image="i", usable_bytes=24 * GIB) is None


H100_BYTES = int(79.2 * GIB)


@pytest.mark.parametrize("block_size_tokens", [16, 32, 64, 128])
def test_a_pool_is_as_large_as_its_blocks_whatever_their_size(block_size_tokens):
    """--block-size 32 halves the number of blocks, not the pool: the overhead stays 1.5 GiB.

    Counted at 16 tokens it was 30.8 GiB, and the next replica was refused.
    """
    per_block = FOOTPRINT.kv_layout.bytes_per_block * block_size_tokens // 16
    pool = int(0.95 * H100_BYTES) - FOOTPRINT.weights.low - int(1.5 * GIB)
    report = PoolReport(
        num_blocks=pool // per_block, utilization_ratio=0.95, block_size_tokens=block_size_tokens
    )
    calibration = measure(SPEC, report, FOOTPRINT, product="P", image="i", usable_bytes=H100_BYTES)
    assert abs(calibration.overhead_bytes / GIB - 1.5) < 0.05


@pytest.mark.parametrize("overhead_gib", [0.0, 0.1, 30.0])
def test_an_overhead_that_cannot_be_is_not_learned(overhead_gib):
    """One report that is read wrongly, or made up, must not decide every placement after it."""
    pool = int(0.95 * H100_BYTES) - FOOTPRINT.weights.low - int(overhead_gib * GIB)
    blocks = pool // FOOTPRINT.kv_layout.bytes_per_block
    report = PoolReport(num_blocks=blocks, utilization_ratio=0.95)
    assert measure(SPEC, report, FOOTPRINT, product="P", image="i", usable_bytes=H100_BYTES) is None


def test_blocks_that_contradict_the_tokens_are_not_learned():
    """5,565 blocks of 16 tokens hold 89,040; a page that says 400,000 is wrong somewhere."""
    spec = SPEC | {"memory": SPEC["memory"] | {"maxContextTokens": 8192}}
    told = {"num_blocks": 5565, "utilization_ratio": 0.92, "block_size_tokens": 16}
    usable = int(31.36 * GIB)
    good = PoolReport(**told, kv_cache_size_tokens=89_040)
    bad = PoolReport(**told, kv_cache_size_tokens=400_000)
    assert measure(spec, good, FOOTPRINT, product="P", image="i", usable_bytes=usable) is not None
    assert measure(spec, bad, FOOTPRINT, product="P", image="i", usable_bytes=usable) is None


def test_blocks_of_several_ranks_are_counted_per_rank(data_directory):
    """A page of --data-parallel-size 2 gives the sum of both ranks in each of its two series."""
    page = (data_directory / "vllm-0.32-metrics-loaded-dp2.txt").read_text()
    page = page.replace('kv_cache_memory_bytes="4194304"', 'kv_cache_memory_bytes="None"')
    report = read_report(page)
    assert (report.num_blocks, report.block_size_tokens) == (32, 128)
    assert report.kv_cache_size_tokens == 4096


@pytest.mark.parametrize(
    ("overheads", "chosen"), [([3], 3), ([3, 2], 3), ([9, 2, 3], 3), ([2, 3, 2, 9], 3)]
)
def test_one_engine_that_is_off_does_not_decide_for_all(overheads, chosen):
    """The largest did: one engine that started beside another process made all others larger."""
    key = calibration_key(SPEC, "P", "i")
    measured = [
        Calibration(key=key, overhead_bytes=one, expected_overhead_bytes=2) for one in overheads
    ]
    assert agreed(measured).overhead_bytes == chosen


def test_an_engine_without_a_kv_cache_has_measured_nothing():
    """Encoder-only models write one block and no tokens: that is no pool of one block."""
    page = (
        'vllm:cache_config_info{block_size="16",engine="0",gpu_memory_utilization="0.92",'
        'kv_cache_memory_bytes="None",kv_cache_size_tokens="None",num_gpu_blocks="1"} 1.0\n'
    )
    assert read_report(page) is None


def test_a_measurement_of_another_configuration_or_environment_does_not_count():
    """spec.model.config and env change what an engine needs as much as its flags do."""
    config = SPEC | {"model": SPEC["model"] | {"config": {"num_hidden_layers": 2}}}
    environment = SPEC | {"engine": {"type": "VLLM", "env": [{"name": "A", "value": "1"}]}}
    assert len({calibration_key(one, "P", "i") for one in (SPEC, config, environment)}) == 3


def test_what_one_default_image_has_measured_does_not_count_for_the_next():
    """Both were called "default": after an upgrade the new engine was placed by the old one."""
    report = PoolReport(num_blocks=5565, utilization_ratio=0.92)
    known = measure(
        SPEC, report, FOOTPRINT, product="P", image="vllm:v1", usable_bytes=int(31.36 * GIB)
    )
    calibrations = {known.key: known}
    assert calibrations_of(SPEC, calibrations, "vllm:v1") == {"P": known}
    assert calibrations_of(SPEC, calibrations, "vllm:v2") == {}
    assert calibrations_of(SPEC, calibrations, None) == {}
    named = SPEC | {"engine": {"type": "VLLM", "image": "vllm:v1"}}
    assert calibrations_of(named, calibrations, "vllm:v2") == {"P": known}


ENTRY = {
    "model": "m", "engine": "i", "flags": "{}", "product": "P", "overheadBytes": 1,
    "expectedOverheadBytes": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[]", "null", "1", "{" * 5000, '{"model": "m"}',
        json.dumps(ENTRY | {"model": 5}),
        json.dumps(ENTRY | {"overheadBytes": -1}),
        json.dumps(ENTRY | {"overheadBytes": 1e99}),
        json.dumps(ENTRY | {"expectedOverheadBytes": True}),
    ],
)  # fmt: skip
def test_what_cannot_be_read_of_the_book_is_left_out(text):
    """An administrator may edit it: one entry that is odd must not hide the others."""
    good = Calibration(
        key=calibration_key(SPEC, "P", "i"), overhead_bytes=GIB, expected_overhead_bytes=GIB
    )
    found = read_book({"data": {"odd": text, entry_name(good.key): written(good), "no": 7}})
    assert found == {good.key: good}
    assert read_book({}) == read_book({"data": None}) == {}
