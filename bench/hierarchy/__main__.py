"""``python -m bench.hierarchy``: fetching against computing, ten times, and published figures.

Exit status 1 where a published figure is missed by more than a quarter.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from memroute.bandwidth import StepTime
from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.footprint import Parallelism, Quantization, ReplicaShape
from memroute.hierarchy import FetchOrCompute, host_link_by_name, host_link_of, kv_tier
from memroute.units import GIB

MOST_ERROR = 0.25
LLAMA, QWEN = "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B"
TIER_BYTES = 100 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model on a device behind a link."""

    model: str
    accelerator: str
    link: str | None = None
    """None: the accelerator's."""
    tensor_parallel_size: int = 1
    block_size_tokens: int | None = None
    quantization: Quantization = Quantization.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One measurement: what was timed, over how many tokens."""

    case: Case
    what: str
    """``fetch`` or ``compute``, to the first token."""
    num_tokens: int
    milliseconds: float
    source: str


CASES = (
    Case(model=LLAMA, accelerator="H100"),
    Case(model=LLAMA, accelerator="H100", block_size_tokens=512),
    Case(model=LLAMA, accelerator="A100-80"),
    Case(model=LLAMA, accelerator="L40S"),
    Case(model=LLAMA, accelerator="L4"),
    Case(model=LLAMA, accelerator="GB200"),
    Case(model=QWEN, accelerator="H100", tensor_parallel_size=2),
    Case(model=QWEN, accelerator="H200", link="pcie5"),
    Case(model="meta-llama/Llama-3.3-70B-Instruct", accelerator="H100", tensor_parallel_size=8),
    Case(model="Qwen/Qwen3-30B-A3B", accelerator="A100-80"),
)
_BLOG = "vLLM's blog, 2026-01-08, figure 1"
_FIGURE_1 = (
    (1024, 29, 14), (10_240, 265, 40), (20_480, 640, 70), (29_696, 1100, 103),
    (49_664, 2295, 160), (99_840, 6860, 310),
)  # fmt: skip
PUBLISHED = tuple(
    Published(case=CASES[1], what=what, num_tokens=tokens, milliseconds=value, source=_BLOG)
    for tokens, compute, fetch in _FIGURE_1
    for what, value in (("compute", compute), ("fetch", fetch))
)


def ways(case: Case) -> FetchOrCompute:
    """Both ways of one case. Raises ``LookupError`` for a name that the catalogue lacks."""
    accelerator = accelerator_by_name(case.accelerator)
    if accelerator is None:
        raise LookupError(case.accelerator)
    link = host_link_of(accelerator) if case.link is None else host_link_by_name(case.link)
    if link is None:
        raise LookupError(f"the link of {case.accelerator}")  # noqa: TRY003, EM102 - a bench's own
    shape = ReplicaShape(
        architecture=architecture_for_model(case.model),
        max_context_tokens=32_768,
        concurrency=1,
        quantization=case.quantization,
        tensor_parallel_size=case.tensor_parallel_size,
        max_num_batched_tokens=8192,
        block_size_tokens=case.block_size_tokens,
    )
    return FetchOrCompute(
        tier=kv_tier(shape, TIER_BYTES),
        link=link.shared_by(case.tensor_parallel_size),
        step_time=StepTime.of(
            shape.architecture,
            accelerator,
            quantization=case.quantization,
            parallelism=Parallelism(tensor_parallel_size=case.tensor_parallel_size),
        ),
        max_num_batched_tokens=shape.max_num_batched_tokens,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.hierarchy", description=__doc__)
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args(argv)
    rows = [_break_even(case) for case in CASES]
    compared = [_compared(one) for one in PUBLISHED]
    if options.output == "json":
        print(json.dumps({"breakEvens": rows, "published": compared}, indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else 110)
        console.print(_table("From how many tokens on fetching beats computing", rows))
        console.print(_table("Against published figures", compared))
        console.print(
            "Published break-evens are rare: about 430 tokens for the second row, computed from "
            "the figure's own two lines; the other rows have none to compare with."
        )
    return int(any(abs(float(row["error"].rstrip("%"))) > 100 * MOST_ERROR for row in compared))


def _break_even(case: Case) -> dict[str, str]:
    both = ways(case)
    found = both.break_even_tokens(32_768)
    saved = "-"
    if found is not None:
        saved = f"{both.compute_seconds(8192) / both.fetch_seconds(8192):.1f}"
    return {
        "model": case.model.rpartition("/")[2],
        "on": f"{case.tensor_parallel_size} x {case.accelerator}",
        "link": both.link.name,
        "copy KiB": f"{both.tier.page_bytes / 1024:.0f}",
        "us per token, fetch": f"{1e6 * both.tier.load_seconds(8192, both.link) / 8192:.1f}",
        "compute": f"{1e6 * both.compute_seconds(8192) / 8192:.1f}",
        "break-even tokens": "never" if found is None else f"{found:,}",
        "faster at 8k": saved,
    }


def _compared(one: Published) -> dict[str, str]:
    both = ways(one.case)
    seconds = getattr(both, f"{one.what}_seconds")(one.num_tokens)
    return {
        "what": one.what,
        "tokens": f"{one.num_tokens:,}",
        "published ms": f"{one.milliseconds:.0f}",
        "here ms": f"{1e3 * seconds:.0f}",
        "error": f"{100 * (1e3 * seconds / one.milliseconds - 1):+.0f}%",
        "source": one.source,
    }


def _table(title: str, rows: Sequence[dict[str, str]]) -> Table:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*row.values())
    return table


if __name__ == "__main__":
    sys.exit(main())
