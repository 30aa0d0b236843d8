"""The life of one client's connection: it greets, has calls, is left, and closes.

```text
GREETING ── preface ──► OPEN ── told that it is left ──► LEFT ── its calls have ended ──► closed
    │ too late           │ what may not be: every call of it ends                           ▲
    └────────────────────┴──────────────────────────────────────────────────────────────────┘
```

What a client may make us hold is bounded: calls, what waits for it, and how many of its streams may
come to nothing. Frames are read and leave elsewhere (``reading.py``, ``sending.py``); what they do
to a call is decided here.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, cast

from memroute_picker.grpc.call import CALL_WINDOW_BYTES, Call
from memroute_picker.grpc.frames import (
    SETTINGS_ACK,
    Code,
    Flag,
    GrpcStatus,
    Kind,
    Setting,
    frame,
    go_away,
    reset,
    settings,
    window_update,
)
from memroute_picker.grpc.hpack import Field
from memroute_picker.grpc.reading import (
    MAX_BLOCK_BYTES,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    FrameError,
    FrameReader,
)
from memroute_picker.grpc.sending import FIRST_WINDOW_BYTES, Sender
from memroute_picker.grpc.side import ServerSide
from memroute_picker.grpc.waste import EARLY_SECONDS, Waste
from memroute_router.http.budget import BodyBudget, UnsentAnswers
from memroute_router.http.deadlines import NEVER, monotonic
from memroute_router.http.faults import CLIENT
from memroute_router.http.sockets import client_address

LOGGER = logging.getLogger(__name__)
# Of all calls together. Unit: bytes. Source: chosen by hand; bodies are counted where they are
# held, so that this bounds no more than one read.
WINDOW_BYTES: Final = 32 * 1024**2
_CREDIT_BYTES: Final = WINDOW_BYTES // 4
# How long a client may take to greet. Unit: seconds. Source: chosen by hand, as for a handshake of
# TLS; gateways greet with their first packet.
GREETING_SECONDS: Final = 10.0
# Silence after which a client is asked whether it lives, and after which again, where it does not
# answer, it is taken to be gone: a machine that dies or is cut off closes nothing, and what it has
# asked for would be held for ever. Unit: seconds. Source: chosen by hand; of a network that is
# mended within as long nothing is lost, and no engine has been late by then.
SILENT_SECONDS: Final = 20.0
# What it is asked by. Source: chosen by hand, eight bytes.
ALIVE: Final = b"alive???"
# Asked of a client that is left, after it was told so: what it began before it heard of that has
# come when the answer comes. Source: chosen by hand, eight bytes.
GOODBYE: Final = b"goodbye!"


class GrpcConnection(asyncio.Protocol):
    """One client's connection. Owns its calls."""

    def __init__(self, side: ServerSide) -> None:
        self._side = side
        self._reader = FrameReader(self)
        self.sender = Sender(side.outbox, side.on_fault, self.abort)
        self._last_stream: int = 0
        self._uncredited_bytes: int = 0
        self.is_closing: bool = False
        """Whether nothing that comes is heard any more."""
        self._has_greeted: bool = False
        self._is_heard: bool = False
        """Whether something has come since it was last looked for."""
        self._is_asked: bool = False
        """Whether its client was asked since then whether it lives."""
        self._waste = Waste(side.max_calls, now_seconds=monotonic())
        self._is_calmed: bool = False
        """Whether it is left for what it wastes: it is closed once its calls have ended."""
        self.is_left: bool = False
        """Whether it takes no new calls, as the client knows."""
        self.calls: dict[int, Call] = {}
        self.max_message_bytes: int = side.max_message_bytes
        self.budget: BodyBudget = side.budget
        self.unsent: UnsentAnswers = side.unsent
        self.peer = b"unknown"
        self.deadline_at: float = NEVER
        """When it must have greeted; from then on, when it is looked whether it lives."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet at once."""
        # Not isinstance: uvloop's transports quack, they do not inherit.
        self.sender.transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer = client_address(str(name[0]))
        side = self._side
        if len(side.connections) >= side.max_connections:
            self.abort()
            return
        side.connections.add(self)
        self.deadline_at = monotonic() + GREETING_SECONDS
        side.deadlines.watch(self)
        self.sender.write(
            settings(
                [
                    (Setting.MAX_CONCURRENT_STREAMS, self._side.max_calls),
                    (Setting.INITIAL_WINDOW_SIZE, CALL_WINDOW_BYTES),
                    (Setting.MAX_FRAME_SIZE, MAX_FRAME_BYTES),
                    (Setting.MAX_HEADER_LIST_SIZE, MAX_BLOCK_BYTES),
                ]
            )
            + window_update(0, WINDOW_BYTES - FIRST_WINDOW_BYTES)
        )
        if self._side.is_stopping:
            self.say_goodbye()

    def pause_writing(self) -> None:
        """The socket does not take what it was given."""
        self.sender.pause()

    def resume_writing(self) -> None:
        """It has taken it."""
        self.sender.resume()

    def connection_lost(self, _error: Exception | None) -> None:
        """Every call of it is over."""
        self.sender.transport = None
        self._side.connections.discard(self)
        self._side.deadlines.forget(self)
        for call in list(self.calls.values()):
            self.guarded(call, call.cancel)

    def deadline_passed(self) -> None:
        """It has not greeted, or does not go, or is silent: is it there?"""
        if self._has_greeted and not self.is_closing and (self._is_heard or not self._is_asked):
            self._is_asked = not self._is_heard
            self._is_heard = False
            if self._is_asked:
                self.sender.write(frame(Kind.PING, 0, 0, ALIVE))
            self.deadline_at = monotonic() + SILENT_SECONDS
            return
        if self._is_asked and not self.is_closing:
            self._side.num_silent += 1
            LOGGER.warning(
                "connection lost peer=%s calls=%d: nothing is heard of it",
                self.peer.decode(), len(self.calls),
            )  # fmt: skip
        self.abort()

    def data_received(self, data: bytes) -> None:
        """Whole frames are dealt with; the rest waits."""
        if self.is_closing:
            return
        self._is_heard = True
        self.sender.begin_read()
        try:
            self._reader.read(data)
        except FrameError as error:
            self._fail(error.code, error.why)
        except Exception as error:  # noqa: BLE001 - a bug of ours ends the connection, not the loop
            self._side.on_fault(CLIENT, error)
            self._fail(Code.INTERNAL_ERROR, "internal error")
        self.sender.end_read()

    # For calls

    def gone(self, call: Call) -> None:
        """It is over."""
        if self.calls.pop(call.number, None) is not None:
            self._side.num_calls -= 1
        self.sender.gone(call)
        if call.has_begun:
            self._waste.num_answered += 1
        self._close_if_calmed()

    def guarded(self, call: Call, step: Callable[[], None]) -> None:
        """Do something for a call: if that is a bug, it fails alone."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - a bug in one call
            self._crashed(call, error)

    # For the server

    def say_goodbye(self, code: int = Code.NO_ERROR) -> None:
        """New calls are for another server; those that there are go on.

        What the client began before it knew is a call like others: it is not answered twice, and
        a gateway would fail it (RFC 9113, 6.8).
        """
        self.sender.write(go_away(MAX_WINDOW, code) + frame(Kind.PING, 0, 0, GOODBYE))

    def leave(self) -> None:
        """Take no new calls from here on."""
        if not self.is_left:
            self.is_left = True
            code = Code.ENHANCE_YOUR_CALM if self._is_calmed else Code.NO_ERROR
            self.sender.write(go_away(self._last_stream, code))
            self._close_if_calmed()

    def shut_down(self) -> None:
        """Calls end now."""
        for call in list(self.calls.values()):
            handler = call.handler
            if handler is not None:
                self.guarded(call, handler.shut_down)

    def close(self) -> None:
        """Close once all has left that was written."""
        self.is_closing = True
        transport = self.sender.transport
        if transport is not None:
            self.sender.flush()
            transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.is_closing = True
        if self.sender.transport is not None:
            self.sender.transport.abort()

    # What comes

    def on_greeting(self) -> None:
        """It speaks HTTP/2."""
        self._has_greeted = True
        self.deadline_at = monotonic() + SILENT_SECONDS

    def on_headers(self, stream: int, fields: list[Field], *, ends_stream: bool) -> None:
        """A call begins. Raises ``FrameError``."""
        known = self.calls.get(stream)
        if known is not None:
            # Trailers: a client of gRPC has none, and they end what it says.
            if not ends_stream:
                raise FrameError(Code.PROTOCOL_ERROR, "header fields in the middle of a stream")
            self.guarded(known, lambda: self._half_closed(known))
            return
        if stream <= self._last_stream:
            return  # of one that was ended
        self._last_stream = stream
        side = self._side
        # Each connection may have one call, however many others have: probes come by their own.
        is_full = bool(self.calls) and side.num_calls >= side.max_calls
        if is_full or self.is_left:
            self.sender.write(reset(stream, Code.REFUSED_STREAM))
            self._came_to_nothing(monotonic())
            return
        call = self.calls[stream] = Call(self, stream)
        side.num_calls += 1
        try:
            call.handler = side.handler_for(call, fields)
            if call.handler is None:
                call.end(GrpcStatus.UNIMPLEMENTED, b"no such method")
            if ends_stream:
                self._half_closed(call)
        except Exception as error:  # noqa: BLE001 - a bug in one call
            self._crashed(call, error)

    def on_data(self, stream: int, payload: bytes, num_bytes: int, *, is_last: bool) -> None:
        """Some of a call's messages, ``num_bytes`` with their padding. Raises ``FrameError``."""
        self._uncredited_bytes += num_bytes
        if self._uncredited_bytes >= _CREDIT_BYTES:
            self.sender.write(window_update(0, self._uncredited_bytes))
            self._uncredited_bytes = 0
        call = self.calls.get(stream)
        if call is None:
            if stream == 0 or stream > self._last_stream:
                raise FrameError(Code.PROTOCOL_ERROR, "data of no stream")
            return  # what was on its way when we ended it
        try:
            if num_bytes:
                call.received(payload, num_bytes)
            if is_last:
                self._half_closed(call)
        except Exception as error:  # noqa: BLE001 - a bug in one call
            self._crashed(call, error)

    def on_reset(self, stream: int) -> None:
        """Its client does not want a call any more."""
        call = self.calls.get(stream)
        if call is not None:
            self.guarded(call, call.cancel)
            self._left_early(call)

    def on_window(self, stream: int, more: int) -> None:
        """So many bytes more may be sent. Raises ``FrameError``. ``stream`` 0: of all calls."""
        if stream:
            call = self.calls.get(stream)
            if call is None:
                return
            call.send_credit += more
            if not more or self.sender.call_window + call.send_credit > MAX_WINDOW:
                self.guarded(call, call.cancel)
                self.sender.write(reset(stream, Code.FLOW_CONTROL_ERROR))
                self._left_early(call)
            else:
                self.sender.unblock_one(call)
            return
        self.sender.send_window += more
        if not more or self.sender.send_window > MAX_WINDOW:
            raise FrameError(Code.FLOW_CONTROL_ERROR, "the window is too large")
        self.sender.unblock()

    def on_settings(self, call_window: int | None, max_frame_bytes: int | None) -> None:
        """What a call may be sent at first, and in one frame; None: as before."""
        self.sender.write(SETTINGS_ACK)
        self.sender.takes(call_window, max_frame_bytes)

    def on_ping(self, payload: bytes, *, is_answer: bool) -> None:
        """Its client asks whether we live, or answers what we have asked."""
        if not is_answer:
            self.sender.write(frame(Kind.PING, Flag.ACK, 0, payload))
        elif payload == GOODBYE and (self._side.is_stopping or self._is_calmed):
            self.leave()

    # What comes of it

    def _half_closed(self, call: Call) -> None:
        call.half_close()
        if not call.is_over and call.handler is None:
            self.sender.dirty(call)

    def _close_if_calmed(self) -> None:
        """What it wastes was too much, and nothing of others is under way any more."""
        if self._is_calmed and self.is_left and not self.calls:
            self.is_closing = True
            self.sender.close()

    def _left_early(self, call: Call) -> None:
        """Its client does not want it any more: has it ever?"""
        if not call.has_begun:
            now = monotonic()
            if now - call.begun_at < EARLY_SECONDS:
                self._came_to_nothing(now)

    def _came_to_nothing(self, now: float) -> None:
        """One more stream has. Over what is allowed the connection is left.

        Its calls go on: a gateway's other clients have done nothing. Over twice that they end.
        """
        used_ratio = self._waste.one_more(now_seconds=now)
        if used_ratio > 2.0:  # noqa: PLR2004 - as the docstring says
            self._fail(Code.ENHANCE_YOUR_CALM, "too many streams come to nothing")
        elif used_ratio > 1.0 and not self._is_calmed:
            self._is_calmed = True
            self._side.num_calmed += 1
            LOGGER.warning("connection left peer=%s: too many streams reset", self.peer.decode())
            self.say_goodbye(Code.ENHANCE_YOUR_CALM)

    def _crashed(self, call: Call, error: Exception) -> None:
        """A bug of ours, in what was done for one call: it fails alone."""
        self._side.on_fault(CLIENT, error)
        try:
            call.cancel()
        except Exception as another:  # noqa: BLE001 - nor is a second one the connection's
            self._side.on_fault(CLIENT, another)
        self.sender.write(reset(call.number, Code.INTERNAL_ERROR))

    def _fail(self, code: int, why: str) -> None:
        """Nothing that follows could be trusted; nor does a call wait until the socket is gone."""
        self.sender.write(go_away(self._last_stream, code, why.encode("ascii", "replace")))
        for call in list(self.calls.values()):
            self.guarded(call, call.cancel)
        self.close()
