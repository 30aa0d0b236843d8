"""One router process: its signals, and whom it follows to know of models and replicas."""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

from memroute_kube import KubernetesClient
from memroute_router.app import Router
from memroute_router.discovery.discovery import Discovery
from memroute_router.discovery.membership import Membership
from memroute_router.discovery.static import StaticMembership
from memroute_router.metrics.exported import CONFIG
from memroute_router.settings import RouterSettings

LOGGER = logging.getLogger(__name__)


async def run_router(settings: RouterSettings) -> None:
    """Run until SIGTERM. Raises ``ConfigError`` when the file given cannot be used."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    router = Router(settings, Random())  # noqa: S311 - breaks ties
    async with AsyncExitStack() as stack:
        membership, client = await follow_fleet(router, settings, stack)
        await router.run(membership, stopping, client)


async def follow_fleet(
    router: Router, settings: RouterSettings, stack: AsyncExitStack
) -> tuple[Membership, KubernetesClient | None]:
    """Whom to follow: a file, or the API server, whose client is closed with ``stack``.

    Raises ``ConfigError`` when the file given cannot be used.
    """
    loop = asyncio.get_running_loop()
    if settings.config is not None:
        static = StaticMembership(
            Path(settings.config),
            router.pools,
            on_upsert=router.on_upsert,
            on_retired=router.on_retired,
            on_reload=lambda ok: router.metrics.on_reload(CONFIG, ok),
            on_peers=router.peer_names.in_file,
            on_fault=router.on_fault,
        )
        static.load()
        loop.add_signal_handler(signal.SIGHUP, static.reload_soon)
        return static, None
    # Its default action would end the process.
    loop.add_signal_handler(signal.SIGHUP, LOGGER.info, "SIGHUP: there is no file to read")
    client = await stack.enter_async_context(await KubernetesClient.from_environment())
    discovery = Discovery(
        client,
        router.pools,
        namespaces=settings.namespace,
        on_upsert=router.on_upsert,
        on_gone=router.on_gone,
        doubts=router.metrics.doubts,
    )
    return discovery, client
