"""From raw objects and readings to the facts that a plan is made on."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType

from memroute.footprint import Calibration, CalibrationKey
from memroute.placement import Inventory, Neighbour, Node, PlacementMode, Reservation
from memroute_kube import KubeObject
from memroute_kube.resources import is_condition_true, object_key
from memroute_operator.ahead.facts import Ahead
from memroute_operator.memory import PlanMemory
from memroute_operator.nodes import planned, read_node
from memroute_operator.readings.calibrations import EngineReport
from memroute_operator.readings.device_metrics import (
    MAX_COLLECT_SECONDS,
    DeviceMetrics,
    NodeReading,
)
from memroute_operator.replicas.beside import neighbours
from memroute_operator.replicas.kv_tokens import measured_kv_tokens
from memroute_operator.replicas.lost_nodes import NodeSight
from memroute_operator.replicas.pod_stories import Stories, with_stories
from memroute_operator.replicas.pods import PodsRead, UnreadablePod, read_pods
from memroute_operator.replicas.replica import Replica, ReplicaState
from memroute_operator.replicas.slots import taken_slots
from memroute_operator.replicas.strangers import disown_strangers, leave_to_others
from memroute_operator.spec.deployment import Deployment
from memroute_operator.spec.deployments import read_deployments, with_known_revision
from memroute_operator.store.reading_cache import Cache
from memroute_operator.store.store import Known
from memroute_operator.weights.caches import NO_SETTINGS, WeightsSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that one reconcile decides on."""

    deployments: tuple[Deployment, ...]
    """The oldest first: who came first is placed first."""
    replicas: tuple[Replica, ...]
    unreadable_pods: tuple[UnreadablePod, ...]
    """Pods of ours whose reservation cannot be read: each counts as all devices of its node.

    Without strangers, who count as what they request."""
    inventory: Inventory
    lost_nodes: frozenset[str]
    """Nodes of replicas that do not exist any more, or are not ready."""
    stale_nodes: frozenset[str]
    """Nodes with devices whose exporter does not answer."""
    neighbours: tuple[Neighbour, ...] | None = None
    """All pods that are on nodes; None where nobody asks what is beside it."""
    taken_slots: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Slots (``namespace/name#index``) that pods hold which are no readable replicas → whose."""
    unreadable_objects: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What could not be read, as ``Kind namespace/name`` → what is wrong with it."""
    aheads: tuple[Ahead, ...] = ()
    """Pods that fetch before a rollout needs it."""
    measured: Mapping[CalibrationKey, Calibration] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """What engines that run have measured of themselves."""
    kv_tokens: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Tokens that KV caches really hold, by the uid of the pod, where that is known."""

    def replicas_by_deployment(self) -> dict[str, list[Replica]]:
        """``namespace/name`` of the ModelDeployment → its replicas, the oldest first."""
        grouped: dict[str, list[Replica]] = {}
        for replica in self.replicas:
            grouped.setdefault(replica.deployment, []).append(replica)
        return grouped

    def aheads_of(self, deployment: str) -> tuple[Ahead, ...]:
        """Those of a ModelDeployment, by its ``namespace/name``."""
        return tuple(one for one in self.aheads if one.deployment == deployment)

    def with_held(self, held: Iterable[Reservation]) -> "Facts":
        """The facts with more that is counted and that no pod shows."""
        more = tuple(held)
        if not more:
            return self
        reservations = self.inventory.reservations + more
        return replace(self, inventory=replace(self.inventory, reservations=reservations))

    def with_unsure(self, names: Collection[str]) -> "Facts":
        """The facts with nodes on which nothing is placed: nobody knows what runs there."""
        if not names:
            return self
        nodes = tuple(
            replace(node, unusable_reason=node.unusable_reason or "NotReadSinceReturn")
            if node.name in names
            else node
            for node in self.inventory.nodes
        )
        return replace(self, inventory=replace(self.inventory, nodes=nodes))

    def gpu_nodes(self, sights: Mapping[str, NodeSight]) -> dict[str, NodeSight]:
        """The nodes that count when some are lost: those with accelerators or replicas."""
        names = {n.name for n in self.inventory.nodes if n.devices or n.num_allocatable}
        names |= {replica.node for replica in self.replicas}
        missing = NodeSight(exists=False, is_ready=False)
        return {name: sights.get(name, missing) for name in names}

    def without(self, deployments: Collection[str]) -> "Facts":
        """The facts for everybody else. What those hold stays counted."""
        return replace(
            self,
            deployments=tuple(d for d in self.deployments if d.key not in deployments),
            replicas=tuple(r for r in self.replicas if r.deployment not in deployments),
            aheads=tuple(one for one in self.aheads if one.deployment not in deployments),
        )


@dataclass(slots=True)
class ReadingCache:
    """What was read of single objects, until they change. For one reader at a time."""

    pods: Cache[PodsRead | str] = field(default_factory=Cache)
    deployments: Cache[Deployment] = field(default_factory=Cache)


def gather(
    store: Known,
    metrics: DeviceMetrics,
    *,
    now_seconds: float,
    reports: Mapping[str, EngineReport | None] = MappingProxyType({}),
    memory: PlanMemory | None = None,
    now: datetime | None = None,
    held: Iterable[Reservation] = (),
    resource_slices: Mapping[str, Sequence[KubeObject]] = MappingProxyType({}),
    cache: ReadingCache | None = None,
    default_image: str | None = None,
    before: Facts | None = None,
    calibrations: Mapping[CalibrationKey, Calibration] = MappingProxyType({}),
    stories: Stories = MappingProxyType({}),
    weights: WeightsSettings = NO_SETTINGS,
    watched: Collection[str] = (),
    fetches: Mapping[str, str] = MappingProxyType({}),
    waking: Collection[str] = (),
    max_contention: float | None = None,
) -> Facts:
    """The facts, from the store and the last readings. ``now_seconds``: the readings' clock.

    ``reports``: what engines have said of themselves, by the uid of their pod.
    ``memory``: since when replicas have been seen as they are; without it, since now.
    ``now``: the wall clock. ``held``: what is
    to be counted though no pod shows it (engines on nodes that are cut off, pods on their way).
    ``resource_slices``: what DRA drivers publish, by node. ``cache``: what was read of objects
    that have not changed since; without it, everything is read anew. ``default_image``: of
    engines whose ModelDeployment names none; without it nothing measured counts for those.
    ``before``: facts of a moment ago whose nodes are taken as they are: half of the work.
    ``calibrations``: what engines have measured before.
    ``stories``: Events of pods that are not ready, by uid.
    ``weights``: what the operator was told
    of caches; ``watched``: namespaces that this operator looks after,
    none for all; ``fetches``: how far those are that fetch, in words, by the uid of their pod.
    ``waking``: pods by uid that may be marked to wake, though nobody has seen that.
    ``max_contention``: beyond which another device is preferred.
    Raises nothing: what cannot be read is counted at its worst, and told.
    """
    cache = ReadingCache() if cache is None else cache
    pods = read_pods(store.pods.values(), cache.pods)
    disown_strangers(pods, store.model_deployments)
    leave_to_others(pods, watched)
    pods.replicas = with_stories(pods.replicas, stories)
    pods.replicas = [
        replace(one, is_waking_told=True) if one.uid in waking else one for one in pods.replicas
    ]
    memory = PlanMemory() if memory is None else memory
    pods.replicas = memory.stamp(
        pods.replicas, now_seconds=now_seconds, now=now or datetime.now(UTC)
    )
    aheads = memory.stamp_aheads(pods.aheads, now_seconds=now_seconds)
    problems = {f"Pod {key}": why for key, why in pods.problems.items()}
    if before is None:
        nodes = _read_nodes(store, metrics, pods, resource_slices, now_seconds, problems)
    else:
        nodes = list(before.inventory.nodes)
        told = before.unreadable_objects.items()
        problems |= {name: why for name, why in told if name.startswith("Node ")}
    read = read_deployments(
        store.model_deployments.values(),
        pods.replicas,
        nodes,
        reports,
        problems,
        cache.deployments,
        default_image,
        calibrations,
        weights,
    )
    deployments = read.wanted
    # Pods of an object that cannot be read, or that leaves them behind, are nobody's orphans.
    replicas = [r for r in pods.replicas if r.deployment not in read.left_alone]
    by_key = {deployment.key: deployment for deployment in deployments}
    replicas = [
        _with_fetch(with_known_revision(one, by_key), fetches.get(one.uid)) for one in replicas
    ]
    return Facts(
        deployments=tuple(deployments),
        measured=read.measured,
        kv_tokens=measured_kv_tokens(replicas, reports, by_key),
        replicas=tuple(sorted(replicas, key=lambda r: (r.created_at, r.key))),
        unreadable_pods=tuple(pods.unreadable),
        aheads=tuple(
            replace(one, fetch=fetches.get(one.uid))
            for one in sorted(aheads, key=lambda one: one.key)
            if one.deployment not in read.left_alone
        ),
        inventory=Inventory(
            nodes=tuple(nodes),
            reservations=tuple(_reservations(pods, nodes, held)),
            departed=memory.departed(now_seconds=now_seconds),
            live_pods=frozenset(pods.live),
            max_contention=max_contention,
        ),
        lost_nodes=frozenset(
            {r.node for r in replicas}
            - {name for name, sight in node_sights(store, metrics).items() if sight.is_reachable}
        ),
        stale_nodes=frozenset(
            node.name for node in nodes if node.devices and not node.has_fresh_metrics
        ),
        neighbours=neighbours(store.pods, replicas, deployments),
        taken_slots=taken_slots(store, deployments, pods),
        unreadable_objects=problems,
    )


def _with_fetch(replica: Replica, words: str | None) -> Replica:
    """A replica that fetches its weights, with how far it is."""
    if words is None or replica.state is not ReplicaState.DOWNLOADING:
        return replica
    return replace(replica, fetch=words)


def _read_nodes(
    store: Known,
    metrics: DeviceMetrics,
    pods: PodsRead,
    resource_slices: Mapping[str, Sequence[KubeObject]],
    now_seconds: float,
    problems: dict[str, str],
) -> list[Node]:
    """The nodes; one that cannot be read has nothing to give."""
    nodes: list[Node] = []
    for key, obj in sorted((object_key(obj), obj) for obj in store.nodes.values()):
        try:
            found = read_node(
                obj,
                metrics,
                pods.foreign_devices.get(key, Counter()),
                now_seconds,
                resource_slices=resource_slices.get(key, ()),
                existing_pods=pods.live,
            )
            nodes += planned(found)
        except Exception as error:  # noqa: BLE001 - a named boundary: one node is one node's problem
            problems[f"Node {key}"] = repr(error)
            nodes.append(Node(name=key, mode=PlacementMode.EXCLUSIVE, unusable_reason="Unreadable"))
    return nodes


def node_sights(store: Known, metrics: DeviceMetrics) -> dict[str, NodeSight]:
    """What is seen of every Node object, by name."""
    sights = {}
    for obj in store.nodes.values():
        status = obj.get("status") or {}
        try:
            is_ready = is_condition_true(obj, "Ready")
            is_silent = any(
                one["type"] == "Ready" and one["status"] == "Unknown"
                for one in status.get("conditions") or ()
            )
            boot_id = (status.get("nodeInfo") or {}).get("bootID")
        except (KeyError, TypeError, AttributeError):
            # Whoever cannot say it is ready is not.
            is_ready, is_silent, boot_id = False, False, None
        reading = metrics.readings.get(object_key(obj))
        sights[object_key(obj)] = NodeSight(
            exists=True,
            is_ready=is_ready,
            is_silent=is_silent,
            boot_id=boot_id if isinstance(boot_id, str) else None,
            shown_after_seconds=None if reading is None else _shown_after(reading),
        )
    return sights


def _shown_after(reading: NodeReading) -> float:
    """What happened before this is in the reading."""
    if reading.collected_after_seconds is not None:
        return reading.collected_after_seconds
    return reading.taken_at_seconds - MAX_COLLECT_SECONDS


def _reservations(
    pods: PodsRead, nodes: list[Node], held: Iterable[Reservation]
) -> Iterator[Reservation]:
    """All that is promised or may be held."""
    yield from (one for replica in pods.replicas for one in replica.reservations())
    yield from pods.strays
    yield from held
    unreadable = [pod for pod in pods.unreadable if not pod.is_terminal]
    names = {pod.node for pod in unreadable}
    for node in nodes:
        if node.name in names:
            yield from (pod.reservation(node) for pod in unreadable if pod.node == node.name)
