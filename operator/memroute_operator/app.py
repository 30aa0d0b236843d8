"""The operator's wiring: settings, clients, store, kopf, election, reconciler.

kopf watches, and nothing else of it is used: what writes is the reconciler, through a client
that asks the fence, which asks the election.
"""

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys

import kopf

from memroute.sentences import for_stderr
from memroute_hub.client import open_hub
from memroute_hub.settings import HubSettings, Token
from memroute_kube import RESOURCE_CLAIMS, RESOURCE_SLICES, KubeObject, KubernetesClient
from memroute_operator.adapters.caller import open_caller
from memroute_operator.election.elector import Elector, LeaseName, run_until_cancelled
from memroute_operator.election.fence import AlwaysLeading, Fence, FencedClient
from memroute_operator.election.leadership import Leadership
from memroute_operator.health import Marks, serve_health
from memroute_operator.loop_lag import watch_loop_lag
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.readings.loops import Readings
from memroute_operator.readings.pages import open_page_reader
from memroute_operator.reconciler import Reconciler
from memroute_operator.settings import OperatorSettings
from memroute_operator.store.handlers import build_registry
from memroute_operator.store.store import Store

LOGGER = logging.getLogger(__name__)
COMPONENT = LEASE_NAME = "memroute-operator"
# For how long a thread that computes may keep the interpreter from the event loop, in seconds. The
# loop asks for it anew after each read and write, some tens of times for one answer: Python's own
# 5 ms made that a wait of 0.1 s while a plan was worked out. Shorter costs the plan some switches.
SWITCH_SECONDS = 0.001


async def run_operator(settings: OperatorSettings) -> None:
    """Run until SIGTERM. A loop that ends by itself is a bug and ends the process with it."""
    sys.setswitchinterval(SWITCH_SECONDS)
    stopping, watch_no_more = asyncio.Event(), asyncio.Event()
    _end_on_signals(stopping)
    store, metrics, marks = Store(settings.watch_namespace), OperatorMetrics(), Marks()
    _listen(settings, metrics, marks)
    async with (
        await FencedClient.from_environment(component=COMPONENT) as client,
        await KubernetesClient.from_environment(component=COMPONENT) as lease_client,
        open_page_reader() as reader,
        open_caller() as caller,
        open_hub(_hub_settings(settings)) as hub,
    ):
        elector = _elector(settings, lease_client, metrics, marks)
        metrics.on_leading(elector is None)
        client.fence = Fence(elector or AlwaysLeading(), marks)

        async def list_slices() -> list[KubeObject]:
            return (await client.list(RESOURCE_SLICES))[0]

        async def list_claims() -> list[KubeObject]:
            return (await client.list(RESOURCE_CLAIMS))[0]

        readings = Readings(
            reader,
            store.pods,
            metrics.readings,
            exporters=settings.exporter_selector,
            exporter_port=settings.exporter_port,
            routers=settings.front_doors,
            scrape_seconds=settings.scrape_seconds,
            on_change=store.mark_dirty,
            list_slices=list_slices,
            list_claims=list_claims,
        )
        reconciler = Reconciler(
            client,
            store,
            settings,
            metrics,
            readings,
            fence=client.fence,
            resolve_model=hub.resolve,
            caller=caller,
        )
        # In the order in which they end: the Lease is given back once nothing is written any more.
        tasks = [
            asyncio.create_task(reconciler.run(), name="reconciler"),
            asyncio.create_task(watch_loop_lag(metrics.on_loop_lag), name="loop lag"),
        ]
        if elector is not None:
            tasks.append(asyncio.create_task(run_until_cancelled(elector), name="election"))
        watching = asyncio.create_task(_watch(store, watch_no_more, stopping), name="kopf")
        signalled = asyncio.create_task(stopping.wait(), name="signal")
        await asyncio.wait([*tasks, watching, signalled], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, signalled):
            task.cancel()
            await asyncio.wait({task})
        watch_no_more.set()
        await asyncio.wait({watching})
        for task in (*tasks, watching):
            if not task.cancelled():
                task.result()
    LOGGER.info("operator stopped")


def _listen(settings: OperatorSettings, metrics: OperatorMetrics, marks: Marks) -> None:
    """Serve metrics and health, or end with a sentence: another process may have the port."""
    port, flag = settings.metrics_port, "--metrics-port"
    try:
        metrics.serve(settings.host, port)
        port, flag = settings.health_port, "--health-port"
        serve_health(settings.host, port, marks, resync_seconds=settings.resync_seconds)
    except OSError as error:
        host = settings.host
        msg = f"memroute-operator: cannot listen on {host}:{port}: {error.strerror}; see {flag}"
        raise SystemExit(for_stderr(msg)) from None


def _hub_settings(settings: OperatorSettings) -> HubSettings:
    """The operator's own questions: no cache on its disk, because statuses keep what was said."""
    file = settings.hub_token_file
    return HubSettings(
        endpoint=settings.hub_endpoint,
        token=Token(value=os.environ.get("HF_TOKEN")) if file is None else Token(file=file),
        is_offline=settings.offline,
        token_hint="the operator's --hub-token-file or HF_TOKEN",  # noqa: S106 - words, no token
    )


def _end_on_signals(stopping: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)


def _elector(
    settings: OperatorSettings, client: KubernetesClient, metrics: OperatorMetrics, marks: Marks
) -> Elector | None:
    """A candidate under a name that no other process has; None without leader election."""
    if not settings.leader_election:
        return None
    return Elector(
        client,
        LeaseName(namespace=settings.lease_namespace, name=LEASE_NAME),
        Leadership(
            # The pod's name, for people; the rest, because a container that was restarted must
            # wait for its predecessor like anybody else.
            identity=f"{socket.gethostname()}_{secrets.token_hex(4)}",
            timing=settings.lease_timing,
        ),
        marks=marks,
        on_change=metrics.on_leading,
    )


async def _watch(store: Store, watch_no_more: asyncio.Event, stopping: asyncio.Event) -> None:
    """Feed the store, until told to end."""
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=build_registry(store), clusterwide=True, standalone=True, stop_flag=watch_no_more
    )
    # kopf takes the signals, and at its end cancels whatever has been started since, 5 s later:
    # the writer must have ended in its own order by then.
    _end_on_signals(stopping)
    await kopf.run_tasks(tasks, ignored=others)
