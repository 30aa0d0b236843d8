"""A request's life where a gateway carries it: the router's, but for the way to the engine."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final

from memroute.traffic.admission import RejectReason
from memroute.traffic.dispatch import Lease
from memroute_picker.picking.attempt import PickedAttempt
from memroute_picker.picking.exchange import GatewayExchange
from memroute_picker.picking.fallbacks import named, of_deployment
from memroute_picker.picking.served_here import names_in, serves
from memroute_router.discovery.names import unknown_model
from memroute_router.lifecycle.attempt import Attempt
from memroute_router.lifecycle.lifecycle import Lifecycle
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.lifecycle.phases import Happening
from memroute_router.lifecycle.refusal import Refusal, unknown
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.replica import Replica
from memroute_router.services import Services
from memroute_router.surface import Route

NOWHERE = Refusal(
    outcome=Outcome.NO_READY_REPLICA,
    status=503,
    message="none of the endpoints that the gateway allows serves this model",
    reason=RejectReason.NO_READY_REPLICA.value,
    retry_after_seconds=2,
)
# Looked up once, not for every refusal.
_UNKNOWN_MODEL: Final = Outcome.UNKNOWN_MODEL


class PickedRequest(Lifecycle):
    """One request, from its arrival to its end."""

    __slots__ = ("_gateway", "_is_narrowed")

    def __init__(
        self, services: Services, exchange: GatewayExchange, route: Route, number: int
    ) -> None:
        """``number``: of the request, for its id."""
        super().__init__(services, exchange, route, number)
        self._gateway = exchange
        self._is_narrowed = False
        """Whether the profile says where the gateway lets it go."""

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

    def _find_pool(self) -> Callable[[str], Pool | None] | None:
        """By what the gateway says of the request, beside the model."""
        return self._pool_for

    def _pool_for(self, model: str) -> Pool | None:
        asking, pools = self._gateway.process.asking, self._services.intake.pools
        target = asking.target_pool
        if target is not None and target.model:
            return pools.by_model.get(target.model)
        found = pools.get(model)
        if target is not None:
            # Another ModelDeployment's model is none of this pool's.
            return found if found is not None and serves(found, target) else None
        if found is None and asking.allowed:
            # It does not say which pool, but which endpoints: those of a pool that takes any name.
            for name in pools.any_name:
                pool = pools.by_model.get(name)
                if pool is not None and named(pool.replicas.values(), asking.allowed):
                    return pool
        return found

    def _refuse(self, happening: int, refusal: Refusal) -> None:
        target = self._gateway.process.asking.target_pool
        if refusal.outcome is _UNKNOWN_MODEL and target is not None:
            # The names that the router would tell are not all served here.
            intake = self._services.intake
            names = intake.names_for(self._gateway.fields)
            if names is not None:
                names = names_in(intake.pools, target, names)
            refusal = unknown(unknown_model(self._account.model, names))
        super()._refuse(happening, refusal)

    def _seek_room(self) -> None:
        if self._is_narrowed or self._narrow():
            super()._seek_room()

    def _narrow(self) -> bool:
        """Where the gateway lets it go; False: nowhere, which it has been told."""
        self._is_narrowed = True
        pool, asking = self._pool, self._gateway.process.asking
        if pool is None:
            return True
        target = asking.target_pool
        only: AbstractSet[str] | None = None
        if target is not None and target.deployment is not None:
            only = of_deployment(pool, target.namespace, target.deployment)
            if only is not None and not only:
                # Who has no replica is asked for all the same: by this an autoscaler knows.
                pool.asked_in_vain((target.namespace, target.deployment))
        if asking.allowed is not None and (only is None or only):
            keys = frozenset(
                [replica.info.key for replica in named(pool.replicas.values(), asking.allowed)]
            )
            if only is not None:
                keys = keys.intersection(only)
            if keys or not asking.is_allowed_a_wish:
                only = keys
        if only is not None and not only:
            self._refuse(Happening.REFUSE, NOWHERE)
            return False
        self.profile.only = only
        return True

    def _is_from_proxy(self) -> bool:
        """Whether the gateway is one whose word is believed."""
        proxies = self._services.proxies
        return proxies is not None and proxies.trust(self._gateway.process.call.peer)
