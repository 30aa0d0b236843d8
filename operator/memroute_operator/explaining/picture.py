"""A cluster at one moment, from which the operator's facts and plans follow; and changed ones."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType

from memroute.footprint import Calibration, CalibrationKey
from memroute_kube import KubeObject
from memroute_kube.resources import object_key
from memroute_operator.gather import Facts, gather
from memroute_operator.plan import PlanContext, Step, plan_step
from memroute_operator.readings.device_metrics import DeviceMetrics, DeviceReading, NodeReading
from memroute_operator.readings.fleet_view import FleetView
from memroute_operator.replicas.pod_stories import Stories
from memroute_operator.replicas.replica import Replica, Seen
from memroute_operator.store.store import Store

# Where the operator has told nothing: its own default.
USUAL_SCRAPE_SECONDS = 5.0
# Of the plan's context; nothing is drained in a picture.
DRAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Objects as the API server has them, and what the operator has read beside them."""

    model_deployments: tuple[KubeObject, ...]
    pods: tuple[KubeObject, ...]
    nodes: tuple[KubeObject, ...]
    view: FleetView | None = None
    """None where the operator has told nothing, or it may not be read."""
    resource_slices: Mapping[str, Sequence[KubeObject]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    calibrations: Mapping[CalibrationKey, Calibration] = field(
        default_factory=lambda: MappingProxyType({})
    )
    stories: Stories = field(default_factory=lambda: MappingProxyType({}))
    """Events of pods, by uid."""
    at: datetime
    """When the objects were listed."""

    @property
    def observed_age_seconds(self) -> float | None:
        """How long ago the operator told what it had read; None where it has not."""
        return None if self.view is None else max(0.0, (self.at - self.view.at).total_seconds())

    def with_deployment(self, obj: KubeObject) -> "Picture":
        """The picture with another version of a ModelDeployment."""
        key = object_key(obj)
        others = (obj if object_key(one) == key else one for one in self.model_deployments)
        return replace(self, model_deployments=tuple(others))

    def with_node(self, obj: KubeObject) -> "Picture":
        """The picture with another version of a Node."""
        key = object_key(obj)
        return replace(
            self, nodes=tuple(obj if object_key(one) == key else one for one in self.nodes)
        )

    def without_replicas(self, replicas: Iterable[Replica]) -> "Picture":
        """The picture without these pods, and without what they use of shared devices."""
        gone = tuple(replicas)
        keys = {one.key for one in gone}
        freed: Counter[str] = Counter()
        for replica in gone:
            freed.update(replica.device_bytes)
        view = self.view
        if view is not None:
            readings = {node: _freed(one, freed) for node, one in view.readings.items()}
            view = replace(view, readings=readings, own=view.own.without(freed))
        pods = tuple(one for one in self.pods if object_key(one) not in keys)
        return replace(self, pods=pods, view=view)

    def facts(self) -> Facts:
        """What the operator would know."""
        store = Store()
        for objects, collection in (
            (self.model_deployments, store.model_deployments),
            (self.pods, store.pods),
            (self.nodes, store.nodes),
        ):
            for obj in objects:
                collection.upsert(obj)
        view = self.view
        devices = (
            DeviceMetrics(scrape_seconds=USUAL_SCRAPE_SECONDS) if view is None else view.devices()
        )
        facts = gather(
            store,
            devices,
            now_seconds=0.0,
            now=self.at,
            resource_slices=self.resource_slices,
            calibrations=self.calibrations,
            stories=self.stories,
        )
        facts = _with_ages(facts, self.at if view is None else view.at)
        return facts if view is None else _with_departed(facts, view)

    def plan(self, facts: Facts) -> Step:
        """What the operator would do next."""
        avoided = {} if self.view is None else self.view.avoided_nodes
        return plan_step(
            facts,
            PlanContext(
                drain_timeout_seconds=DRAIN_SECONDS,
                in_flight=None,
                avoided_nodes=avoided,
                lost_nodes=frozenset(),
            ),
        )


def _freed(reading: NodeReading, freed: Mapping[str, int]) -> NodeReading:
    """The reading once these bytes of its devices are used no more, by UUID."""
    return replace(reading, devices=tuple(_freed_device(one, freed) for one in reading.devices))


def _freed_device(device: DeviceReading, freed: Mapping[str, int]) -> DeviceReading:
    num_bytes = freed.get(device.uuid, 0)
    if not num_bytes or device.free_bytes is None or device.used_bytes is None:
        return device
    given = min(num_bytes, device.used_bytes)
    return replace(
        device, free_bytes=device.free_bytes + given, used_bytes=device.used_bytes - given
    )


def _with_ages(facts: Facts, at: datetime) -> Facts:
    """The facts with since when replicas serve, by their own times: nobody here has seen it.

    ``at``: when the observations are from; what has begun to serve since is not in them.
    """
    replicas = tuple(replace(one, seen=_seen(one, at)) for one in facts.replicas)
    own = {one.key: one for one in replicas}
    reservations = tuple(
        replace(one, ready_seconds=own[one.owner].seen.serving_seconds)
        if one.owner in own and one.replaces is None
        else one
        for one in facts.inventory.reservations
    )
    return replace(
        facts,
        replicas=replicas,
        inventory=replace(facts.inventory, reservations=reservations),
    )


def _with_departed(facts: Facts, view: FleetView) -> Facts:
    """The facts with what the readings may show of replicas that have ended."""
    departed = view.own.departed_since(facts.replicas, view.at)
    return replace(facts, inventory=replace(facts.inventory, departed=departed))


def _seen(replica: Replica, at: datetime) -> Seen:
    since = replica.ready_since
    serving = None
    if replica.is_ready and since is not None:
        seconds = (at - since.astimezone(UTC)).total_seconds()
        serving = seconds if seconds >= 0 else None
    return replace(replica.seen, serving_seconds=serving)
