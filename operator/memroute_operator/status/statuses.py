"""The statuses of all ModelDeployments: made, compared and written, each for itself."""

import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from memroute_kube import ApiError
from memroute_kube.client import CONFLICT
from memroute_operator.actions.backoff import Backoff
from memroute_operator.actions.carry_out import FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS, CarryOut
from memroute_operator.actions.lanes import Lanes
from memroute_operator.adapters.keeper import AdapterKeeper
from memroute_operator.adapters.telling import View
from memroute_operator.gateway.keeper import GatewayKeeper
from memroute_operator.gather import Facts
from memroute_operator.isolation import PatientPlanner
from memroute_operator.loop_lag import Turns
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.plan import Outcome, Step
from memroute_operator.pod.templates import Templates
from memroute_operator.readings.loops import Readings
from memroute_operator.replicas.failed_pods import FailedPods
from memroute_operator.replicas.lost_nodes import NodeLoss
from memroute_operator.replicas.replica import Replica
from memroute_operator.rules.name_grants import NameGrants
from memroute_operator.spec.deployment import Deployment
from memroute_operator.spec.hub_models import HubModels
from memroute_operator.status.conditions import Troubles
from memroute_operator.status.routing_status import Routing, routing_statuses
from memroute_operator.status.status import broken_status, deployment_status
from memroute_operator.status.status_writer import StatusWriter

LOGGER = logging.getLogger(__name__)
ACTION = "WriteStatus"


