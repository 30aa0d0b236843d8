"""From raw objects and readings to the facts that a plan is made on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from memroute.footprint import Calibration, CalibrationKey
from memroute.placement import Inventory, Node
from memroute_kube import KubeObject
from memroute_kube.resources import (
    LABEL_DEPLOYMENT,
    object_key,
)
from memroute_operator.calibrations import (
    EngineReport,
    calibrations_of,
    measure,
    read_calibrations,
)
from memroute_operator.deployment import Deployment, read_deployment
from memroute_operator.device_metrics import DeviceMetrics
from memroute_operator.nodes import main_pool, read_node
from memroute_operator.pod_resources import requested_devices
from memroute_operator.replica import Replica, is_terminal, read_replica
from memroute_operator.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that one reconcile decides on."""

    deployments: tuple[Deployment, ...]
    """The oldest first: who came first is placed first."""
    replicas: tuple[Replica, ...]
    unreadable_pods: tuple[KubeObject, ...]
    """Pods with our label whose reservation cannot be read: nobody knows what they hold."""
    inventory: Inventory
    lost_nodes: frozenset[str]
    """Nodes that do not exist any more, or are not ready."""
    stale_nodes: frozenset[str]
    """Nodes with devices whose exporter does not answer."""

    def replicas_by_deployment(self) -> dict[str, list[Replica]]:
        """``namespace/name`` of the ModelDeployment → its replicas, the oldest first."""
        grouped: dict[str, list[Replica]] = {}
        for replica in self.replicas:
            grouped.setdefault(replica.deployment, []).append(replica)
        return grouped


def gather(
    store: Store,
    metrics: DeviceMetrics,
    *,
    now_seconds: float,
    reports: Mapping[str, EngineReport | None] = MappingProxyType({}),
    resource_slices: Mapping[str, Sequence[KubeObject]] = MappingProxyType({}),
) -> Facts:
    """The facts, from the store and the last readings. ``now_seconds``: the readings' clock.

    ``reports``: what engines have said of themselves, by the uid of their pod.
    ``resource_slices``: what DRA drivers publish, by node.
    """
    replicas, unreadable, foreign_devices = _read_pods(store)
    existing_pods = {object_key(pod) for pod in store.pods.values() if not is_terminal(pod)}
    nodes = [
        main_pool(
            read_node(
                obj,
                metrics,
                foreign_devices.get(obj["metadata"]["name"], Counter()),
                now_seconds,
                resource_slices=resource_slices.get(obj["metadata"]["name"], ()),
                existing_pods=existing_pods,
            )
        )
        for obj in sorted(store.nodes.values(), key=object_key)
    ]
    deployments = {
        deployment.key: deployment
        for deployment in map(read_deployment, store.model_deployments.values())
    }
    calibrations = read_calibrations(store.model_deployments.values())
    calibrations |= _measured(deployments, replicas, nodes, reports)
    wanted = sorted(
        (
            replace(one, calibrations=calibrations_of(one.obj["spec"], calibrations))
            for one in deployments.values()
            # One that is being deleted wants nothing any more: its pods are orphans by now.
            if "deletionTimestamp" not in one.obj["metadata"]
        ),
        key=lambda deployment: (deployment.created_at, deployment.key),
    )
    ready_nodes = {node.name for node in nodes if node.unusable_reason != "NotReady"}
    return Facts(
        deployments=tuple(wanted),
        replicas=tuple(sorted(replicas, key=lambda r: (r.created_at, r.key))),
        unreadable_pods=tuple(unreadable),
        inventory=Inventory(
            nodes=tuple(nodes),
            reservations=tuple(r.reservation() for r in replicas if not r.is_terminal),
        ),
        lost_nodes=frozenset({r.node for r in replicas} - ready_nodes),
        stale_nodes=frozenset(
            node.name for node in nodes if node.devices and not node.has_fresh_metrics
        ),
    )


def _read_pods(
    store: Store,
) -> tuple[list[Replica], list[KubeObject], dict[str, Counter[str]]]:
    """Our replicas, our pods that cannot be read, and devices of others by node and resource."""
    replicas: list[Replica] = []
    unreadable: list[KubeObject] = []
    foreign_devices: dict[str, Counter[str]] = {}
    for pod in store.pods.values():
        if LABEL_DEPLOYMENT in (pod["metadata"].get("labels") or {}):
            replica = read_replica(pod)
            if replica is None:
                unreadable.append(pod)
            else:
                replicas.append(replica)
        elif not is_terminal(pod) and (node := pod["spec"].get("nodeName")):
            foreign_devices.setdefault(node, Counter()).update(requested_devices(pod))
    return replicas, unreadable, foreign_devices


def _measured(
    deployments: Mapping[str, Deployment],
    replicas: list[Replica],
    nodes: list[Node],
    reports: Mapping[str, EngineReport | None],
) -> dict[CalibrationKey, Calibration]:
    """What engines of the current specs have measured; of several, the one that took most."""
    found: dict[CalibrationKey, Calibration] = {}
    by_name = {node.name: node for node in nodes}
    for replica in replicas:
        report, node = reports.get(replica.uid), by_name.get(replica.node)
        deployment = deployments.get(replica.deployment)
        if report is None or node is None or deployment is None:
            continue
        products = {device.product for device in node.devices}
        if deployment.footprint is None or replica.revision != deployment.revision:
            continue
        if len(products) != 1 or (product := products.pop()) is None:
            continue  # which kind the device plugin has given is not known
        calibration = measure(
            deployment.obj["spec"],
            report,
            deployment.footprint,
            product=product,
            usable_bytes=min(device.usable_bytes for device in node.devices),
        )
        if calibration is None:
            continue
        known = found.get(calibration.key)
        if known is None or known.overhead_bytes < calibration.overhead_bytes:
            found[calibration.key] = calibration
    return found
