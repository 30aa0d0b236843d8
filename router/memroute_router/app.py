"""The router's wiring: what lives as long as its process does."""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Protocol

from memroute_kube import KubernetesClient
from memroute_router.access.engine_key import EngineKey
from memroute_router.access.files import watched_files
from memroute_router.access.gate import Gate
from memroute_router.access.newcomers import KnownWords
from memroute_router.access.proxies import TrustedProxies
from memroute_router.discovery.membership import Membership
from memroute_router.http.clients import Clients
from memroute_router.http.engine_pool import EnginePool
from memroute_router.http.exchange import Exchange
from memroute_router.http.fields import KEYED_REQUEST_FIELDS, REQUEST_FIELDS
from memroute_router.http.listening import Server
from memroute_router.http.outbox import Outbox
from memroute_router.http.tls import TLSFiles, server_files
from memroute_router.lifecycle.claims import TenantSource
from memroute_router.lifecycle.documents import DocumentRoom
from memroute_router.lifecycle.intake import IntakeServices
from memroute_router.lifecycle.isolation import Isolation
from memroute_router.lifecycle.proxy import Proxy
from memroute_router.limits import common_settings, server_limits
from memroute_router.live_map.fleet import FleetReader
from memroute_router.log.journal import Journal
from memroute_router.memory import (
    MemoryWatch,
    documents_bytes,
    memory_limit_bytes,
)
from memroute_router.metrics.exported import RouterMetrics
from memroute_router.metrics.process import Listening
from memroute_router.pages.exposition import TEXT
from memroute_router.pages.operations import Operations
from memroute_router.pages.own_answers import OwnAnswers
from memroute_router.peer_addresses import parse_peer
from memroute_router.peers import PeerLink, PeerNames, follow_pods, read_secret
from memroute_router.prompts.kv_events import KVEventFollower
from memroute_router.prompts.tokenizer import Tokenizers
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica
from memroute_router.replicas.scrape import Scraper
from memroute_router.services import LifecycleLimits, Services
from memroute_router.settings import RouterSettings
from memroute_router.supervisor import Supervisor
from memroute_router.tracing.context import Sampler
from memroute_router.tracing.tracer import Tracer, export_command

LOGGER = logging.getLogger(__name__)
TICK_SECONDS = 0.25
# Between two looks at the listener's certificates. Unit: seconds. Source: chosen by hand; a rotated
# one is valid for hours beside its successor.
CERTIFICATE_SECONDS = 2.0


class ListenError(Exception):
    """A port cannot be listened on; the message says which, and why."""


class Front(Listening, Protocol):
    """Where requests come."""

    async def start(self, host: str, port: int) -> int:
        """Listen; the port."""
        ...

    async def refresh_certificates(self) -> None:
        """Use the files' certificates for new connections, where they have changed."""
        ...

    async def stop(self, *, timeout_seconds: float) -> None:
        """Take no new requests, let answers finish for so long, then end everything."""
        ...


