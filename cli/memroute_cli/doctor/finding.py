"""What one check has found."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How it is. ``unknown``: it could not be looked at."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing, and what to do next."""

    check: str
    """Which check, as a word: ``crd``, ``lease``, …"""
    state: State
    sentence: str
    next_step: str | None = None
    """What helps; None where nothing is to be done."""


def ok(check: str, sentence: str) -> Finding:
    """All is well."""
    return Finding(check, State.OK, sentence)


def warning(check: str, sentence: str, next_step: str) -> Finding:
    """It works, and something is not as it should be."""
    return Finding(check, State.WARNING, sentence, next_step)


def failed(check: str, sentence: str, next_step: str) -> Finding:
    """It does not work, or will not."""
    return Finding(check, State.FAILED, sentence, next_step)


def unknown(check: str, sentence: str, next_step: str) -> Finding:
    """It could not be looked at."""
    return Finding(check, State.UNKNOWN, sentence, next_step)
