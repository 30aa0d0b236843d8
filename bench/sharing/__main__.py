"""``python -m bench.sharing``: the published table of sharing beside the prediction.

Exit status 1 when a load is more than 15 % off.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from bench.sharing.published import Row, load_with, pays_up_to, rows, step_time
from memroute.bandwidth import SharingMechanism, kept_ratios


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.sharing", description=__doc__)
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args(argv)
    law = step_time()
    found = list(rows(law))
    if options.output == "json":
        print(json.dumps(
            [asdict(row) | {"tokens_error_ratio": row.tokens_error_ratio,
                            "kept_error_ratio": row.kept_error_ratio} for row in found], indent=1,
        ))  # fmt: skip
        return int(any(row.is_off for row in found))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_table(found))
    worst = max(max(abs(r.tokens_error_ratio), abs(r.kept_error_ratio)) for r in found)
    num_off = sum(row.is_off for row in found)
    console.print(f"{len(found)} loads, {num_off} further off than 15 %, worst {worst:.1%}")
    for mechanism in SharingMechanism:
        one = load_with(law, 8)
        pair = sum(kept_ratios([one, one], mechanism))
        limit = pays_up_to(law, mechanism, 8)
        console.print(
            f"{mechanism.value}: a pair with 8 requests each makes {pair:.2f} times what "
            f"one engine makes on the card alone; each loses nothing while it has work up to "
            f"{limit:.0%} of the time"
        )
    return int(bool(num_off))


def _table(found: Sequence[Row]) -> Table:
    table = Table(title="two Qwen3-4B on one A100-40, tokens/s of the card and share kept")
    for name in ("requests per card", "mechanism", "tokens/s", "published", "error", "kept",
                 "published", "error", "kept, no prefix hits", ""):  # fmt: skip
        table.add_column(name, justify="left" if name == "mechanism" else "right")
    for row in found:
        table.add_row(
            str(row.requests_per_card), row.mechanism, f"{row.tokens_per_second:,.1f}",
            f"{row.published_tokens_per_second:,.1f}", f"{row.tokens_error_ratio:+.1%}",
            f"{row.kept_ratio:.1%}", f"{row.published_kept_ratio:.1%}",
            f"{row.kept_error_ratio:+.1%}", f"{row.cold_kept_ratio:.1%}",
            "OFF" if row.is_off else "ok",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    sys.exit(main())
