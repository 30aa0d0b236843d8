"""Server-sent events on their way through: counted, and never cut in half.

A reader of the format (WHATWG HTML, 9.2) that does no I/O: bytes in, whole events out. A line ends
with LF, CR or CRLF; an empty line ends an event; a line is a field, or a comment when it begins
with a colon; one space after a field's colon is not part of its value.

Most reads of most streams are one event of one line, as vLLM writes it. Those are recognized by
their ends, not read: one look for each byte. Everything else goes the long way.

| sees | cannot see |
| --- | --- |
| events that carry generated text, and choices in one event | how many tokens an event carries |
| errors that an engine reports in a stream that ends well | anything of a compressed stream |
| the usage, at the end | the usage of a stream whose client did not ask for it |
"""

import re
from typing import Final

import orjson

from memroute_router.access.usage_asked import without_usage
from memroute_router.http.budget import SMALL_BYTES, BodyBudget
from memroute_router.lifecycle.usage import Usage, tail_of

# An event longer than this (bytes) is passed on in pieces: the most that is held of one stream.
# The largest known events are the last ones of OpenAI's responses, which repeat the whole answer.
# Chosen by hand.
MAX_EVENT_BYTES: Final = 1024 * 1024
FIRST_ERROR_STATUS: Final = 500
FIRST_REFUSED_STATUS: Final = 400

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# The end of one event: an end of a line, and another.
_END_OF_EVENT: Final = re.compile(rb"\n\n|[\n\r]\r\n?")
# How chunks with text begin, and end as vLLM writes them and as SGLang does. Errors and usages of
# both end in another way.
_PLAIN_START: Final = b'data: {"id":'
_PLAIN_END: Final = b"}]}\n\n"
# (Tuples of unknown length: compiled, others are made anew at each look.)
_PLAIN_ENDS: Final[tuple[bytes, ...]] = (b"}]}\n\n", b'}],"usage":null}\n\n')
_ERROR_STARTS: Final[tuple[bytes, ...]] = (
    b'{"error"',
    b'{"object":"error"',
    b'{"object": "error"',
    b'{ "error"',
)
# The first event of a chat names the role, and carries no text yet.
_ROLE_ONLY: Final = re.compile(
    rb'"delta"\s*:\s*\{\s*"role"\s*:\s*"[a-z]*"\s*(?:,\s*"[a-z_]+"\s*:\s*(?:""|null|\[\])\s*)*\}'
)
# Between two choices of one event.
_NEXT_CHOICE: Final = re.compile(rb'\}\s*,\s*\{\s*"index"')

# Events with names: Anthropic's messages, OpenAI's responses. Of the latter the deltas carry text.
_RESPONSE: Final = b"response."
_DELTA: Final = b".delta"
_ERROR_NAMES: Final = frozenset({b"error", b"response.failed"})
_USAGE_NAMES: Final = frozenset({b"message_delta", b"response.completed", b"response.incomplete"})
_OPENING_NAME: Final = b"message_start"
_SILENT_NAMES: Final = frozenset(
    {b"content_block_start", b"content_block_stop", b"message_stop", b"ping"}
)
# Errors that are the request's fault, by the types of OpenAI's and Anthropic's APIs.
_REQUEST_ERRORS: Final = frozenset(
    {
        "BadRequestError", "NotFoundError", "authentication_error", "invalid_request_error",
        "not_found_error", "permission_error", "rate_limit_error", "request_too_large",
    }
)  # fmt: skip


