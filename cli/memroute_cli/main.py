"""The command line. What a command needs is imported when it is called.

```text
memroute plan        plan/command.py       what fits where
memroute simulate    simulate/command.py   how a fleet would serve a workload
memroute doctor      doctor/command.py     whether an installation works
memroute top         cluster/commands.py   where the memory of a cluster is
memroute explain     cluster/commands.py   why a model's replicas are where they are
memroute decisions   decisions/command.py  why a router did what with requests
memroute demo        demo/command.py       all of it, without a GPU
```
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import typer

from memroute import __version__
from memroute_cli.terminal.commands import LazyCommand, LazyGroup

COMMANDS = {
    "plan": LazyCommand(
        "memroute_cli.plan.command", "plan",
        "Does a model fit, on which accelerators, for how many users, how fast, at what price?",
    ),
    "simulate": LazyCommand(
        "memroute_cli.simulate.command", "simulate",
        "How would a fleet serve a workload? Latencies, goodput, KV use, without GPUs.",
    ),
    "doctor": LazyCommand(
        "memroute_cli.doctor.command", "doctor",
        "Does this installation work? What is missing, and the next step for each.",
    ),
    "top": LazyCommand(
        "memroute_cli.cluster.commands", "top",
        "Where the HBM of the fleet is: promised, in use, used by others, free, in GiB.",
    ),
    "explain": LazyCommand(
        "memroute_cli.cluster.commands", "explain",
        "Why a model's replicas are where they are, why not elsewhere, and what would help.",
    ),
    "decisions": LazyCommand(
        "memroute_cli.decisions.command", "decisions",
        "Why requests went where they went, waited, or were refused.",
    ),
    "demo": LazyCommand(
        "memroute_cli.demo.command", "demo",
        "Run memroute on emulated GPU nodes: a real control plane, real traffic, no GPU.",
    ),
}  # fmt: skip


class Root(LazyGroup):
    """``memroute``."""

    lazy: ClassVar[Mapping[str, LazyCommand]] = COMMANDS


app = typer.Typer(
    name="memroute",
    cls=Root,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"memroute {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="The version of memroute."
        ),
    ] = False,
) -> None:
    """memroute: a Kubernetes memory-aware routing operator for LLM inference."""


def main() -> None:
    """Run the command line."""
    app(prog_name="memroute")
