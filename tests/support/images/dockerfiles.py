"""A Dockerfile, read as far as this repository's goes; anything else is refused, by its line."""

import fnmatch
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

WITHOUT_EFFECT = {"EXPOSE"}
"""Words for people and registries: nothing happens."""


class NotUnderstoodError(ValueError):
    """An instruction that this reader does not know: teach it, or write the file otherwise."""


@dataclass(frozen=True)
class Instruction:
    """One line, read."""

    kind: str
    words: tuple[str, ...]
    """RUN: the shell's line. ENV: names and values in turns. ENTRYPOINT: the command."""
    from_stage: str | None = None
    """Of COPY: the stage that it copies from; None: the build context."""


@dataclass
class Stage:
    """From one FROM to the next."""

    name: str
    base: str
    """Another stage, or an image of a registry."""
    instructions: list[Instruction] = field(default_factory=list)


def read_stages(text):
    """The stages by name, in order. Raises ``NotUnderstoodError``."""
    stages = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        kind, _, rest = line.partition(" ")
        if kind == "FROM":
            words = rest.split()
            if len(words) != 3 or words[1] != "AS":
                msg = f"line {number}: FROM image AS name, not {line!r}"
                raise NotUnderstoodError(msg)
            stages[words[2]] = Stage(words[2], words[0])
        elif not stages or rest.endswith("\\"):
            msg = f"line {number}: nothing before FROM, and one line each, not {line!r}"
            raise NotUnderstoodError(msg)
        elif kind not in WITHOUT_EFFECT:
            stages[list(stages)[-1]].instructions.append(_instruction(kind, rest, number))
    return stages


def _instruction(kind, rest, number):
    found = None
    is_shell = kind == "RUN" and not rest.startswith(("[", "--"))
    if is_shell or (kind == "WORKDIR" and rest.startswith("/")):
        found = Instruction(kind, (rest,))
    elif kind == "USER" and re.fullmatch(r"[0-9]+:[0-9]+", rest):
        found = Instruction(kind, tuple(rest.split(":")))
    elif kind == "ENTRYPOINT" and rest.startswith("["):
        found = Instruction(kind, tuple(json.loads(rest)))
    elif kind == "ENV":
        pairs = [word.partition("=") for word in shlex.split(rest)]
        if all(equals for _, equals, _ in pairs):
            found = Instruction(
                kind, tuple(word for name, _, value in pairs for word in (name, value))
            )
    elif kind == "COPY":
        flags = re.fullmatch(r"(?:--from=(\S+) )?([^-\s]\S*) (\S+)", rest)
        if flags:
            found = Instruction(kind, (flags[2], flags[3]), flags[1])
    if found is None:
        msg = f"line {number}: this reader does not know {kind} {rest}"
        raise NotUnderstoodError(msg)
    return found


def ignored(patterns, path):
    """Whether .dockerignore keeps ``path`` (relative to the context) out of it.

    Patterns: names and paths from the top, ``**/`` for any depth, wildcards within a name; what is
    below a folder that is left out is left out. Exceptions (``!``) are refused.
    """
    parts = Path(path).parts
    for line in patterns.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        if pattern.startswith("!"):
            msg = f".dockerignore: this reader does not know exceptions: {pattern}"
            raise NotUnderstoodError(msg)
        anywhere = pattern.startswith("**/")
        wanted = pattern.removeprefix("**/").strip("/").split("/")
        starts = range(len(parts)) if anywhere else (0,)
        for start in starts:
            piece = parts[start : start + len(wanted)]
            if len(piece) == len(wanted) and all(
                fnmatch.fnmatchcase(one, other) for one, other in zip(piece, wanted, strict=True)
            ):
                return True
    return False
