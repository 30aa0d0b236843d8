"""Files that a person names, read with a clear sentence for what cannot be read."""

import json
from pathlib import Path

from memroute.errors import MemrouteError
from memroute.footprint.weights import index_total_bytes, safetensors_header_bytes
from memroute.footprint.weights.beside import QUANTIZATION_FILES
from memroute_cli.terminal.errors import UserError
from memroute_cli.terminal.quantities import bytes_of

INDEX = "model.safetensors.index.json"
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
            return _safetensors_bytes(path)
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


def _safetensors_bytes(path: Path) -> int:
    """Bytes of the tensors of one file, by its header. Raises ``PlanError`` for a nonsense one."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(SAFETENSORS_LENGTH_BYTES), "little")
        if length > MAX_HEADER_BYTES:
            msg = f"{path}: no safetensors file (its header would be {length} bytes)"
            raise PlanError(msg)
        return safetensors_header_bytes(file.read(length).decode())


def bytes_beside(folder: Path) -> int | None:
    """Bytes of the checkpoint in a folder: its files, else what its index says; None without.

    Converted checkpoints often keep the index of the original: the files themselves count.
    """
    try:
        files = sorted(folder.glob("*.safetensors"))
        own = [one for one in files if not one.name.startswith("consolidated")]
        if own or files:
            return sum(map(_safetensors_bytes, own or files)) or None
        return index_total_bytes((folder / INDEX).read_text())
    except (OSError, UnicodeDecodeError, MemrouteError, PlanError):
        # Files that were not asked for: a plan does without.
        return None


def quantization_beside(folder: Path) -> dict[str, dict[str, object]]:
    """What files beside a ``config.json`` say of its quantization, by name."""
    found = {}
    for name in QUANTIZATION_FILES:
        if (folder / name).is_file():
            found[name] = read_document(folder / name)
    return found


def read_document(path: Path) -> dict[str, object]:
    """A JSON object from a file. Raises ``PlanError``."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise PlanError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"{path}: not JSON ({error})"
        raise PlanError(msg) from error
    if not isinstance(document, dict):
        msg = f"{path}: a JSON object is wanted"
        raise PlanError(msg)
    return document
