"""``memroute explain MODEL``: why its replicas are where they are, and what would help.

Exit status 0: all that is wanted serves; 1: something is missing; 2: nothing can be told.
"""

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from memroute_cli.cluster.explanation import Command, document, told
from memroute_cli.cluster.looking import OPERATOR_NAMESPACE, LookError, look
from memroute_kube import KubeObject
from memroute_kube.resources import object_key
from memroute_operator.explaining import ModelExplanation, Picture, explain_model

WIDTH_WITHOUT_TERMINAL = 80


class Output(StrEnum):
    """How it is told."""

    TEXT = "text"
    JSON = "json"


def explain(
    model: Annotated[
        str | None,
        typer.Argument(help="Name of a ModelDeployment, or NAMESPACE/NAME.", show_default=False),
    ] = None,
    *,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace", "-n", help="Its namespace. Default: the one that has such a model."
        ),
    ] = None,
    replica: Annotated[
        int | None,
        typer.Option(min=0, help="Of this replica: where else it might be. Default: one more."),
    ] = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="For people, or for programs.")
    ] = Output.TEXT,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Default: KUBECONFIG, else ~/.kube/config.")
    ] = None,
    operator_namespace: Annotated[
        str, typer.Option(help="Where the operator runs and tells what it has read.")
    ] = OPERATOR_NAMESPACE,
) -> None:
    """Why a model's replicas are where they are, why not elsewhere, and what would help.

    What is suggested was tried: the change was made in a picture of the cluster, and the
    operator's planner then placed one replica more. Nothing is changed by it.

    Why a router sent or refused requests is told by `memroute decisions`.
    """
    try:
        seen = look(
            kubeconfig=kubeconfig, operator_namespace=operator_namespace, events_of=_named(model)
        )
        explanation = _explanation(seen.picture, _named(model), namespace, replica)
    except LookError as error:
        print(f"memroute explain: {error}", file=sys.stderr)  # noqa: T201 - what a person reads
        raise typer.Exit(2) from None
    age = seen.picture.observed_age_seconds
    if output is Output.JSON:
        sys.stdout.write(json.dumps(document(explanation, age, seen.notes), indent=1) + "\n")
    else:
        width = None if sys.stdout.isatty() else width_of(os.environ.get("COLUMNS"))
        console = Console(width=width, highlight=False)
        for line in told(explanation, age, seen.notes):
            console.print(line, soft_wrap=isinstance(line, Command))
    raise typer.Exit(0 if explanation.is_well else 1)


def _named(model: str | None) -> str:
    if model is None:
        msg = (
            "name a ModelDeployment (kubectl get mdep -A lists them); what a router has "
            "decided about requests is told by `memroute decisions`"
        )
        raise LookError(msg)
    return model


def _explanation(
    picture: Picture, model: str, namespace: str | None, replica: int | None
) -> ModelExplanation:
    key = find(picture.model_deployments, model, namespace)
    explanation = explain_model(picture, key, replica_index=replica)
    if explanation is None:
        msg = f"{key} is being deleted"
        raise LookError(msg)
    if replica is not None and not explanation.replicas:
        msg = f"{key} has no replica {replica}"
        raise LookError(msg)
    return explanation


def width_of(columns: str | None) -> int:
    """As wide as COLUMNS says, else as a usual terminal."""
    return int(columns) if columns is not None and columns.isdecimal() else WIDTH_WITHOUT_TERMINAL


def find(objects: Sequence[KubeObject], model: str, namespace: str | None) -> str:
    """``namespace/name`` of the one that is meant. Raises ``LookError``."""
    keys = sorted(map(object_key, objects))
    wanted = f"{namespace}/{model}" if namespace is not None else model
    found = [key for key in keys if key == wanted or key.partition("/")[2] == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        msg = f"several namespaces have a {model}: {', '.join(found)}; say which with -n"
        raise LookError(msg)
    name = model.rpartition("/")[2]
    near = [key for key in keys if name in key.partition("/")[2]]
    hint = f"; did you mean {', '.join(near[:3])}?" if near else ""
    there = f"there are {', '.join(keys[:10])}" if keys else "the cluster has none at all"
    msg = f"there is no ModelDeployment {wanted}{hint or '; ' + there}"
    raise LookError(msg)
