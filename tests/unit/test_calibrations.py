from memroute.catalog import architecture_for_model
from memroute.footprint import ReplicaShape, replica_footprint
from memroute.units import GIB
from memroute_operator.calibrations import (
    EngineReport,
    calibration_key,
    calibrations_of,
    drift_ratio,
    measure,
    parse_engine_page,
    read_calibrations,
    write_calibrations,
)

SPEC = {
    "model": {"name": "Qwen/Qwen3-8B"},
    "engine": {"type": "vllm"},
    "memory": {"quantization": "none", "kvCacheDtype": "auto"},
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
    report = parse_engine_page(PAGE % "None")
    assert report == EngineReport(num_blocks=5565, utilization_ratio=0.92)
    assert parse_engine_page(PAGE % "4194304") is None
    assert parse_engine_page("up 1\n") is None


def test_a_report_becomes_the_overhead_of_the_next_placement():
    """RTX 5090: 0.92 x 31.36 GiB less 5,565 blocks of 2.25 MiB less 15.256 of weights = 1.37."""
    calibration = measure(
        SPEC,
        EngineReport(num_blocks=5565, utilization_ratio=0.92),
        FOOTPRINT,
        product="NVIDIA-GeForce-RTX-5090",
        usable_bytes=int(31.36 * GIB),
    )
    assert abs(calibration.overhead_bytes / GIB - 1.37) < 0.01
    assert replica_footprint(SHAPE, calibration).total_bytes < FOOTPRINT.total_bytes
    assert -0.1 < drift_ratio(calibration, FOOTPRINT) < 0


def test_measurements_survive_in_the_status_and_count_for_equal_flags_only():
    report = EngineReport(num_blocks=5565, utilization_ratio=0.92)
    calibration = measure(SPEC, report, FOOTPRINT, product="P", usable_bytes=int(31.36 * GIB))
    status = {"calibrations": write_calibrations({calibration.key: calibration})}
    known = read_calibrations([{"status": status}, {"metadata": {}}])
    assert calibrations_of(SPEC, known) == {"P": calibration}
    other = SPEC | {"memory": {"quantization": "fp8", "kvCacheDtype": "auto"}}
    assert calibration_key(other, "P") != calibration.key
    assert calibrations_of(other, known) == {}


def test_a_report_larger_than_its_budget_is_dropped():
    report = EngineReport(num_blocks=10**6, utilization_ratio=0.9)
    assert measure(SPEC, report, FOOTPRINT, product="P", usable_bytes=24 * GIB) is None
