"""``python -m bench.footprint``: golden rows and start logs, exit status 1 when one is off."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.footprint.checkpoints import checkpoint_rows, slice_rows
from bench.footprint.golden import FixtureError, Row, compare
from bench.footprint.start_logs import Prediction, predictions

DEFAULT_FIXTURES = Path("tests/data/footprint")


def main() -> int:
    """Compare, print, and say whether all is as it should be."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.footprint",
        description="Footprints against vLLM's layouts, published sizes and start logs.",
    )
    parser.add_argument(
        "--fixtures", type=Path, default=DEFAULT_FIXTURES,
        help="folder with kv-layouts.json, model-sizes.json, model-configs/ and more "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    try:
        rows = list(compare(options.fixtures))
        checkpoints = list(checkpoint_rows(options.fixtures))
        slices = list(slice_rows(options.fixtures))
    except FixtureError as error:
        print(f"bench.footprint: {error}", file=sys.stderr)
        return 2
    starts = list(predictions())
    compared = [*rows, *checkpoints, *slices]
    num_rows = len(compared) + len(starts)
    num_off = sum(row.is_off for row in compared) + sum(start.is_off for start in starts)
    if options.output == "json":
        document = {
            "golden": [asdict(row) for row in rows],
            "checkpoints": [asdict(row) for row in checkpoints],
            "slices": [asdict(row) for row in slices],
            "start_logs": [
                asdict(start) | {"error_ratio": start.error_ratio, "is_off": start.is_off}
                for start in starts
            ],
        }
        print(json.dumps(document, indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else 180)
        console.print(_golden_table(rows, "Golden rows: layouts exact, sizes within 0.1 %"))
        console.print(_golden_table(checkpoints, "Checkpoints: sizes within 0.1 %, others exact"))
        console.print(_golden_table(slices, "MIG slices: never more, and within 3 %"))
        console.print(_start_table(starts))
        console.print(f"{num_rows} rows, {num_off} off")
    return int(num_off > 0)


def _golden_table(rows: list[Row], title: str) -> Table:
    table = Table(title=title)
    for name in ("model", "quantity"):
        table.add_column(name)
    for name in ("expected", "got", "error", ""):
        table.add_column(name, justify="right")
    for row in rows:
        error = "-" if row.error_ratio is None else f"{row.error_ratio:+.4%}"
        table.add_row(
            row.subject, row.quantity, _number(row.expected), _number(row.got), error,
            "OFF" if row.is_off else "ok",
        )  # fmt: skip
    return table


def _start_table(starts: list[Prediction]) -> Table:
    table = Table(
        title="Start logs of vLLM: tokens within 2 %, all within 6 %; others by their formulas"
    )
    table.add_column("setup")
    table.add_column("quantity")
    for name in ("logged", "memroute", "error", "range", "hf-mem", "kvfit", "KAITO", ""):
        table.add_column(name, justify="right")
    for start in starts:
        spread = "" if start.low is None else f"{start.low:.1f} to {start.high:.1f}"
        table.add_row(
            start.setup, start.quantity, _number(start.logged), _number(start.memroute),
            f"{start.error_ratio:+.1%}", spread,
            _with_error(start.hf_mem, start.logged), _with_error(start.kvfit, start.logged),
            _with_error(start.kaito, start.logged),
            "OFF" if start.is_off else "ok",
        )  # fmt: skip
    return table


def _with_error(value: float | None, logged: float) -> str:
    return "" if value is None else f"{value:.1f} ({value / logged - 1:+.0%})"


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


if __name__ == "__main__":
    sys.exit(main())
