"""The section of CHANGELOG.md that tells users of a version."""

import datetime as dt
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """What the changelog says of a version."""

    title: str
    """``0.2.0``, or ``Unreleased`` while the version has no section of its own."""
    text: str
    """Its lines, without the heading; empty where it says nothing."""


def section_of(changelog: str, version: str) -> Section | None:
    """The section of ``version``, else what is unreleased; None where neither is there."""
    sections = {
        match[1]: match[2]
        for match in re.finditer(
            r"^## \[?([^\]\s]+)\]?[^\n]*\n(.*?)(?=^## |^\[[^\]\n]+\]: |\Z)",
            changelog,
            re.MULTILINE | re.DOTALL,
        )
    }
    for title in (version, "Unreleased"):
        if title in sections:
            return Section(title, sections[title].strip())
    return None


def says_something(section: Section) -> bool:
    """Whether there is a line beside headings."""
    return any(line.strip() and not line.startswith("#") for line in section.text.splitlines())


def notes(section: Section, version: str, commit: str, epoch: int) -> str:
    """The release notes: the section, under a heading that says which release it is."""
    day = dt.datetime.fromtimestamp(epoch, tz=dt.UTC).date()
    return f"# memroute {version}\n\nCommit {commit}, {day}.\n\n{section.text}\n"
