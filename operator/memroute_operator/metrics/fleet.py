"""The fleet as the last reconcile has seen it: its HBM, replicas, conditions and nodes.

A reconcile leaves what it has found (``Shown``), which nobody changes any more. The series are made
of it by whoever asks first (``page``, in a thread of its own), once for all who ask until the next
reconcile ends. A scrape sees either the last reconcile or the one before.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from memroute.placement import NO_QUOTAS, HBMQuotas, Ledger
from memroute.placement.usage import DeviceUse, uses
from memroute_operator.gather import Facts
from memroute_operator.metrics.labels import (
    CONDITIONS,
    DEPLOYMENT,
    DEVICE,
    PURPOSES,
    REFUSED_REASONS,
    REPLICA,
    RULES,
    STATES,
)
from memroute_operator.replicas.lost_nodes import NodeLoss
from memroute_operator.replicas.purposes import purposes_of
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment

# Families of the last reconcile: name → what it says, labels.
GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "device_info": (
        "1; who says what the device's product and memory are (docs/how-to/describe-nodes.md).",
        (*DEVICE, "product_source", "memory_source"),
    ),
    "device_usable_bytes": ("HBM that processes can use.", DEVICE),
    "device_reserved_bytes": ("HBM promised to replicas.", DEVICE),
    "device_reserved_by_purpose_bytes": (
        "HBM promised to replicas, by what it is for.",
        (*DEVICE, "purpose"),
    ),
    "device_observed_bytes": ("HBM in use as the exporter reads it, while fresh.", DEVICE),
    "device_foreign_bytes": ("HBM in use beyond what our replicas explain.", DEVICE),
    "device_live_free_bytes": ("HBM that the exporter reports free, while fresh.", DEVICE),
    "device_reading_age_seconds": (
        "How old the exporter's values are at most, at its own pace.",
        DEVICE,
    ),
    "device_lent_bytes": (
        "HBM that replicas that sleep lend to others that may sleep; part of what is promised.",
        DEVICE,
    ),
    "device_free_bytes": ("HBM that may still be promised.", DEVICE),
    "device_unusable": ("1 while no new replica may use the device.", DEVICE),
    "replica_reserved_bytes": (
        "HBM promised to a replica, on each of its devices.",
        ("node_name", "device", *REPLICA),
    ),
    "node_metrics_fresh": ("1 if the node's exporter was read of late, else 0.", ("node_name",)),
    "node_usable": ("1 if replicas may be placed on the node, else 0.", ("node_name",)),
    "node_host_bytes": (
        "Memory of the node itself that pods may be given.",
        ("node_name",),
    ),
    "node_host_reserved_bytes": (
        "Of that, what our replicas' pods ask for, with what they may pin.",
        ("node_name",),
    ),
    "nodes_unreachable": ("GPU nodes that do not report.", ()),
    "nodes_given_up": ("Of those, the ones whose replicas are replaced.", ()),
    "node_loss_braked": ("1 while too many nodes are unreachable to give any up.", ()),
    "replicas": ("Replica pods by state.", (*DEPLOYMENT, "state")),
    "replicas_wanted": ("Replicas that the spec asks for.", DEPLOYMENT),
    "replicas_asleep": ("Replicas whose engine sleeps.", DEPLOYMENT),
    "replicas_ready": ("Replicas whose engine is ready.", DEPLOYMENT),
    "replicas_refused": ("Replicas that fit nowhere, by reason.", (*DEPLOYMENT, "reason")),
    "replica_restarts": ("Restarts of the engine's container in its pod.", REPLICA),
    "condition": (
        "1 while a condition of a ModelDeployment is True, 0 while False; no series: Unknown.",
        (*DEPLOYMENT, "type"),
    ),
    "condition_info": (
        "1; status and reason of a condition as they are now.",
        (*DEPLOYMENT, "type", "status", "reason"),
    ),
    "namespace_reserved_bytes": ("HBM promised to a namespace's replicas.", ("model_namespace",)),
    "namespace_quota_bytes": (
        "HBM that a namespace may hold, where an administrator says so.",
        ("model_namespace",),
    ),
    "operator_unreadable_objects": ("Objects that cannot be read, by kind.", ("kind",)),
    "operator_config_refused": (
        "1 while a ConfigMap of an administrator cannot be read, and the last reading stays.",
        ("object",),
    ),
    "operator_last_reconcile_timestamp_seconds": (
        "When the last reconcile of everything has ended well, since the epoch.",
        (),
    ),
}
NO_LOSS = NodeLoss()
Encode = Callable[[Collector], bytes]


class Snapshot(Collector):
    """The gauges of one reconcile. The only mutable thing is which one is shown."""

    def __init__(self) -> None:
        self._state = _State(None)

    def collect(self) -> Iterable[Metric]:
        """The families, made anew."""
        return self._state.families()

    def describe(self) -> Iterable[Metric]:
        """The families that there are, for a registry."""
        return Families().all()

    def text(self, encode: Encode, content_type: str) -> bytes:
        """What ``encode`` makes of them. Made once for each type, for all who ask meanwhile."""
        return self._state.text(encode, content_type)

    def show(self, shown: "Shown | None") -> None:
        """Show this from now on, None: nothing. One assignment: no scrape sees half of it."""
        self._state = _State(shown)


class _State(Collector):
    """What one reconcile has left, and what was made of it so far."""

    def __init__(self, shown: "Shown | None") -> None:
        self._shown = shown
        self._texts: dict[str, bytes] = {}
        self._making = threading.Lock()

    def families(self) -> tuple[Metric, ...]:
        families = Families() if self._shown is None else families_of(self._shown)
        return families.all()

    def collect(self) -> Iterable[Metric]:
        return self.families()

    def text(self, encode: Encode, content_type: str) -> bytes:
        with self._making:
            found = self._texts.get(content_type)
            if found is None:
                found = self._texts[content_type] = encode(self)
            return found


class Families:
    """Gauges while they are being filled."""

    def __init__(self) -> None:
        self._by_name = {
            name: GaugeMetricFamily(f"memroute_{name}", text, labels=labels)
            for name, (text, labels) in GAUGES.items()
        }

    def set(self, name: str, labels: Iterable[str], value: float) -> None:
        """Add a series."""
        self._by_name[name].add_metric(list(labels), value)

    def all(self) -> tuple[Metric, ...]:
        """Every family, those without a series too."""
        return tuple(self._by_name.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a reconcile has found, for its gauges."""

    facts: Facts
    refused: Mapping[str, Mapping[str, int]]
    """Deployment → reason → replicas that fit nowhere."""
    loss: NodeLoss = NO_LOSS
    quotas: HBMQuotas = NO_QUOTAS
    conditions: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Deployment → the conditions of its status."""
    unread: Collection[str] = ()
    """ConfigMaps of an administrator that cannot be read."""
    ended_at: float = 0.0
    """When it has ended, in seconds since the epoch."""


def families_of(shown: Shown) -> Families:
    """The gauges of a reconcile."""
    families = Families()
    facts = shown.facts
    ledger = Ledger(facts.inventory)
    _set_devices(families, facts, ledger)
    _set_namespaces(families, ledger, shown.quotas)
    _set_nodes(families, facts, shown.loss)
    _set_host_memory(families, facts, ledger)
    _set_replicas(families, facts, shown.refused)
    _set_conditions(families, facts, shown.conditions)
    for name in RULES:
        families.set("operator_config_refused", (name,), float(name in shown.unread))
    families.set("operator_last_reconcile_timestamp_seconds", (), shown.ended_at)
    return families


def _set_namespaces(families: Families, ledger: Ledger, quotas: HBMQuotas) -> None:
    for namespace in sorted({*ledger.namespaces(), *quotas.by_namespace}):
        families.set("namespace_reserved_bytes", (namespace,), ledger.held_bytes(namespace))
        limit = quotas.limit_bytes(namespace)
        if limit is not None:
            families.set("namespace_quota_bytes", (namespace,), limit)


def _set_devices(families: Families, facts: Facts, ledger: Ledger) -> None:
    """Device by device, the numbers that ``memroute top`` shows."""
    replicas = {replica.key: replica for replica in facts.replicas}
    deployments = {deployment.key: deployment for deployment in facts.deployments}
    for node in uses(facts.inventory, ledger):
        for use in node.devices:
            device = use.device
            labels = (device.node, device.uuid or str(device.index), device.product or "unknown")
            sources = (device.product_source or "unknown", device.usable_source)
            families.set("device_info", (*labels, *sources), 1)
            families.set("device_usable_bytes", labels, device.usable_bytes)
            families.set("device_unusable", labels, float(device.unusable_reason is not None))
            for name, value in (
                ("device_reserved_bytes", use.promised_bytes),
                ("device_observed_bytes", use.observed_bytes),
                ("device_foreign_bytes", use.foreign_bytes),
                ("device_lent_bytes", use.lent_bytes),
                ("device_free_bytes", use.free_bytes),
                ("device_live_free_bytes", device.live_free_bytes),
                ("device_reading_age_seconds", device.live_age_seconds),
            ):
                if value is not None:
                    families.set(name, labels, value)
            _set_promises(families, use, labels, replicas, deployments)


def _set_promises(
    families: Families,
    use: DeviceUse,
    labels: tuple[str, str, str],
    replicas: Mapping[str, Replica],
    deployments: Mapping[str, Deployment],
) -> None:
    """Which replica holds what of a device, and what for."""
    if use.promised_bytes is None:
        return
    purposes = dict.fromkeys(PURPOSES, 0)
    left = use.promised_bytes
    for owner, size in use.holders:
        replica = replicas.get(owner)
        if replica is None:
            continue
        families.set(
            "replica_reserved_bytes",
            (*labels[:2], replica.namespace, replica.deployment_name, replica.pod_name),
            size,
        )
        deployment = deployments.get(f"{replica.namespace}/{replica.deployment_name}")
        for purpose, part in _parts(deployment, use.device.product, size).items():
            purposes[purpose] += part
        left -= size
    # Of claims and of pods that cannot be read.
    purposes["unknown"] += max(0, left)
    for purpose, size in purposes.items():
        families.set("device_reserved_by_purpose_bytes", (*labels, purpose), size)


def _parts(deployment: Deployment | None, product: str | None, size: int) -> dict[str, int]:
    """What so many bytes on one device are for, by the names of their labels."""
    purposes = purposes_of(deployment, product, size)
    if purposes is None:
        return {"unknown": size}
    return {
        "weights": purposes.weights_bytes,
        "overhead": purposes.overhead_bytes,
        "kv-cache": purposes.kv_cache_bytes,
    }


def _set_nodes(families: Families, facts: Facts, loss: NodeLoss) -> None:
    fresh: dict[str, bool] = {}
    usable: dict[str, bool] = {}
    for node in facts.inventory.nodes:  # once for each resource that it hands out
        if not node.devices and not node.num_allocatable:
            continue
        if node.devices:
            fresh[node.name] = fresh.get(node.name, True) and node.has_fresh_metrics
        usable[node.name] = usable.get(node.name, False) or node.unusable_reason is None
    for name, value in fresh.items():
        families.set("node_metrics_fresh", (name,), float(value))
    for name, value in usable.items():
        families.set("node_usable", (name,), float(value))
    families.set("nodes_unreachable", (), loss.num_unreachable)
    families.set("nodes_given_up", (), len(loss.given_up))
    families.set("node_loss_braked", (), float(loss.is_braked))
    unreadable: dict[str, int] = dict.fromkeys(("Pod", "Node", "ModelDeployment"), 0)
    for name in facts.unreadable_objects:
        kind = name.partition(" ")[0]
        unreadable[kind] = unreadable.get(kind, 0) + 1
    for kind, count in unreadable.items():
        families.set("operator_unreadable_objects", (kind,), count)


def _set_host_memory(families: Families, facts: Facts, ledger: Ledger) -> None:
    sizes = {
        node.name: node.host_bytes
        for node in facts.inventory.nodes
        if node.host_bytes is not None and (node.devices or node.num_allocatable)
    }
    for name, size in sizes.items():
        families.set("node_host_bytes", (name,), size)
        families.set("node_host_reserved_bytes", (name,), ledger.node_memory.pinned_bytes(name))


def _set_replicas(
    families: Families, facts: Facts, refused: Mapping[str, Mapping[str, int]]
) -> None:
    states: dict[tuple[str, str], dict[str, int]] = {}
    ready: dict[tuple[str, str], int] = {}
    asleep = Counter[tuple[str, str]]()
    for deployment in facts.deployments:
        name = (deployment.namespace, deployment.name)
        states[name], ready[name] = dict.fromkeys(STATES, 0), 0
    for replica in facts.replicas:
        name = (replica.namespace, replica.deployment_name)
        counts = states.setdefault(name, dict.fromkeys(STATES, 0))
        counts[replica.state.value] += 1
        ready[name] = ready.get(name, 0) + replica.is_ready
        asleep[name] += replica.is_resting
        families.set("replica_restarts", (*name, replica.pod_name), replica.num_restarts)
    for name, counts in states.items():
        families.set("replicas_ready", name, ready.get(name, 0))
        families.set("replicas_asleep", name, asleep[name])
        for state, count in counts.items():
            families.set("replicas", (*name, state), count)
    for deployment in facts.deployments:
        name = (deployment.namespace, deployment.name)
        families.set("replicas_wanted", name, deployment.replicas)
        reasons = dict.fromkeys(REFUSED_REASONS, 0) | dict(refused.get(deployment.key, {}))
        for reason, count in reasons.items():
            families.set("replicas_refused", (*name, reason), count)


def _set_conditions(
    families: Families, facts: Facts, conditions: Mapping[str, list[dict[str, Any]]]
) -> None:
    for deployment in facts.deployments:
        told = conditions.get(deployment.key)
        if told is None:
            continue  # no status has been made yet
        name = (deployment.namespace, deployment.name)
        values: dict[str, float | None] = dict.fromkeys(CONDITIONS, 0.0)
        for one in told:
            kind, status = str(one["type"]), str(one["status"])
            values[kind] = {"True": 1.0, "False": 0.0}.get(status)
            families.set("condition_info", (*name, kind, status, str(one["reason"])), 1)
        for kind, value in values.items():
            if value is not None:
                families.set("condition", (*name, kind), value)
