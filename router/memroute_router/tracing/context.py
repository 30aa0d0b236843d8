"""``traceparent``: which trace a request belongs to, and whether it is sampled (W3C Trace Context).

Requests that are not sampled travel on with the ``traceparent`` that they came with, untouched.
"""

import re
from dataclasses import dataclass
from random import Random
from typing import Final

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_SAMPLED: Final = 0x01
# Sampling looks at the low 64 bits of the trace id, as OpenTelemetry's TraceIdRatioBased does: all
# services with the same ratio keep the same traces.
_RATIO_BITS: Final = 64
_RATIO_DIGITS: Final = _RATIO_BITS // 4


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The span that a request came from."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    is_sampled: bool


def read_traceparent(value: bytes | None) -> TraceContext | None:
    """What a client says; None where it says nothing that can be read."""
    if value is None:
        return None
    found = _TRACEPARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == b"00" and rest is not None:
        return None
    return TraceContext(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & _SAMPLED))


def traceparent(trace_id: str, span_id: str) -> bytes:
    """The header of a sampled request, as a line."""
    return b"traceparent: 00-%b-%b-01\r\n" % (trace_id.encode(), span_id.encode())


def without_field(lines: bytes, name: bytes) -> bytes:
    """Header lines without one field. ``name``: in lower case, as the lines have it."""
    if name not in lines:
        return lines
    start = name + b": "
    if not lines.startswith(start) and b"\n" + start not in lines:
        return lines
    return b"".join(line for line in lines.splitlines(keepends=True) if not line.startswith(start))


class Sampler:
    """Which requests are traced. Owns its chance."""

    def __init__(self, ratio: float, rng: Random, *, trusts_clients: bool) -> None:
        """``ratio``: of the requests, 0 to 1.

        ``trusts_clients``: whether the flag that a client sends decides, and not the ratio. Else a
        client could have all of its requests traced, and fill the collector.
        """
        self._bound = round(ratio * (1 << _RATIO_BITS))
        self._rng = rng
        self._trusts_clients = trusts_clients

    def is_sampled(self, parent: TraceContext) -> bool:
        """Whether a request that belongs to a trace is traced here too."""
        if self._trusts_clients:
            return parent.is_sampled
        return int(parent.trace_id[-_RATIO_DIGITS:], 16) < self._bound

    def new_trace_id(self) -> str | None:
        """The id of a new trace; None for a request that is not sampled."""
        low = self._rng.getrandbits(_RATIO_BITS)
        if low >= self._bound:
            return None
        return f"{self._rng.getrandbits(_RATIO_BITS) or 1:016x}{low:016x}"

    def new_span_id(self) -> str:
        """Of a span of ours."""
        return f"{self._rng.getrandbits(64) or 1:016x}"
