"""Rows of checkpoints that people serve, and of MIG slices: each with its right value.

``checkpoint-formats.json``: a configuration, what lies beside it, and what is to come out;
``mig-slices.json``: what ``nvidia-smi mig -lgip`` says of a slice, which is never exceeded.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.footprint.golden import FixtureError, Row
from memroute.catalog import accelerator_by_name
from memroute.errors import MemrouteError
from memroute.footprint import ModelArchitecture, architecture_from_config, kv_cache_layout
from memroute.footprint.weights import stored_formats, weights_per_rank
from memroute.footprint.weights.beside import with_quantization
from memroute.units import GIB

MAX_SIZE_ERROR_RATIO = 0.001
# How far below what a slice reports its planned size may be: of several drivers the least counts.
MAX_SLICE_ERROR_RATIO = 0.03
# Bytes are whole, and a hundredth of a GiB is not: less than this is the same.
ROUNDING = 1e-9


def checkpoint_rows(folder: Path) -> Iterator[Row]:
    """What comes out for each checkpoint. Nothing where the folder has none."""
    for row in _read(folder / "checkpoint-formats.json"):
        try:
            config = with_quantization(row["config"], row.get("beside") or {})
            architecture = architecture_from_config(config)
            got = _outcome(architecture, row["expected"])
        except MemrouteError as error:
            yield Row(
                subject=row["model"], quantity="checkpoint", expected="a number", got=str(error),
                error_ratio=None, is_off=True,
            )  # fmt: skip
            continue
        for quantity, expected in row["expected"].items():
            yield _row(row["model"], quantity, expected, got[quantity])


def _outcome(architecture: ModelArchitecture, asked: dict[str, Any]) -> dict[str, Any]:
    estimate = weights_per_rank(architecture)
    text_bytes = estimate.bytes_per_rank - estimate.vision_bytes
    found = {
        "format": stored_formats(architecture).name,
        "weights_bytes": estimate.bytes_per_rank,
        "weights_gib": estimate.bytes_per_rank / GIB,
        "text_bytes": text_bytes,
        "is_vision_exact": estimate.is_vision_exact,
        "kv_bytes_per_token": kv_cache_layout(architecture).bytes_per_token,
        "max_context_tokens": architecture.max_context_tokens,
    }
    return {quantity: found[quantity] for quantity in asked}


def _row(subject: str, quantity: str, expected: Any, got: Any) -> Row:
    if isinstance(expected, bool | str) or got is None:
        is_off = got != expected
        return Row(
            subject=subject, quantity=quantity, expected=str(expected), got=str(got),
            error_ratio=None, is_off=is_off,
        )  # fmt: skip
    error = (got - expected) / expected
    tolerance = MAX_SIZE_ERROR_RATIO if quantity.startswith(("weights", "text")) else 0.0
    return Row(
        subject=subject, quantity=quantity, expected=expected, got=got, error_ratio=error,
        is_off=abs(error) > tolerance,
    )  # fmt: skip


def slice_rows(folder: Path) -> Iterator[Row]:
    """What a slice is taken for, beside what it reports: never more."""
    for row in _read(folder / "mig-slices.json"):
        found = accelerator_by_name(row["slice"])
        expected = row["reported_gib"]
        got = None if found is None else found.reported_bytes / GIB
        error = None if got is None else (got - expected) / expected
        yield Row(
            subject=row["slice"], quantity="reported_gib, at the most", expected=expected,
            got="unknown" if got is None else got, error_ratio=error,
            is_off=error is None or not -MAX_SLICE_ERROR_RATIO <= error <= ROUNDING,
        )  # fmt: skip


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        msg = f"{path}: {error}"
        raise FixtureError(msg) from error
    return list(rows)
