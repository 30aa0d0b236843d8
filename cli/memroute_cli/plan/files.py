"""Files that a person names, read with a clear sentence for what cannot be read."""

import json
from pathlib import Path

from memroute.errors import MemrouteError
from memroute.footprint.weights import index_total_bytes, safetensors_header_bytes

SAFETENSORS_LENGTH_BYTES = 8
# What the safetensors library itself allows for the header of a file, in bytes.
MAX_HEADER_BYTES = 100 * 1024 * 1024


class PlanError(Exception):
    """What was asked makes no sense; the message is for the person who asked."""


def read_checkpoint_bytes(text: str) -> int:
    """Bytes of a checkpoint: a number, an index or a safetensors file. Raises ``PlanError``."""
    if text.isdigit():
        return int(text)
    path = Path(text)
    try:
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                length = int.from_bytes(file.read(SAFETENSORS_LENGTH_BYTES), "little")
                if length > MAX_HEADER_BYTES:
                    msg = f"{path}: no safetensors file (its header would be {length} bytes)"
                    raise PlanError(msg)
                return safetensors_header_bytes(file.read(length).decode())
        return index_total_bytes(path.read_text())
    except OSError as error:
        msg = f"--checkpoint {text}: neither a number of bytes nor a file ({error.strerror})"
        raise PlanError(msg) from error
    except (UnicodeDecodeError, MemrouteError) as error:
        msg = f"--checkpoint {text}: {error}"
        raise PlanError(msg) from error


def read_document(path: Path) -> dict[str, object]:
    """A JSON object from a file. Raises ``PlanError``."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise PlanError(msg) from error
    except ValueError as error:
        msg = f"{path}: not JSON ({error})"
        raise PlanError(msg) from error
    if not isinstance(document, dict):
        msg = f"{path}: a JSON object is wanted"
        raise PlanError(msg)
    return document
