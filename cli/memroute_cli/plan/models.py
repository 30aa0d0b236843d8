"""The model that a person named: from the catalogue, a file or a hub, and which of them it was.

```text
a path of a config.json, or its folder     that file
owner/name of the catalogue                the catalogue: no network, the same answer everywhere
owner/name@revision, any other owner/name  the hub, or what is cached of it
```

A revision is never answered from the catalogue: that knows one version of each model.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memroute.catalog import MODELS, architecture_for_model
from memroute.closeness import did_you_mean
from memroute.errors import MemrouteError, UnknownModelError
from memroute.footprint import ModelArchitecture
from memroute.footprint.architecture import architecture_from_json
from memroute.footprint.weights.beside import with_quantization
from memroute.units import format_gib
from memroute_cli.plan.files import (
    PlanError,
    bytes_beside,
    quantization_beside,
    read_checkpoint_bytes,
    read_document,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """What a person said of the hub; None where the environment decides."""

    endpoint: str | None = None
    token_file: Path | None = None
    is_offline: bool = False
    file: str | None = None
    """Which GGUF file of a repository, by its name or a pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Where the facts of a model come from."""

    source: str
    """``catalogue``, ``file``, ``hub`` or ``cache``: a word of the JSON output."""
    sentence: str
    """The same for people."""
    commit: str | None = None
    """Of the hub's repository."""
    details: tuple[tuple[str, Any], ...] = ()
    """More of it for programs, by name."""
    notes: tuple[str, ...] = ()
    """What a person should know of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A model and what it was called."""

    name: str
    architecture: ModelArchitecture
    facts: Facts
    config: dict[str, object] | None = None
    """Its ``config.json``, where it is not from the catalogue."""
    file: str | None = None
    """The GGUF file that it is: llama.cpp serves it, on one device."""


CONFIG = "config.json"
CATALOGUE = Facts(
    source="catalogue",
    sentence="the catalogue, as published; NAME@main asks the hub what it has now",
)


def read_model(name: str, checkpoint: str | None, hub: HubOptions | None = None) -> NamedModel:
    """A model by its name on a hub, or from a ``config.json``.

    ``checkpoint``: bytes, or a file that gives them; for what is not from the catalogue.
    Raises ``PlanError``.
    """
    size = None if checkpoint is None else read_checkpoint_bytes(checkpoint)
    path = Path(name)
    try:
        if path.suffix == ".json" or path.is_file():
            return _of_file(path, size)
        if path.is_dir():
            return read_model(str(path / CONFIG), checkpoint)
        if hub is not None and hub.file is not None:
            # The catalogue knows what a model is made of, not what one file of it weighs.
            return _of_hub(name, size, hub)
        architecture = architecture_for_model(name)
        return NamedModel(name=as_published(name), architecture=architecture, facts=CATALOGUE)
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise PlanError(msg) from error
    except UnknownModelError as error:
        if "/" not in name:
            raise PlanError(_unknown_model(error)) from error
        return _of_hub(name, size, hub or HubOptions())
    except MemrouteError as error:
        msg = f"{name}: {error}"
        raise PlanError(msg) from error


def _of_file(path: Path, checkpoint_bytes: int | None) -> NamedModel:
    """From a ``config.json``, with what lies beside it: its quantization, and its weights."""
    config, folder = read_document(path), path.resolve().parent
    name, sentence = path.stem, str(path)
    if path.name == CONFIG:
        name = folder.name
        beside = quantization_beside(folder)
        config = with_quantization(config, beside)
        if checkpoint_bytes is None and (checkpoint_bytes := bytes_beside(folder)) is not None:
            sentence += f"; {format_gib(checkpoint_bytes)} of weights by the files beside it"
    return NamedModel(
        name=f"local/{name}",
        architecture=architecture_from_json(json.dumps(config), checkpoint_bytes),
        facts=Facts(source="file", sentence=sentence),
        config=config,
    )


def _of_hub(name: str, checkpoint_bytes: int | None, hub: HubOptions) -> NamedModel:
    # A quarter of a second that only a question to a hub pays.
    from memroute_cli.plan.hub import model_from_hub  # noqa: PLC0415

    return model_from_hub(name, checkpoint_bytes, hub)


def close_names(name: str) -> str:
    """Names of the catalogue that may have been meant, as the end of a sentence; or nothing."""
    repository, at, _ = name.partition("@")
    if at and repository.casefold() in {known.casefold() for known in MODELS}:
        return f"; the catalogue has it as it was published: plan {repository} without a revision"
    return did_you_mean(repository, (known for known in MODELS if known != repository))


def as_published(name: str) -> str:
    """The catalogue's spelling of a name that it knows."""
    return next((known for known in MODELS if known.casefold() == name.casefold()), name)


def _unknown_model(error: UnknownModelError) -> str:
    return (
        f"model {error.model!r} is not in the catalogue of {len(MODELS)} models"
        f"{close_names(error.model) or '.'} Give owner/name as on the hub, or the path of its "
        f"config.json, or see `memroute plan --list`."
    )
