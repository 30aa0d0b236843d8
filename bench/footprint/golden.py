"""Golden rows: KV layouts that vLLM computed, sizes that transformers and repositories give.

The folder holds ``kv-layouts.json``, ``model-sizes.json`` and ``model-configs/``; what a
field means is in the folder's README.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memroute.errors import MemrouteError
from memroute.footprint import (
    KVCacheDtype,
    KVCacheLayout,
    ModelArchitecture,
    Parallelism,
    StateCacheMode,
    architecture_from_config,
    kv_cache_layout,
    num_parameters,
    weights_bytes,
)
from memroute.footprint.weights import mtp_bytes_per_rank
from memroute.units import GIB

MAX_SIZE_ERROR_RATIO = 0.001
DEFAULT_BATCHED_TOKENS = 8192
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class FixtureError(Exception):
    """The folder is not what it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison."""

    subject: str
    quantity: str
    expected: float | str
    got: float | str
    error_ratio: float | None
    """None where nothing could be computed."""
    is_off: bool


def compare(folder: Path) -> Iterator[Row]:
    """All rows of a folder. Raises ``FixtureError`` when files are missing or no JSON."""
    for layout in _read(folder / "kv-layouts.json"):
        yield from _compare_layout(folder, layout)
    for size in _read(folder / "model-sizes.json"):
        yield from _compare_size(folder, size)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        msg = f"{path}: {error}"
        raise FixtureError(msg) from error
    if not isinstance(rows, list):
        msg = f"{path}: a list of rows is wanted"
        raise FixtureError(msg)
    return rows


def _architecture(folder: Path, row: dict[str, Any]) -> ModelArchitecture:
    config = row.get("config") or f"{row['model'].replace('/', '--')}.json"
    if isinstance(config, str):
        path = folder / "model-configs" / config
        try:
            config = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            msg = f"{path}: {error}"
            raise FixtureError(msg) from error
    return architecture_from_config(config)


def _compare_layout(folder: Path, row: dict[str, Any]) -> Iterator[Row]:
    try:
        layout = _layout(folder, row)
    except (MemrouteError, ValueError) as error:
        yield _failed(row, "layout", error)
        return
    pool, context = int(row["avail_GiB"] * GIB), row["max_model_len"]
    got = {
        "layers": layout.num_layers,
        "groups": len(layout.groups),
        "bytes_per_block": layout.bytes_per_block,
        "blocks_per_max_len_req": layout.blocks_for(context),
        "bytes_per_max_len_req": layout.bytes_for(context),
        "num_blocks": layout.num_blocks_in(pool),
        "kv_cache_size_tokens": layout.reported_tokens(pool, context),
        "max_concurrency": round(layout.max_concurrency(pool, context), 3),
    }
    for quantity, value in got.items():
        if row.get(quantity) is not None:
            yield _row(row["model"], quantity, row[quantity], value, tolerance=0.0)


def _layout(folder: Path, row: dict[str, Any]) -> KVCacheLayout:
    return kv_cache_layout(
        _architecture(folder, row),
        kv_cache_dtype=KVCacheDtype(row.get("kv_cache_dtype", "auto")),
        parallelism=Parallelism(
            tensor_parallel_size=row.get("tensor_parallel_size", 1),
            pipeline_parallel_size=row.get("pipeline_parallel_size", 1),
        ),
        max_num_batched_tokens=row.get("max_num_batched_tokens", DEFAULT_BATCHED_TOKENS),
        state_cache_mode=StateCacheMode(row.get("mamba_cache_mode", "align")),
        state_dtype_bytes=DTYPE_BYTES.get(row.get("mamba_ssm_cache_dtype") or ""),
    )


def _compare_size(folder: Path, row: dict[str, Any]) -> Iterator[Row]:
    try:
        architecture = _architecture(folder, row)
        parameters = num_parameters(architecture)
        # Files hold the prediction layers, which engines load only to speculate.
        loaded = weights_bytes(architecture)
        stored = loaded + mtp_bytes_per_rank(architecture)
    except (MemrouteError, ValueError) as error:
        yield _failed(row, "params", error)
        return
    yield _row(row["model"], "params", row["params"], parameters, tolerance=MAX_SIZE_ERROR_RATIO)
    if "bf16_bytes" in row:
        got = 2 * parameters
        yield _row(row["model"], "bf16_bytes", row["bf16_bytes"], got, MAX_SIZE_ERROR_RATIO)
    if "checkpoint_bytes" in row:
        expected = row["checkpoint_bytes"]
        got = min(loaded, stored, key=lambda size: abs(size - expected))
        yield _row(row["model"], "checkpoint_bytes", expected, got, MAX_SIZE_ERROR_RATIO)


def _row(subject: str, quantity: str, expected: float, got: float, tolerance: float) -> Row:
    error = (got - expected) / expected if expected else float(got != expected)
    return Row(
        subject=subject,
        quantity=quantity,
        expected=expected,
        got=got,
        error_ratio=error,
        is_off=abs(error) > tolerance,
    )


def _failed(row: dict[str, Any], quantity: str, error: Exception) -> Row:
    return Row(
        subject=row["model"],
        quantity=quantity,
        expected="a number",
        got=str(error),
        error_ratio=None,
        is_off=True,
    )
