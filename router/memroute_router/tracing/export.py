"""The exporting process: reads traces from its input, sends them with OpenTelemetry's SDK.

Names follow the semantic conventions for GenAI and HTTP. The span of a request is a server's; under
it are ``queue`` (each time that the request was held), ``choose replica``, and one client span for
each engine that the request was sent to, of which the engine's own spans are children.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from opentelemetry import context as otel_context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from memroute_router.log.log_lines import LogFormat
from memroute_router.log.program_log import formatter
from memroute_router.tracing.trace import named

LOGGER = logging.getLogger(__name__)
SERVICE: Final = "memroute-router"
# Time between two lines of the log that say the same. Unit: seconds. Source: chosen by hand.
QUIET_SECONDS: Final = 60.0
# How far this process stands behind the router, where the kernel has no class for what may wait.
# Source: the largest that there is.
NICENESS: Final = 19
_NANOSECONDS: Final = 1_000_000_000
_UNKNOWN: Final = (None, "", "-")
_FIRST_ERROR_STATUS: Final = 500
_FIRST_REFUSED_STATUS: Final = 400
_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""Paths whose operation has a well-known name; others are called by the end of their path."""


class _GivenIds(RandomIdGenerator):  # type: ignore[misc]
    """The router has told engines the ids of their parents already; others are new."""

    def __init__(self) -> None:
        self.span_id: int | None = None
        self.trace_id = 0

    def generate_span_id(self) -> int:
        given, self.span_id = self.span_id, None
        return super().generate_span_id() if given is None else given

    def generate_trace_id(self) -> int:
        return self.trace_id


