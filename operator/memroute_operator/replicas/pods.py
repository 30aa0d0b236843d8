"""The pods of the cluster as planning reads them: each behind one boundary, and each counted.

| pod | what it is | what it counts as | may be deleted |
| --- | --- | --- | --- |
| our label, our controller, a reservation that can be read | a replica | its reservation | yes |
| our label, our controller, no readable reservation | unreadable | all devices of its node | no |
| our label, another controller or none (``cascade=orphan``) | a stray | its reservation | no |
| the label of a pod that goes ahead, our controller | ahead | nothing | yes |
| anything else | foreign | the accelerators that it requests | no |

Nobody knows what an unreadable pod holds (a newer operator may have written it, or somebody's
hand), but it may well serve: it keeps its node to itself until a person looks, or the devices
that its reservation names, where a node has exactly those. One of which its ModelDeployment does
not know counts as foreign (``strangers.py``).
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from memroute.placement import Node, PlacementMode, Reservation
from memroute_kube import MODEL_DEPLOYMENTS, KubeObject
from memroute_kube.resources import (
    ANNOTATION_RESERVATION,
    GROUP,
    LABEL_DEPLOYMENT,
    object_key,
)
from memroute_kube.shapes import is_terminal
from memroute_operator.ahead.facts import Ahead, read_ahead
from memroute_operator.pod.pod_resources import ANY_RESOURCE, EVERY_DEVICE, requested_devices
from memroute_operator.replicas.promises import MAX_DEVICE_BYTES, MAX_DEVICES
from memroute_operator.replicas.reading import read_replica, read_slot
from memroute_operator.replicas.replica import Replica
from memroute_operator.store.reading_cache import Cache
from memroute_operator.weights.container import LABEL_AHEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadablePod:
    """A pod of ours of which nobody knows what it holds."""

    key: str
    """``namespace/name``."""
    deployment: str
    """``namespace/name`` of its ModelDeployment, by its label."""
    node: str | None
    """Where it runs or is bound to run; None while it is nowhere."""
    is_terminal: bool
    why: str
    """What is wrong with its reservation."""
    slot: int | None = None
    """By its label; None where that cannot be read."""
    device_uuids: frozenset[str] = frozenset()
    """The devices that its reservation names; empty when it names none that can be read."""
    obj: KubeObject = field(default_factory=dict, repr=False)

    def reservation(self, node: Node) -> Reservation:
        """The whole of the devices that it names; else all of its node's devices."""
        usable = {d.uuid: d.usable_bytes for d in node.devices if d.uuid is not None}
        num_devices = max(node.num_allocatable, len(node.devices))
        if self.device_uuids and self.device_uuids <= usable.keys():
            usable = {uuid: usable[uuid] for uuid in self.device_uuids}
            num_devices = len(self.device_uuids)
        return Reservation(
            owner=self.key,
            deployment=self.deployment,
            node=node.name,
            device_bytes=usable,
            num_exclusive_devices=num_devices,
            exclusive_bytes=max((d.usable_bytes for d in node.devices), default=0),
            resource=node.resource,
        )


@dataclass(slots=True, kw_only=True)
class PodsRead:
    """All pods of the cluster, sorted by what they are."""

    replicas: list[Replica] = field(default_factory=list)
    aheads: list[Ahead] = field(default_factory=list)
    """Pods that fetch before a rollout needs it."""
    unreadable: list[UnreadablePod] = field(default_factory=list)
    strays: list[Reservation] = field(default_factory=list)
    """What pods with our label hold that nobody controls any more."""
    foreign_devices: dict[str, Counter[str]] = field(default_factory=dict)
    """Node → devices that pods of others hold there, by resource (``pod_resources``)."""
    live: set[str] = field(default_factory=set)
    """``namespace/name`` of every pod that has not ended, whosoever."""
    problems: dict[str, str] = field(default_factory=dict)
    """Pods that could not be read → what is wrong with them."""

    def add(self, other: "PodsRead") -> None:
        """Count what is in another one too, which stays as it is."""
        self.replicas += other.replicas
        self.aheads += other.aheads
        self.unreadable += other.unreadable
        self.strays += other.strays
        self.live |= other.live
        for node, held in other.foreign_devices.items():
            self.foreign_devices.setdefault(node, Counter()).update(held)
        for name, why in other.problems.items():
            # Those without a name are told apart by number.
            self.problems[f"?{len(self.problems)}" if name.startswith("?") else name] = why


