"""Files that a person names, read with a clear sentence for what cannot be read."""

import json
from pathlib import Path

from memroute.errors import MemrouteError
from memroute.footprint.weights import index_total_bytes, safetensors_header_bytes
from memroute_cli.terminal.errors import UserError
from memroute_cli.terminal.quantities import bytes_of

SAFETENSORS_LENGTH_BYTES = 8
# What the safetensors library itself allows for the header of a file, in bytes.
MAX_HEADER_BYTES = 100 * 1024 * 1024


class PlanError(UserError):
    """What was asked of a plan makes no sense; the message is for the person who asked."""


def read_checkpoint_bytes(text: str) -> int:
    """Bytes of a checkpoint: a size, an index or a safetensors file. Raises ``PlanError``."""
    size = bytes_of(text)
    if size is not None:
        if size < 1:
            msg = f"--checkpoint {text}: weights have at least one byte"
            raise PlanError(msg)
        return size
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
        why = error.strerror
        msg = f"--checkpoint {text}: neither a size (14GB, 13.5GiB, bytes) nor a file ({why})"
        raise PlanError(msg) from error
    except (UnicodeDecodeError, MemrouteError) as error:
        msg = (
            f"--checkpoint {text}: it is no model.safetensors.index.json, and no .safetensors file"
        )
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
