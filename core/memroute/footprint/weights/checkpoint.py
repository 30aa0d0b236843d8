"""Bytes of published weights, from what repositories say of themselves. Pure: text in."""

import json
from typing import Any

from memroute.errors import InvalidConfigError


def index_total_bytes(text: str) -> int:
    """Bytes of all tensors by ``model.safetensors.index.json``: ``metadata.total_size``.

    Raises ``InvalidConfigError`` when it is not there.
    """
    document = _object(text, "model.safetensors.index.json")
    size = (document.get("metadata") or {}).get("total_size")
    if not isinstance(size, int | float) or size <= 0:
        raise InvalidConfigError("metadata.total_size", size, "a positive number of bytes")
    return int(size)


def safetensors_header_bytes(text: str) -> int:
    """Bytes of all tensors by the JSON header of one ``.safetensors`` file.

    The header is what follows the file's first eight bytes, which give its length (little
    endian). Raises ``InvalidConfigError`` when it is not one.
    """
    total = 0
    for name, tensor in _object(text, "safetensors header").items():
        if name == "__metadata__":
            continue
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if not isinstance(offsets, list) or len(offsets) != 2 or offsets[1] < offsets[0]:  # noqa: PLR2004
            field = f"{name}.data_offsets"
            raise InvalidConfigError(field, offsets, "two offsets in bytes")
        total += offsets[1] - offsets[0]
    return total


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidConfigError(what, None, "JSON", problem=f"not JSON ({error})") from error
    if not isinstance(document, dict):
        raise InvalidConfigError(what, type(document).__name__, "a JSON object")
    return document
