"""The picker's wiring: a router whose requests come as questions of gateways."""

import ipaddress
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Final

from memroute_picker.grpc.call import Call, Handler
from memroute_picker.grpc.hpack import Field
from memroute_picker.grpc.listening import GrpcServer
from memroute_picker.health import HealthCheck, HealthChecks, HealthWatch
from memroute_picker.metrics import PickerCollector
from memroute_picker.picking.claims import MODEL_FIELD
from memroute_picker.picking.exchange import GatewayExchange
from memroute_picker.picking.process import Process
from memroute_picker.picking.served_here import names_in
from memroute_picker.picking.side import PickerSide
from memroute_picker.pools.book import PoolBook
from memroute_picker.pools.objectives import Objectives
from memroute_picker.protocol.names import HEALTH_CHECK_PATH, HEALTH_WATCH_PATH, PROCESS_PATH
from memroute_picker.settings import PickerSettings
from memroute_router.access.proxies import TrustedProxies
from memroute_router.app import Front, Router
from memroute_router.http.exchange import Exchange
from memroute_router.http.outbox import Outbox
from memroute_router.http.tls import server_files
from memroute_router.limits import server_limits
from memroute_router.memory import bodies_bytes
from memroute_router.replicas.replica import Replica
from memroute_router.services import Services

LOGGER = logging.getLogger(__name__)
# Of a message beside a body that comes whole in it. Unit: bytes. Source: chosen by hand; header
# fields, metadata and attributes are a few thousand.
_BESIDE_BODY_BYTES: Final = 256 * 1024
# Of gateways, at once: each of their threads has one, or a few. Source: chosen by hand; 64 gateways
# of 16 threads; fewer where the process may have few files, but some for probes beside gateways.
MAX_CONNECTIONS: Final = 1024
MIN_CONNECTIONS: Final = 16


class Picker(Router):
    """One picker process: everything that lives as long as it does."""

    def __init__(self, settings: PickerSettings, rng: Random) -> None:
        self._own_settings = settings
        self.health = HealthChecks(lambda: self.is_ready)
        self.book = PoolBook()
        self.objectives = Objectives(settings.objective)
        super().__init__(settings.router, rng, model_field=MODEL_FIELD)
        self.pools.peers.is_picker = True
        self.metrics.registry.register(PickerCollector(self.side.counts, self.grpc))

    def _front(
        self,
        services: Services,
        outbox: Outbox,
        proxies: TrustedProxies | None,
        memory_bytes: int,
    ) -> Front:
        """Where gateways ask."""
        settings = self._own_settings
        router = settings.router
        max_requests = server_limits(router, memory_bytes).max_connections
        self.grpc = GrpcServer(
            self._handler_for,
            outbox,
            max_connections=max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, max_requests)),
            max_calls=max_requests,
            max_message_bytes=router.max_body_bytes + _BESIDE_BODY_BYTES,
            max_bodies_bytes=bodies_bytes(memory_bytes),
            tls=None
            if router.tls_cert is None
            else server_files(router.tls_cert, router.tls_key, router.tls_client_ca, speaks="h2"),
            on_fault=self.on_fault,
        )
        self.side = PickerSide(
            services,
            self.pools,
            otherwise=self.own.answer,
            on_refusal=self.own.listener_refused,
            budget=self.grpc.budget,
            deadlines=self.grpc.deadlines,
            max_body_bytes=router.max_body_bytes,
            max_endpoints=settings.max_endpoints,
            objectives=self.objectives,
            book=self.book,
            passes_other_paths=settings.pass_other_paths,
            is_test=settings.conformance_test,
        )
        return self.grpc

    def on_upsert(self, replica: Replica) -> None:
        """A replica is there, or has changed. A gateway goes to addresses alone."""
        if replica.info.is_routable and not _is_address(replica.info.endpoint.host):
            LOGGER.error(
                "replica gets nothing replica=%s: a gateway needs its address, not %s",
                replica.info.key,
                replica.info.endpoint.host,
            )
            replica = self.pools.upsert_replica(replace(replica.info, is_routable=False))
        super().on_upsert(replica)

    def _ticks(self) -> list[tuple[str, Callable[[], None]]]:
        return [*super()._ticks(), ("health", self.health.tick)]

    def _names_here(self, exchange: Exchange, names: Sequence[str]) -> Sequence[str]:
        """Those of the pool that the gateway asks for: others are led to by other routes."""
        target = None
        if isinstance(exchange, GatewayExchange):
            target = exchange.process.asking.target_pool
        return names_in(self.pools, target, names)

    def _handler_for(self, call: Call, fields: list[Field]) -> Handler | None:
        """What a call is about; None: no such method."""
        path = called = b""
        for name, value in fields:
            if name == b":path":
                path = value
            elif name == b":authority":
                called = value
        if path == PROCESS_PATH:
            return Process(self.side, call, called)
        if path == HEALTH_CHECK_PATH:
            return HealthCheck(self.health, call)
        if path == HEALTH_WATCH_PATH:
            return HealthWatch(self.health, call)
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
