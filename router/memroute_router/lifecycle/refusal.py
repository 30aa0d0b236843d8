"""A refusal: why, and when to come back; and how clients of each API read it.

Every refusal is one value, whoever refuses: the intake, admission, the end of all attempts, a
router that shuts down. It says why, in words and in one word for machines, and when to come back
where that makes sense.
"""

from dataclasses import dataclass
from typing import Final

from memroute.traffic.admission import QueueRefusal, Reject, RejectReason
from memroute.traffic.dispatch.waiting_room import EndOfWait
from memroute_router.http.errors import error_body
from memroute_router.http.fields import JSON, REASON
from memroute_router.lifecycle.outcomes import Outcome

_STATUS = {
    RejectReason.NEVER_FITS: 400,
    RejectReason.SATURATED: 429,
    RejectReason.QUEUE_TIMEOUT: 504,
    RejectReason.SHUTTING_DOWN: 503,
    RejectReason.NO_READY_REPLICA: 503,
    RejectReason.MODEL_ASLEEP: 503,
}

CAUSES: Final = {
    QueueRefusal.REQUESTS.value: "requests-waiting",
    QueueRefusal.TOKENS.value: "tokens-waiting",
    QueueRefusal.TIME.value: "wait-too-long",
    QueueRefusal.SIZE.value: "larger-than-queue",
    EndOfWait.DISPLACED.value: "displaced",
    EndOfWait.LATE.value: "late",
    EndOfWait.EXPIRED.value: "waited-in-vain",
}
"""Why a request that would fit may not wait, in one word: ``cause`` in the log."""


LISTENER_CAUSES: Final = {
    400: "malformed",
    404: "no-such-path",
    405: "method",
    408: "slow-request",
    413: "body-too-large",
    414: "target-too-long",
    417: "expectation",
    431: "fields-too-large",
    500: "handler",
    501: "coding",
    503: "connections",
    505: "version",
}
"""Why a request was refused before it was read as one of the API, by its status."""
INVALID_REQUEST: Final = "invalid_request_error"
"""The ``type`` of an error that OpenAI's own API has a ``code`` for."""
BODY: Final = "body"
FIELD: Final = "field"
COMPRESSED: Final = "compressed"
DOCUMENT_TOO_LARGE: Final = "document-too-large"
MEDIA_HOST: Final = "media-host"
"""Why a request of the API cannot be understood."""
DOCUMENTS: Final = "documents"
"""Why a request cannot be read now."""
ENGINE_ANSWER: Final = "engine-answer"
ERROR_IN_STREAM: Final = "error-in-stream"
"""How an engine has said no, where that is passed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request is not answered."""

    outcome: Outcome
    status: int
    message: str
    parameter: str | None = None
    """The field of the body that is to blame."""
    reason: str | None = None
    """One word for machines; None where the status says it all."""
    retry_after_seconds: int | None = None
    """When to come back; None: not at all, as it is."""
    cause: str = ""
    """Which of the causes that ``outcome`` can have, in one word, for the log."""
    log_detail: str = ""
    """What only those may know who run the router (names of pods): for the log alone."""
    code: str | None = None
    """The ``code`` of the error's body, where clients look for another word than ``reason``."""
    kind: str | None = None
    """The ``type`` of the error's body; None: by the status."""
    more_lines: bytes = b""
    """Header fields of this refusal alone, as lines."""

    def lines(self) -> bytes:
        """The header fields, as lines."""
        lines = JSON
        if self.reason is not None:
            lines += b"%b: %b\r\n" % (REASON, self.reason.encode())
        if self.retry_after_seconds is not None:
            lines += b"retry-after: %d\r\n" % self.retry_after_seconds
        return lines + self.more_lines

    def body(self, *, is_anthropic: bool) -> bytes:
        """The error as the client's API words it."""
        return error_body(
            self.status,
            self.message,
            parameter=self.parameter,
            reason=self.code or self.reason,
            kind=self.kind,
            is_anthropic=is_anthropic,
        )


