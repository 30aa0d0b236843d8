"""Server-sent events on their way through: counted, and never cut in half."""

_ENDS = (b"\n\n", b"\r\n\r\n")
MAX_EVENT_BYTES = 1024 * 1024
# A longer event is passed on in pieces.


class EventStream:
    """The events of one answer. Owns the part of an event whose rest has not arrived.

    A client that never sees half an event can always be told of an error by one more event.
    """

    __slots__ = ("_partial", "num_data_events")

    def __init__(self) -> None:
        self._partial = b""
        self.num_data_events = 0
        """Events so far that carry an object: one is about one token."""

    def pass_on(self, data: bytes) -> bytes:
        """The whole events that there are with ``data``."""
        self.num_data_events += data.count(b"data: {")
        if self._partial:
            data = self._partial + data
            self._partial = b""
        if data.endswith(_ENDS):
            return data
        end = max(data.rfind(mark) + len(mark) if mark in data else 0 for mark in _ENDS)
        if len(data) - end > MAX_EVENT_BYTES:
            return data
        self._partial = data[end:]
        return data[:end]

    def rest(self, data: bytes) -> bytes:
        """What is left once ``data`` was the last: passed on as it came."""
        self.num_data_events += data.count(b"data: {")
        return self._partial + data
