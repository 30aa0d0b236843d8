"""What engines have measured of themselves, and what that says of the next placement.

An engine that was given a share of a whole device sizes its own KV pool: what it leaves for
the pool tells what everything else took. Read once per engine, from its ``/metrics``; kept in
the status of its ModelDeployment, so that it outlives the operator; used for every placement
of the same model, image and flags on the same kind of accelerator.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from memroute.footprint import Calibration, CalibrationKey, ReplicaFootprint
from memroute.footprint.calibration import measured_overhead_bytes
from memroute_kube import KubeObject
from memroute_kube.resources import ENGINE_PORT, LABEL_DEPLOYMENT, is_condition_true
from memroute_operator.device_metrics import parse_labels

LOGGER = logging.getLogger(__name__)
CACHE_CONFIG = "vllm:cache_config_info{"
MAX_KEPT = 16
# Measurements in one status: a handful of accelerators times a handful of flags.
MAX_DRIFT_RATIO = 0.10
"""Of the whole footprint: past it the estimate is worth a look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What one engine says of its KV pool."""

    num_blocks: int
    """Of one data-parallel rank, the null block included."""
    utilization_ratio: float


def parse_engine_page(text: str) -> EngineReport | None:
    """The report of a vLLM metrics page; None where the engine did not size its own pool."""
    for line in text.splitlines():
        if line.startswith(CACHE_CONFIG):
            labels = parse_labels(line)
            if labels.get("kv_cache_memory_bytes", "None") != "None":
                return None
            try:
                return EngineReport(
                    num_blocks=int(labels["num_gpu_blocks"]),
                    utilization_ratio=float(labels["gpu_memory_utilization"]),
                )
            except (KeyError, ValueError):
                return None
    return None


@dataclass(slots=True)
class EngineReports:
    """Reports by the pod's uid; None for an engine that has none to give."""

    by_pod: dict[str, EngineReport | None] = field(default_factory=dict)

    async def scrape(self, client: httpx.AsyncClient, pods: Iterable[KubeObject]) -> None:
        """Read every ready engine that was not read yet."""
        replicas = [
            pod for pod in pods if LABEL_DEPLOYMENT in (pod["metadata"].get("labels") or {})
        ]
        alive = {pod["metadata"]["uid"] for pod in replicas}
        self.by_pod = {uid: report for uid, report in self.by_pod.items() if uid in alive}
        unread = [
            pod
            for pod in replicas
            if pod["metadata"]["uid"] not in self.by_pod and is_condition_true(pod, "Ready")
        ]
        await asyncio.gather(*(self._read(client, pod) for pod in unread))

    async def _read(self, client: httpx.AsyncClient, pod: KubeObject) -> None:
        address = pod["status"].get("podIP")
        try:
            response = await client.get(f"http://{address}:{ENGINE_PORT}/metrics")
            response.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            LOGGER.info("engine gives no report pod=%s error=%r", pod["metadata"]["name"], error)
            return
        self.by_pod[pod["metadata"]["uid"]] = parse_engine_page(response.text)


def calibration_key(spec: Mapping[str, Any], product: str) -> CalibrationKey:
    """What must be equal for a measurement to count: taken from a ModelDeployment's spec."""
    memory, engine = spec["memory"], spec["engine"]
    flags = {
        "quantization": memory["quantization"],
        "kvCacheDtype": memory["kvCacheDtype"],
        "tensorParallelSize": spec["parallelism"]["tensorParallelSize"],
        "args": list(engine.get("args") or ()),
    }
    return CalibrationKey(
        model=spec["model"]["name"],
        engine=engine.get("image") or "default",
        flags=json.dumps(flags, sort_keys=True),
        product=product,
    )


def measure(
    spec: Mapping[str, Any],
    report: EngineReport,
    footprint: ReplicaFootprint,
    *,
    product: str,
    usable_bytes: int,
) -> Calibration | None:
    """The calibration that a report makes; None when it contradicts itself.

    ``footprint``: by the laws, not calibrated; ``usable_bytes``: of the engine's device.
    """
    overhead = measured_overhead_bytes(
        budget_bytes=int(report.utilization_ratio * usable_bytes),
        kv_cache_bytes=report.num_blocks * footprint.kv_layout.bytes_per_block,
        weights_bytes=footprint.weights.low,
    )
    if overhead is None:
        return None
    expected = footprint.peak_activation + footprint.cuda_graphs + footprint.non_torch
    return Calibration(
        key=calibration_key(spec, product),
        overhead_bytes=overhead,
        expected_overhead_bytes=expected.expected,
    )


def drift_ratio(calibration: Calibration, footprint: ReplicaFootprint) -> float:
    """How far the measurement is from the laws, of all that the replica was taken to need."""
    off = calibration.overhead_bytes - calibration.expected_overhead_bytes
    return off / footprint.total.expected


def read_calibrations(objects: Iterable[KubeObject]) -> dict[CalibrationKey, Calibration]:
    """All measurements that statuses hold."""
    found: dict[CalibrationKey, Calibration] = {}
    for obj in objects:
        for entry in obj.get("status", {}).get("calibrations") or ():
            key = CalibrationKey(
                model=entry["model"], engine=entry["engine"], flags=entry["flags"],
                product=entry["product"],
            )  # fmt: skip
            found[key] = Calibration(
                key=key,
                overhead_bytes=entry["overheadBytes"],
                expected_overhead_bytes=entry["expectedOverheadBytes"],
            )
    return found


def write_calibrations(
    calibrations: Mapping[CalibrationKey, Calibration],
) -> list[dict[str, Any]]:
    """Measurements as a status holds them, the oldest dropped past a handful."""
    return [
        {
            "model": one.key.model,
            "engine": one.key.engine,
            "flags": one.key.flags,
            "product": one.key.product,
            "overheadBytes": one.overhead_bytes,
            "expectedOverheadBytes": one.expected_overhead_bytes,
        }
        for one in list(calibrations.values())[-MAX_KEPT:]
    ]


def calibrations_of(
    spec: Mapping[str, Any],
    calibrations: Mapping[CalibrationKey, Calibration],
) -> dict[str, Calibration]:
    """The measurements that speak of this spec, by product."""
    products = {key.product for key in calibrations if key.model == spec["model"]["name"]}
    return {
        product: calibrations[key]
        for product in sorted(products)
        if (key := calibration_key(spec, product)) in calibrations
    }