@dataclass(slots=True, kw_only=True)
class Statuses:
    """Writes what changed. Owns which statuses the API server refused."""

    writer: StatusWriter
    lanes: Lanes
    hands: CarryOut
    failed_pods: FailedPods
    planner: PatientPlanner
    readings: Readings
    templates: Templates
    grants: NameGrants
    metrics: OperatorMetrics
    on_bug: Callable[[str, Exception], None]
    clock: Callable[[], float]
    rng: random.Random
    hub_models: HubModels | None = None
    """What hubs say of models; None where none is asked."""
    adapters: AdapterKeeper | None = None
    """Which adapters replicas have; None where none are loaded."""
    gateway: GatewayKeeper | None = None
    """What gateways say of its pool; None where none is written."""
    router_url: str | None = None
    """Where clients find the routers; None where nobody has said."""
    _failures: Backoff[str] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_WAIT_SECONDS, max_seconds=MAX_WAIT_SECONDS
        )
    )

    async def write_all(
        self, facts: Facts, step: Step, loss: NodeLoss, routing: Mapping[str, Routing]
    ) -> None:
        """Write what is due. Raises ``ApiError`` when nothing can be written at all.

        ``routing``: what routers are told of each deployment, by its key.
        """
        by_deployment = facts.replicas_by_deployment()
        assigned = _assigned_devices(facts)
        now = self.clock()
        turns = Turns()
        for deployment in facts.deployments:
            await turns.give()
            if self._failures.waiting(deployment.key, now) is not None:
                continue
            replicas = by_deployment.get(deployment.key, [])
            status = self._make(
                deployment, replicas, facts, step, loss, assigned, routing.get(deployment.key)
            )
            if status is not None:
                self.metrics.on_status(deployment.key, status.get("conditions") or [])
            if status is not None and self.writer.is_due(deployment, status):
                self.lanes.start(deployment.key, self._lane(deployment, status))
        await self.lanes.settle()
        self.hands.raise_global_error()
        self.writer.forget_all_but(frozenset(d.uid for d in facts.deployments))
        self._failures.forget_old(now)

    def next_due_seconds(self, now_seconds: float) -> float | None:
        """When the next refused status is tried again; None when none waits."""
        return self._failures.next_due_seconds(now_seconds)

    def routing(self, facts: Facts) -> dict[str, Routing]:
        """What routers are told of each deployment, by its key; of none where that fails.

        What a status says of it stays then, and so does what routers do. For a thread: somebody
        may ask for thousands of names.
        """
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            return routing_statuses(
                facts,
                self.grants.known,
                grants_namespace=self.grants.namespace,
                now=now,
                views=self._views(),
            )
        except Exception as error:  # noqa: BLE001 - a named boundary: names are decided for all at once
            self.on_bug("names", error)
            return {}

    def _make(
        self,
        deployment: Deployment,
        replicas: list[Replica],
        facts: Facts,
        step: Step,
        loss: NodeLoss,
        assigned: Mapping[str, tuple[str, ...]],
        routing: Routing | None,
    ) -> dict[str, Any] | None:
        """What is to be told of one deployment; None when nothing is known yet."""
        planning = self.planner.failure_of(deployment.key)
        outcome = step.outcomes.get(deployment.key)
        if outcome is None and planning is None:
            return None  # it came while actions were carried out: the next step is its first
        routers = self.readings.routers
        try:
            return deployment_status(
                deployment if self.hub_models is None else self.hub_models.told(deployment),
                replicas,
                outcome or _unplanned(deployment, replicas),
                assigned_devices=assigned,
                kv_tokens=facts.kv_tokens,
                stale_nodes=facts.stale_nodes,
                kv_projected_ratio=routers.kv_projected_ratio if routers.is_known else None,
                targets=routers.targets.get(deployment.key),
                templates=self.templates,
                routing=routing,
                url=self.router_url,
                views=self._views(),
                gateway=None if self.gateway is None else self.gateway.view(deployment),
                troubles=self._troubles(deployment, replicas, facts, planning, loss),
                now=datetime.now(UTC),
            )
        except Exception as error:  # noqa: BLE001 - a named boundary: one status is one deployment's
            self.on_bug("status", error)
            return broken_status(deployment, error, datetime.now(UTC))

    def _views(self) -> dict[str, View]:
        return {} if self.adapters is None else dict(self.adapters.views)

    def _troubles(
        self,
        deployment: Deployment,
        replicas: list[Replica],
        facts: Facts,
        planning: str | None,
        loss: NodeLoss,
    ) -> Troubles:
        now = self.clock()
        is_short = sum(not one.is_terminating for one in replicas) < deployment.replicas
        names = [told for slot, told in sorted(facts.taken_slots.items())
                 if slot.rpartition("#")[0] == deployment.key] if is_short else []  # fmt: skip
        refused = self.hands.name_failures(deployment.key) if is_short else ()
        failed = self.failed_pods.failures_of(deployment.key, now) if is_short else ()
        return Troubles(
            planning=planning,
            create=self.hands.create_failure(deployment.key),
            names=tuple(names) or tuple(one.told for one in refused),
            failed_pods=failed,
            scheduler=self.failed_pods.scheduler_words(deployment.key, now),
            actions=tuple(self.hands.action_failures(replica.key for replica in replicas)),
            kept_nodes={r.node: loss.kept[r.node] for r in replicas if r.node in loss.kept},
        )

    def _lane(
        self, deployment: Deployment, status: dict[str, Any]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        async def write() -> None:
            try:
                await self.writer.write(deployment, status)
            except ApiError as error:
                self._note(deployment, error)
            else:
                self._failures.succeeded(deployment.key)

        return write

    def _note(self, deployment: Deployment, error: ApiError) -> None:
        if error.is_global:
            self.hands.global_error = error
            return
        if error.status == CONFLICT:  # another object has the name by now: its event tells
            LOGGER.info("status superseded deployment=%s error=%s", deployment.key, error)
        failure = self._failures.failed(
            deployment.key,
            reason=error.reason or ACTION,
            message=error.message,
            now_seconds=self.clock(),
            chance=self.rng.random(),
            retry_after_seconds=error.retry_after_seconds,
        )
        self.metrics.on_failure(ACTION, error.status)
        LOGGER.warning(
            "status not written deployment=%s error=%s retry_seconds=%.0f",
            deployment.key, error, failure.retry_seconds,
        )  # fmt: skip


def _unplanned(deployment: Deployment, replicas: list[Replica]) -> Outcome:
    """Of one whose planning raises: all is kept, and what has failed is not forgotten."""
    return Outcome(kept={replica.key for replica in replicas}, failed=deployment.failed)


def _assigned_devices(facts: Facts) -> dict[str, tuple[str, ...]]:
    assigned: dict[str, tuple[str, ...]] = {}
    for node in facts.inventory.nodes:
        for device in node.devices:
            if device.assigned_pod and device.uuid:
                before = assigned.get(device.assigned_pod, ())
                assigned[device.assigned_pod] = (*before, device.uuid)
    return assigned
