"""All that is known at one moment, for a step to be decided on."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from memroute_operator.actions.carry_out import CarryOut
from memroute_operator.actions.lanes import Lanes
from memroute_operator.cluster_records import ClusterRecords
from memroute_operator.gateway.keeper import GatewayKeeper
from memroute_operator.readings.loops import Readings
from memroute_operator.readings.node_leases import NodeLeases
from memroute_operator.readings.pod_events import PodEvents
from memroute_operator.replicas.failed_pods import FailedPods
from memroute_operator.sleeping.keeper import SleepKeeper
from memroute_operator.store.store import Store
from memroute_operator.thinking import Look


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """Whoever knows something. Owns nothing."""

    store: Store
    readings: Readings
    hands: CarryOut
    lanes: Lanes
    failed_pods: FailedPods
    records: ClusterRecords
    pod_events: PodEvents
    leases: NodeLeases
    clock: Callable[[], float]
    gateway: GatewayKeeper
    sleep: SleepKeeper | None = None
    """What engines that are not awake say; None where none is told to sleep."""

    def look(self) -> Look:
        """Everything at once: nothing of it is from later. On the event loop, in milliseconds."""
        now, pods, routers = self.clock(), self.store.pods, self.readings.routers
        read_at = routers.read_at_seconds
        return Look(
            store=self.store.snapshot(),
            devices=self.readings.devices.snapshot(),
            reports=dict(self.readings.engines.by_pod),
            resource_slices=self.readings.slices_by_node,
            now_seconds=now,
            now=datetime.now(UTC),
            held=tuple(self.hands.reservations(lambda key: pods.get(key) is not None)),
            busy=self.lanes.busy,
            held_back=self.hands.held_back() | self.failed_pods.held_back(now),
            no_surge=self.hands.quota_refusals(),
            refused_aheads=self.hands.refused_aheads(),
            avoided_nodes=self.failed_pods.avoided_nodes(now),
            in_flight=routers.in_flight if routers.is_known else None,
            in_flight_age_seconds=None if read_at is None else now - read_at,
            calibrations=dict(self.records.calibrations.known),
            stories=dict(self.pod_events.told),
            quotas=self.records.rules.quotas,
            priorities=self.records.rules.classes,
            silences=self.leases.silences(),
            fetches=self.readings.fetches.words(now),
            weights=dict(self.records.weights.known),
            demand=routers.demand.demand(now),
            sights={} if self.sleep is None else dict(self.sleep.sights),
            sleep_refusals={} if self.sleep is None else self.sleep.refusals(),
            told_seconds={} if self.sleep is None else self.sleep.told_seconds(),
            picker_away_seconds=self.gateway.away_seconds(),
            stood_aside=self.failed_pods.stood_aside(),
            waking=self.hands.waking(),
        )
