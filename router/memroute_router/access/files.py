"""The files that say who may ask, and with what the router does: read again when they change."""

from collections.abc import Callable
from typing import Any

from memroute_router.access.engine_key import EngineKey, EngineKeyError
from memroute_router.access.gate import Gate
from memroute_router.access.keyfile import KeysError
from memroute_router.watched import WatchedFiles


def watched_files(
    gate: Gate | None, engine_key: EngineKey | None, on_reload: Callable[[str, bool], None]
) -> list[WatchedFiles[Any]]:
    """Those that there are. ``on_reload``: which one was read again, and whether it could be used.

    ``gate``, ``engine_key``: what puts them in force; None: the router was told of no such file.
    """
    found: list[WatchedFiles[Any]] = []
    if gate is not None:
        found.append(
            WatchedFiles(
                "keys",
                (gate.path,),
                gate.read,
                gate.apply,
                on_reload=lambda ok: on_reload("keys", ok),
                errors=(KeysError,),
            )
        )
    if engine_key is not None:
        found.append(
            WatchedFiles(
                "engine key",
                (engine_key.path,),
                engine_key.read,
                engine_key.apply,
                on_reload=lambda ok: on_reload("engine-key", ok),
                errors=(EngineKeyError,),
            )
        )
    return found
