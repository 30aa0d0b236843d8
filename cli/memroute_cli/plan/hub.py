"""Models of a hub, for `memroute plan`: asked once, told with the commit."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from memroute.errors import MemrouteError, UnknownArchitectureError
from memroute.footprint import ModelArchitecture
from memroute.footprint.gguf_facts import architecture_of
from memroute.units import format_gib
from memroute_cli.plan.files import PlanError
from memroute_cli.plan.models import Facts, HubOptions, NamedModel, close_names
from memroute_cli.terminal.progress import working
from memroute_hub import FactsSource, HubError, HubModel, HubReason, ModelName, parse_name
from memroute_hub.client import open_hub
from memroute_hub.settings import (
    HubSettings,
    SettingsError,
    Token,
    checked_endpoint,
    is_offline_by_environment,
    personal_cache,
    personal_token,
)

# Where a known name helps: a wrong one, or a hub that cannot be asked.
_NAME_HELPS = {
    HubReason.REPOSITORY_NOT_FOUND,
    HubReason.HUB_OFFLINE,
    HubReason.HUB_UNREACHABLE,
    HubReason.HUB_TIMEOUT,
}


def model_from_hub(text: str, checkpoint_bytes: int | None, options: HubOptions) -> NamedModel:
    """A model by ``owner/name`` or ``owner/name@revision``. Raises ``PlanError``.

    ``checkpoint_bytes``: count instead of the sizes of its files.
    """
    try:
        name = replace(parse_name(text), file=options.file)
        settings = _settings(options)
        with working(f"asking {settings.endpoint} for {name.repository}"):
            found = asyncio.run(_resolve(name, settings))
        described = _architecture(found, checkpoint_bytes)
    except SettingsError as error:
        msg = f"--hub-endpoint: {error}"
        raise PlanError(msg) from error
    except HubError as error:
        msg = f"{error.message}{close_names(text) if error.reason in _NAME_HELPS else ''}"
        raise PlanError(msg) from error
    return NamedModel(
        name=name.repository,
        architecture=described,
        facts=_facts(found),
        config=dict(found.config),
        file=found.file,
    )


def check_options(endpoint: str | None, token_file: Path | None) -> None:
    """What was typed of a hub, also where nobody is asked in the end. Raises ``PlanError``."""
    try:
        checked_endpoint(endpoint)
        if token_file is not None:
            Token(file=token_file).read()
    except SettingsError as error:
        msg = f"--hub-endpoint: {error}"
        raise PlanError(msg) from error
    except HubError as error:
        msg = f"--hub-token-file: {error.message}"
        raise PlanError(msg) from error


def _settings(options: HubOptions) -> HubSettings:
    file = options.token_file
    return HubSettings(
        endpoint=checked_endpoint(options.endpoint),
        token=personal_token() if file is None else Token(file=file),
        is_offline=options.is_offline or is_offline_by_environment(),
        cache_folder=personal_cache(),
    )


async def _resolve(name: ModelName, settings: HubSettings) -> HubModel:
    async with open_hub(settings) as hub:
        return await hub.resolve(name)


def _architecture(found: HubModel, checkpoint_bytes: int | None) -> ModelArchitecture:
    what = f"{found.repository} at {found.commit[:12]}"
    try:
        if checkpoint_bytes is None:
            return found.architecture()
        return architecture_of(found.config_text, checkpoint_bytes)
    except UnknownArchitectureError as error:
        # Without bytes of its files: the hub lists none.
        msg = f"{what} has no weights, and {error}"
        raise PlanError(msg) from error
    except MemrouteError as error:
        msg = f"{what}: {error}"
        raise PlanError(msg) from error
    except Exception as error:
        # A named boundary: whoever owns the repository may have written anything.
        msg = f"{what}: its config.json makes no sense ({type(error).__name__}: {error!s:.200})"
        raise PlanError(msg) from error


def _facts(found: HubModel) -> Facts:
    commit = (
        found.commit if found.revision == found.commit else f"{found.revision} = {found.commit}"
    )
    cached = " (cached)" if found.source is FactsSource.CACHE else ""
    details: list[tuple[str, Any]] = [
        ("endpoint", found.endpoint),
        ("revision", found.revision),
        ("commit", found.commit),
        ("checkpointBytes", found.checkpoint_bytes),
        ("weightFiles", len(found.weight_files)),
        ("isGated", found.is_gated),
        ("tokenizerMaxTokens", found.tokenizer_max_tokens),
        ("generationMaxTokens", found.generation_max_tokens),
        ("staleBecause", found.stale_because),
    ]
    return Facts(
        source=found.source.value,
        sentence=f"{found.endpoint}, {commit}{cached}; {_files(found)}",
        commit=found.commit,
        details=tuple(details),
        notes=tuple(_notes(found)),
    )


def _files(found: HubModel) -> str:
    if not found.weight_files:
        return "it holds no weights that an engine could load"
    number = len(found.weight_files)
    size = found.checkpoint_bytes
    if found.file is not None:
        words = found.file if number == 1 else f"{found.file} and {number - 1} more"
        return words if size is None else f"{format_gib(size)} of weights in {words}"
    files = "1 file" if number == 1 else f"{number} files"
    return f"{files} of weights" if size is None else f"{format_gib(size)} of weights in {files}"


def _notes(found: HubModel) -> list[str]:
    notes = []
    if found.stale_because is not None:
        notes.append(f"{found.revision} may have moved since it was read: {found.stale_because}.")
    if found.is_gated:
        notes.append("The model is gated: its pods need a token whose account has access.")
    if found.generation_max_tokens is not None:
        notes.append(
            f"Its generation_config.json ends answers after {found.generation_max_tokens:,} tokens."
        )
    return notes
