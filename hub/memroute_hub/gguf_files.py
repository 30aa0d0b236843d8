"""Which GGUF file of a repository is meant, and what its header says, by Range requests.

A repository of such files has the same model several times, once for each way to write its
weights, and no ``config.json``. So somebody has to say which: its name, or that of the first of
its parts (``…-00001-of-00003.gguf``). Its header has everything else.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from huggingface_hub import hf_hub_url

from memroute.footprint.gguf import (
    GGUFError,
    GGUFHeader,
    IncompleteGGUFError,
    read_gguf_header,
)
from memroute.units import format_gib
from memroute_hub.documents import printable
from memroute_hub.errors import HubError, HubReason
from memroute_hub.facts import RepositoryFile
from memroute_hub.failures import Asked
from memroute_hub.transport import Transport

SUFFIX = ".gguf"
# A part of a file that was split: which, and of how many.
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
# What lies beside a model and is none: projectors of vision towers, and importance matrices.
_NO_MODEL = ("mmproj", "imatrix")
# Bytes that are asked for at a time: a header without its vocabulary has some 100 KiB, one of
# 150,000 tokens and their merges 6 to 12 MiB. Each request goes on where the one before ended.
WINDOWS = (1 << 20, 7 << 20, 24 << 20, 32 << 20)
# Files that are named where nobody has said which.
MAX_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFFiles:
    """One model of a repository: its first file, and all of them."""

    first: RepositoryFile
    parts: tuple[RepositoryFile, ...]


def models_of(files: Iterable[RepositoryFile]) -> dict[str, GGUFFiles]:
    """The models of a repository, by the path of the first file, in the hub's order."""
    series: dict[tuple[str, str] | str, list[RepositoryFile]] = {}
    for one in files:
        base = one.path.rpartition("/")[2].lower()
        if not base.endswith(SUFFIX) or base.startswith(_NO_MODEL):
            continue
        part = _PART.fullmatch(one.path)
        series.setdefault(one.path if part is None else (part[1], part[3]), []).append(one)
    found = {}
    for parts in series.values():
        ordered = tuple(sorted(parts, key=lambda one: one.path))
        found[ordered[0].path] = GGUFFiles(first=ordered[0], parts=ordered)
    return found


def choose_gguf(files: Mapping[str, RepositoryFile], wanted: str | None, asked: Asked) -> GGUFFiles:
    """The model that is meant. ``wanted``: a file, or a pattern such as ``*Q4_K_M.gguf``.

    Raises ``HubError`` that says which there are.
    """
    known = models_of(files.values())
    found = list(known.values())
    if wanted is not None:
        found = [
            one for one in known.values() if any(is_meant(part.path, wanted) for part in one.parts)
        ]
    if len(found) == 1:
        _check_whole(found[0], asked)
        return found[0]
    message = f"{asked.name} has no config.json, but GGUF files:"
    if wanted is not None and not found:
        message = f"{asked.name} has no file {printable(wanted, 120)}, but"
    elif wanted is not None:
        message = f"{printable(wanted, 120)} means several files of {asked.name}:"
    message += (
        f" {_listed(found or list(known.values()))}; say which one to load (memroute plan --file, "
        f"or spec.model.file with engine.type LlamaCPP)"
    )
    raise HubError(HubReason.FILE_NEEDED, message)


async def read_header(
    transport: Transport, asked: Asked, commit: str, file: RepositoryFile
) -> GGUFHeader:
    """What the header of a file says. Raises ``HubError``."""
    url = hf_hub_url(
        asked.name.repository, file.path, revision=commit, endpoint=asked.endpoint
    )  # fmt: skip
    what, data = f"{file.path} of {asked.name}", b""
    for window in WINDOWS:
        answer = await transport.get(url, max_bytes=window, what=file.path, start=len(data))
        if answer is None or not answer.body:
            break
        data += answer.body
        try:
            return read_gguf_header(data)
        except IncompleteGGUFError:
            continue
        except (GGUFError, ValueError) as error:
            raise _unreadable(what, str(error)) from error
    raise _unreadable(what, f"its header does not end within {len(data)} bytes")


def weight_bytes(header: GGUFHeader, model: GGUFFiles) -> int | None:
    """Bytes of the tensors: of the first file to the byte, of the other parts with their headers.

    None where the hub does not say how large those are. A part's header has some 50 KiB.
    """
    others = [one.size_bytes for one in model.parts[1:]]
    known = [size for size in others if size is not None]
    return header.tensor_bytes + sum(known) if len(known) == len(others) else None


def is_meant(path: str, wanted: str | None) -> bool:
    """Whether a file is meant by its path, its name or a pattern; by None any is."""
    if wanted is None:
        return True
    name, pattern = path.rpartition("/")[2], wanted.lower()
    return wanted in (path, name) or any(fnmatchcase(one.lower(), pattern) for one in (path, name))


def _check_whole(model: GGUFFiles, asked: Asked) -> None:
    part = _PART.fullmatch(model.first.path)
    wanted = 1 if part is None else int(part[3])
    if len(model.parts) != wanted:
        message = (
            f"{asked.name} has {len(model.parts)} of the {wanted} parts of {model.first.path}: its "
            f"owner has not uploaded all of them"
        )
        raise HubError(HubReason.FILE_NEEDED, message)


def _listed(models: list[GGUFFiles]) -> str:
    told = []
    for one in models[:MAX_NAMED]:
        sizes = [part.size_bytes for part in one.parts]
        total = sum(size for size in sizes if size is not None)
        size = f" ({format_gib(total)})" if None not in sizes else ""
        told.append(f"{printable(one.first.path, 80)}{size}")
    more = [f"{len(models) - MAX_NAMED} more"] if len(models) > MAX_NAMED else []
    return ", ".join([*told, *more])


def _unreadable(what: str, why: str) -> HubError:
    message = f"{what} cannot be read ({printable(why)}): tell its owner, or choose another file"
    return HubError(HubReason.CONFIG_UNREADABLE, message)
