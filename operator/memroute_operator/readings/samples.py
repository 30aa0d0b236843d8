"""Samples of a Prometheus page, as far as they can be read.

A line that cannot be read is counted and left out. A value that is NaN or infinite is None:
the sample is there, its value is not known.
"""

import math
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

# Characters of one line: vLLM's longest has 1,500. A longer one is no sample.
MAX_LINE_CHARACTERS = 16_384
# A pod's name has at most 253 characters and a model's at most a few hundred.
MAX_LABEL_CHARACTERS = 1_024
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,?)')
_ESCAPES = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample."""

    name: str
    labels: dict[str, str]
    value: float | None
    """None when the page gives no finite number."""


@dataclass(slots=True, kw_only=True)
class Samples:
    """What a page says of some metrics, and how many of their lines could not be read."""

    samples: list[Sample] = field(default_factory=list)
    num_unreadable: int = 0

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def parse_labels(text: str) -> dict[str, str]:
    """The labels in ``a="b",c="d"``, up to the first thing that is no label."""
    return _labels_from(text, 0)[0]


def parse_samples(text: str, names: Container[str]) -> Samples:
    """The samples of metrics that ``names`` holds, in the order of the page. Never raises."""
    found = Samples()
    for line in text.split("\n"):
        match = _NAME.match(line)
        if match is None or match[0] not in names:
            continue
        sample = None if len(line) > MAX_LINE_CHARACTERS else _sample(match[0], line)
        if sample is None:
            found.num_unreadable += 1
        else:
            found.samples.append(sample)
    return found


def _sample(name: str, line: str) -> Sample | None:
    position = len(name)
    labels: dict[str, str] = {}
    if line.startswith("{", position):
        labels, position = _labels_from(line, position + 1)
        if not line.startswith("}", position):
            return None
        position += 1
    rest = line[position:].split()
    # A value, and perhaps a timestamp. OpenMetrics adds exemplars behind a "#".
    if not rest:
        return None
    try:
        value = float(rest[0])
    except ValueError:
        return None
    return Sample(name=name, labels=labels, value=value if math.isfinite(value) else None)


def _labels_from(text: str, position: int) -> tuple[dict[str, str], int]:
    labels: dict[str, str] = {}
    while (match := _LABEL.match(text, position)) is not None:
        value = match[2]
        if "\\" in value:
            value = _ESCAPES.sub(_unescape, value)
        labels[match[1]] = value[:MAX_LABEL_CHARACTERS]
        position = match.end()
        if not match[3]:
            break
    return labels, position


def _unescape(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
