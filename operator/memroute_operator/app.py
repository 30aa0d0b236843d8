"""The operator's wiring: settings, client, store, kopf, reconciler."""

import asyncio
import logging
import signal

import kopf

from memroute_kube import KubernetesClient
from memroute_operator.handlers import build_registry
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.readings.loops import Readings
from memroute_operator.readings.pages import open_page_reader
from memroute_operator.reconciler import Reconciler
from memroute_operator.settings import OperatorSettings
from memroute_operator.store import Store

LOGGER = logging.getLogger(__name__)


async def run_operator(settings: OperatorSettings) -> None:
    """Run until SIGTERM. A loop that ends by itself is a bug and ends the process with it."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    store = Store()
    metrics = OperatorMetrics()
    metrics.serve(settings.host, settings.metrics_port)
    async with (
        await KubernetesClient.from_environment(component="memroute-operator") as client,
        open_page_reader() as reader,
    ):
        readings = Readings(
            reader,
            store.pods.values,
            metrics.readings,
            exporters=settings.exporter_selector,
            exporter_port=settings.exporter_port,
            routers=(settings.router_selector,),
            scrape_seconds=settings.scrape_seconds,
            on_change=store.mark_dirty,
        )
        reconciler = Reconciler(client, store, settings, metrics, readings)
        tasks = [
            asyncio.create_task(stopping.wait(), name="signal"),
            asyncio.create_task(reconciler.run(), name="reconciler"),
            asyncio.create_task(
                kopf.operator(
                    registry=build_registry(store),
                    clusterwide=True,
                    standalone=True,
                    stop_flag=stopping,
                    liveness_endpoint=f"http://{settings.host}:{settings.health_port}/healthz",
                ),
                name="kopf",
            ),
        ]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        for task in pending:
            if task.get_name() != "kopf":
                task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()
    LOGGER.info("operator stopped")
