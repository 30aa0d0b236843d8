"""What `memroute plan --list` shows: models and accelerators of the catalogue."""

from memroute.catalog import ACCELERATORS, MODELS, architecture_for_model
from memroute.footprint import num_parameters
from memroute.units import format_gib
from memroute_cli.terminal.console import open_console
from memroute_cli.terminal.output import Output, write
from memroute_cli.terminal.table import Column, Table

UNKNOWN = "-"


def show_known(output: Output) -> None:
    """Print both lists."""
    if output is not Output.TABLE:
        write(_document(), output)
        return
    console = open_console()
    console.print(_models(), "", _accelerators(), sep="\n")


def _models() -> Table:
    rows = []
    for name in MODELS:
        one = architecture_for_model(name)
        longest = UNKNOWN if one.max_context_tokens is None else f"{one.max_context_tokens:,}"
        rows.append((name, f"{num_parameters(one) / 1e9:.1f}B", longest))
    columns = (
        Column(name="MODEL", least=24),
        Column(name="PARAMETERS", is_number=True),
        Column(name="CONTEXT TOKENS", is_number=True),
    )
    return Table(columns, tuple(rows))


def _accelerators() -> Table:
    rows = [
        (
            row.name, format_gib(row.usable_bytes),
            f"{row.bandwidth_bytes_per_second / 1e9:,.0f} GB/s",
            f"{row.bf16_flops / 1e12:,.0f} TFLOP/s", row.vendor,
        )
        for row in ACCELERATORS
    ]  # fmt: skip
    columns = (
        Column(name="ACCELERATOR", least=16),
        Column(name="USABLE", is_number=True),
        Column(name="BANDWIDTH", is_number=True),
        Column(name="BF16", is_number=True),
        Column(name="VENDOR"),
    )
    return Table(columns, tuple(rows))


def _document() -> dict[str, object]:
    models = []
    for name in MODELS:
        one = architecture_for_model(name)
        models.append(
            {
                "name": name,
                "parameters": num_parameters(one),
                "contextTokens": one.max_context_tokens,
            }
        )
    accelerators = [
        {
            "name": row.name, "vendor": row.vendor, "usableBytes": row.usable_bytes,
            "bandwidthBytesPerSecond": row.bandwidth_bytes_per_second,
            "bf16Flops": row.bf16_flops,
        }
        for row in ACCELERATORS
    ]  # fmt: skip
    return {"models": models, "accelerators": accelerators}