def read_pods(pods: Iterable[KubeObject], cache: Cache[PodsRead | str] | None = None) -> PodsRead:
    """Every pod, whatever it looks like. Raises nothing.

    ``cache``: what was read of pods that have not changed since.
    """
    found = PodsRead()
    read = (Cache[PodsRead | str]() if cache is None else cache).round()
    for pod in pods:
        one = read(pod, _read_one)
        if isinstance(one, str):
            found.live.add(one)
        else:
            found.add(one)
    return found


def _read_one(pod: KubeObject) -> PodsRead | str:
    """What one pod is. Only its key where that is all: most pods are others', without devices."""
    found = PodsRead()
    try:
        if not is_terminal(pod):
            found.live.add(object_key(pod))
        _read(pod, found)
    except Exception as error:  # noqa: BLE001 - a named boundary: one pod is one pod's problem
        _count_at_its_worst(pod, error, found)
    if found.live and found == PodsRead(live=found.live):
        return next(iter(found.live))
    return found


def is_ours(pod: KubeObject) -> bool:
    """Whether we made the pod: by its label and by its controller."""
    if LABEL_DEPLOYMENT not in (pod["metadata"].get("labels") or {}):
        return False
    return is_controlled(pod)


def is_controlled(pod: KubeObject) -> bool:
    """Whether a ModelDeployment controls the pod."""
    controller = controller_of(pod)
    return (
        controller is not None
        and controller.get("kind") == MODEL_DEPLOYMENTS.kind
        and str(controller.get("apiVersion")).partition("/")[0] == GROUP
    )


def controller_of(pod: KubeObject) -> Mapping[str, Any] | None:
    """The owner reference of what controls the pod; None when nothing does."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def describe_owner(pod: KubeObject) -> str:
    """Whose pod it is, as the end of a sentence: ``belongs to StatefulSet chat``."""
    try:
        controller = controller_of(pod)
        if controller is None:
            return "belongs to nobody (it has no controller) and stays until somebody deletes it"
        return f"belongs to {controller.get('kind')} {controller.get('name')}"
    except (AttributeError, KeyError, TypeError):
        return "has an owner that cannot be read"


def _read(pod: KubeObject, found: PodsRead) -> None:
    labels = pod["metadata"].get("labels") or {}
    if LABEL_DEPLOYMENT not in labels:
        _count_foreign(pod, found)
        if LABEL_AHEAD in labels and is_controlled(pod):
            ahead = read_ahead(pod, (controller_of(pod) or {}).get("uid"))
            found.aheads += [] if ahead is None else [ahead]
        return
    if not is_ours(pod):
        _count_stray(pod, found)
        return
    replica = read_replica(pod)
    why = "no reservation of a known version" if replica is None else _problem_of(replica)
    if replica is None or why is not None:
        _add_unreadable(pod, why or "", found)
    else:
        found.replicas.append(replica)


def _count_foreign(pod: KubeObject, found: PodsRead) -> None:
    node = (pod.get("spec") or {}).get("nodeName")
    if is_terminal(pod) or not isinstance(node, str):
        return
    held = requested_devices(pod)
    if held:
        found.foreign_devices.setdefault(node, Counter()).update(held)


def disown(pod: UnreadablePod, why: str, found: PodsRead) -> None:
    """Count a pod that says it is ours, and is not, as other people's. Raises nothing."""
    found.problems[pod.key] = f"{pod.why}; {why}: it holds what it requests, no more"
    try:
        _count_foreign(pod.obj, found)
    except (AttributeError, KeyError, TypeError, ValueError):
        if pod.node is not None and not pod.is_terminal:
            _count_whole_node(pod.node, found)