class EventStream:
    """The events of one answer. Owns the part of an event whose rest has not arrived.

    A client that never sees half an event can always be told of an error by one more event.
    """

    __slots__ = (
        "_budget", "_counted_bytes", "_edge", "_held", "_held_bytes", "_hides_usage",
        "_is_at_start", "_is_in_order", "_last", "_num_choices", "_opening", "error_status",
        "is_inside", "num_data_events",
    )  # fmt: skip

    def __init__(
        self,
        num_choices: int = 1,
        *,
        hides_usage: bool = False,
        budget: BodyBudget | None = None,
    ) -> None:
        """``num_choices``: answers that were asked for (``n``).

        ``hides_usage``: the event that carries nothing but the usage is read, and not passed on.

        ``budget``: counts what is held of a long event; where there is no room, the event is passed
        on in pieces. None: nobody counts.
        """
        self._budget = budget
        self._counted_bytes: int = 0
        self._num_choices = num_choices
        self._hides_usage = hides_usage
        self._held: list[bytes] = []
        """Of the event whose end has not arrived."""
        self._held_bytes = 0
        self._is_at_start = True
        self._is_in_order = False
        """Whether the next event may be taken by its ends alone."""
        self._opening = b""
        self._last = b""
        """The end of the last event that can have the usage."""
        self._edge = b""
        """The last byte of a piece of a long event."""
        self.is_inside = False
        """Whether a piece of a long event was passed on, and its end was not."""
        self.num_data_events = 0
        """Events that carry generated text; one that carries several choices counts for each."""
        self.error_status = 0
        """What an error event said, 400 to 599, 500 where it said nothing; 0: there was none."""

    def pass_on(self, data: bytes) -> bytes:
        """The whole events that there are with ``data``."""
        if (
            self._is_in_order
            and data.endswith(_PLAIN_ENDS)
            and data.startswith(_PLAIN_START)
            and b"\r" not in data
        ):
            if data.find(b"\n") == len(data) - 2:
                self.num_data_events += 1
                self._last = tail_of(data)
                return data
            if self._are_plain(data):
                return data
        return self._read(data)

    def rest(self, data: bytes) -> bytes:
        """What is left once ``data`` was the last: passed on as it came, whole or not."""
        passed = self.pass_on(data)
        held = self._held
        if not held:
            return passed
        last = b"".join(held)
        self._let_go()
        self._take(last)
        return passed + (without_usage(last) if self._hides_usage else last)

    def usage(self) -> Usage:
        """What the engine said of the request's tokens, as far as it has."""
        usage = Usage()
        if self._opening:
            usage.read(self._opening)
        if self._last:
            usage.read(self._last)
        return usage

    def _are_plain(self, data: bytes) -> bool:
        """Whether all of several events are as vLLM writes them; they are counted if so."""
        num_events = data.count(_PLAIN_END)
        if (
            data.count(b"\n") != 2 * num_events
            or data.count(b"\n\n" + _PLAIN_START) != num_events - 1
        ):
            return False
        self.num_data_events += num_events
        self._last = tail_of(data[data.rfind(b"\n\n", 0, len(data) - 2) + 2 :])
        return True

    def _read(self, data: bytes) -> bytes:
        if not data:
            return data
        if self.is_inside:
            return self._go_on(data)
        held = self._held
        if held:
            straddles = _END_OF_EVENT.match(held[-1][-1:] + data[:1]) is not None
            held.append(data)
            if not straddles and not _end_of_events(data):
                self._held_bytes += len(data)
                return self._give_up() if self._is_too_long() else b""
            data = b"".join(held)
            self._let_go()
        end = _end_of_events(data)
        if end < len(data):
            half = data[end:]
            self._held, self._held_bytes = [half], len(half)
            data = data[:end]
        if data:
            self._take(data)
            if self._hides_usage:
                data = without_usage(data)
        if self._held_bytes > SMALL_BYTES and self._is_too_long():
            data += self._give_up()
        self._is_in_order = not self._held and bool(self.num_data_events) and self._num_choices == 1
        return data

    def _give_up(self) -> bytes:
        """The beginning of an event that is too long to be held. It is counted now."""
        begun = b"".join(self._held)
        self._let_go()
        self._take(begun)
        self.is_inside = True
        self._edge = begun[-1:]
        return begun

    def end(self) -> None:
        """The answer comes to no end: what is held of it counts no more."""
        if self._counted_bytes:
            self._let_go()

    def _is_too_long(self) -> bool:
        """Whether more is held than may be; counts it."""
        held, budget = self._held_bytes, self._budget
        if held <= SMALL_BYTES or budget is None:
            return held > MAX_EVENT_BYTES
        if held > MAX_EVENT_BYTES or not budget.take(held - self._counted_bytes, held):
            return True
        self._counted_bytes = held
        return False

    def _let_go(self) -> None:
        """Nothing is held any more."""
        self._held, self._held_bytes = [], 0
        counted, self._counted_bytes = self._counted_bytes, 0
        if counted and self._budget is not None:
            self._budget.give_back(counted)

    def _go_on(self, data: bytes) -> bytes:
        """More of the long event, and what follows its end."""
        if b"\n" not in data and b"\r" not in data:
            self._edge = data[-1:]
            return data
        found = _END_OF_EVENT.search(self._edge + data)
        if found is None:
            self._edge = data[-1:]
            return data
        self.is_inside = False
        end = found.end() - len(self._edge)
        return data[:end] + self._read(data[end:])

    def _take(self, text: bytes) -> None:
        """Look at whole events."""
        if self._is_at_start:
            self._is_at_start = False
            text = text.removeprefix(_BYTE_ORDER_MARK)
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for event in text.split(b"\n\n"):
            if event:
                self._take_event(event)

    def _take_event(self, event: bytes) -> None:
        name = b""
        if event.startswith(b"data: {") and b"\n" not in event:
            payload = event[6:]
        else:
            name, payload = _fields(event)
        if name in _ERROR_NAMES:
            self._take_error(payload)
        elif not payload.startswith(b"{"):
            return  # [DONE], or nothing but comments
        elif name == b"" or name == b"message":  # noqa: PLR1714 - a set would be made each time
            self._take_chunk(payload)
        elif name in _USAGE_NAMES:
            self._last = tail_of(payload)
        elif name == _OPENING_NAME:
            self._opening = tail_of(payload)
        elif name.startswith(_RESPONSE):
            self.num_data_events += name.endswith(_DELTA)
        elif name not in _SILENT_NAMES:
            self.num_data_events += 1

    def _take_chunk(self, payload: bytes) -> None:
        """An event without a name: OpenAI's chats and completions, and all that are like them."""
        if payload.startswith(_ERROR_STARTS) and self._take_error(payload):
            return
        self._last = tail_of(payload)
        if b'"choices":[]' in payload or b'"choices": []' in payload:
            return  # the usage
        has_several = self._num_choices > 1
        if (has_several or not self.num_data_events) and _ROLE_ONLY.search(payload) is not None:
            return
        self.num_data_events += 1
        if has_several:
            self.num_data_events += len(_NEXT_CHOICE.findall(payload))

    def _take_error(self, payload: bytes) -> bool:
        """Remember the gravest; False if it is none after all."""
        status, kind = FIRST_ERROR_STATUS, ""
        try:
            document = orjson.loads(payload)
        except orjson.JSONDecodeError:
            document = None
        if isinstance(document, dict):
            response = document.get("response")
            found = (response if isinstance(response, dict) else document).get("error", document)
            if not found:
                return False  # "error": null
            code = None
            if isinstance(found, dict):
                code, kind = found.get("code"), str(found.get("type"))
            if isinstance(code, int) and 400 <= code < 600:  # noqa: PLR2004 - statuses of errors
                status = code
            elif kind in _REQUEST_ERRORS:
                status = 400
        self.error_status = max(self.error_status, status)
        return True


def _end_of_events(data: bytes) -> int:
    """Where the last whole event of ``data`` ends; 0 if none does."""
    end = data.rfind(b"\n\n") + 2
    if b"\r" in data:
        for pair in (b"\n\r", b"\r\r"):
            at = data.rfind(pair) + 2
            if at >= 2:  # noqa: PLR2004 - it was found
                at += data[at : at + 1] == b"\n"
                end = max(end, at)
    return end if end >= 2 else 0  # noqa: PLR2004 - it was found


def _fields(event: bytes) -> tuple[bytes, bytes]:
    """The name of an event, and its data without white space around it."""
    name = b""
    data: list[bytes] = []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.removeprefix(b" ")
    return name, (data[0] if len(data) == 1 else b"\n".join(data)).strip()
