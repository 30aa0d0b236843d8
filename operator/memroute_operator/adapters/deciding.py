"""What to tell one engine, so that it has the adapters that are wanted and no others of ours. Pure.

```text
wanted (spec.adapters)  ─┐
fetched (its container) ─┼──► unload what is not wanted, or lies elsewhere; load what is there
loaded (its /v1/models) ─┘
```

What an engine has loaded from elsewhere than ``/adapters`` is its owner's, and is left alone.
"""

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

from memroute_hub.names import is_commit
from memroute_kube.shapes import mapping
from memroute_operator.adapters.calls import AdapterCalls, plain_words, rank_too_large
from memroute_operator.adapters.reading import ADAPTERS_PATH, FETCHED_PATH, Adapter

COMPLETE, FAILED = "complete", "failed"
_HUB = "hf://"
# The longest wait of the container that fetches (``memroute_fetch.kept_adapters``), in seconds. How
# long it still waits changes from one look to the next, and a status is written for news alone.
MAX_RETRY_SECONDS = 300
# Of a container's sentence in a status, in characters: chosen by hand, four lines. All of a list's
# together stay far below what an object may be.
MAX_TOLD = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchTold:
    """What a container says of one adapter."""

    wanted: str
    """The source that it was asked for."""
    state: str
    source: str | None = None
    """With the commit that it was; None before it is complete."""
    directory: str | None = None
    rank: int | None = None
    base_model: str | None = None
    message: str = ""

    @property
    def trouble(self) -> str | None:
        """Why it was not fetched, also while it is tried again; None where nothing is amiss."""
        if self.state == COMPLETE or not (self.message or self.state == FAILED):
            return None
        why = self.message or "its container does not say why it could not be fetched"
        return f"{why}; tried again within {MAX_RETRY_SECONDS} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One adapter into the engine."""

    name: str
    """The client's name for it."""
    engine_name: str
    path: str
    base_model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unload:
    """One adapter out of the engine."""

    engine_name: str


@dataclass(slots=True)
class Steps:
    """What is to be told, and what stands in the way of the rest, by the client's name."""

    unloads: list[Unload] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    troubles: dict[str, str] = field(default_factory=dict)
    fetching: set[str] = field(default_factory=set)
    waiting: dict[str, str] = field(default_factory=dict)
    """What only another pod can have, and why."""


def read_fetched(page: str) -> dict[str, FetchTold] | None:
    """The container's answer; None where it is none."""
    try:
        entries = mapping(json.loads(page)).get("adapters")
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, Mapping):
        return None
    found = {}
    for name, one in entries.items():
        said = mapping(one)
        wanted, state, rank = said.get("wanted"), said.get("state"), said.get("rank")
        directory = _text(said.get("directory"))
        if state == COMPLETE and not _is_folder(directory):
            continue  # it does not say what to load
        if isinstance(wanted, str) and isinstance(state, str):
            found[name] = FetchTold(
                wanted=wanted,
                state=state,
                source=_text(said.get("source")),
                directory=directory,
                rank=rank if isinstance(rank, int) else None,
                base_model=_words(said.get("baseModel")),
                message=_words(said.get("message")) or "",
            )
    return found


def address_to_fetch(adapter: Adapter, commit: str | None) -> str:
    """What the container is asked for: the commit, once it is known."""
    address = adapter.address or ""
    if commit is None or not address.startswith(_HUB):
        return address
    return f"{address.partition('@')[0]}@{commit}"


def commit_of(source: str | None) -> str | None:
    """The commit of a complete source of a hub."""
    if source is None or not source.startswith(_HUB):
        return None
    commit = source.partition("@")[2]
    return commit if is_commit(commit) else None


def steps(
    wanted: tuple[Adapter, ...],
    *,
    fetched: Mapping[str, FetchTold],
    loaded: Mapping[str, str],
    mount_paths: tuple[str, ...],
    calls: AdapterCalls,
    served_name: str,
    max_rank: int,
) -> Steps:
    """What the engine has to be told.

    ``fetched``: by the client's name; ``loaded``: folders by the engine's name. ``mount_paths``:
    what the engine sees.
    """
    found = Steps()
    paths: dict[str, str] = {}
    for one in wanted:
        name = calls.engine_name(one.name, served_name)
        told = fetched.get(one.name)
        path = one.path if one.address is None else _fetched_path(one, told, max_rank, found)
        if path is not None and not _is_seen(path, mount_paths):
            found.waiting[one.name] = "its volume is not in the pods yet: a rollout brings it"
            path = None
        if path is None:
            # Not to be had now: what is loaded by that name from an earlier source stays meanwhile.
            paths[name] = loaded.get(name, "")
            continue
        paths[name] = path
        if loaded.get(name) != path:
            base = None if told is None else told.base_model
            found.loads.append(Load(name=one.name, engine_name=name, path=path, base_model=base))
    for name, root in loaded.items():
        is_ours = root.startswith(f"{ADAPTERS_PATH}/")
        if is_ours and paths.get(name) != root:
            found.unloads.append(Unload(engine_name=name))
    return found


def _fetched_path(
    adapter: Adapter, told: FetchTold | None, max_rank: int, found: Steps
) -> str | None:
    """Where the engine finds what was fetched; None while it cannot be loaded, which is noted."""
    if told is not None and told.trouble is not None:
        # Also while it is tried again: else it would fail anew each time, with an Event for each.
        found.troubles[adapter.name] = told.trouble
        return None
    if told is None or told.state != COMPLETE:
        found.fetching.add(adapter.name)
        return None
    if told.rank is not None and told.rank > max_rank:
        found.troubles[adapter.name] = rank_too_large(told.rank, max_rank)
        return None
    return posixpath.join(FETCHED_PATH, posixpath.basename(told.directory or ""))


def _is_seen(path: str, mount_paths: tuple[str, ...]) -> bool:
    return any(path == mount or path.startswith(f"{mount}/") for mount in mount_paths)


def _is_folder(directory: str | None) -> bool:
    """Whether it is ``adapters/NAME``."""
    name = posixpath.basename(directory or "")
    return name not in ("", ".", "..") and name.isprintable()


def _words(value: object) -> str | None:
    """As they may stand in a status: whoever has the port in a pod may say anything."""
    return plain_words(value)[:MAX_TOLD] or None if isinstance(value, str) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
