"""JSON as vLLM's server prints it: compact, no charset."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web


def json_response(
    document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An answer with a JSON body."""
    return web.Response(
        body=json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(),
        status=status,
        headers=headers,
        content_type="application/json",
    )
