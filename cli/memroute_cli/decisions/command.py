"""``memroute decisions``: its options. The work is in ``program.py``.

Exit status 0: told; 1: no such request is remembered; 2: no router can be asked.
"""

from typing import Annotated

import typer

from memroute_cli.terminal.errors import told_errors
from memroute_cli.terminal.output import Output, OutputOption, WideOption
from memroute_cli.terminal.quantities import whole


def decisions(
    request_id: Annotated[
        str | None,
        typer.Argument(
            metavar="REQUEST",
            parser=str,
            help="All of one request (x-request-id of its answer). Default: a line for each of "
            "the last ones.",
            show_default=False,
        ),
    ] = None,
    *,
    router: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Its operations port, or an endpoint picker's (kubectl port-forward brings it "
            "here).",
        ),
    ] = "http://localhost:8002",
    refused: Annotated[
        bool, typer.Option("--refused", help="Those alone that were not served.")
    ] = False,
    limit: Annotated[
        int, typer.Option(parser=whole(1), metavar="N", help="How many requests, the last first.")
    ] = 20,
    output: OutputOption = Output.TABLE,
    wide: WideOption = False,
) -> None:
    """Why requests went where they went, waited, or were refused.

    Also who waits now, and how the replicas stand. A router remembers the last 256 requests that
    were served, that were refused, that failed, and that the client got wrong. Of several routers
    each knows its own. Why a model's replicas are where they are is told by `memroute explain
    MODEL`.
    """
    with told_errors("decisions"):
        from memroute_cli.decisions.program import run

        is_found = run(
            router, request_id, only_refused=refused, limit=limit, output=output, is_wide=wide
        )
        raise typer.Exit(0 if is_found else 1)
