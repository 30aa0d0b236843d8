"""The router's wiring, and the small routes beside the proxied ones."""

import asyncio
import logging
import resource
import secrets
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Protocol
from urllib.parse import unquote_to_bytes

import orjson

from memroute.traffic.admission import QueueLimits
from memroute.traffic.replica import max_age_seconds
from memroute_kube import KubernetesClient
from memroute_router.discovery import Discovery
from memroute_router.http.engine_pool import EnginePool
from memroute_router.http.errors import error_body
from memroute_router.http.exchange import Exchange
from memroute_router.http.fields import JSON
from memroute_router.http.listening import Server, ServerLimits
from memroute_router.http.outbox import Outbox
from memroute_router.http.tls import TLSFiles, server_files
from memroute_router.intake import IntakeServices
from memroute_router.isolation import Isolation
from memroute_router.journal import Journal
from memroute_router.lifecycle import Proxy
from memroute_router.memory import bodies_bytes, memory_limit_bytes
from memroute_router.metrics import RouterMetrics
from memroute_router.openapi import openapi_document
from memroute_router.peers import PeerLink, PeerNames, follow_pods, parse_peer, read_secret
from memroute_router.pools import CommonSettings, Pool, Pools, Replica
from memroute_router.prompts.kv_events import KVEventFollower
from memroute_router.prompts.tokenizer import Tokenizers
from memroute_router.scrape import Scraper
from memroute_router.services import LifecycleLimits, Services
from memroute_router.settings import RouterSettings
from memroute_router.static import StaticMembership
from memroute_router.supervisor import Supervisor
from memroute_router.surface import ROUTES

LOGGER = logging.getLogger(__name__)
TEXT = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"
TICK_SECONDS = 0.25
# Between two looks at the listener's certificates. Unit: seconds. Source: chosen by hand; a rotated
# one is valid for hours beside its successor.
CERTIFICATE_SECONDS = 2.0
MODEL_PATH = b"/v1/models/"
SPARE_FILES = 64


class Membership(Protocol):
    """Who says which models and replicas there are."""

    @property
    def is_synced(self) -> bool:
        """Whether the first list is complete: before that "unknown model" would be a lie."""
        ...

    async def follow(self) -> None:
        """Keep the pools true, for ever."""
        ...


