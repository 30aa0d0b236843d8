"""A request's life where a gateway carries it: the router's, but for the way to the engine."""

from memroute.traffic.admission import RejectReason
from memroute.traffic.dispatch import Lease
from memroute_picker.picking.attempt import PickedAttempt
from memroute_picker.picking.exchange import GatewayExchange
from memroute_picker.picking.fallbacks import named
from memroute_router.lifecycle.attempt import Attempt
from memroute_router.lifecycle.lifecycle import Lifecycle
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.lifecycle.phases import Happening
from memroute_router.lifecycle.refusal import Refusal
from memroute_router.replicas.pools import Pool, Replica
from memroute_router.services import Services
from memroute_router.surface import Route

NOWHERE = Refusal(
    outcome=Outcome.NO_READY_REPLICA,
    status=503,
    message="none of the endpoints that the gateway allows serves this model",
    reason=RejectReason.NO_READY_REPLICA.value,
    retry_after_seconds=2,
)


class PickedRequest(Lifecycle):
    """One request, from its arrival to its end."""

    __slots__ = ("_gateway",)

    def __init__(
        self, services: Services, exchange: GatewayExchange, route: Route, number: int
    ) -> None:
        """``number``: of the request, for its id."""
        super().__init__(services, exchange, route, number)
        self._gateway = exchange

    def header_lines(self, authority: bytes) -> bytes:
        """Header lines that the engine gets beside those of the client."""
        lines = b"x-request-id: %b\r\n" % self._account.request_id
        if self._services.engine_key is not None:
            lines += self._services.engine_key.line
        if self._trace is not None:
            lines = self._trace.lines(lines, authority)
        return lines

    @property
    def request_id(self) -> bytes:
        """What the request is called in answers and logs."""
        return self._account.request_id

    @property
    def pool(self) -> Pool | None:
        """The replicas that serve its model."""
        return self._pool

    def answer_begins(self, status: int, lines: bytes, length: int | None) -> None:
        """The first byte is there; the client has the engine's own fields by the gateway."""
        super().answer_begins(status, b"", length)

    def _attempt_at(self, lease: Lease[Replica]) -> Attempt:
        pool = self._pool
        if pool is None:
            msg = "a request without a pool has no lease"
            raise RuntimeError(msg)
        exchange = self._gateway
        return PickedAttempt(
            self._services, self, exchange, lease, pool, exchange.process.telling.shows_bodies
        )

    def _may_retry(self, pool: Pool) -> bool:
        """Never: the gateway asks once, and goes to the others that it was told by itself."""
        return False

    def _seek_room(self) -> None:
        pool = self._pool
        allowed = self._gateway.process.asking.allowed
        if pool is not None and allowed is not None and self.profile.only is None:
            keys = frozenset(
                [replica.info.key for replica in named(pool.replicas.values(), allowed)]
            )
            if keys:
                self.profile.only = keys
            elif not self._gateway.process.asking.is_allowed_a_wish:
                self._refuse(Happening.REFUSE, NOWHERE)
                return
        super()._seek_room()

    def _is_from_proxy(self) -> bool:
        """Whether the gateway is one whose word is believed."""
        proxies = self._services.proxies
        return proxies is not None and proxies.trust(self._gateway.process.call.peer)
