"""Metric families as text: Prometheus' format 0.0.4, in small pieces.

``prometheus_client`` renders a whole registry at once, sorts the labels of each sample and looks at
each name again: 26 ms for 400 replicas, 5 of them for reading the values. Here a page is made piece
by piece, so that whoever renders can pause in between. A test compares both, byte for byte.
"""

import math
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import Metric

TEXT: Final = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"
# Samples of one piece. Unit: samples. Source: chosen by hand; 32 take about 0.1 ms.
PIECE_SAMPLES: Final = 32
# From this size on, Prometheus' own client writes an exponent. Source: its Go implementation.
_EXPONENT_FROM: Final = 1e6


def family_pieces(family: Metric) -> Iterator[str]:
    """The lines of one family: a counter, a gauge or a histogram. Its samples are used up.

    Freed with their family, those of 400 replicas would hold the event loop up by a millisecond.
    """
    name = family.name + "_total" if family.type == "counter" else family.name
    yield _head(name, family.documentation, family.type)
    created_name = family.name + "_created"
    created: list[str] = []
    lines: list[str] = []
    written: dict[str, str] = {}
    for sample in family.samples:
        line = f"{sample.name}{_labels(sample.labels, written)} {_number(sample.value)}\n"
        if sample.name == created_name:
            created.append(line)
            continue
        lines.append(line)
        if len(lines) >= PIECE_SAMPLES:
            yield "".join(lines)
            lines = []
    if created:
        lines.append(_head(created_name, family.documentation, "gauge"))
        lines += created
    family.samples.clear()
    yield "".join(lines)


def _head(name: str, documentation: str, kind: str) -> str:
    text = documentation.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _labels(labels: dict[str, str], written: dict[str, str]) -> str:
    """``written``: the values of this family that have been written before."""
    if not labels:
        return ""
    parts = []
    for name in sorted(labels):
        value = labels[name]
        escaped = written.get(value)
        if escaped is None:
            escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
            written[value] = escaped
        parts.append(f'{name}="{escaped}"')
    return "{" + ",".join(parts) + "}"


def _number(value: float) -> str:
    number = float(value)
    if -_EXPONENT_FROM < number < _EXPONENT_FROM:
        return repr(number)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    text = repr(number)
    dot = text.find(".")
    if number > 0 and dot > 6:  # noqa: PLR2004 - as Go writes it: seven digits and more
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02d}"
    return text
