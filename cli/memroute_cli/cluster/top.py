"""The work of ``memroute top``: what is promised, observed, others' and free, now or live."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live

from memroute.closeness import did_you_mean
from memroute_cli.cluster import tables
from memroute_cli.cluster.commands import What
from memroute_cli.cluster.looking import LookError, look
from memroute_cli.cluster.usage import (
    DEVICE_SORTS,
    MODEL_SORTS,
    NODE_SORTS,
    Usage,
    document,
    sorted_by,
    usage_of,
)
from memroute_cli.terminal.console import open_console
from memroute_cli.terminal.output import Output, write

# A look takes a second on a large cluster, and the operator tells what it has read every 15 s.
LEAST_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was typed after ``memroute top``."""

    what: What
    namespace: str | None
    sort_by: str
    interval_seconds: float | None
    """None: one look."""
    output: Output
    is_wide: bool
    kubeconfig: Path | None
    operator_namespace: str


def run(asked: Look) -> None:
    """Show it, once or again and again. Raises ``LookError``."""
    what = asked.what
    _check(what, asked.sort_by)
    interval = asked.interval_seconds
    if interval is not None and interval < LEAST_INTERVAL_SECONDS:
        msg = f"--interval {interval:g}: at least {LEAST_INTERVAL_SECONDS:g} second"
        raise LookError(msg)

    def usage() -> Usage:
        seen = look(kubeconfig=asked.kubeconfig, operator_namespace=asked.operator_namespace)
        return sorted_by(usage_of(seen.picture, seen.notes, asked.namespace), asked.sort_by)

    if asked.output is not Output.TABLE:
        write(_document(usage(), what), asked.output)
        return
    console = open_console(is_wide=asked.is_wide)
    if interval is None:
        console.print(shown(usage(), what, is_wide=asked.is_wide))
    else:
        watched(console, lambda: shown(usage(), what, is_wide=asked.is_wide), interval)


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


def shown(usage: Usage, what: What, *, is_wide: bool = False) -> RenderableType:
    """One view of a usage, in its order."""
    if what is What.SUMMARY:
        return tables.summary(usage, is_wide=is_wide)
    tabled: dict[What, Callable[[], RenderableType]] = {
        What.NODES: lambda: tables.nodes_table(usage.nodes, is_wide=is_wide),
        What.DEVICES: lambda: tables.devices_table(usage.devices, is_wide=is_wide),
        What.MODELS: lambda: tables.models_table(usage.models, is_wide=is_wide),
    }
    return Group(tables.heading(usage), "", tabled[what]())


def _check(what: What, sort_by: str) -> None:
    known = {
        What.SUMMARY: {"name": NODE_SORTS["name"]},
        What.NODES: NODE_SORTS,
        What.DEVICES: DEVICE_SORTS,
        What.MODELS: MODEL_SORTS,
    }[what]
    if sort_by not in known:
        hint = did_you_mean(sort_by, known)
        msg = f"--sort-by {sort_by}: for {what.value} one of {', '.join(known)}{hint}"
        raise LookError(msg)


def _document(usage: Usage, what: What) -> dict[str, Any]:
    whole = document(usage)
    if what is What.SUMMARY:
        return whole
    return {name: whole[name] for name in ("observedAgeSeconds", "notes", what.value)}
