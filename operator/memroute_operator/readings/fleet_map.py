"""What of each device is whose, and which models wait: for the live map of the routers.

The format and its reader are ``memroute_kube.fleet_map``'s. The numbers are those of ``memroute
top``; here they are by owner, so that nobody who shows them needs the planner:

| of a device | bytes |
| --- | --- |
| ``holders`` | each replica's weights, overhead, KV cache; ``other`` where nobody knows what for |
| ``otherPromised`` | promised to what is no readable replica: claims, pods that cannot be read |
| ``foreign``, ``unclear``, ``free`` | as in ``memroute.placement.usage`` |
| the rest of ``usable`` | in no promise, and not to be promised: outside of an engine's limit |

Replicas of a node of which nobody says which devices they have are its ``unattributed``.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from memroute.placement import DeviceUse, NodeUse, uses
from memroute_kube import KubernetesClient
from memroute_kube.fleet_map import MAP_KEY, MAP_NAME, MAP_VERSION
from memroute_kube.packed import packed_text
from memroute_kube.shapes import listed, mapping
from memroute_operator.gather import Facts
from memroute_operator.replicas.purposes import purposes_of
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment
from memroute_operator.store.notices import Notice

# Of one map: what a page can draw, and a person can look through. Units: devices, models. Source:
# chosen by hand; five times the fleet that the map is made for. `memroute top` shows all.
MAX_DEVICES = 2_048
MAX_MODELS = 512
# Of a condition's message, in characters: two sentences with their numbers. Chosen by hand.
MAX_MESSAGE = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a map shows: the facts of the last step, and when they were true."""

    facts: Facts
    at: datetime
    conditions: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Of each ModelDeployment, as its status was made last; else those of the object count."""
    watched: Collection[str] = ()
    """Namespaces that are looked after; none: all. What pods of others are called is not told."""


def fleet_map(sight: Sight) -> dict[str, Any]:
    """The map as JSON has it. Nodes and models that are too many are counted in ``leftOut``."""
    facts = sight.facts
    nodes, num_left = _nodes(sight)
    replicas = facts.replicas_by_deployment()
    models = [
        _model(one, replicas.get(one.key, []), sight.conditions.get(one.key))
        for one in facts.deployments
    ]
    models.sort(key=lambda one: (one["isReady"], one["model"]))
    return {
        "version": MAP_VERSION,
        "at": sight.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "nodes": nodes,
        "models": models[:MAX_MODELS],
        "leftOut": {"devices": num_left, "models": max(0, len(models) - MAX_MODELS)},
    }


def _nodes(sight: Sight) -> tuple[list[dict[str, Any]], int]:
    facts = sight.facts
    replicas = {one.key: one for one in facts.replicas}
    deployments = {one.key: one for one in facts.deployments}
    found: list[dict[str, Any]] = []
    attributed: set[str] = set()
    num_shown = num_left = 0
    for use in uses(facts.inventory):
        attributed.update(owner for one in use.devices for owner, _ in one.holders)
        if num_shown + len(use.devices) > MAX_DEVICES:
            num_left += len(use.devices)
            continue
        num_shown += len(use.devices)
        devices = [_device(one, replicas, deployments, sight.watched) for one in use.devices]
        found.append(_node(use) | {"devices": devices, "unattributed": []})
    _add_unattributed(found, sight, attributed)
    return found, num_left


def _add_unattributed(
    nodes: list[dict[str, Any]], sight: Sight, attributed: Collection[str]
) -> None:
    """Write replicas that are on a node, and on no device that is known, to the node."""
    first: dict[str, dict[str, Any]] = {}
    for node in nodes:
        first.setdefault(node["node"], node)
    deployments = {one.key: one for one in sight.facts.deployments}
    for replica in sight.facts.replicas:
        found = first.get(replica.node)
        if found is None or replica.is_terminal or replica.key in attributed:
            continue
        size = replica.bytes_per_device * replica.num_devices
        product = found["devices"][0]["product"] if found["devices"] else None
        deployment = deployments.get(replica.deployment)
        found["unattributed"].append(
            _holder(replica, deployment, product, size, sight.watched)
            | {"numDevices": replica.num_devices}
        )


def _node(use: NodeUse) -> dict[str, Any]:
    node = use.node
    return {
        "node": node.name,
        "resource": node.resource,
        "mode": node.mode.value,
        "unusable": node.unusable_reason,
        "devicesUnknown": node.devices_unknown,
        "numDevices": max(len(use.devices), node.num_allocatable),
    }


def _device(
    use: DeviceUse,
    replicas: Mapping[str, Replica],
    deployments: Mapping[str, Deployment],
    watched: Collection[str],
) -> dict[str, Any]:
    device = use.device
    holders: list[dict[str, Any]] = []
    strangers: list[str] = []
    left = use.promised_bytes
    for owner, size in use.holders:
        replica = replicas.get(owner)
        if replica is None:
            strangers.append(_name(owner, watched))
            continue
        deployment = deployments.get(replica.deployment)
        holders.append(_holder(replica, deployment, device.product, size, watched))
        left = None if left is None else max(0, left - size)
    age = device.live_age_seconds
    return {
        "index": device.index,
        "uuid": device.uuid,
        "product": device.product,
        "usable": device.usable_bytes,
        "promised": use.promised_bytes,
        "otherPromised": left,
        "observed": use.observed_bytes,
        "observedAgeSeconds": None if age is None else round(age, 1),
        "foreign": use.foreign_bytes,
        "unclear": use.unclear_bytes,
        "free": use.free_bytes,
        "unusable": device.unusable_reason,
        "holders": holders,
        "strangers": strangers,
    }


def _holder(
    replica: Replica,
    deployment: Deployment | None,
    product: str | None,
    size: int,
    watched: Collection[str],
) -> dict[str, Any]:
    parts = purposes_of(deployment, product, size)
    return {
        "pod": _name(replica.key, watched),
        "model": _name(replica.deployment, watched),
        "state": replica.state.value,
        "weights": None if parts is None else parts.weights_bytes,
        "overhead": None if parts is None else parts.overhead_bytes,
        "kv": None if parts is None else parts.kv_cache_bytes,
        "other": size if parts is None else 0,
    }


def _name(key: str, watched: Collection[str]) -> str:
    """``namespace/name``, where that namespace is looked after."""
    if not watched or key.partition("/")[0] in watched:
        return key
    return "(of another namespace)"


def _model(
    deployment: Deployment, own: list[Replica], conditions: list[dict[str, Any]] | None
) -> dict[str, Any]:
    if conditions is None:
        conditions = listed(mapping(deployment.obj.get("status")).get("conditions"))
    condition = _telling(conditions)
    message = str(condition.get("message") or "")
    since = condition.get("lastTransitionTime")
    return {
        "model": deployment.key,
        "served": deployment.served_name,
        "wanted": deployment.replicas,
        "ready": sum(one.is_ready for one in own),
        "isReady": condition.get("type") == "Ready" and condition.get("status") == "True",
        "reason": str(condition.get("reason") or "Unknown"),
        "message": message[:MAX_MESSAGE] + ("…" if len(message) > MAX_MESSAGE else ""),
        "since": since if isinstance(since, str) else None,
    }


def _telling(conditions: Iterable[object]) -> Mapping[str, Any]:
    """The condition that says why it waits: ``Placed`` while that is False, else ``Ready``."""
    by_type = {str(one.get("type")): one for one in map(mapping, conditions)}
    placed = by_type.get("Placed", {})
    if placed.get("status") == "False":
        return placed
    return by_type.get("Ready", {})


def _ageless(document: Mapping[str, Any]) -> object:
    """What of a map is worth a write when it changes: all but how old it is."""
    return (
        document["models"],
        [node | {"devices": list(_ageless_devices(node["devices"]))} for node in document["nodes"]],
    )


def _ageless_devices(devices: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for device in devices:
        yield device | {"observedAgeSeconds": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenMap:
    """A map as it is written."""

    text: str
    content: object
    """What of it is worth a write when it changes."""


def written_map(sight: Sight) -> WrittenMap:
    """The map of a sight as JSON."""
    document = fleet_map(sight)
    return WrittenMap(text=json.dumps(document, separators=(",", ":")), content=_ageless(document))


class MapBoard:
    """Writes the map."""

    def __init__(
        self, *, client: KubernetesClient, namespace: str, clock: Callable[[], float]
    ) -> None:
        self._notice = Notice(client=client, namespace=namespace, name=MAP_NAME, clock=clock)
        self._clock = clock

    async def tell(self, sight: Sight | None) -> float:
        """Write what the last step has seen, where that is due; when. An error is logged."""
        seconds = self._clock()
        if sight is not None and self._notice.is_due:
            # In a thread, which changes nothing: the facts are frozen.
            written = await asyncio.to_thread(written_map, sight)
            await self._notice.put(written.content, lambda: packed_text(MAP_KEY, written.text))
        return seconds
