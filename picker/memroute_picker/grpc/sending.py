"""What leaves by one connection: frames as they are made, messages as far as there is room.

```text
what one read makes ───────────────────► leaves at its end, as one write
what a turn of the loop makes otherwise ─► leaves at its end (``http/outbox.py``)
what has no room in a window, or in the socket ─► waits in its call until there is some
```
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from memroute_picker.grpc.reading import LEAST_FRAME_BYTES
from memroute_router.http.faults import WRITE, OnFault
from memroute_router.http.outbox import Outbox

if TYPE_CHECKING:
    from memroute_picker.grpc.call import Call

# Of all calls together, and of each, before anything was said of them. Unit: bytes. Source: RFC
# 9113, 6.9.2.
FIRST_WINDOW_BYTES: Final = 65_535
# Of a frame that we send, however much more the client says is welcome. Unit: bytes. Source: chosen
# by hand.
_MAX_PEER_FRAME_BYTES: Final = 64 * 1024
# Of messages that are handed to the socket before it has taken them: the rest waits in its call,
# where it is counted. Unit: bytes. Source: chosen by hand; 3 ms at 10 Gbit/s.
MAX_WRITE_BYTES: Final = 4 * 1024**2
# Written bytes that a client has not taken before it is taken to be gone. Unit: bytes.
# Source: chosen by hand; beside messages these are answers to pings and settings.
MAX_UNTAKEN_BYTES: Final = 2 * MAX_WRITE_BYTES


class Sender:
    """What leaves by one connection. Owns what has not left yet, and what the client takes."""

    __slots__ = (
        "_abort", "_blocked", "_dirty", "_is_full", "_is_last", "_is_queued", "_is_read",
        "_on_fault", "_out", "_outbox", "call_window", "is_end_of_read", "max_frame_bytes", "room",
        "send_window", "transport",
    )  # fmt: skip

    def __init__(self, outbox: Outbox, on_fault: OnFault, abort: Callable[[], None]) -> None:
        """``abort``: ends the connection, whose client does not take what it is given."""
        self._outbox = outbox
        self._on_fault = on_fault
        self._abort = abort
        self.transport: asyncio.Transport | None = None
        """None: there is none yet, or no more."""
        self._out: list[bytes] = []
        self._dirty: list[Call] = []
        self._blocked: dict[Call, None] = {}
        """Calls with bytes that the windows have no room for, in order."""
        self._is_queued: bool = False
        self._is_read: bool = False
        """Whether something is being read just now: what that makes is flushed at its end."""
        self.is_end_of_read: bool = False
        """Whether nothing follows in it beside what is dealt with now."""
        self._is_full: bool = False
        """Whether the socket does not take what it is given."""
        self._is_last: bool = False
        """Whether the connection closes once what there is has left."""
        self.call_window: int = FIRST_WINDOW_BYTES
        """Bytes that the client takes at first, of each call. Of all calls it changes at once."""
        self.send_window: int = FIRST_WINDOW_BYTES
        """Bytes that the client takes now, of all calls together."""
        self.room: int = MAX_WRITE_BYTES
        """Bytes that the socket is given now, of all calls together."""
        self.max_frame_bytes: int = LEAST_FRAME_BYTES

    # For calls

    def write(self, data: bytes) -> None:
        """Have frames leave with this turn of the loop."""
        self._out.append(data)
        self._queue()

    def dirty(self, call: "Call") -> None:
        """It has something to send in this turn of the loop."""
        if not call.is_dirty:
            call.is_dirty = True
            self._dirty.append(call)
            self._queue()

    def blocked(self, call: "Call") -> None:
        """It has more to send than there is room for."""
        self._blocked[call] = None

    def sent(self, num_bytes: int) -> None:
        """So much of a call leaves now."""
        self.send_window -= num_bytes
        self.room -= num_bytes

    def gone(self, call: "Call") -> None:
        """It has nothing to send any more."""
        self._blocked.pop(call, None)

    def hasten(self) -> None:
        """What was made leaves now, if nothing else comes of what is read: it is one write still.

        Whoever says the last word of a request need not account for it first.
        """
        if self._is_read and self.is_end_of_read:
            self._flush_now()

    # For the connection

    def begin_read(self) -> None:
        """What comes from here on is of one read."""
        self._is_read = True

    def end_read(self) -> None:
        """What it has made leaves."""
        self._is_read = False
        if self._is_queued:
            self._flush_now()

    def pause(self) -> None:
        """The socket does not take what it was given."""
        self._is_full = True

    def resume(self) -> None:
        """It has taken it."""
        self._is_full = False
        self.unblock()

    def takes(self, call_window: int | None, max_frame_bytes: int | None) -> None:
        """What a call may be sent at first, and in one frame; None: as before."""
        if max_frame_bytes is not None:
            self.max_frame_bytes = min(max_frame_bytes, _MAX_PEER_FRAME_BYTES)
        if call_window is not None:
            self.call_window = call_window
        self.unblock()

    def unblock(self) -> None:
        """There is more room for all."""
        blocked, self._blocked = self._blocked, {}
        for call in blocked:
            if not call.is_over:
                self.dirty(call)

    def unblock_one(self, call: "Call") -> None:
        """There is more room for one."""
        if call in self._blocked:
            del self._blocked[call]
            self.dirty(call)

    def close(self) -> None:
        """Close once all has left that was written."""
        self._is_last = True
        self._queue()

    def flush(self) -> None:
        """Hand what there is to the transport: the turn of the loop is over."""
        self._is_queued = False
        out, self._out = self._out, []
        dirty, self._dirty = self._dirty, []
        transport = self.transport
        if self._is_full and transport is not None:
            self.room = max(0, MAX_WRITE_BYTES - transport.get_write_buffer_size())
        else:
            self.room = MAX_WRITE_BYTES
        for call in dirty:
            frames = call.flush()
            if frames:
                out.append(frames)
        if transport is None or transport.is_closing():
            return
        if out:
            transport.write(out[0] if len(out) == 1 else b"".join(out))
            if transport.get_write_buffer_size() > MAX_UNTAKEN_BYTES:
                self._abort()
            elif self._blocked and not self.room and not self._is_full:
                self.unblock()  # the socket has taken all at once: there will be no word of it
        if self._is_last:
            transport.close()

    def _flush_now(self) -> None:
        """What one read has made leaves with it, not a turn of the loop later.

        Other connections' writes are no fewer for it: each is another thread's of a gateway.
        """
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - as for what the outbox flushes
            self._on_fault(WRITE, error)

    def _queue(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            if not self._is_read:
                self._outbox.add(self)
