"""Bytes of published weights, from what repositories say of themselves. Pure: text in."""

import json
import math
from typing import Any, TypeGuard

from memroute.errors import InvalidConfigError


def index_total_bytes(text: str) -> int:
    """Bytes of all tensors by ``model.safetensors.index.json``: ``metadata.total_size``.

    Raises ``InvalidConfigError`` when it is not there.
    """
    document = _object(text, "model.safetensors.index.json")
    metadata = document.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < math.inf:
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
        if not _are_offsets(offsets):
            field = f"{name}.data_offsets"
            raise InvalidConfigError(field, offsets, "two offsets in bytes")
        total += offsets[1] - offsets[0]
    return total


def _are_offsets(offsets: Any) -> TypeGuard[list[int]]:
    if not isinstance(offsets, list) or len(offsets) != 2:  # noqa: PLR2004 - begin and end
        return False
    return all(isinstance(one, int) for one in offsets) and 0 <= offsets[0] <= offsets[1]


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidConfigError(what, None, "JSON", problem=f"not JSON ({error})") from error
    if not isinstance(document, dict):
        raise InvalidConfigError(what, type(document).__name__, "a JSON object")
    return document
