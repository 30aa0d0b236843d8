"""The command line: ``plan``, ``top``, ``explain``, ``decisions``, ``simulate``, ``demo``."""

import typer

from memroute_cli.cluster.explain import explain
from memroute_cli.cluster.top import top
from memroute_cli.decisions import decisions
from memroute_cli.demo.command import demo
from memroute_cli.plan.command import plan
from memroute_cli.simulate.command import simulate

app = typer.Typer(
    name="memroute",
    help="memroute: a Kubernetes memory-aware routing operator for LLM inference.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(name="plan")(plan)
app.command(name="top")(top)
app.command(name="explain")(explain)
app.command(name="decisions")(decisions)
app.command(name="simulate")(simulate)
app.command(name="demo")(demo)


@app.callback()
def _root() -> None:
    """memroute: a Kubernetes memory-aware routing operator for LLM inference."""


def main() -> None:
    """Run the command line."""
    app()
