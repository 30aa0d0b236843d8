"""Where an engine publishes its KV events: what its ``/kv_event_sources`` says, seen from here."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSource:
    """Where one rank publishes."""

    rank: int
    endpoint: str
    replay_endpoint: str | None
    topic: str = ""


def read_sources(body: bytes, host: str) -> list[EventSource]:
    """What ``/kv_event_sources`` says, from here. Raises ``ValueError``, ``TypeError``.

    Endpoints with ``*`` are bound by the engine and reached at ``host``; others it connects to
    itself, so that nobody can hear them by connecting too.
    """
    document: Any = orjson.loads(body)
    if not isinstance(document, dict):
        msg = "no mapping of ranks"
        raise TypeError(msg)
    sources = []
    for rank, told in document.items():
        endpoint = _reachable(told.get("endpoint"), host) if isinstance(told, dict) else None
        if endpoint is None:
            msg = f"rank {rank} publishes where nobody can connect: {told!r:.200}"
            raise ValueError(msg)
        sources.append(
            EventSource(
                rank=int(rank),
                endpoint=endpoint,
                replay_endpoint=_reachable(told.get("replay_endpoint"), host),
                topic=str(told.get("topic") or ""),
            )
        )
    return sources


def _reachable(endpoint: object, host: str) -> str | None:
    """An endpoint that is bound there, from here; None for others."""
    if not isinstance(endpoint, str) or not endpoint.startswith("tcp://"):
        return None
    for wildcard in ("*", "[::]", "0.0.0.0"):  # noqa: S104 - read, not bound
        if endpoint.startswith(f"tcp://{wildcard}:"):
            port = endpoint.rpartition(":")[2]
            return f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
    bound = urlsplit(endpoint).hostname
    return endpoint if bound == host else None
