"""The one loop that writes: gather → plan → apply → status, whenever something has changed."""

import asyncio
import logging
import time
from collections import Counter
from datetime import UTC, datetime

import httpx

from memroute_kube import MODEL_DEPLOYMENTS, NODES, PODS, ApiError, KubernetesClient
from memroute_operator.apply import Applier
from memroute_operator.calibrations import EngineReports
from memroute_operator.device_metrics import DeviceMetrics, matches_selector
from memroute_operator.gather import Facts, gather
from memroute_operator.memory import PlanMemory
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.plan import Action, Create, Delete, PlanContext, Step, plan_step
from memroute_operator.router_metrics import RouterMetrics
from memroute_operator.settings import OperatorSettings
from memroute_operator.status import deployment_status
from memroute_operator.status_writer import StatusWriter
from memroute_operator.store import Store

LOGGER = logging.getLogger(__name__)
DEBOUNCE_SECONDS = 0.05
TIMER_SECONDS = 1.0
IDLE_SECONDS = 10.0
ERROR_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0)
AVOID_SECONDS = 30.0
# After kube-scheduler refused a node, another is tried; a node's room changes in about this time.


class Reconciler:
    """Owns the store's writers, the readings, and what a step must remember."""

    def __init__(
        self,
        client: KubernetesClient,
        store: Store,
        settings: OperatorSettings,
        metrics: OperatorMetrics,
        http: httpx.AsyncClient,
    ) -> None:
        """``http``: what exporters and routers are read with."""
        self._client = client
        self._http = http
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._devices = DeviceMetrics(scrape_seconds=settings.scrape_seconds)
        self._routers = RouterMetrics()
        self._reports = EngineReports()
        self._applier = Applier(client, store, settings)
        self._status_writer = StatusWriter(client, store)
        self._memory = PlanMemory()
        self._routers_read_at = 0.0
        self._avoided: dict[tuple[str, str], float] = {}
        self._unreachable_since: dict[str, float] = {}

    async def run(self) -> None:
        """Reconcile for ever. Returns only by cancellation or a bug."""
        await self._list_all_patiently()
        await self._read_metrics()
        loops = [
            asyncio.create_task(self._reconcile_forever(), name="reconcile"),
            asyncio.create_task(self._resync_forever(), name="resync"),
            asyncio.create_task(self._read_metrics_forever(), name="metrics"),
        ]
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in loops:
                task.cancel()

    async def _reconcile_forever(self) -> None:
        failures = 0
        while True:
            try:
                has_timers = await self.reconcile()
                failures = 0
                pause = TIMER_SECONDS if has_timers else IDLE_SECONDS
            except ApiError as error:
                self._metrics.on_error()
                pause = ERROR_BACKOFF_SECONDS[min(failures, len(ERROR_BACKOFF_SECONDS) - 1)]
                failures += 1
                LOGGER.warning("reconcile failed error=%s retry_seconds=%.1f", error, pause)
                await asyncio.sleep(pause)
                continue
            await self._store.wait_dirty(pause)
            await asyncio.sleep(DEBOUNCE_SECONDS)

    async def reconcile(self) -> bool:
        """One step for everything; whether something is due by time alone."""
        started = time.monotonic()
        facts = self._gather(started)
        step = plan_step(facts, self._context(facts, started))
        for pod in facts.unreadable_pods:
            # Nobody knows what it holds, and the ledger must: away with it.
            metadata = pod["metadata"]
            if "deletionTimestamp" not in metadata:
                LOGGER.warning("pod without readable reservation pod=%s", metadata["name"])
                await self._client.delete(
                    PODS, metadata["namespace"], metadata["name"], uid=metadata["uid"]
                )
        for action in step.actions:
            if isinstance(action, Delete) and action.avoid_node:
                avoided = (action.replica.deployment, action.replica.node)
                self._avoided[avoided] = started + AVOID_SECONDS
            await self._apply(action, step)
        if step.actions:
            # The answers are in the store: tell the status as it is now.
            facts = self._gather(started)
        await self._write_statuses(facts, step)
        refused = {
            key: dict(Counter(r.reason.value for r in outcome.refused.values()))
            for key, outcome in step.outcomes.items()
        }
        self._metrics.on_reconciled(facts, refused, time.monotonic() - started)
        return step.has_timers or bool(self._avoided)

    def _gather(self, now_seconds: float) -> Facts:
        return gather(
            self._store,
            self._devices,
            now_seconds=now_seconds,
            reports=self._reports.by_pod,
            memory=self._memory,
            now=datetime.now(UTC),
        )

    async def _apply(self, action: Action, step: Step) -> None:
        """Carry out an action; one that the API server refuses does not hold up the others."""
        try:
            await self._applier.apply(action)
        except ApiError as error:
            if not error.is_refusal:
                raise
            LOGGER.warning("action refused action=%s error=%s", type(action).__name__, error)
            self._metrics.on_error()
            if isinstance(action, Create):
                outcome = step.outcomes[action.deployment.key]
                outcome.not_created[action.placed.key.index] = error.message
            return
        self._metrics.on_action(action)

    def _context(self, facts: Facts, now_seconds: float) -> PlanContext:
        for node in list(self._unreachable_since):
            if node not in facts.lost_nodes:
                del self._unreachable_since[node]
        for node in facts.lost_nodes:
            self._unreachable_since.setdefault(node, now_seconds)
        self._avoided = {k: until for k, until in self._avoided.items() if until > now_seconds}
        avoided: dict[str, set[str]] = {}
        for deployment, node in self._avoided:
            avoided.setdefault(deployment, set()).add(node)
        known = {obj["metadata"]["name"] for obj in self._store.nodes.values()}
        return PlanContext(
            drain_timeout_seconds=self._settings.drain_timeout_seconds,
            in_flight=self._routers.in_flight if self._routers.is_known else None,
            in_flight_age_seconds=now_seconds - self._routers_read_at,
            avoided_nodes={key: frozenset(nodes) for key, nodes in avoided.items()},
            lost_nodes=frozenset(
                node
                for node, since in self._unreachable_since.items()
                if node not in known or now_seconds - since > self._settings.node_lost_seconds
            ),
            departed_claims=self._memory.departed_claims(facts.deployments),
        )

    async def _write_statuses(self, facts: Facts, step: Step) -> None:
        by_deployment = facts.replicas_by_deployment()
        assigned = self._assigned_devices(facts)
        for deployment in facts.deployments:
            outcome = step.outcomes.get(deployment.key)
            if outcome is None:
                continue  # it came while actions were carried out: the next step is its first
            status = deployment_status(
                deployment,
                by_deployment.get(deployment.key, []),
                outcome,
                assigned_devices=assigned,
                stale_nodes=facts.stale_nodes,
                kv_projected_ratio=(
                    self._routers.kv_projected_ratio if self._routers.is_known else None
                ),
                targets=self._routers.targets.get(deployment.key),
                now=datetime.now(UTC),
            )
            await self._status_writer.write(deployment, status)

    def _assigned_devices(self, facts: Facts) -> dict[str, tuple[str, ...]]:
        assigned: dict[str, tuple[str, ...]] = {}
        for node in facts.inventory.nodes:
            for device in node.devices:
                if device.assigned_pod and device.uuid:
                    before = assigned.get(device.assigned_pod, ())
                    assigned[device.assigned_pod] = (*before, device.uuid)
        return assigned

    async def _resync_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            try:
                await self._list_all()
            except ApiError as error:
                LOGGER.warning("resync failed error=%s", error)

    async def _list_all_patiently(self) -> None:
        for delay in (0.5, 1, 2, 5, 5, 10, 10, 10):
            try:
                await self._list_all()
            except ApiError as error:
                LOGGER.warning("first list failed error=%s retry_seconds=%.1f", error, delay)
                await asyncio.sleep(delay)
            else:
                return
        await self._list_all()

    async def _list_all(self) -> None:
        """Take full lists: what events were lost is caught up, and the first one opens the gate."""
        changed = False
        for resource, collection in (
            (NODES, self._store.nodes),
            (PODS, self._store.pods),
            (MODEL_DEPLOYMENTS, self._store.model_deployments),
        ):
            items, version = await self._client.list(resource)
            changed |= collection.replace(items, int(version))
        if changed:
            self._store.mark_dirty()

    async def _read_metrics_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.scrape_seconds)
            await self._read_metrics()

    async def _read_metrics(self) -> None:
        pods = list(self._store.pods.values())
        exporters = [p for p in pods if matches_selector(p, self._settings.exporter_selector)]
        routers = [p for p in pods if matches_selector(p, self._settings.router_selector)]
        started = time.monotonic()
        await asyncio.gather(
            self._devices.scrape(
                self._http, exporters, self._settings.exporter_port, time.monotonic
            ),
            self._routers.scrape(self._http, routers),
            self._reports.scrape(self._http, pods),
        )
        self._routers_read_at = started
        self._store.mark_dirty()
