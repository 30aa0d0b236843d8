"""``grpc.health.v1.Health``: what probes of pods, gateways and clouds ask the picker."""

from collections.abc import Callable
from typing import Final

from memroute_picker.grpc.call import Call, Handler
from memroute_picker.grpc.frames import GrpcStatus
from memroute_picker.protocol.names import PROCESSOR_SERVICE
from memroute_picker.protocol.wire import BYTES, MalformedError, number_at, skipped, span_at

LIVENESS: Final = b"liveness"
READINESS: Final[frozenset[bytes]] = frozenset(
    {b"", b"readiness", b"inference-extension", PROCESSOR_SERVICE}
)
"""Services that serve where the picker can pick; the third is that of the upstream picker."""
_SERVING: Final = b"\x08\x01"
_NOT_SERVING: Final = b"\x08\x02"
# Of a question, which is a name. Unit: bytes. Source: chosen by hand; a watch keeps it, uncounted.
_MAX_QUESTION_BYTES: Final = 1024
_SERVICE_UNKNOWN: Final = b"\x08\x03"


class HealthChecks:
    """Answers every check. Owns the watches that are open."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        """``is_ready``: whether the picker can pick: its lists are complete, it does not stop."""
        self._is_ready = is_ready
        self.watches: set[HealthWatch] = set()

    def status(self, service: bytes) -> bytes | None:
        """The answer about a service; None: there is none of that name."""
        if service == LIVENESS:
            return _SERVING
        if service in READINESS:
            return _SERVING if self._is_ready() else _NOT_SERVING
        return None

    def tick(self) -> None:
        """Time passes: tell those that watch what has changed."""
        for watch in list(self.watches):
            watch.tell()


class HealthCheck(Handler):
    """One check: a question, an answer."""

    def __init__(self, checks: HealthChecks, call: Call) -> None:
        self._checks = checks
        self._call = call

    def message(self, data: bytes) -> None:
        """The question."""
        service = service_of(data)
        status = None if service is None else self._checks.status(service)
        if status is None:
            self._call.end(GrpcStatus.NOT_FOUND, b"unknown service")
        else:
            self._call.send(status)
            self._call.end()

    def half_closed(self) -> None:
        """All is said."""
        self._call.end(GrpcStatus.INVALID_ARGUMENT, b"no question")

    def cancelled(self) -> None:
        """Nobody wants to know."""

    def shut_down(self) -> None:
        """The picker's time is up."""
        self._call.end(GrpcStatus.UNAVAILABLE, b"shutting down")


class HealthWatch(Handler):
    """A question that is answered anew whenever the answer changes."""

    def __init__(self, checks: HealthChecks, call: Call) -> None:
        self._checks = checks
        self._call = call
        self._service: bytes | None = None
        self._told = b""

    def message(self, data: bytes) -> None:
        """The question."""
        service = service_of(data)
        if service is None:
            self._checks.watches.discard(self)
            self._call.end(GrpcStatus.INVALID_ARGUMENT, b"the message is malformed")
            return
        self._service = service
        self._checks.watches.add(self)
        self.tell()

    def tell(self) -> None:
        """Tell what has changed."""
        if self._service is None:
            return
        status = self._checks.status(self._service) or _SERVICE_UNKNOWN
        if status != self._told:
            self._told = status
            self._call.send(status)

    def half_closed(self) -> None:
        """The question is all that there is to say."""

    def cancelled(self) -> None:
        """Nobody wants to know any more."""
        self._checks.watches.discard(self)

    def shut_down(self) -> None:
        """The picker's time is up."""
        self._checks.watches.discard(self)
        self._call.end(GrpcStatus.UNAVAILABLE, b"shutting down")


def service_of(data: bytes) -> bytes | None:
    """The service that a question is about; None: the message cannot be read, or is too large."""
    service = b""
    at, size = 0, len(data)
    if size > _MAX_QUESTION_BYTES:
        return None
    try:
        while at < size:
            tag, at = number_at(data, at)
            if tag == (1 << 3 | BYTES):
                begin, at = span_at(data, at, size)
                service = data[begin:at]
            else:
                at = skipped(data, at, size, tag & 7)
    except MalformedError:
        return None
    return service
