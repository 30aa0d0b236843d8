"""One picker process: its signals, and whom it follows to know of models and replicas."""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from random import Random

from memroute_kube import KubernetesClient
from memroute_picker.app import Picker
from memroute_picker.pools.membership import PoolMembership
from memroute_picker.settings import PickerSettings
from memroute_router.discovery.membership import Membership
from memroute_router.process import follow_fleet

LOGGER = logging.getLogger(__name__)


async def run_picker(settings: PickerSettings) -> None:
    """Run until SIGTERM. Raises ``ConfigError`` when the file given cannot be used."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    picker = Picker(settings, Random())  # noqa: S311 - breaks ties
    async with AsyncExitStack() as stack:
        fleet: Membership | None = None
        if settings.inference_pool:
            loop.add_signal_handler(signal.SIGHUP, LOGGER.info, "SIGHUP: there is no file to read")
            client = await stack.enter_async_context(await KubernetesClient.from_environment())
        else:
            fleet, found = await follow_fleet(picker, settings.router, stack)
            if found is None or not settings.inference_pools:
                await picker.run(fleet, stopping, found)
                return
            client = found
        pools = PoolMembership(
            client,
            picker.pools,
            named=settings.inference_pool,
            namespaces=settings.router.namespace,
            fleet=fleet,
            book=picker.book,
            objectives=picker.objectives,
            on_upsert=picker.on_upsert,
            on_gone=picker.on_gone,
        )
        await picker.run(pools, stopping, client)