def _count_stray(pod: KubeObject, found: PodsRead) -> None:
    """Its engine may run on: what it was promised is not free. Only where it really runs."""
    node = (pod.get("spec") or {}).get("nodeName")
    if is_terminal(pod) or not isinstance(node, str):
        return
    replica = read_replica(pod)
    if (
        replica is not None
        and _problem_of(replica) is None
        and replica.node == node
        and replica.mode is PlacementMode.SHARED
    ):
        found.strays.append(replica.reservation())
    else:
        _count_foreign(pod, found)


def _count_at_its_worst(pod: KubeObject, error: Exception, found: PodsRead) -> None:
    """A pod that nobody can read: unreadable if it says it is ours, else every device there."""
    try:
        ours = is_ours(pod)
    except (AttributeError, KeyError, TypeError):
        ours = False
    try:
        if ours:
            _add_unreadable(pod, f"{type(error).__name__}: {error}", found)
            return
        found.problems[object_key(pod)] = repr(error)
        node = pod["spec"]["nodeName"]
        # Where the pod itself makes no sense, what it requests makes none either.
        if isinstance(node, str) and not isinstance(pod["spec"].get("containers"), list):
            _count_whole_node(node, found)
    except (AttributeError, KeyError, TypeError) as nowhere:
        found.problems[f"?{len(found.problems)}"] = repr(nowhere)


def _count_whole_node(node: str, found: PodsRead) -> None:
    found.foreign_devices.setdefault(node, Counter())[ANY_RESOURCE] += EVERY_DEVICE


def _add_unreadable(pod: KubeObject, why: str, found: PodsRead) -> None:
    unreadable = _unreadable(pod, why)
    found.unreadable.append(unreadable)
    found.problems[unreadable.key] = unreadable.why


def _unreadable(pod: KubeObject, why: str) -> UnreadablePod:
    metadata = pod["metadata"]
    text = (metadata.get("annotations") or {}).get(ANNOTATION_RESERVATION)
    return UnreadablePod(
        key=object_key(pod),
        deployment=f"{metadata.get('namespace')}/{metadata['labels'][LABEL_DEPLOYMENT]}",
        node=_node_of(pod),
        is_terminal=is_terminal(pod),
        why=f"{why} ({str(text)[:80]!r})" if text is not None else f"{why} (it has none)",
        slot=read_slot(metadata["labels"]),
        device_uuids=_named_devices(text),
        obj=pod,
    )


def _named_devices(text: object) -> frozenset[str]:
    """The devices that a reservation of another version names, where it names them as ours do."""
    try:
        document = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return frozenset()
    devices = document.get("devices") if isinstance(document, dict) else None
    if not isinstance(devices, dict | list) or not all(isinstance(one, str) for one in devices):
        return frozenset()
    return frozenset(devices)


def _node_of(pod: KubeObject) -> str | None:
    """Where it runs, else where its affinity pins it."""
    spec = pod.get("spec")
    if not isinstance(spec, Mapping):
        return None
    if isinstance(node := spec.get("nodeName"), str):
        return node
    try:
        required = spec["affinity"]["nodeAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        pinned = required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]
    except (KeyError, IndexError, TypeError):
        return None
    return pinned if isinstance(pinned, str) else None


def _problem_of(replica: Replica) -> str | None:
    """What makes a reservation unbelievable; None when nothing does."""
    texts = (
        replica.namespace, replica.pod_name, replica.uid, replica.deployment_name,
        replica.revision, replica.node, replica.created_at, replica.why,
    )  # fmt: skip
    if not all(isinstance(text, str) for text in texts) or not replica.node:
        return "a name or a text of it is none"
    if not isinstance(replica.owner_uid, str | None) or not isinstance(replica.failure, str | None):
        return "a name or a text of it is none"
    sizes = (replica.bytes_per_device, *replica.device_bytes.values())
    if not all(0 <= size <= MAX_DEVICE_BYTES for size in sizes):
        return "no device has that many bytes"
    if not 0 <= replica.num_devices <= MAX_DEVICES or len(replica.device_bytes) > MAX_DEVICES:
        return "no node has that many devices"
    if replica.index < 0 or replica.kv_capacity_tokens < 0:
        return "a count in it is negative"
    return None