class Router:
    """One router process: everything that lives as long as it does."""

    def __init__(
        self, settings: RouterSettings, rng: Random, *, model_field: bytes | None = None
    ) -> None:
        """``model_field``: a header field that renames models on the way; None: none does."""
        self._settings = settings
        loop = asyncio.get_running_loop()
        self.pools = Pools(
            rng,
            common=common_settings(settings),
            call_soon=loop.call_soon,
            call_later=loop.call_later,
            on_error=lambda error: self.on_fault("pool", error),
        )
        self.peers = PeerLink(
            self.pools.peers,
            secret=read_secret(settings.peer_secret_file) if settings.peer_secret_file else None,
        )
        self.pools.peers.outbox.max_bytes_per_second = settings.peer_bytes_per_second
        self.peer_names = PeerNames(self.peers, [parse_peer(name) for name in settings.peer])
        self.gate: Gate | None = None
        if settings.keys is not None:
            self.gate = Gate(
                Path(settings.keys),
                num_routers=lambda: 1 + self.pools.peers.num_alike,
                weights=self.pools.tenant_weights,
                call_soon=loop.call_soon,
                on_fault=self.on_fault,
                max_wait_seconds=settings.max_queue_seconds,
                max_waiting=settings.max_queued_requests,
            )
        self.engine_key: EngineKey | None = None
        if settings.engine_key_file is not None:
            self.engine_key = EngineKey(Path(settings.engine_key_file))
        self.metrics = RouterMetrics(self.pools, self.peers, self.gate)
        self.watched = watched_files(self.gate, self.engine_key, self.metrics.on_reload)
        for file in self.watched:
            file.load()
        outbox = Outbox(loop, self.on_fault)
        self.engines = EnginePool(
            outbox,
            connect_timeout_seconds=settings.connect_timeout_seconds,
            on_fault=self.on_fault,
        )
        self.isolation = Isolation(
            loop.call_soon, self.on_fault, max_waiting=settings.max_queued_requests
        )
        self.journal = Journal(settings.access_log, log_format=settings.log_format)
        self.scraper = Scraper(
            self.engines,
            self.pools,
            self.metrics,
            interval_seconds=settings.scrape_seconds,
            rng=rng,
            on_fault=self.on_fault,
            on_unreachable=self.isolation.unreachable,
        )
        self.tokenizers = Tokenizers(Path(settings.tokenizers) if settings.tokenizers else None)
        self.kv_events: KVEventFollower | None = None
        if settings.kv_events:
            self.kv_events = KVEventFollower(
                self.engines,
                self.pools,
                on_gap=_count_gap,
                on_fault=self.on_fault,
            )
        self.tracer = self._make_tracer(settings, rng)
        memory_bytes = settings.max_memory or memory_limit_bytes()
        self._memory = MemoryWatch(memory_bytes)
        proxies: TrustedProxies | None = None
        if settings.trusted_proxies or settings.trust_headers:
            proxies = TrustedProxies(settings.trusted_proxies, trusts_all=settings.trust_headers)
        health: dict[bytes, Callable[[Exchange], None]] = {
            b"/health": lambda exchange: exchange.respond(200, b"ok\n", TEXT),
            b"/ready": self._ready,
        }
        self.own = own = OwnAnswers(
            self.pools,
            self.gate,
            self.metrics,
            self.journal,
            names_here=self._names_here,
            health=health,
        )
        self.services = Services(
            intake=IntakeServices(
                pools=self.pools,
                tokenizers=self.tokenizers,
                tenants=settings.tenants,
                names_for=own.names_for,
                media_hosts=settings.media_hosts,
                is_tenant_checked=(
                    settings.tenants is TenantSource.HEADER and bool(settings.trusted_proxies)
                ),
                words=KnownWords() if settings.tenants is TenantSource.KEY else None,
                documents=DocumentRoom(documents_bytes(memory_bytes)),
                model_field=model_field,
            ),
            engines=self.engines,
            metrics=self.metrics,
            journal=self.journal,
            limits=LifecycleLimits(
                first_byte_seconds=settings.first_byte_timeout_seconds,
                stalled_engine_seconds=settings.stalled_engine_seconds,
            ),
            isolation=self.isolation,
            on_fault=self.on_fault,
            id_prefix=secrets.token_hex(6).encode(),
            explains=not settings.no_explain_header,
            tracer=self.tracer,
            trusts_headers=settings.trust_headers,
            proxies=proxies if settings.trusted_proxies else None,
            gate=self.gate,
            engine_key=self.engine_key,
        )
        self.server = self._front(self.services, outbox, proxies, memory_bytes)
        self.metrics.process.server = self.server
        self._membership: Membership | None = None
        self._is_listening = False
        self._is_stopping = False
        self.fleet = FleetReader(settings.map_namespace)
        self.operations = Operations(
            self.pools,
            self.metrics,
            self.journal,
            outbox,
            isolation=self.isolation,
            lines=None if self.gate is None else self.gate.lines,
            fleet=self.fleet,
            router=settings.router_name or socket.gethostname(),
            health=health,
            on_fault=self.on_fault,
        )

    async def run(
        self,
        membership: Membership,
        stopping: asyncio.Event,
        client: KubernetesClient | None = None,
    ) -> None:
        """Serve until ``stopping``, then let answers finish. A loop that ends is started again.

        ``client``: of the API server that knows the routers' pods; None: there is none.
        """
        self._membership = membership
        settings = self._settings
        ops_host = settings.ops_host or settings.host
        if settings.ops_port:
            # First: probes and scrapers come before clients may.
            server = self.operations.server
            ops_port = await _listen(server, ops_host, settings.ops_port, "--ops-port")
            LOGGER.info("operations listening ops_host=%s ops_port=%d", ops_host, ops_port)
        else:
            LOGGER.warning("operations not served, nor metrics: --ops-port is 0")
        port = await _listen(self.server, settings.host, settings.port, "--port")
        self._is_listening = True
        LOGGER.info("listening host=%s port=%d", settings.host, port)
        supervisor = Supervisor(self.on_fault)
        supervisor.keep("membership", membership.follow)
        supervisor.keep("clock", self._tick_forever)
        supervisor.keep("certificates", self._follow_certificates)
        supervisor.keep("map", lambda: self.fleet.follow(client))
        supervisor.keep("peers", lambda: self._follow_peers(client))
        for file in self.watched:
            supervisor.keep("watched file", file.follow)
        if self.tracer is not None:
            supervisor.keep("traces", self.tracer.follow)
        await stopping.wait()
        self._is_stopping = True
        LOGGER.info("stopping open_connections=%d", self.server.num_connections)
        await self.server.stop(timeout_seconds=self._settings.shutdown_timeout_seconds)
        await supervisor.close()
        self.peers.close()
        self.scraper.close()
        if self.kv_events is not None:
            await self.kv_events.close()
        self.tokenizers.close()
        await self.engines.close()
        # Last: what a router that drains still has is read here.
        await self.operations.server.stop(timeout_seconds=0)
        self.journal.flush()
        if self.tracer is not None:
            await self.tracer.close()
        LOGGER.info("router stopped")

    def _front(
        self,
        services: Services,
        outbox: Outbox,
        proxies: TrustedProxies | None,
        memory_bytes: int,
    ) -> Front:
        """Where requests come. ``proxies``: who is believed; None: nobody."""
        settings, own = self._settings, self.own
        return Server(
            Proxy(services, otherwise=own.answer).handle,
            outbox,
            limits=server_limits(settings, memory_bytes),
            tls=_server_tls(settings),
            on_fault=self.on_fault,
            on_refusal=own.listener_refused,
            kinds=(
                REQUEST_FIELDS
                if self.gate is None and self.engine_key is None
                else KEYED_REQUEST_FIELDS
            ),
            screen=None if self.gate is None else self.gate.screen,
            clients=Clients(
                is_proxy=None if proxies is None else proxies.is_proxy,
                told_by=None if proxies is None else proxies.client_of,
            ),
        )

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked: the first lists are complete, and it does not stop."""
        is_synced = self._membership is not None and self._membership.is_synced
        return is_synced and self._is_listening and not self._is_stopping

    def _ticks(self) -> list[tuple[str, Callable[[], None]]]:
        """What is done four times a second, by the place that a bug in it is counted under."""
        return [
            ("kv-share", self._tick_gate),
            ("pool", self.pools.tick),
            ("isolation", self.isolation.tick),
            ("connect", self.engines.tick),
            ("scrape", self.scraper.tick),
            ("peers", self.peers.tick),
            ("memory", lambda: self._memory.tick(time.monotonic())),
        ]

    def on_upsert(self, replica: Replica) -> None:
        """A replica is there, or has changed."""
        self.tokenizers.of(replica.info.served_model, None)  # read before the first request
        self.scraper.follow(replica)
        if self.kv_events is not None:
            self.kv_events.follow(replica)

    def on_gone(self, replica: Replica) -> None:
        """A replica is gone: who waits for it is told, for a node that died sends no reset."""
        LOGGER.info("replica gone replica=%s", replica.info.key)
        self.scraper.forget(replica.info.key)
        if self.kv_events is not None:
            self.kv_events.forget(replica.info.key)
        replica.upstream.abandon()

    def _make_tracer(self, settings: RouterSettings, rng: Random) -> Tracer | None:
        """Raises ``TracingError`` where traces are asked for and cannot be made."""
        if settings.tracing_endpoint is None:
            return None
        return Tracer(
            Sampler(settings.tracing_ratio, rng, trusts_clients=settings.trust_headers),
            export_command(settings.tracing_endpoint, settings.log_format.value),
            on_traces=lambda result, count: self.metrics.traces.labels(result).inc(count),
        )

    def on_retired(self, replica: Replica) -> None:
        """A replica gets nothing more, and still lives: what runs there goes on to its end."""
        LOGGER.info("replica retired replica=%s", replica.info.key)
        self.scraper.forget(replica.info.key)
        if self.kv_events is not None:
            self.kv_events.forget(replica.info.key)

    def on_fault(self, place: str, error: Exception) -> None:
        """A bug of ours, in what was done for one request, replica or event: the others go on."""
        LOGGER.error("internal error place=%s", place, exc_info=error)
        self.metrics.internal_errors.labels(place).inc()

    async def _tick_forever(self) -> None:
        while True:
            due = time.monotonic() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.metrics.process.loop_lag_seconds = max(0.0, time.monotonic() - due)
            for place, tick in self._ticks():
                try:
                    tick()
                except Exception as error:  # noqa: BLE001 - the others have their turn
                    self.on_fault(place, error)

    def _tick_gate(self) -> None:
        if self.gate is not None:
            self.gate.tick()

    async def _follow_certificates(self) -> None:
        """Serve with the certificates that the files have now, for ever."""
        while True:
            await asyncio.sleep(CERTIFICATE_SECONDS)
            await self.server.refresh_certificates()

    async def _follow_peers(self, client: KubernetesClient | None) -> None:
        """Hear the other routers, once there are any to hear."""
        settings = self._settings
        selector = settings.peer_selector
        if selector is None or client is None:
            await self.peer_names.wait()
        await self.peers.start_when_it_can(settings.host, settings.peer_port)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.peer_names.follow(), name="peer names")
            if selector is not None and client is not None:
                pods = follow_pods(
                    self.peers,
                    client,
                    namespace=settings.peer_namespace,
                    selector=selector,
                    port=settings.peer_port,
                )
                group.create_task(pods, name="peer pods")

    def _names_here(self, exchange: Exchange, names: Sequence[str]) -> Sequence[str]:
        """Of the names that a client may know of, those that it can ask for here: all."""
        return names

    def _ready(self, exchange: Exchange) -> None:
        ready = self.is_ready
        text = b"ready\n" if ready else b"the first lists are not complete, or stopping\n"
        exchange.respond(200 if ready else 503, text, TEXT)


def _count_gap(replica: Replica) -> None:
    replica.num_event_gaps += 1


async def _listen(server: Front, host: str, port: int, flag: str) -> int:
    try:
        return await server.start(host, port)
    except OSError as error:
        msg = f"cannot listen on {host}, port {port} ({flag}): {error.strerror or error}"
        raise ListenError(msg) from error


def _server_tls(settings: RouterSettings) -> TLSFiles | None:
    if settings.tls_cert is None:
        return None
    return server_files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
