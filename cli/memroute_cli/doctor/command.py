"""``memroute doctor``: its options. The work is in the modules beside.

Exit status 0: nothing has failed; 1: something has; 2: no cluster is configured.
"""

from pathlib import Path
from typing import Annotated

import typer

from memroute_cli.terminal.errors import told_errors
from memroute_cli.terminal.output import Output, OutputOption
from memroute_cli.terminal.progress import working


def doctor(
    *,
    request: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Also ask this model for one token, through the router.",
            show_default=False,
        ),
    ] = None,
    router: Annotated[
        str, typer.Option(metavar="URL", help="With --request: where the router is reached.")
    ] = "http://localhost:8000",
    key: Annotated[
        str | None,
        typer.Option(
            envvar="MEMROUTE_API_KEY",
            metavar="KEY",
            help="With --request: an API key.",
            show_default=False,
        ),
    ] = None,
    operator_namespace: Annotated[
        str,
        typer.Option(metavar="NAME", help="Where the operator is, if no Deployment of it says so."),
    ] = "memroute-system",
    kubeconfig: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: KUBECONFIG, else ~/.kube/config.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Does this installation work? What is missing, and the next step for each.

    Nothing is changed. What you may not read is told as unknown, with the right that is missing.

    Exit status 0: nothing has failed; 1: something has; 2: no cluster is configured.
    """
    with told_errors("doctor"):
        from memroute_cli.doctor.asking import ask
        from memroute_cli.doctor.checks import all_findings
        from memroute_cli.doctor.gathering import gather
        from memroute_cli.doctor.report import document, told, works
        from memroute_cli.terminal.console import open_console
        from memroute_cli.terminal.output import write

        with working("looking at the cluster"):
            asked = None if request is None else ask(router, request, key)
            facts = gather(kubeconfig, operator_namespace, asked)
        findings = all_findings(facts)
        if output is Output.TABLE:
            open_console().print(*told(findings), sep="\n")
        else:
            write(document(facts, findings), output)
        raise typer.Exit(0 if works(findings) else 1)
