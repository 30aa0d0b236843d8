"""A request as the gateway tells it, and the means to answer: messages instead of bytes."""

from typing import TYPE_CHECKING

from memroute_router.http.exchange import Exchange
from memroute_router.http.fields import JSON

if TYPE_CHECKING:
    from memroute_picker.picking.process import Process
    from memroute_router.http.budget import BodyBudget


class GatewayExchange(Exchange):
    """One request. The gateway frames what is sent to its client."""

    __slots__ = ("process",)

    def __init__(
        self,
        process: "Process",
        *,
        method: bytes,
        target: bytes,
        fields: dict[bytes, bytes],
        body: bytes,
        received_at: float,
        budget: "BodyBudget",
    ) -> None:
        """``budget``: has counted the body."""
        super().__init__(
            process,
            method=method,
            target=target,
            lines=b"",
            fields=fields,
            body=body,
            keep_alive=True,
            http_1_1=True,
            received_at=received_at,
            budget=budget,
        )
        self.process = process
        self.sees_answer = process.telling.shows_bodies

    def start(self, status: int, lines: bytes, *, length: int | None) -> None:
        """The engine's answer may go on to the client, with these fields beside its own."""
        self.has_started = True
        self.process.begin_answer(lines)

    def send(self, data: bytes) -> None:
        """A piece of its body may."""
        self.process.send_piece(data)

    def finish(self, data: bytes = b"") -> None:
        """So may the rest."""
        self._over()
        self.process.finish_answer(data)

    def abort(self) -> None:
        """The gateway breaks the answer off."""
        self._over()
        self.process.break_off()

    def respond(self, status: int, body: bytes, lines: bytes = JSON) -> None:
        """The client gets this answer of ours."""
        self.has_started = True
        self._over()
        self.process.respond(status, body, lines)

    def _over(self) -> None:
        self.is_finished = True
        self.sink = None
        self.drop_body()
