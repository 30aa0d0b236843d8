"""One way in which a replica fails, by what is seen of it, in words with the next step."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from string import Formatter

from memroute.footprint import EngineType
from memroute_operator.failures.quoting import without_secrets


def words(*reasons: str) -> frozenset[str]:
    """The words that Kubernetes gives, any of them."""
    return frozenset(reasons)


def pattern(expression: str) -> re.Pattern[str]:
    """What a text must have; ``.`` is any character, a line's end too; case is not told apart."""
    return re.compile(expression, re.DOTALL | re.IGNORECASE)


class Where(StrEnum):
    """Where a failure shows itself; the order in which they are looked at."""

    POD = "pod"
    """``status.reason`` and ``status.message`` of a pod that has failed."""
    DISRUPTION = "disruption"
    """The pod's condition ``DisruptionTarget``."""
    SCHEDULER = "scheduler"
    """The pod's condition ``PodScheduled``, in kube-scheduler's own words."""
    FETCH = "fetch"
    """How the init container that fetches weights has ended: its exit code."""
    INIT = "init"
    """How an init container has ended."""
    WAITING = "waiting"
    """Why a container does not run yet."""
    ENDED = "ended"
    """The reason that the container runtime gives for an end, whatever the engine has said."""
    LOG = "log"
    """The engine's last lines."""
    EXIT = "exit"
    """The exit code, where its lines say nothing that is known."""
    EVENT = "event"
    """An Event on the pod."""
    REFUSED = "refused"
    """The API server's answer to the creation of the pod."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What is seen, and what is said of it; the first of a table that matches counts."""

    name: str
    """One CamelCase word: the reason of the condition."""
    where: Where
    seen_as: str
    """What a person finds: for the documentation."""
    sentence: str
    """What has happened. ``{names}`` are groups of ``pattern``; a part in ``[[ ]]`` is left out
    where the text has not what it names."""
    next_step: str
    """What helps, as an order; the same ``{names}``."""
    pattern: re.Pattern[str] | None = field(default=None, repr=False)
    """What its text must have; None: any text."""
    reasons: frozenset[str] = frozenset()
    """The word that Kubernetes gives; empty: any."""
    exit_codes: frozenset[int] = frozenset()
    """Empty: any."""
    engines: frozenset[EngineType] = frozenset()
    """Whose lines these are; empty: anybody's."""

    def match(
        self, *, reason: str = "", text: str = "", exit_code: int | None = None
    ) -> dict[str, str] | None:
        """What its words need to know, when it is this; None when it is not."""
        if self.reasons and reason not in self.reasons:
            return None
        if self.exit_codes and exit_code not in self.exit_codes:
            return None
        if self.pattern is None:
            return {}
        found = self.pattern.search(text)
        if found is None:
            return None
        return {
            name: shown(without_secrets(value))
            for name, value in found.groupdict().items()
            if value
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Why a replica does not serve, in a user's language."""

    name: str
    sentence: str
    next_step: str
    evidence: str = ""
    """The words that it was told by, cut and without secrets."""

    @property
    def message(self) -> str:
        """All of it: what happened, what helps, and the words behind it."""
        told = f"{self.sentence}; {self.next_step}"
        return f"{told} [{self.evidence}]" if self.evidence else told


# What is quoted of one word of a log at the most, in characters.
MAX_SHOWN = 120


def shown(text: str) -> str:
    """A word of somebody's log as it may stand in a sentence: one line, and not too long."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= MAX_SHOWN else f"{flat[: MAX_SHOWN - 1]}…"


def diagnosis(signature: Signature, words: Mapping[str, str], *, evidence: str = "") -> Diagnosis:
    """The signature in words. A name that its text did not have is told as ``?``."""
    return Diagnosis(
        name=signature.name,
        sentence=_filled(signature.sentence, words),
        next_step=_filled(signature.next_step, words),
        evidence=evidence,
    )


_OPTIONAL = re.compile(r"\[\[(.*?)\]\]")


def _filled(template: str, words: Mapping[str, str]) -> str:
    def optional(match: re.Match[str]) -> str:
        return match[1] if all(name in words for name in _names(match[1])) else ""

    text = _OPTIONAL.sub(optional, template)
    return text.format_map({name: words.get(name, "?") for name in _names(text)})


def _names(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name]
