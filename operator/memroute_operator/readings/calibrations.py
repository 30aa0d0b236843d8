"""What engines have measured of themselves, and what that says of the next placement.

An engine that was given a share of a whole device sizes its own KV pool: what it leaves for
the pool tells what everything else took. Read once per engine, from its ``/metrics``; kept in
an object of the operator's own (``calibration_book``), so that it outlives both; used for every
placement of the same model, image and flags on the same kind of accelerator.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from memroute.footprint import Calibration, CalibrationKey, ReplicaFootprint
from memroute.footprint.calibration import measured_overhead_bytes
from memroute.units import GIB
from memroute_kube.memory_words import KV_CACHE_DTYPES, QUANTIZATIONS
from memroute_operator.adapters.slots import slots_of
from memroute_operator.engines.registry import PartsReport, PoolReport
from memroute_operator.readings.engine_reports import EngineReport, EngineReports, read_report

__all__ = [
    "EngineReport",
    "EngineReports",
    "agreed",
    "calibration_key",
    "calibrations_of",
    "drift_ratio",
    "measure",
    "read_report",
]

# Of the whole footprint: past it the estimate is worth a look.
MAX_DRIFT_RATIO = 0.10
# Measured overheads that are believed, against the laws' expectation. The laws are within a
# factor of two on every engine in docs/reference/figures.md; an overhead of nothing, or of tens
# of GiB, is a report that was read wrongly, or that somebody made up. Chosen by hand.
MIN_OVERHEAD_RATIO = 0.25
MAX_OVERHEAD_RATIO = 4.0
OVERHEAD_MARGIN_BYTES = 4 * GIB
# How far the tokens that an engine reports may be from those that its blocks make, chosen by
# hand: rounding to blocks is a few percent, a wrong block size at least a factor of two.
MAX_TOKENS_DRIFT_RATIO = 0.25
# How much less than the formula's weights an engine may report to have loaded, chosen by hand: its
# page says two decimals of a GiB, and tied tables are counted once or twice.
MAX_WEIGHTS_DRIFT_RATIO = 0.1
# Of spec.engine: what changes the memory that an engine takes.
TUNING_FIELDS = ("maxSequences", "maxBatchedTokens", "blockSizeTokens", "execution")


def calibration_key(spec: Mapping[str, Any], product: str, image: str) -> CalibrationKey:
    """What must be equal for a measurement to count: taken from a ModelDeployment's spec.

    ``image``: what the engine runs. The operator's default is named like any other: what one
    default has measured says nothing of the next.
    """
    memory, engine = spec["memory"], spec["engine"]
    flags = {
        "quantization": QUANTIZATIONS.read(memory["quantization"]).value,
        "kvCacheDtype": KV_CACHE_DTYPES.read(memory["kvCacheDtype"]).value,
        "tensorParallelSize": spec["parallelism"]["tensorParallelSize"],
        "args": list(engine.get("args") or ()),
    }
    # These change what an engine needs; named only where given, so that keys stay as they were.
    for name in TUNING_FIELDS:
        if engine.get(name) is not None:
            flags[name] = engine[name]
    if memory.get("weightsOnHostGiB"):
        flags["weightsOnHostGiB"] = memory["weightsOnHostGiB"]
    if (slots := slots_of(spec)) is not None:
        flags["adapterSlots"] = [slots.max_adapters, slots.max_rank]
    for name, value in (
        ("config", spec["model"].get("config")),
        ("source", spec["model"].get("source")),
        ("env", engine.get("env")),
    ):
        if value:
            text = json.dumps(value, sort_keys=True)
            flags[name] = hashlib.sha256(text.encode()).hexdigest()[:10]
    return CalibrationKey(
        model=spec["model"]["name"],
        engine=image,
        flags=json.dumps(flags, sort_keys=True),
        product=product,
    )


def measure(
    spec: Mapping[str, Any],
    report: EngineReport,
    footprint: ReplicaFootprint,
    *,
    product: str,
    image: str,
    usable_bytes: int,
) -> Calibration | None:
    """The calibration that a report makes; None when it contradicts itself, or what can be.

    ``footprint``: by the laws, not calibrated; ``image``: of the engine that reports;
    ``usable_bytes``: of its device.
    """
    if isinstance(report, PartsReport):
        overhead, expected = _of_parts(report, footprint)
    else:
        overhead, expected = _of_pool(report, footprint, spec, usable_bytes)
    most = int(expected * MAX_OVERHEAD_RATIO) + OVERHEAD_MARGIN_BYTES
    if overhead is None or not expected * MIN_OVERHEAD_RATIO <= overhead <= most:
        return None
    return Calibration(
        key=calibration_key(spec, product, image),
        overhead_bytes=overhead,
        expected_overhead_bytes=expected,
    )


def _of_pool(
    report: PoolReport, footprint: ReplicaFootprint, spec: Mapping[str, Any], usable_bytes: int
) -> tuple[int | None, int]:
    """All beside weights and pool: what the budget was, less both. And what was expected."""
    expected = footprint.peak_activation + footprint.cuda_graphs + footprint.non_torch
    pool_bytes = kv_pool_bytes(report, footprint, spec["memory"].get("maxContextTokens"))
    if pool_bytes is None:
        return None, expected.expected
    overhead = measured_overhead_bytes(
        budget_bytes=int(report.utilization_ratio * usable_bytes),
        kv_cache_bytes=pool_bytes,
        weights_bytes=footprint.weights.low,
    )
    return overhead, expected.expected


def _of_parts(report: PartsReport, footprint: ReplicaFootprint) -> tuple[int | None, int]:
    """What was measured of the weights and graphs; activations, which were not, at their most.

    The expectation has them at their most too, so that the difference is what was measured.
    """
    loaded = report.weights_bytes - footprint.weights.low
    unmeasured = footprint.peak_activation.high + footprint.non_torch.high
    graphs = footprint.cuda_graphs.high if report.graph_bytes is None else report.graph_bytes
    expected = unmeasured + footprint.cuda_graphs.expected
    if loaded < -MAX_WEIGHTS_DRIFT_RATIO * footprint.weights.low:
        return None, expected  # other weights than these
    return max(0, loaded) + unmeasured + graphs, expected


def kv_pool_bytes(
    report: PoolReport, footprint: ReplicaFootprint, max_context_tokens: int | None
) -> int | None:
    """Bytes of the KV pool of one rank that a report tells of; None when it contradicts itself.

    The blocks are the engine's own: ``--block-size``, or a kernel's choice. The tokens that it
    says its pool holds are the check.
    """
    layout = footprint.kv_layout
    scale = 1.0
    if report.block_size_tokens is not None and layout.block_size_tokens > 1:
        scale = report.block_size_tokens / layout.block_size_tokens
    pool_bytes = int(report.num_blocks * layout.bytes_per_block * scale)
    tokens = report.kv_cache_size_tokens
    if tokens is not None and max_context_tokens:
        expected = layout.reported_tokens(pool_bytes, max_context_tokens)
        if abs(expected - tokens) > MAX_TOKENS_DRIFT_RATIO * tokens:
            return None
    return pool_bytes


def agreed(measured: Sequence[Calibration]) -> Calibration:
    """The measurement that counts of several engines of one kind; ``measured`` is not empty.

    Of one or two the larger. Of more the upper median, so that one engine that is off (a process
    beside it as it started, a page that was read wrongly) does not decide for all.
    """
    ordered = sorted(measured, key=lambda one: one.overhead_bytes)
    return ordered[len(ordered) // 2]


def drift_ratio(calibration: Calibration, footprint: ReplicaFootprint) -> float:
    """How far the measurement is from the laws, of all that the replica was taken to need."""
    off = calibration.overhead_bytes - calibration.expected_overhead_bytes
    return off / footprint.total.expected


def calibrations_of(
    spec: Mapping[str, Any],
    calibrations: Mapping[CalibrationKey, Calibration],
    default_image: str | None,
) -> dict[str, Calibration]:
    """The measurements that speak of this spec, by product.

    ``default_image``: what an engine runs whose spec names no image; None: nothing is known of it.
    """
    image = spec["engine"].get("image") or default_image
    if image is None:
        return {}
    products = {key.product for key in calibrations if key.model == spec["model"]["name"]}
    return {
        product: calibrations[key]
        for product in sorted(products)
        if (key := calibration_key(spec, product, image)) in calibrations
    }
