"""A request as far as it has come: its head, its body, and what the gateway hints beside it."""

from typing import Final

from memroute_picker.picking.claims import renamed
from memroute_picker.picking.fallbacks import endpoints_of
from memroute_picker.picking.heads import RequestHead
from memroute_picker.picking.side import PickerSide
from memroute_picker.protocol.incoming import Incoming
from memroute_picker.protocol.names import SUBSET, SUBSET_NAMESPACE, TEST_SELECTION
from memroute_router.http.budget import SlowHolder

# Pieces of a body that are put together as they come: a client chooses how small they are, and the
# object of one takes 33 bytes. Unit: bytes. Source: chosen by hand.
_SMALL_PIECE_BYTES: Final = 4 * 1024


class Declined:
    """Why a request is refused before it is one of the API."""

    __slots__ = ("cause", "lines", "status", "text")

    def __init__(self, status: int, text: str, *, cause: str = "", lines: bytes = b"") -> None:
        self.status = status
        self.text = text
        self.cause = cause
        """In one word; empty: the status says it."""
        self.lines = lines
        """Header fields beside the usual ones."""


class Asking:
    """One request on its way. Owns the pieces of its body, and counts them."""

    __slots__ = (
        "_num_bytes", "_pieces", "_side", "_slow", "_small", "allowed", "fields", "has_head",
        "has_trailers", "is_allowed_a_wish", "is_bodiless", "length", "method", "peer", "scheme",
        "target", "target_pool",
    )  # fmt: skip

    def __init__(self, side: PickerSide, peer: bytes, called: bytes) -> None:
        """``peer``: the gateway's address, while nobody else's is known.

        ``called``: by which name it has called the picker.
        """
        self._side = side
        self._pieces: list[bytes] = []
        self._small = bytearray()
        """Pieces that are small, behind those: each by itself would take many times its bytes."""
        self._num_bytes = 0
        self._slow: SlowHolder | None = None
        """Who gives up what has come, where the rest does not; None: nobody waits for a rest."""
        self.has_head = False
        """Whether its head has come."""
        self.method = self.target = b""
        self.fields: dict[bytes, bytes] = {}
        self.length: int | None = None
        """Of the body, as its client says; None: it does not."""
        self.is_bodiless = False
        """Whether its head is all there is to answer."""
        self.has_trailers = False
        """Whether trailers end its body, and are to be answered."""
        self.allowed: list[bytes] | None = None
        """The endpoints that it may go to; None: any."""
        self.is_allowed_a_wish = False
        """Whether they are a wish, and any other will do where none of them is there."""
        self.target_pool = side.book.target(called)
        """Which pool the gateway asks for; None: it does not say."""
        self.peer = peer
        """The client, as the gateway names it."""
        self.scheme = b"http"

    def take_head(self, message: Incoming) -> Declined | None:
        """Its header fields, and what is beside them; why they cannot be, if so."""
        head = RequestHead(message)
        self.has_head = True
        fields = self.fields = head.fields
        self.method = fields.get(b":method", b"")
        self.target = fields.get(b":path", b"")
        self.scheme = fields.get(b":scheme", b"http")
        self.peer = head.client() or self.peer
        self.length = head.length
        self.is_bodiless = head.is_last
        noted = message.metadata(SUBSET_NAMESPACE)
        if noted is not None and SUBSET in noted:
            self.allowed = endpoints_of(noted[SUBSET])
        if self._side.is_test and TEST_SELECTION in fields:
            self.allowed = endpoints_of(fields[TEST_SELECTION])
            self.is_allowed_a_wish = True
        if head.twice:
            return Declined(400, f"more than one {head.twice.decode('latin-1')}")
        if head.length is not None and head.length > self._side.max_body_bytes:
            return self._too_large()
        target = self.target_pool
        renamed(fields, self._side.objectives, None if target is None else target.namespace)
        return None

    def take_piece(self, piece: bytes) -> Declined | None:
        """More of its body; why that cannot be, if so.

        To make room for it, it may itself be what is given up: then nothing of it is held.
        """
        before = self._num_bytes
        num_bytes = before + len(piece)
        if num_bytes > self._side.max_body_bytes:
            return self._too_large()
        if piece:
            budget = self._side.budget
            if not budget.take(len(piece), num_bytes):
                return self.no_room()
            if self._num_bytes != before:
                budget.give_back(len(piece))
                return None
            if len(piece) < _SMALL_PIECE_BYTES:
                self._small += piece
            else:
                self._flush_small()
                self._pieces.append(piece)
            self._num_bytes = num_bytes
        return None

    def waits_for_more(self, holder: SlowHolder) -> None:
        """The body is not whole: ``holder`` gives up what there is, where others need the room."""
        if self._slow is None and self._num_bytes:
            self._slow = holder
            self._side.budget.slow(holder)

    def take_body(self) -> bytes:
        """The whole body; whoever has it gives back what is counted for it."""
        self._waits_no_more()
        self._flush_small()
        pieces, self._pieces = self._pieces, []
        self._num_bytes = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def drop(self) -> None:
        """Nobody will get it: what is counted is given back."""
        self._waits_no_more()
        self._pieces, self._small = [], bytearray()
        num_bytes, self._num_bytes = self._num_bytes, 0
        if num_bytes:
            self._side.budget.give_back(num_bytes)

    def no_room(self) -> Declined:
        """Why the rest of it cannot be taken."""
        return Declined(
            503,
            "the picker holds as many bytes of requests as it may",
            cause="bodies",
            lines=b"retry-after: 1\r\n",
        )

    def _waits_no_more(self) -> None:
        slow, self._slow = self._slow, None
        if slow is not None:
            self._side.budget.not_slow(slow)

    def _flush_small(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small = bytearray()

    def _too_large(self) -> Declined:
        return Declined(413, f"the body is larger than {self._side.max_body_bytes} bytes")
