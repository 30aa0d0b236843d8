"""Sends traces to the exporting process, and looks after it."""

import asyncio
import contextlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from typing import Final

import orjson

from memroute_router.log.journal import Record
from memroute_router.tracing.context import Sampler, read_traceparent
from memroute_router.tracing.trace import Trace

LOGGER = logging.getLogger(__name__)
TRACEPARENT: Final = b"traceparent"
# How long traces are collected before they are written. Unit: seconds. Source: as for the log.
FLUSH_SECONDS: Final = 0.2
# Bytes that may wait for the exporting process; what comes beside them is dropped.
# Unit: bytes. Source: chosen by hand; some 2,000 traces.
MAX_WAITING_BYTES: Final = 4 * 1024**2
# Traces of one flush: 10,000 a second. Unit: traces. Source: a bound, chosen by hand.
MAX_WAITING_TRACES: Final = 2000
# Before the exporting process is started again. Unit: seconds. Source: chosen by hand.
RESTART_SECONDS: Final = 5.0
# What the exporting process may take to send its last spans. Unit: seconds. Source: by hand.
LAST_SECONDS: Final = 3.0


class TracingError(Exception):
    """Traces cannot be exported; the message says why."""


class Tracer:
    """Owns the exporting process, and the traces that it has not been given yet."""

    def __init__(
        self,
        sampler: Sampler,
        command: list[str],
        *,
        on_traces: Callable[[str, int], None],
    ) -> None:
        """``on_traces``: hears how many traces were ``sent`` to the process, or ``dropped``."""
        self._sampler = sampler
        self._command = command
        self._on_traces = on_traces
        self._process: asyncio.subprocess.Process | None = None
        # As lines, not as rows: tuples that wait are looked at by each collection of garbage.
        self._waiting: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_closing = False

    def begin(self, fields: dict[bytes, bytes]) -> Trace | None:
        """The trace of a request with these header fields; None: it is not sampled."""
        parent = read_traceparent(fields.get(TRACEPARENT))
        if parent is None:
            trace_id = self._sampler.new_trace_id()
            return None if trace_id is None else Trace(self._sampler, trace_id, None)
        if not self._sampler.is_sampled(parent):
            return None
        return Trace(self._sampler, parent.trace_id, parent)

    def ended(
        self, trace: Trace, record: Record, *, begun_at: float, first_byte_at: float | None
    ) -> None:
        """A traced request has ended."""
        if len(self._waiting) >= MAX_WAITING_TRACES or self._is_behind():
            self._on_traces("dropped", 1)
            return
        row = trace.row(record, begun_at=begun_at, first_byte_at=first_byte_at)
        try:
            self._waiting.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        except (TypeError, ValueError):
            LOGGER.exception("trace lost")
            self._on_traces("dropped", 1)
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    async def follow(self) -> None:
        """Keep the exporting process running, for ever."""
        while True:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command, stdin=asyncio.subprocess.PIPE
                )
            except Exception as error:  # noqa: BLE001 - the router serves without traces
                LOGGER.warning("traces cannot be exported error=%r", error)
            else:
                self._process = process
                status = await process.wait()
                self._process = None
                LOGGER.warning("the exporter of traces has ended status=%d", status)
            await asyncio.sleep(RESTART_SECONDS)

    async def close(self) -> None:
        """Give it what is left, and let it end. ``follow`` is over by now."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush()
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _is_behind(self) -> bool:
        """Whether the exporting process has not taken what it was given: no more is made for it."""
        pipe = None if self._process is None else self._process.stdin
        return pipe is not None and pipe.transport.get_write_buffer_size() > MAX_WAITING_BYTES

    def _flush(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        pipe = None if self._process is None else self._process.stdin
        if pipe is None or pipe.is_closing():
            self._on_traces("dropped", len(waiting))
            return
        pipe.write(b"".join(waiting))
        self._on_traces("sent", len(waiting))


def export_command(endpoint: str, log_format: str) -> list[str]:
    """How the exporting process is started. Raises ``TracingError`` where the SDK is missing."""
    for module in ("opentelemetry.sdk", "opentelemetry.exporter"):
        try:
            is_there = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            is_there = False
        if not is_there:
            msg = "--tracing-endpoint needs OpenTelemetry's SDK: pip install 'memroute[tracing]'"
            raise TracingError(msg)
    return [sys.executable, "-m", "memroute_router.tracing.export", endpoint, log_format]