class Exporter:
    """Makes spans of what the router has noted. Owns the SDK's provider."""

    def __init__(self, endpoint: str) -> None:
        """``endpoint``: URL of a collector; without a path, OTLP's own is taken."""
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            resource=Resource.create(
                {"service.name": os.environ.get("OTEL_SERVICE_NAME", "") or SERVICE}
            ),
            id_generator=self._ids,
            sampler=ALWAYS_ON,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=traces_url(endpoint)))
        )
        self._tracer = self._provider.get_tracer("memroute")
        self._epoch_seconds = 0.0

    def add(self, trace: dict[str, Any]) -> None:
        """The spans of one request."""
        self._epoch_seconds = trace["epoch_seconds"]
        self._ids.trace_id = int(trace["trace_id"], 16)
        operation = operation_of(trace["path"])
        asked = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "memroute",
            "gen_ai.request.model": trace["model"],
        }
        used = {
            "gen_ai.usage.input_tokens": trace["prompt_tokens"],
            "gen_ai.usage.output_tokens": trace["output_tokens"],
            "gen_ai.usage.cache_read.input_tokens": trace["cached_tokens"],
        }
        about = {
            "http.request.method": "POST",
            "url.path": trace["path"],
            "http.response.status_code": trace["status"],
            "client.address": trace["client"],
            "error.type": _error_type(trace),
            "memroute.request_id": trace["request_id"],
            "memroute.outcome": trace["outcome"],
            "memroute.cause": trace["cause"],
            "memroute.tenant": trace["tenant"],
            "memroute.refusal": trace["refusal"],
            "memroute.expected_tokens": trace["expected_tokens"],
            "memroute.expected_prompt_tokens": trace["expected_prompt_tokens"],
        }
        root = self._span(
            f"POST {trace['path']}",
            self._remote(trace["parent_id"]),
            trace["begun"],
            about | asked | used,
            kind=SpanKind.SERVER,
        )
        inside = set_span_in_context(root, otel_context.Context())
        for begun, ended in trace["waits"]:
            self._span("queue", inside, begun, {}).end(self._nano(ended))
        *failed, last = trace["attempts"] or [None]
        for attempt in failed:
            self._attempt(attempt, f"{operation} {trace['model']}", inside, asked)
        if last is not None:
            engine = self._attempt(last, f"{operation} {trace['model']}", inside, asked | used)
            if trace["first_byte"] is not None:
                engine.add_event("first byte", timestamp=self._nano(trace["first_byte"]))
                waited = trace["first_byte"] - last["begun"]
                engine.set_attribute("gen_ai.response.time_to_first_chunk", waited)
            if last["failure"] is not None or _has_failed(trace):
                engine.set_status(Status(StatusCode.ERROR, last["failure"]))
            engine.end(self._nano(last["ended"]))
        if _has_failed(trace):
            root.set_status(Status(StatusCode.ERROR, trace["refusal"] or None))
        root.end(self._nano(trace["ended"]))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _attempt(
        self,
        attempt: dict[str, Any],
        name: str,
        inside: otel_context.Context,
        gen_ai: dict[str, Any],
    ) -> Span:
        """The span of an engine; ended if the attempt has failed, and another followed."""
        begun = attempt["begun"]
        chosen = {
            "memroute.replica": attempt["replica"],
            "memroute.policy": attempt["policy"],
            "memroute.num_candidates": attempt["num_candidates"],
            "memroute.expected_wait_seconds": attempt["wait_seconds"],
            "memroute.expected_prefill_seconds": attempt["prefill_seconds"],
            "memroute.expected_cached_tokens": attempt["cached_tokens"],
            "memroute.projected_ratio": attempt["projected_ratio"],
        }
        self._span("choose replica", inside, begun, chosen).end(self._nano(begun))
        host, _, port = attempt["authority"].rpartition(":")
        failure = attempt["failure"]
        self._ids.span_id = int(attempt["span_id"], 16)
        engine = self._span(
            name,
            inside,
            begun,
            gen_ai
            | {
                "server.address": host.strip("[]"),
                "server.port": int(port) if port.isdigit() else None,
                "memroute.replica": attempt["replica"],
                "error.type": failure,
            },
            kind=SpanKind.CLIENT,
        )
        if failure is not None:
            engine.set_status(Status(StatusCode.ERROR, failure))
            engine.end(self._nano(attempt["ended"]))
        return engine

    def _span(
        self,
        name: str,
        inside: otel_context.Context,
        begun: float,
        attributes: dict[str, Any],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Span:
        known = {name: value for name, value in attributes.items() if value not in _UNKNOWN}
        return self._tracer.start_span(
            name, context=inside, kind=kind, attributes=known, start_time=self._nano(begun)
        )

    def _remote(self, parent_id: str | None) -> otel_context.Context:
        """The context of the client's span, if it has said one."""
        if parent_id is None:
            return otel_context.Context()
        parent = SpanContext(
            self._ids.trace_id, int(parent_id, 16), is_remote=True, trace_flags=TraceFlags(1)
        )
        return set_span_in_context(NonRecordingSpan(parent), otel_context.Context())

    def _nano(self, seconds: float) -> int:
        """Nanoseconds since the epoch of a time on the router's monotonic clock."""
        return int((seconds + self._epoch_seconds) * _NANOSECONDS)


def operation_of(path: str) -> str:
    """``gen_ai.operation.name``."""
    return _OPERATIONS.get(path) or path.rpartition("/")[2]


def traces_url(endpoint: str) -> str:
    """Where traces are posted."""
    return endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + "/v1/traces"


def _has_failed(request: dict[str, Any]) -> bool:
    return request["status"] >= _FIRST_ERROR_STATUS or request["outcome"] in {
        "engine-error", "stream-broken", "internal-error",
    }  # fmt: skip


def _error_type(request: dict[str, Any]) -> str | None:
    if request["outcome"] != "served":
        return str(request["outcome"])
    return str(request["status"]) if request["status"] >= _FIRST_REFUSED_STATUS else None


class QuietFilter(logging.Filter):
    """Says the same once a minute: a collector that is down is not news for every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        now = time.monotonic()
        place = (record.pathname, record.lineno)
        if now - self._said_at.get(place, -QUIET_SECONDS) < QUIET_SECONDS:
            return False
        self._said_at[place] = now
        return True


def read_traces(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """What the router has written; a line that cannot be read is left out."""
    for line in lines:
        try:
            yield named(orjson.loads(line))
        except (ValueError, TypeError):
            LOGGER.warning("a trace cannot be read")


def stand_back() -> None:
    """Where the cores are full, requests go first, and traces are dropped and counted.

    On one core that was full, the router lost 26 % of its rate to this process at niceness 10, and
    10 % at 19.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):  # not on Linux, or not allowed
        os.nice(NICENESS)


def main() -> None:
    """Export until the router closes the pipe: when it ends, however it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A terminal sends them to both. The router's last traces are still to come.
        signal.signal(number, signal.SIG_IGN)
    stand_back()
    endpoint, log_format = sys.argv[1:]
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(LogFormat(log_format)))
    handler.addFilter(QuietFilter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    exporter = Exporter(endpoint)
    for trace in read_traces(sys.stdin.buffer):
        try:
            exporter.add(trace)
        except Exception:
            LOGGER.exception("trace lost")
    exporter.close()


if __name__ == "__main__":
    main()
