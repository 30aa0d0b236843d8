"""``--output``: the same three everywhere; JSON and YAML are the same document."""

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from memroute_cli.terminal.quantities import one_of


class Output(StrEnum):
    """How it is told."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[
    Output,
    typer.Option(
        "--output", "-o", metavar="table|json|yaml", help="For people, or for programs.",
        parser=one_of(Output), autocompletion=lambda: list(Output),
    ),
]  # fmt: skip
WideOption = Annotated[
    bool, typer.Option("--wide", help="All columns, however long the lines become.")
]


def write(document: Mapping[str, Any], output: Output) -> None:
    """Print a document for programs."""
    if output is Output.JSON:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    import yaml  # noqa: PLC0415 - only for who asks for it

    # Through JSON: enums and tuples become what both formats have.
    plain = json.loads(json.dumps(document))
    sys.stdout.write(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
