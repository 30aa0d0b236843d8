"""The router's wiring, and the small routes beside the completions."""

import asyncio
import logging
import signal
import time
from random import Random

import httpx
import orjson

from memroute_kube import KubernetesClient
from memroute_router.discovery import Discovery
from memroute_router.http.server import Exchange, Server
from memroute_router.http.upstream import UpstreamPool
from memroute_router.metrics import RouterMetrics
from memroute_router.pools import Pools, Replica
from memroute_router.proxy import JSON_TYPE, Proxy
from memroute_router.requests import CHAT_PATH, COMPLETIONS_PATH
from memroute_router.scrape import Scraper
from memroute_router.settings import RouterSettings

LOGGER = logging.getLogger(__name__)
TEXT_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class Router:
    """One router process: everything that lives as long as it does."""

    def __init__(self, client: KubernetesClient, settings: RouterSettings, rng: Random) -> None:
        self._settings = settings
        self.pools = Pools(rng)
        self.metrics = RouterMetrics(self.pools)
        self._upstream = UpstreamPool(connect_timeout_seconds=settings.connect_timeout_seconds)
        self._scrape_client = httpx.AsyncClient(trust_env=False)
        self._scraper = Scraper(
            self._scrape_client,
            self.pools,
            self.metrics,
            interval_seconds=settings.scrape_seconds,
            rng=rng,
        )
        self._discovery = Discovery(
            client,
            self.pools,
            namespace=settings.namespace,
            on_upsert=self._scraper.follow,
            on_gone=self._on_gone,
        )
        self._proxy = Proxy(self.pools, self._upstream, self.metrics, settings)
        self._server = Server(self._handle, max_body_bytes=settings.max_body_bytes)
        self._is_stopping = False
        self._started_at = int(time.time())

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until ``stopping``, then let answers finish. A lost loop is a bug and raises."""
        port = await self._server.start(self._settings.host, self._settings.port)
        LOGGER.info("listening host=%s port=%d", self._settings.host, port)
        watches = [
            asyncio.create_task(self._discovery.watch_pods(), name="pods"),
            asyncio.create_task(self._discovery.watch_deployments(), name="deployments"),
        ]
        stop = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait([stop, *watches], return_when=asyncio.FIRST_COMPLETED)
        self._is_stopping = True
        await self._server.stop(timeout_seconds=self._settings.shutdown_timeout_seconds)
        for task in (stop, *watches):
            task.cancel()
        self._scraper.close()
        self._upstream.close()
        await self._scrape_client.aclose()
        for task in done:
            if task is not stop:
                task.result()
        LOGGER.info("router stopped")

    def _on_gone(self, replica: Replica) -> None:
        self._scraper.forget(replica.info.key)
        # A node that died sends no reset: what waits for its replicas is told here.
        self._upstream.abort(replica.info.endpoint)

    async def _handle(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.path
        if path in (CHAT_PATH, COMPLETIONS_PATH):
            if request.method == "POST":
                await self._proxy.handle(exchange)
            else:
                await _error(exchange, 405, "use POST", headers=[(b"allow", b"POST")])
        elif request.method != "GET":
            await _error(exchange, 404, f"no such route: {request.method} {path}")
        elif path == "/health":
            await exchange.respond(200, b"ok\n", [TEXT_TYPE])
        elif path == "/ready":
            ready = self._discovery.is_synced and not self._is_stopping
            text = b"ready\n" if ready else b"the first lists are not complete, or stopping\n"
            await exchange.respond(200 if ready else 503, text, [TEXT_TYPE])
        elif path == "/metrics":
            await exchange.respond(200, self.metrics.render(), [TEXT_TYPE])
        elif path == "/v1/models":
            await exchange.respond(200, self._models(), [JSON_TYPE])
        elif path == "/debug/decisions":
            recent = list(self._proxy.decisions)[::-1]
            await exchange.respond(200, orjson.dumps(recent), [JSON_TYPE])
        elif path == "/debug/replicas":
            await exchange.respond(200, self._replicas(), [JSON_TYPE])
        else:
            await _error(exchange, 404, f"no such route: {path}")

    def _models(self) -> bytes:
        models = [
            {
                "id": pool.model,
                "object": "model",
                "created": self._started_at,
                "owned_by": "memroute",
                "ready_replicas": sum(r.info.is_routable for r in pool.replicas.values()),
            }
            for pool in self.pools.by_model.values()
        ]
        return orjson.dumps({"object": "list", "data": sorted(models, key=lambda m: str(m["id"]))})

    def _replicas(self) -> bytes:
        return orjson.dumps(
            [
                {
                    "replica": replica.info.key,
                    "model": pool.model,
                    "address": f"{replica.info.address}:{replica.info.port}",
                    "is_routable": replica.info.is_routable,
                    "is_suspect": replica.is_suspect,
                    "capacity_tokens": snapshot.capacity_tokens,
                    "projected_tokens": snapshot.projected_tokens,
                    "reserved_tokens": replica.ledger.reserved_tokens,
                    "num_in_flight": snapshot.num_in_flight,
                    "reading_age_seconds": snapshot.reading_age_seconds,
                }
                for pool in self.pools.by_model.values()
                for replica, snapshot in pool.snapshots()
            ]
        )


async def _error(
    exchange: Exchange, status: int, text: str, *, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    document = {"error": {"message": text, "type": "invalid_request_error", "code": status}}
    await exchange.respond(status, orjson.dumps(document), [JSON_TYPE, *(headers or ())])


async def run_router(settings: RouterSettings) -> None:
    """Run until SIGTERM."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with await KubernetesClient.from_environment() as client:
        await Router(client, settings, Random()).run(stopping)  # noqa: S311 - breaks ties
