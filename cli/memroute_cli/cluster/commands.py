"""``memroute top`` and ``memroute explain``: their options. The work is in the modules beside.

Exit status 0: shown (`explain`: all that is wanted serves); 1: something is missing (`explain`);
2: nothing can be told, with the reason.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from memroute_cli.terminal.errors import told_errors
from memroute_cli.terminal.output import Output, OutputOption, WideOption
from memroute_cli.terminal.quantities import one_of, seconds

OPERATOR_NAMESPACE = "memroute-system"
KubeconfigOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Default: KUBECONFIG, else ~/.kube/config.")
]
OperatorNamespaceOption = Annotated[
    str, typer.Option(metavar="NAME", help="Where the operator runs and tells what it has read.")
]


class What(StrEnum):
    """What is listed."""

    SUMMARY = "summary"
    NODES = "nodes"
    DEVICES = "devices"
    MODELS = "models"


def top(
    what: Annotated[
        What,
        typer.Argument(
            metavar="[WHAT]",
            help="summary, nodes, devices or models.",
            show_default=False,
            parser=one_of(What),
            autocompletion=lambda: list(What),
        ),
    ] = What.SUMMARY,
    *,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", metavar="NAME", help="Models of this namespace alone."),
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Models of all namespaces: the default.")
    ] = False,
    sort_by: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="nodes and devices: name, free, promised, observed, foreign; models: name, hbm, "
            "kv, waiting, missing.",
        ),
    ] = "name",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C, on one screen.")
    ] = False,
    interval: Annotated[
        float,
        typer.Option(
            parser=seconds, metavar="TIME", help="With --watch: between two looks, at least 1s."
        ),
    ] = 5.0,
    output: OutputOption = Output.TABLE,
    wide: WideOption = False,
    kubeconfig: KubeconfigOption = None,
    operator_namespace: OperatorNamespaceOption = OPERATOR_NAMESPACE,
) -> None:
    """Where the HBM of the fleet is: promised, in use, used by others, free, in GiB.

    By a kubeconfig alone. What is in use, and how full KV caches are, is what the operator has
    read last; how long ago is said. `-` is what nobody knows.
    """
    with told_errors("top"):
        from memroute_cli.cluster.top import Look, run

        run(
            Look(
                what=what, namespace=None if all_namespaces else namespace, sort_by=sort_by,
                interval_seconds=interval if watch else None, output=output, is_wide=wide,
                kubeconfig=kubeconfig, operator_namespace=operator_namespace,
            )
        )  # fmt: skip


def explain(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            parser=str,
            show_default=False,
            help="Name of a ModelDeployment, or NAMESPACE/NAME.",
        ),
    ] = None,
    *,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            metavar="NAME",
            help="Its namespace. Default: the one that has such a model.",
        ),
    ] = None,
    replica: Annotated[
        str | None,
        typer.Option(
            parser=str,
            metavar="POD",
            help="Where else this replica might be: its pod, or the end of the pod's name. "
            "Default: one more.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
    wide: WideOption = False,
    kubeconfig: KubeconfigOption = None,
    operator_namespace: OperatorNamespaceOption = OPERATOR_NAMESPACE,
) -> None:
    """Why a model's replicas are where they are, why not elsewhere, and what would help.

    What is suggested was tried: the change was made in a picture of the cluster, and the
    operator's planner then placed one replica more. Nothing is changed by it.

    Why a router sent or refused requests is told by `memroute decisions`.
    """
    with told_errors("explain"):
        from memroute_cli.cluster.explain import Asked, run

        is_well = run(
            Asked(
                model=model, namespace=namespace, replica=replica, output=output, is_wide=wide,
                kubeconfig=kubeconfig, operator_namespace=operator_namespace,
            )
        )  # fmt: skip
        raise typer.Exit(0 if is_well else 1)
