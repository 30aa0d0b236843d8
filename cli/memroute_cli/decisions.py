"""``memroute decisions``: why a router sent, held or refused the last requests."""

import json
from enum import StrEnum
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

TIMEOUT_SECONDS = 5.0


class Output(StrEnum):
    """How it is told."""

    TABLE = "table"
    JSON = "json"


def decisions(
    request_id: Annotated[
        str | None,
        typer.Argument(help="of one request (x-request-id of its answer); else the last ones"),
    ] = None,
    router: Annotated[
        str, typer.Option(help="its operations port (kubectl port-forward brings it here)")
    ] = "http://localhost:8002",
    refused: Annotated[
        bool, typer.Option("--refused", help="those that were not served alone")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="how many requests, the last first")] = 20,
    output: Annotated[Output, typer.Option(help="for people, or for programs")] = Output.TABLE,
) -> None:
    """Why requests went where they went, waited, or were refused; and how the replicas stand.

    A router remembers the last 256 requests that were served, that were refused, that failed, and
    that the client got wrong. Of several routers each knows its own. Why a model's replicas are
    where they are is told by `memroute explain MODEL`.
    """
    found = _fetch(router, "/debug/decisions")
    replicas = _fetch(router, "/debug/replicas")
    waiting = _fetch(router, "/debug/queue")
    if request_id is not None:
        found = [one for one in found if one.get("request_id") == request_id]
        if not found:
            typer.echo(
                f"memroute decisions: the router at {router} remembers no request {request_id!r} "
                "(another router, or more than 256 of its kind ago)",
                err=True,
            )
            raise typer.Exit(1)
    if refused:
        found = [one for one in found if one.get("outcome") != "served"]
    found = found[:limit]
    if output is Output.JSON:
        typer.echo(
            json.dumps({"decisions": found, "queue": waiting, "replicas": replicas}, indent=1)
        )
        return
    console = Console(soft_wrap=False)
    console.print(_decisions(found))
    if waiting:
        console.print(_queue(waiting[:limit], len(waiting)))
    console.print(_replicas(replicas))


def _fetch(router: str, path: str) -> list[dict[str, Any]]:
    url = router.rstrip("/") + path
    try:
        answer = httpx.get(url, timeout=TIMEOUT_SECONDS, trust_env=False)
        answer.raise_for_status()
        rows = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        typer.echo(f"memroute decisions: {url}: {error}", err=True)
        raise typer.Exit(2) from None
    if not isinstance(rows, list):
        typer.echo(f"memroute decisions: {url} is no memroute router", err=True)
        raise typer.Exit(2)
    return rows


def _decisions(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="requests, the last first")
    for name in ("request", "model", "outcome", "replica", "waited s", "reserved", "why"):
        table.add_column(name, overflow="fold")
    for row in rows:
        waited = row.get("queue_seconds")
        table.add_row(
            str(row.get("request_id", "-")),
            str(row.get("model", "-")),
            f"{row.get('status', '-')} {row.get('outcome', '-')}",
            str(row.get("replica", "-")),
            "-" if waited is None else f"{waited:.3f}",
            str(row.get("expected_tokens", "-")),
            str(row.get("why", "-")),
        )
    return table


def _queue(rows: list[dict[str, Any]], num_waiting: int) -> Table:
    table = Table(title=f"{num_waiting} request(s) wait now, the longest first")
    for name in ("request", "model", "tenant", "waited s", "reserved", "why"):
        table.add_column(name, overflow="fold")
    for row in sorted(rows, key=lambda row: -(row.get("waited_seconds") or 0.0)):
        waited = row.get("waited_seconds")
        table.add_row(
            str(row.get("request_id", "-")),
            str(row.get("model", "-")),
            str(row.get("tenant") or "-"),
            "-" if waited is None else f"{waited:.3f}",
            str(row.get("expected_tokens", "-")),
            str(row.get("why", "-")),
        )
    return table


def _replicas(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="replicas now")
    columns = (
        "replica", "model", "state", "in flight", "held", "projected", "capacity",
        "prompt tokens waiting", "prefill tokens/s", "s/token", "reading age s",
    )  # fmt: skip
    for name in columns:
        table.add_column(name, justify="left" if name in {"replica", "model", "state"} else "right")
    for row in rows:
        state = "out" if row.get("is_out") else "ready" if row.get("is_routable") else "not ready"
        table.add_row(
            str(row.get("replica", "-")),
            str(row.get("model", "-")),
            state,
            *(
                "-" if row.get(name) is None else f"{row[name]:,}"
                for name in (
                    "num_in_flight", "held_tokens", "projected_tokens", "capacity_tokens",
                    "pending_tokens", "prefill_tokens_per_second", "step_seconds",
                    "reading_age_seconds",
                )
            ),
        )  # fmt: skip
    return table
