"""The one loop that writes: gather → plan → apply → status, whenever something has changed.

Nothing ends it but cancellation. What is odd or fails is held where it belongs:

| what | where it is held |
| --- | --- |
| an object that cannot be read | ``gather``: counted at its worst, told in its status |
| a deployment whose planning raises | ``isolation``: left out, told in its status |
| a call that is refused or hangs | ``carry_out``: its own back-off, its own lane |
| a status that cannot be made or written | here: its own back-off, its own lane |
| no connection, no credentials, a bug in the loop itself | ``boundary``: a pause, then again |
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from contextvars import Context, copy_context
from datetime import UTC, datetime

from memroute_hub.settings import usual_endpoint
from memroute_kube import KubernetesClient
from memroute_operator.actions.apply import Applier
from memroute_operator.actions.budgets import Budgets
from memroute_operator.actions.carry_out import CarryOut
from memroute_operator.actions.lanes import Lanes
from memroute_operator.adapters.caller import Caller
from memroute_operator.adapters.keeper import AdapterKeeper
from memroute_operator.boundary import Boundary
from memroute_operator.cluster_records import ClusterRecords
from memroute_operator.election.fence import AlwaysLeading, Fence
from memroute_operator.gateway.keeper import GatewayKeeper
from memroute_operator.gather import Facts
from memroute_operator.isolation import PatientPlanner
from memroute_operator.looking import Looking
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.oddities import Oddities
from memroute_operator.plan import Action, Delete, EndFetch, GiveWay, Step
from memroute_operator.pod.templates import Templates
from memroute_operator.readings.fleet_map import MapBoard, Sight
from memroute_operator.readings.fleet_view import FleetBoard
from memroute_operator.readings.loops import Readings
from memroute_operator.readings.node_leases import MARK_SECONDS, NodeLeases
from memroute_operator.readings.pod_events import ROUND_SECONDS, PodEvents
from memroute_operator.replicas.adoption import Adoption
from memroute_operator.replicas.failed_pods import FailedPods
from memroute_operator.replicas.lost_nodes import NodeLoss
from memroute_operator.settings import OperatorSettings
from memroute_operator.sleeping.keeper import SleepKeeper, told_to_routers
from memroute_operator.spec.hub_models import HubModels
from memroute_operator.spec.namespace_tokens import NamespaceTokens, Resolve
from memroute_operator.status.events import EventWriter
from memroute_operator.status.status_writer import StatusWriter
from memroute_operator.status.statuses import Statuses
from memroute_operator.status.step_events import StepEvents
from memroute_operator.status.way_events import tell_ways
from memroute_operator.store.garbage import Garbage
from memroute_operator.store.listing import Lister
from memroute_operator.store.notices import CHANGED_SECONDS
from memroute_operator.store.store import Store
from memroute_operator.thinking import Look, Thinker

LOGGER = logging.getLogger(__name__)
# How long changes are gathered before they are looked at, in seconds: as long as the last step
# was worked out, within these.
DEBOUNCE_SECONDS = 0.05
MAX_DEBOUNCE_SECONDS = 1.0
# How often what is due by time alone is looked at (a drain, a pod that is not scheduled).
TIMER_SECONDS = 1.0
# How often everything is looked at when nothing has changed and nothing is due, in seconds:
# readings that get old are seen by then. A reconcile of 4,000 replicas takes 0.35 s of CPU.
IDLE_SECONDS = 60.0
# The pause after a reconcile that could do nothing at all, in seconds; the last one again.
ERROR_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0)
# Before a full list that failed is taken again, in seconds: chosen by hand, a list of a large
# cluster is work for an API server that is in trouble already.
RETRY_LIST_SECONDS = 30.0


class Reconciler:
    """Owns the store's writers, the readings, and what a step must remember."""

    def __init__(
        self,
        client: KubernetesClient,
        store: Store,
        settings: OperatorSettings,
        metrics: OperatorMetrics,
        readings: Readings,
        fence: Fence | None = None,
        *,
        resolve_model: Resolve | None = None,
        caller: Caller | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """``readings``: what exporters, routers and engines say; ``clock``: monotonic seconds.

        ``fence``: None when nobody else writes; ``client`` must be one that asks it.
        ``resolve_model``: asks the hub; None without one. ``caller``: of replicas, about their
        adapters; None leaves those alone.
        """
        rng = rng or random.Random()  # noqa: S311 - jitter
        self._boundary = Boundary(metrics)
        on_bug = self._boundary.on_bug
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._readings = readings
        self._events = EventWriter(client)
        self.lister = Lister(client, store, clock)
        self.pod_events = PodEvents(
            list_events=client.list_events_of,
            clock=clock,
            on_change=store.mark_dirty,
            on_error=metrics.on_error,
        )
        self._lanes = Lanes(lambda _, error: on_bug("lane", error), on_late=store.mark_dirty)
        self._hands = CarryOut(Applier(client, store, settings), self._lanes, metrics, clock, rng)
        self._failed_pods = FailedPods(rng)
        self._planner = PatientPlanner(on_bug, rng)
        self._records = ClusterRecords(
            client, namespace=settings.lease_namespace, boundary=self._boundary, clock=clock,
            on_change=store.mark_dirty,
        )  # fmt: skip
        self.hub_models = None
        if resolve_model is not None:
            self.hub_models = HubModels(
                NamespaceTokens(client, resolve_model).resolve,
                endpoint=settings.hub_endpoint,
                usual_endpoint=usual_endpoint(),
                is_offline=settings.offline,
                on_change=store.mark_dirty,
                on_bug=on_bug,
                on_read=metrics.on_hub_read,
                clock=clock,
                rng=rng,
            )
        self.adapters = None
        if caller is not None:
            self.adapters = AdapterKeeper(
                caller,
                clock=clock,
                rng=rng,
                on_change=store.mark_dirty,
                on_bug=on_bug,
            )
        self.sleep = None
        if caller is not None:
            self.sleep = SleepKeeper(
                caller,
                clock=clock,
                on_change=store.mark_dirty,
                on_bug=on_bug,
                on_woken=metrics.on_woken,
                rng=rng,
            )
        self.gateway = GatewayKeeper(
            client=client, lanes=self._lanes, metrics=metrics, pods=store.pods,
            selector=settings.picker_selector, is_tls=settings.picker_tls,
            namespaces=settings.watch_namespace,
            on_change=store.mark_dirty, on_bug=on_bug, clock=clock, rng=rng,
        )  # fmt: skip
        self._statuses = Statuses(
            hub_models=self.hub_models,
            adapters=self.adapters,
            sleep=self.sleep,
            gateway=self.gateway,
            writer=StatusWriter(client, store, self._events, clock),
            lanes=self._lanes,
            hands=self._hands,
            failed_pods=self._failed_pods,
            planner=self._planner,
            readings=readings,
            templates=Templates.from_settings(settings),
            grants=self._records.grants,
            metrics=metrics,
            on_bug=on_bug,
            clock=clock,
            rng=rng,
            router_url=settings.router_url,
        )
        self.board = FleetBoard(client=client, namespace=settings.lease_namespace, clock=clock)
        self.map_board = MapBoard(client=client, namespace=settings.lease_namespace, clock=clock)
        self._sight: Sight | None = None
        """What the last step has seen; None before the first."""
        self._client = client
        self._fence = fence or Fence(AlwaysLeading())
        self._adoption = Adoption(client=client, store=store, lanes=self._lanes, clock=clock)
        self._thinker = Thinker(
            planner=self._planner,
            default_image=settings.engine_image,
            node_lost_seconds=settings.node_lost_seconds,
            drain_timeout_seconds=settings.drain_timeout_seconds,
            max_contention=settings.max_contention,
            weights=settings.weights,
            watched=settings.watch_namespace,
        )
        self._budgets = Budgets(
            client=client,
            lanes=self._lanes,
            events=self._events,
            metrics=metrics,
            clock=clock,
            rng=rng,
        )
        self.leases = NodeLeases(client=client, clock=clock)
        self._looking = Looking(
            store=store,
            readings=readings,
            hands=self._hands,
            lanes=self._lanes,
            failed_pods=self._failed_pods,
            records=self._records,
            pod_events=self.pod_events,
            leases=self.leases,
            clock=clock,
            gateway=self.gateway,
            sleep=self.sleep,
        )
        self._is_any_node_waited_for = False
        self._oddities = Oddities()
        self._garbage = Garbage()
        self._term: Context | None = None
        """In which the last step began; None before the first."""

    async def run(self) -> None:
        """Reconcile for ever. Returns only by cancellation."""
        loops: list[asyncio.Task[None]] = []
        self._garbage.watch()
        try:
            await self.lister.list_all_patiently()
            self._fence.marks.on_listed()
            await self._readings.read_once()
            await self._records.read()
            await self._records.read_version(self._thinker.know_server)
            forever = self._boundary.forever
            marking = forever("leases", self.leases.mark, every_seconds=MARK_SECONDS)
            reading = forever("events", self.pod_events.read_due, every_seconds=ROUND_SECONDS)
            loops += [
                asyncio.create_task(self._reconcile_forever(), name="reconcile"),
                asyncio.create_task(self._resync_forever(), name="resync"),
                asyncio.create_task(self._records.follow(), name="grants"),
                asyncio.create_task(self._readings.run(), name="readings"),
                asyncio.create_task(marking, name="leases"),
                asyncio.create_task(reading, name="events"),
                asyncio.create_task(self._tell_fleet_forever(), name="fleet view"),
            ]
            if self._settings.picker_selector is not None:
                loops.append(asyncio.create_task(self.gateway.run(), name="gateway"))
            if self.hub_models is not None:
                loops.append(asyncio.create_task(self.hub_models.run(), name="hub"))
            if self.adapters is not None:
                keeping = self.adapters.run(self._is_leading)
                loops.append(asyncio.create_task(keeping, name="adapters"))
            if self.sleep is not None:
                sleeping = self.sleep.run(self._is_leading)
                loops.append(asyncio.create_task(sleeping, name="sleep"))
            await asyncio.gather(*loops)
        finally:
            self._garbage.unwatch()
            for task in loops:
                task.cancel()
            await self.stop()

    async def _reconcile_forever(self) -> None:
        failures = 0
        while True:
            self._thinker.busy_seconds = 0.0
            pause = await self.reconcile_guarded()
            if pause is None:
                pause = ERROR_BACKOFF_SECONDS[min(failures, len(ERROR_BACKOFF_SECONDS) - 1)]
                failures += 1
                await asyncio.sleep(pause)
                continue
            failures = 0
            thought = self._thinker.busy_seconds
            LOGGER.debug("reconciled thought_seconds=%.3f", thought)
            self._garbage.after_step()
            await self._store.wait_dirty(pause)
            # A large fleet in which something changes all the time takes half of a core at most.
            await asyncio.sleep(min(MAX_DEBOUNCE_SECONDS, max(DEBOUNCE_SECONDS, thought)))

    async def reconcile_guarded(self) -> float | None:
        """``reconcile`` when we lead, behind the boundary; None when nothing could be done."""
        return await self._boundary.guarded("reconcile", self._lead_and_reconcile)

    async def list_guarded(self) -> float | None:
        """A full list behind the boundary: when it began, or None when it failed."""
        return await self._boundary.guarded("resync", self._list_all)

    async def stop(self) -> None:
        """From now on nothing is written."""
        await self._lanes.stop()

    async def _lead_and_reconcile(self) -> float:
        await self._fence.begin_step(self._begin_term)
        self._term = copy_context()
        return await self.reconcile()

    async def _begin_term(self) -> None:
        """Nothing that was planned in an earlier term is written any more; then all anew."""
        await self._lanes.stop()
        await self._thinker.begin_term()
        if self.adapters is not None:
            self.adapters.forget()
        if self.sleep is not None:
            self.sleep.forget()
        await self._list_all()

    async def _list_all(self) -> float:
        began = await self.lister.list_all()
        self._fence.marks.on_listed()
        if self._hands.on_their_way.on_listed(began):
            self._store.mark_dirty()
        await self._budgets.list_all()
        await self._records.read()
        return began

    async def _resync_forever(self) -> None:
        seconds = self._settings.resync_seconds
        while True:
            await self.lister.wait_due(seconds)
            began = await self.list_guarded()
            seconds = self._settings.resync_seconds
            if began is None:
                seconds = min(seconds, RETRY_LIST_SECONDS)

    def _is_leading(self) -> bool:
        return self._term is not None and not self._fence.marks.is_standby

    async def _tell_fleet_forever(self) -> None:
        while True:
            await asyncio.sleep(CHANGED_SECONDS)
            if self._is_leading():
                # As a part of the last step: the fence lets nobody else write.
                for name, tell in (("fleet view", self.tell_fleet), ("map", self.tell_map)):
                    telling = self._boundary.guarded(name, tell)
                    await asyncio.create_task(telling, context=self._term)

    async def tell_fleet(self) -> float:
        """Write what is read of devices and routers, if that is due; when, by our clock."""
        return await self.board.tell(
            self._readings.devices,
            self._readings.routers,
            self._failed_pods.avoided_nodes(self._clock()),
            self._thinker.own_promises(now_seconds=self._clock()),
            now=datetime.now(UTC),
        )

    async def tell_map(self) -> float:
        """Write what of each device is whose, if that is due; when, by our clock."""
        return await self.map_board.tell(self._sight)

    async def reconcile(self) -> float:
        """One step for everything; for how long to wait, in seconds, if nothing changes.

        Raises ``ApiError`` when nothing can be done at all.
        """
        started = self._clock()
        if self._is_any_node_waited_for:
            await self.leases.look()
        look = self._look()
        decided = await self._thinker.run(self._thinker.decide, look)
        facts, step, loss = decided.facts, decided.step, decided.loss
        self._is_any_node_waited_for = bool(loss.kept)
        self._oddities.tell(facts, loss)
        if self.hub_models is not None:
            self.hub_models.want(facts.deployments)
        if self.adapters is not None:
            self.adapters.want(facts.deployments, facts.replicas)
        self.pod_events.want(facts.replicas)
        self._readings.tell_notes(facts.inventory.nodes)
        done = StepEvents()
        ways: list[GiveWay] = []
        await self._hands.carry_out(
            step.actions, lambda action: self._on_done(action, done, ways), busy=look.busy
        )
        if step.actions:
            # The answers are in the store: tell the status as it is now.
            before = facts
            facts = await self._thinker.run(
                lambda look: self._thinker.gather(look, before), self._look()
            )
        self._keep_sleep(facts, step)
        self._adoption.start(facts)
        self._budgets.start(facts)
        self.gateway.start(facts.deployments)
        routing = await self._thinker.run(self._statuses.routing, facts)
        await self._statuses.write_all(facts, step, loss, routing)
        await done.write(facts.deployments, self._lanes, self._events)
        await tell_ways(self._events, facts.deployments, ways)
        await self._records.calibrations.keep(facts.measured)
        await self._records.weights.keep([*facts.replicas, *facts.aheads], decided.nodes)
        seconds = self._clock() - started
        self._show(facts, step, seconds, loss)
        self._hands.forget_old({deployment.key for deployment in facts.deployments})
        self._failed_pods.forget_old(self._clock())
        self._readings.devices.forget_nodes(decided.nodes)
        self._sight = Sight(
            facts=facts,
            at=look.now,
            conditions=self._metrics.conditions,
            watched=self._settings.watch_namespace,
        )
        if self._hands.wants_list:
            self.lister.want()
        return self._pause(step, loss)

    def _keep_sleep(self, facts: Facts, step: Step) -> None:
        """Have engines do what is written by now; read routers as often as sleepers need it."""
        sleepers = [one for one in facts.replicas if one.may_sleep]
        self._readings.sleepers = frozenset(one.deployment for one in sleepers)
        self._readings.asleep = frozenset(
            one.deployment for one in sleepers if one.sleep_state is not None
        )
        if self.sleep is not None:
            told = told_to_routers(facts.deployments) if sleepers else frozenset()
            self.sleep.want(sleepers, step.may_fall_asleep, told)

    def _look(self) -> Look:
        return self._looking.look()

    def _show(self, facts: Facts, step: Step, seconds: float, loss: NodeLoss) -> None:
        """The metrics of a step."""
        refused = {
            key: dict(Counter(r.reason.value for r in outcome.refused.values()))
            for key, outcome in step.outcomes.items()
        }
        quotas, unread = self._records.rules.quotas, self._records.unread
        self._metrics.on_reconciled(facts, refused, seconds, loss, quotas, unread)

    def _on_done(self, action: Action, done: StepEvents, ways: list[GiveWay]) -> None:
        # One action makes room for the next (a claim for a drain), and its own event is no news.
        self._store.mark_dirty()
        if isinstance(action, GiveWay):
            ways.append(action)
        failure = None
        if isinstance(action, EndFetch):
            self._failed_pods.on_fetch_ended(action, now_seconds=self._clock())
        if isinstance(action, Delete):
            failure = self._failed_pods.on_deleted(action, now_seconds=self._clock())
        done.on_done(action, failure)

    def _pause(self, step: Step, loss: NodeLoss) -> float:
        """Until the first thing that is due by time alone."""
        if step.has_timers or (loss.kept and not loss.is_braked):
            return TIMER_SECONDS
        now = self._clock()
        dues = [
            None if step.due_seconds is None else now + step.due_seconds,
            self._hands.next_due_seconds(),
            self._failed_pods.next_due_seconds(now),
            self._planner.next_due_seconds(now),
            self._statuses.next_due_seconds(now),
            self._budgets.next_due_seconds(now),
            self.gateway.next_due_seconds(now),
        ]
        first = min((due for due in dues if due is not None), default=now + IDLE_SECONDS)
        return min(IDLE_SECONDS, max(TIMER_SECONDS / 10, first - now))