SHUTTING_DOWN = Refusal(
    outcome=Outcome.SHUTTING_DOWN,
    status=503,
    message="the router is shutting down",
    reason=Outcome.SHUTTING_DOWN.value,
    retry_after_seconds=1,
)
EXHAUSTED = Refusal(
    outcome=Outcome.ROUTER_EXHAUSTED,
    status=503,
    message="the router has no file descriptor, port or memory left for one more request",
    reason=Outcome.ROUTER_EXHAUSTED.value,
    retry_after_seconds=1,
)
TOO_MANY_APART = Refusal(
    outcome=Outcome.SATURATED,
    status=429,
    message=(
        "replicas have died with this request, and it would have to wait for one that has no "
        f"other such request; {QueueRefusal.REQUESTS.value}"
    ),
    reason=RejectReason.SATURATED.value,
    retry_after_seconds=2,
    cause=CAUSES[QueueRefusal.REQUESTS.value],
)

DOCUMENTS_FULL = Refusal(
    outcome=Outcome.ROUTER_EXHAUSTED,
    status=503,
    message="the router reads as many large requests as it has memory for",
    reason=Outcome.ROUTER_EXHAUSTED.value,
    retry_after_seconds=1,
    cause=DOCUMENTS,
)
CRASHED = Refusal(outcome=Outcome.INTERNAL_ERROR, status=500, message="internal error")
"""A bug of ours: nobody knows when to come back."""


def document_too_large(num_bytes: int, max_bytes: int) -> Refusal:
    """To read the body may take more memory than all bodies may."""
    return Refusal(
        outcome=Outcome.BAD_REQUEST,
        status=413,
        message=(
            f"the body has too many values, or too much wide text: to read it may take "
            f"{num_bytes // 1024**2} MiB, and the router has {max_bytes // 1024**2} for that"
        ),
        cause=DOCUMENT_TOO_LARGE,
    )


def unknown(message: str) -> Refusal:
    """Nobody serves the model; ``message`` says which."""
    return Refusal(
        outcome=Outcome.UNKNOWN_MODEL,
        status=404,
        message=message,
        parameter="model",
        reason=Outcome.UNKNOWN_MODEL.value,
    )


def rejected(reject: Reject, *, unready: str = "") -> Refusal:
    """What admission has decided; ``unready``: why nothing serves the model, if that is known."""
    message = reject.message
    if unready and reject.reason is RejectReason.NO_READY_REPLICA:
        message += f" ({unready})"
    return Refusal(
        outcome=Outcome(reject.reason.value),
        status=_STATUS[reject.reason],
        message=message,
        reason=reject.reason.value,
        retry_after_seconds=reject.retry_after_seconds,
        cause=CAUSES.get(reject.because, ""),
    )


def replicas_failed(tried: list[str], cause: str = "") -> Refusal:
    """All that were tried failed before their first byte; ``cause``: how the last one did."""
    return Refusal(
        outcome=Outcome.REPLICAS_FAILED,
        status=502,
        message=f"{len(tried)} replica(s) failed before answering",
        reason=Outcome.REPLICAS_FAILED.value,
        retry_after_seconds=2,
        cause=cause,
        log_detail=", ".join(tried),
    )


def replicas_died(replicas: list[str], seconds: float) -> Refusal:
    """Replicas have died with the request, and it is to blame."""
    return Refusal(
        outcome=Outcome.REPLICAS_DIED,
        status=502,
        message=(
            f"{len(replicas)} replicas have died while they read this request: it is sent to "
            f"no other for {seconds:.0f} s"
        ),
        log_detail=", ".join(replicas),
        reason=Outcome.REPLICAS_DIED.value,
        retry_after_seconds=max(1, round(seconds)),
    )


def last_events(outcome: Outcome, message: str, *, is_anthropic: bool) -> bytes:
    """The end of a stream that cannot be completed: an error that the client's library raises."""
    body = error_body(502, message, reason=outcome.value, is_anthropic=is_anthropic)
    if is_anthropic:
        return b"event: error\ndata: %b\n\n" % body
    return b"data: %b\n\ndata: [DONE]\n\n" % body
