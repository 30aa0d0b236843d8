"""What the router itself adds to answers: the request's id, and why, for those who ask.

How refusals and ends of broken streams are written is in ``refusal.py``.
"""

from typing import Final

from memroute_router.http.exchange import Exchange
from memroute_router.http.fields import REQUEST_ID

MAX_REQUEST_ID_BYTES: Final = 128
_NOT_IN_IDS: Final = bytes(c for c in range(128) if not chr(c).isprintable() or chr(c) in ' "')


def given_id(exchange: Exchange) -> bytes | None:
    """The id that the client gave, cleaned; None where it gave none that can be used."""
    given = exchange.fields.get(REQUEST_ID)
    if not given or len(given) > MAX_REQUEST_ID_BYTES or not given.isascii():
        return None
    return given.translate(None, _NOT_IN_IDS) or None


def _printable(text: str) -> bytes:
    """What a header field can carry: a model's name is the client's to choose."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text).encode()


def explained(*, replica: str, why: str, queue_seconds: float, reserved_tokens: int) -> bytes:
    """The header fields that say what was decided, and why."""
    return (
        b"x-memroute-replica: %b\r\nx-memroute-decision: %b\r\n"
        b"x-memroute-queue-seconds: %.3f\r\nx-memroute-reserved-tokens: %d\r\n"
    ) % (replica.encode(), _printable(why), queue_seconds, reserved_tokens)
