"""``memroute top``: what is promised, observed, others' and free, now or live.

Exit status 0: shown; 2: nothing can be shown, with the reason.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live

from memroute_cli.cluster import tables
from memroute_cli.cluster.looking import OPERATOR_NAMESPACE, LookError, look
from memroute_cli.cluster.usage import (
    DEVICE_SORTS,
    MODEL_SORTS,
    NODE_SORTS,
    Usage,
    document,
    sorted_by,
    usage_of,
)

WIDTH_WITHOUT_TERMINAL = 80


class What(StrEnum):
    """What is listed."""

    SUMMARY = "summary"
    NODES = "nodes"
    DEVICES = "devices"
    MODELS = "models"


class Output(StrEnum):
    """How it is told."""

    TABLE = "table"
    JSON = "json"


def top(
    what: Annotated[What, typer.Argument(help="What is listed.")] = What.SUMMARY,
    *,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Models of this namespace alone.")
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Models of all namespaces: the default.")
    ] = False,
    sort_by: Annotated[
        str,
        typer.Option(
            help="nodes and devices: name, free, promised, observed, foreign; models: name, hbm, "
            "kv, waiting, missing."
        ),
    ] = "name",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C, on one screen.")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=1.0, help="With --watch: seconds between two looks.")
    ] = 5.0,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="For people, or for programs.")
    ] = Output.TABLE,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Default: KUBECONFIG, else ~/.kube/config.")
    ] = None,
    operator_namespace: Annotated[
        str, typer.Option(help="Where the operator runs and tells what it has read.")
    ] = OPERATOR_NAMESPACE,
) -> None:
    """Where the HBM of the fleet is: promised, in use, used by others, free, in GiB.

    By a kubeconfig alone. What is in use, and how full KV caches are, is what the operator has
    read last; how long ago is said. `-` is what nobody knows.
    """
    try:
        _check(what, sort_by)

        def usage() -> Usage:
            seen = look(kubeconfig=kubeconfig, operator_namespace=operator_namespace)
            scope = None if all_namespaces else namespace
            return sorted_by(usage_of(seen.picture, seen.notes, scope), sort_by)

        if output is Output.JSON:
            sys.stdout.write(json.dumps(_document(usage(), what), indent=1) + "\n")
            return
        columns = os.environ.get("COLUMNS", "")
        usual = int(columns) if columns.isdecimal() else WIDTH_WITHOUT_TERMINAL
        console = Console(width=None if sys.stdout.isatty() else usual, highlight=False)
        if not watch:
            console.print(shown(usage(), what))
            return
        watched(console, lambda: shown(usage(), what), interval)
    except LookError as error:
        print(f"memroute top: {error}", file=sys.stderr)  # noqa: T201 - what a person reads
        raise typer.Exit(2) from None


def watched(
    console: Console,
    render: Callable[[], RenderableType],
    interval_seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show it again and again until Ctrl-C. Raises ``LookError`` where the first look fails.

    A later one that fails is told above what was seen last.
    """
    looks = _looks(render, interval_seconds, sleep)
    first = next(looks)
    with suppress(KeyboardInterrupt):
        if console.is_terminal:
            with Live(first, console=console, auto_refresh=False, screen=True) as live:
                for told in looks:
                    live.update(told, refresh=True)
        else:  # into a file or a pipe: one after the other
            console.print(first)
            for told in looks:
                console.print("", told)


def _looks(
    render: Callable[[], RenderableType], interval_seconds: float, sleep: Callable[[float], None]
) -> Iterator[RenderableType]:
    """What is seen, for ever. Raises ``LookError`` where the first look fails."""
    last = render()
    yield last
    while True:
        sleep(interval_seconds)
        try:
            last = render()
        except LookError as error:
            clock = datetime.now(UTC).strftime("%H:%M:%S")
            yield Group(f"{clock} UTC: {error}; as it was before:", last)
        else:
            yield last


def shown(usage: Usage, what: What) -> RenderableType:
    """One view of a usage, in its order."""
    if what is What.SUMMARY:
        return tables.summary(usage)
    table = {
        What.NODES: lambda: tables.nodes_table(usage.nodes),
        What.DEVICES: lambda: tables.devices_table(usage.devices),
        What.MODELS: lambda: tables.models_table(usage.models),
    }[what]()
    return Group(tables.heading(usage), "", table)


def _check(what: What, sort_by: str) -> None:
    known = {
        What.SUMMARY: {"name": NODE_SORTS["name"]},
        What.NODES: NODE_SORTS,
        What.DEVICES: DEVICE_SORTS,
        What.MODELS: MODEL_SORTS,
    }[what]
    if sort_by not in known:
        msg = f"--sort-by {sort_by}: for {what.value} one of {', '.join(known)}"
        raise LookError(msg)


def _document(usage: Usage, what: What) -> dict[str, Any]:
    whole = document(usage)
    if what is What.SUMMARY:
        return whole
    return {name: whole[name] for name in ("observedAgeSeconds", "notes", what.value)}
