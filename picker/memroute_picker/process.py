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
        if settings.inference_pool is None:
            membership, client = await follow_fleet(picker, settings.router, stack)
            await picker.run(membership, stopping, client)
            return
        loop.add_signal_handler(signal.SIGHUP, LOGGER.info, "SIGHUP: there is no file to read")
        client = await stack.enter_async_context(await KubernetesClient.from_environment())
        namespace, name = settings.inference_pool
        pool = PoolMembership(
            client,
            picker.pools,
            namespace,
            name,
            on_upsert=picker.on_upsert,
            on_gone=picker.on_gone,
        )
        await picker.run(pool, stopping, client)
