"""A link to the host as ``python -m bench.device`` has measured it: a law through its points.

```text
seconds of one copy of b bytes = seconds_per_copy + b / rate
```

Both are fitted to all block sizes, each point with its relative error, so that small copies count
as much as large ones: engines make small ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memroute.hierarchy.links import HostLink, host_link_of_text

FORMAT = "memroute.dev/device-measurement"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFit:
    """One direction."""

    bytes_per_second: float
    seconds_per_copy: float
    error_ratio: float
    """The largest distance of a point from the law, by the point."""


def fit_link(points: Sequence[tuple[int, float]]) -> LinkFit | None:
    """The law of (bytes of a copy, bytes per second); None of fewer than two sizes.

    Least squares of relative errors: each point's seconds are divided by themselves, so that
    ``1 = c x 1/s + k x b/s``.
    """
    used = [(size, rate) for size, rate in points if size > 0 and rate > 0]
    if len({size for size, _ in used}) < 2:  # noqa: PLR2004 - a line
        return None
    rows = [(1 / (size / rate), size / (size / rate)) for size, rate in used]
    aa, ab = sum(a * a for a, _ in rows), sum(a * b for a, b in rows)
    bb = sum(b * b for _, b in rows)
    sa, sb = sum(a for a, _ in rows), sum(b for _, b in rows)
    determinant = aa * bb - ab * ab
    if determinant <= 0:
        return None
    copy, per_byte = (sa * bb - sb * ab) / determinant, (sb * aa - sa * ab) / determinant
    if copy < 0:
        # Nothing is lost per copy: the rate alone.
        copy, per_byte = 0.0, sb / bb
    if per_byte <= 0:
        return None
    error = max(abs((copy + size * per_byte) / (size / rate) - 1) for size, rate in used)
    return LinkFit(bytes_per_second=1 / per_byte, seconds_per_copy=copy, error_ratio=error)


def link_text(read: LinkFit, write: LinkFit) -> str:
    """As an annotation and ``--host-link`` have it: ``3.7us-55.1-56.4GBps``.

    What a copy costs is that of reading: fetching is what is priced.
    """
    return (
        f"{read.seconds_per_copy * 1e6:.2f}us-{read.bytes_per_second / 1e9:.1f}-"
        f"{write.bytes_per_second / 1e9:.1f}GBps"
    )


def measured_host_link(text: str) -> HostLink:
    """The link that a measurement's JSON has. Raises ``ValueError`` with a sentence."""
    try:
        document: Any = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        msg = "no measurement by python -m bench.device"
        raise ValueError(msg)
    if document.get("version") != VERSION:
        msg = f"a measurement of version {document.get('version')}, and {VERSION} is known"
        raise ValueError(msg)
    said = document.get("hostLink")
    link = host_link_of_text(said) if isinstance(said, str) else None
    if link is None:
        msg = "a measurement without the link to the host: it was stopped before"
        raise ValueError(msg)
    return link
