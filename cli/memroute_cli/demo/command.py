"""``memroute demo``: its options. The work is in ``program.py``."""

from pathlib import Path
from typing import Annotated

import typer

from memroute_cli.terminal.quantities import seconds as time_of
from memroute_cli.terminal.quantities import whole


def demo(
    *,
    seconds: Annotated[
        float,
        typer.Option(
            parser=time_of, metavar="TIME", help="How long to send traffic (60, 2m); 0 sends none."
        ),
    ] = 60.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running afterwards, until Ctrl-C.")
    ] = False,
    seed: Annotated[
        int, typer.Option(parser=whole(), metavar="N", help="Seed of the traffic.")
    ] = 0,
    gateway: Annotated[
        bool,
        typer.Option(
            "--gateway",
            help="The same traffic through Envoy, which asks memroute's picker where to send it.",
        ),
    ] = False,
    envoy: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Of Envoy, with --gateway (default: in .venv-picker, else the one on PATH).",
        ),
    ] = None,
) -> None:
    """Run memroute on emulated GPU nodes: a real control plane, real traffic, no GPU.

    Exit status 0 only if everything that the summary checks is true.
    """
    if seconds < 0:
        msg = f"--seconds {seconds:g}: 0 or more"
        raise typer.BadParameter(msg)
    if envoy is not None and not gateway:
        msg = "--envoy is for --gateway"
        raise typer.BadParameter(msg)
    # Before what takes long to import: nobody should wonder whether it runs.
    typer.echo("memroute on this machine: a control plane, five emulated GPU nodes, traffic")
    from memroute_cli.demo.program import demo as run

    run(seconds=seconds, keep=keep, seed=seed, gateway=gateway, envoy=envoy)
