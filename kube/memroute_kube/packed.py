"""A text in a ConfigMap: as it is while it is small, compressed where it would be too large."""

import base64
import zlib
from typing import Any

from memroute_kube.resources import KubeObject
from memroute_kube.shapes import mapping

# Of a ConfigMap, in bytes: it may have 1 MiB. Larger texts are compressed: what is read of 10,000
# devices takes 1.2 MB as text and 0.2 MB so.
MAX_TEXT_BYTES = 500_000
# A bound on what is unpacked.
MAX_UNPACKED_BYTES = 64 * 1024**2


class NotPackedError(ValueError):
    """The ConfigMap has no such text, or one that cannot be unpacked."""


def packed_text(name: str, text: str) -> dict[str, Any]:
    """``data`` and ``binaryData`` of a ConfigMap, as a patch: the form not taken is removed."""
    squeezed_name = f"{name}.zlib"
    if len(text) <= MAX_TEXT_BYTES:
        return {"data": {name: text}, "binaryData": {squeezed_name: None}}
    squeezed = base64.b64encode(zlib.compress(text.encode(), 6)).decode()
    return {"data": {name: None}, "binaryData": {squeezed_name: squeezed}}


def unpacked_text(obj: KubeObject, name: str) -> str:
    """The text of that name, ``MAX_UNPACKED_BYTES`` at the most. Raises ``NotPackedError``."""
    text = mapping(obj.get("data")).get(name)
    if isinstance(text, str):
        return text
    squeezed = mapping(obj.get("binaryData")).get(f"{name}.zlib")
    if not isinstance(squeezed, str):
        message = f"it has no {name}"
        raise NotPackedError(message)
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(squeezed), MAX_UNPACKED_BYTES)
        return unpacked.decode()
    except (ValueError, zlib.error) as error:
        message = f"its {name} cannot be unpacked: {error}"
        raise NotPackedError(message) from error