class Router:
    """One router process: everything that lives as long as it does."""

    def __init__(self, settings: RouterSettings, rng: Random) -> None:
        self._settings = settings
        loop = asyncio.get_running_loop()
        self.pools = Pools(
            rng,
            common=CommonSettings(
                queue_limits=QueueLimits(
                    max_requests=settings.max_queued_requests if settings.max_queue_seconds else 0,
                    max_tokens=settings.max_queued_tokens,
                    max_seconds=settings.max_queue_seconds,
                    max_replica_seconds=settings.replica_wait_seconds,
                ),
                waits_for_replicas=settings.hold_without_replicas,
                max_age_seconds=max_age_seconds(settings.scrape_seconds),
                max_attempts=settings.max_attempts,
            ),
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
        self.metrics = RouterMetrics(self.pools, self.peers)
        outbox = Outbox(loop, self.on_fault)
        self.engines = EnginePool(
            outbox,
            connect_timeout_seconds=settings.connect_timeout_seconds,
            on_fault=self.on_fault,
        )
        self.isolation = Isolation(loop.call_soon, self.on_fault)
        self.journal = Journal(settings.access_log)
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
                on_gap=lambda replica: self.metrics.kv_event_gaps.labels(
                    *self.metrics.replica_labels(replica)
                ).inc(),
                on_fault=self.on_fault,
            )
        self.proxy = Proxy(
            Services(
                intake=IntakeServices(
                    pools=self.pools,
                    tokenizers=self.tokenizers,
                    tenants=settings.tenants,
                    trusts_headers=settings.trust_headers,
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
            ),
            otherwise=self._answer_itself,
        )
        self.server = Server(
            self.proxy.handle,
            outbox,
            limits=ServerLimits(
                max_connections=settings.max_connections or _max_connections(),
                max_body_bytes=settings.max_body_bytes,
                max_bodies_bytes=bodies_bytes(settings.max_memory or memory_limit_bytes()),
                idle_seconds=settings.idle_timeout_seconds,
                header_seconds=settings.header_timeout_seconds,
                body_seconds=settings.body_timeout_seconds,
                stalled_client_seconds=settings.stalled_client_seconds,
            ),
            tls=_server_tls(settings),
            on_fault=self.on_fault,
        )
        self.metrics.num_connections = lambda: self.server.num_connections
        self._membership: Membership | None = None
        self._is_stopping = False
        self._started_at = int(time.time())
        self._own_routes: dict[bytes, Callable[[Exchange], None]] = {
            b"/health": lambda exchange: exchange.respond(200, b"ok\n", TEXT),
            b"/ready": self._ready,
            b"/metrics": lambda exchange: exchange.respond(200, self.metrics.render(), TEXT),
            b"/openapi.json": lambda exchange: exchange.respond(
                200, orjson.dumps(openapi_document(self.pools.names()))
            ),
            b"/v1/models": self._models,
            b"/debug/decisions": lambda exchange: exchange.respond(
                200, orjson.dumps([record.document() for record in self.journal.recent][::-1])
            ),
            b"/debug/replicas": lambda exchange: exchange.respond(200, self._replicas()),
        }

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
        port = await self.server.start(self._settings.host, self._settings.port)
        LOGGER.info("listening host=%s port=%d", self._settings.host, port)
        supervisor = Supervisor(self.on_fault)
        supervisor.keep("membership", membership.follow)
        supervisor.keep("clock", self._tick_forever)
        supervisor.keep("certificates", self._follow_certificates)
        supervisor.keep("peers", lambda: self._follow_peers(client))
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
        self.journal.flush()
        LOGGER.info("router stopped")

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
            self.metrics.loop_lag_seconds = max(0.0, time.monotonic() - due)
            for place, tick in (
                ("pool", self.pools.tick),
                ("isolation", self.isolation.tick),
                ("connect", self.engines.tick),
                ("scrape", self.scraper.tick),
                ("peers", self.peers.tick),
            ):
                try:
                    tick()
                except Exception as error:  # noqa: BLE001 - the others have their turn
                    self.on_fault(place, error)

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

    def _answer_itself(self, exchange: Exchange) -> None:
        """What is not sent to an engine."""
        path = exchange.path
        method = exchange.method
        route = ROUTES.get(path)
        own = self._own_routes.get(path)
        if own is None and path.startswith(MODEL_PATH):
            own = self._model
        if route is None and own is None:
            told = path.decode("ascii", "backslashreplace")
            exchange.respond(404, error_body(404, f"no such path: {told}"))
        elif own is not None and method in {b"GET", b"HEAD"}:
            own(exchange)
        else:
            allowed = b"POST" if route is not None else b"GET, HEAD"
            exchange.respond(
                405, error_body(405, f"use {allowed.decode()}"), JSON + b"allow: %b\r\n" % allowed
            )

    def _ready(self, exchange: Exchange) -> None:
        is_synced = self._membership is not None and self._membership.is_synced
        ready = is_synced and not self._is_stopping
        text = b"ready\n" if ready else b"the first lists are not complete, or stopping\n"
        exchange.respond(200 if ready else 503, text, TEXT)

    def _models(self, exchange: Exchange) -> None:
        models = [self._model_document(name, pool) for name, pool in self._named()]
        exchange.respond(200, orjson.dumps({"object": "list", "data": models}))

    def _model(self, exchange: Exchange) -> None:
        name = unquote_to_bytes(exchange.path[len(MODEL_PATH) :]).decode("utf-8", "replace")
        pool = self.pools.get(name)
        if pool is not None:
            exchange.respond(200, orjson.dumps(self._model_document(name, pool)))
            return
        known = ", ".join(self.pools.names()) or "none"
        told = f"the model {name!r} does not exist; models: {known}"
        body = error_body(404, told, parameter="model", reason="unknown-model")
        exchange.respond(404, body)

    def _named(self) -> list[tuple[str, Pool]]:
        return [(name, pool) for name in self.pools.names() if (pool := self.pools.get(name))]

    def _model_document(self, name: str, pool: Pool) -> dict[str, object]:
        replicas = pool.replicas.values()
        contexts = [r.info.max_context_tokens for r in replicas if r.info.max_context_tokens]
        document: dict[str, object] = {
            "id": name,
            "object": "model",
            "created": self._started_at,
            "owned_by": "memroute",
            "ready_replicas": sum(r.info.is_routable and not r.health.is_out for r in replicas),
        }
        if name != pool.model:
            document["parent"] = pool.model
        if contexts:
            document["max_model_len"] = max(contexts)
        return document

    def _replicas(self) -> bytes:
        now = self.pools.now_seconds()
        return orjson.dumps(
            [
                {
                    "replica": replica.info.key,
                    "model": pool.model,
                    "address": replica.info.endpoint.authority.decode(),
                    "is_routable": replica.info.is_routable,
                    "version": replica.info.version,
                    "weight_ratio": replica.info.weight_ratio,
                    "is_out": replica.health.is_out,
                    "missing_metrics": sorted(replica.missing_metrics),
                    "capacity_tokens": replica.ledger.capacity_tokens,
                    "held_tokens": replica.ledger.held_tokens,
                    "projected_tokens": replica.ledger.projected_tokens(),
                    "reserved_tokens": replica.ledger.reserved_tokens,
                    "foreign_tokens": replica.ledger.foreign_tokens,
                    "sharing_ratio": round(replica.ledger.sharing_ratio, 3),
                    "ceiling_ratio": round(replica.ledger.limits.ceiling_ratio, 3),
                    "kv_event_blocks": (
                        pool.dispatcher.cached.blocks.num_blocks(replica.info.key)
                        if pool.dispatcher.cached.blocks.follows(replica.info.key)
                        else None
                    ),
                    "running_limit": replica.ledger.limits.running_limit,
                    "num_in_flight": replica.ledger.num_in_flight,
                    "num_pending": replica.ledger.num_pending,
                    "pending_tokens": replica.ledger.pending_tokens,
                    "prefill_tokens_per_second": round(1 / replica.ledger.speed.token_seconds),
                    "tpot_alone_seconds": (
                        None
                        if replica.ledger.alone_tpot_seconds is None
                        else round(replica.ledger.alone_tpot_seconds, 5)
                    ),
                    "step_seconds": round(replica.ledger.steps.mean_seconds, 5),
                    "reading_age_seconds": (
                        None
                        if replica.ledger.read_at_seconds < 0
                        else round(now - replica.ledger.read_at_seconds, 3)
                    ),
                }
                for pool in self.pools.by_model.values()
                for replica in pool.replicas.values()
            ]
        )


async def run_router(settings: RouterSettings) -> None:
    """Run until SIGTERM. Raises ``ConfigError`` when the file given cannot be used."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    router = Router(settings, Random())  # noqa: S311 - breaks ties
    async with AsyncExitStack() as stack:
        membership: Membership
        client: KubernetesClient | None = None
        if settings.config is not None:
            static = StaticMembership(
                Path(settings.config),
                router.pools,
                on_upsert=router.on_upsert,
                on_retired=router.on_retired,
                on_reload=lambda ok: router.metrics.config_reloads.labels(
                    "applied" if ok else "refused"
                ).inc(),
                on_peers=router.peer_names.in_file,
                on_fault=router.on_fault,
            )
            static.load()
            loop.add_signal_handler(signal.SIGHUP, static.reload_soon)
            membership = static
        else:
            # Its default action would end the process.
            loop.add_signal_handler(signal.SIGHUP, LOGGER.info, "SIGHUP: there is no file to read")
            client = await stack.enter_async_context(await KubernetesClient.from_environment())
            membership = Discovery(
                client,
                router.pools,
                namespace=settings.namespace,
                on_upsert=router.on_upsert,
                on_gone=router.on_gone,
            )
        await router.run(membership, stopping, client)


def _max_connections() -> int:
    """Half of the files that the process may open, less some for everything else."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (allowed - SPARE_FILES) // 2)


def _server_tls(settings: RouterSettings) -> TLSFiles | None:
    if settings.tls_cert is None:
        return None
    return server_files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
