"""The rows of ``memroute top``, as numbers: for tables and for JSON."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memroute.catalog import accelerator_for_product
from memroute.placement import DeviceUse, FleetUse, NodeUse, PlacementMode, fleet_use, uses
from memroute_kube import KubeObject
from memroute_kube.routing import read_routing_status
from memroute_kube.shapes import listed, mapping
from memroute_kube.sleeping import SleepState
from memroute_operator.explaining import Picture
from memroute_operator.gather import Facts
from memroute_operator.replicas.replica import Replica

# Of several replicas, the one that serves soonest says what the model does.
_NEARLY_AWAKE = (SleepState.WAKING, SleepState.FALLING_ASLEEP, SleepState.ASLEEP)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUse:
    """One ModelDeployment, summed over its replicas."""

    namespace: str
    name: str
    wanted: int
    ready: int
    state: str
    """The reason of its condition Ready; of a model that sleeps, what it does: ``Asleep``."""
    hbm_bytes: int
    """Promised to its replicas on all their devices."""
    kv_capacity_tokens: int
    kv_ratio: float | None
    """How full the fullest of its KV caches is, as routers project; None while unknown."""
    num_in_flight: int | None
    num_waiting: int | None
    nodes: tuple[str, ...]

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """All rows, and since when they are so."""

    nodes: tuple[NodeUse, ...]
    devices: tuple[DeviceUse, ...]
    models: tuple[ModelUse, ...]
    fleet: FleetUse
    observed_age_seconds: float | None
    notes: tuple[str, ...] = field(default=())


def usage_of(picture: Picture, notes: tuple[str, ...] = (), namespace: str | None = None) -> Usage:
    """What is used of the cluster in the picture. ``namespace``: of which models; None: of all."""
    facts = picture.facts()
    nodes = uses(facts.inventory)
    return Usage(
        nodes=nodes,
        devices=tuple(device for one in nodes for device in one.devices),
        models=tuple(one for one in _models(picture, facts) if namespace in (None, one.namespace)),
        fleet=fleet_use(nodes),
        observed_age_seconds=picture.observed_age_seconds,
        notes=notes,
    )


def _models(picture: Picture, facts: Facts) -> list[ModelUse]:
    view = picture.view
    by_deployment = facts.replicas_by_deployment()
    found = []
    for one in facts.deployments:
        replicas = by_deployment.get(one.key, [])
        told = {} if view is None else view.replicas
        known = [told[r.key] for r in replicas if r.key in told]
        ratios = [use.kv_projected_ratio for use in known if use.kv_projected_ratio is not None]
        in_flight = [use.num_in_flight for use in known if use.num_in_flight is not None]
        are_known = view is not None and view.are_routers_known
        found.append(
            ModelUse(
                namespace=one.namespace, name=one.name, wanted=one.replicas,
                ready=sum(replica.is_ready for replica in replicas),
                state=_sleep(one.obj) or _state(one.obj.get("status")),
                hbm_bytes=sum(map(_promised, replicas)),
                kv_capacity_tokens=sum(
                    facts.kv_tokens.get(replica.uid, replica.kv_capacity_tokens)
                    for replica in replicas
                    if replica.is_ready
                ),
                kv_ratio=max(ratios, default=None),
                num_in_flight=sum(in_flight) if are_known else None,
                num_waiting=view.waiting.get(one.key, 0) if view and are_known else None,
                nodes=tuple(sorted({replica.node for replica in replicas})),
            )
        )  # fmt: skip
    return found


def _promised(replica: Replica) -> int:
    if replica.is_terminal:
        return 0
    return replica.bytes_per_device * replica.num_devices


def _sleep(obj: KubeObject) -> str | None:
    """What a model does of which no replica is awake; None: one is, or none sleeps."""
    routing = read_routing_status(obj)
    replicas = [] if routing is None else list(routing.replicas.values())
    states = {replica.sleep for replica in replicas}
    if None in states:
        return None
    return next((state.value for state in _NEARLY_AWAKE if state in states), None)


def _state(status: object) -> str:
    conditions = map(mapping, listed(mapping(status).get("conditions")))
    ready = next((one for one in conditions if one.get("type") == "Ready"), {})
    return str(ready.get("reason") or "Unknown")


def product_name(product: str | None) -> str:
    """The catalogue's short name of a product; ``?`` where nobody knows it."""
    if product is None:
        return "?"
    known = accelerator_for_product(product)
    return product if known is None else known.name


Sort = Callable[[Any], Any]


def _number(value: float | None) -> float:
    return -1.0 if value is None else float(value)


# By what each view may be sorted: numbers the largest first.
NODE_SORTS: Mapping[str, Sort] = {
    "name": lambda one: one.node.key,
    "free": lambda one: -one.free_bytes,
    "promised": lambda one: -one.promised_bytes,
    "observed": lambda one: -_number(one.observed_bytes),
    "foreign": lambda one: -one.foreign_bytes,
}
DEVICE_SORTS: Mapping[str, Sort] = {
    "name": lambda one: (one.device.node, one.device.index),
    "free": lambda one: -_number(one.free_bytes),
    "promised": lambda one: -_number(one.promised_bytes),
    "observed": lambda one: -_number(one.observed_bytes),
    "foreign": lambda one: -_number(one.foreign_bytes),
    "time": lambda one: -_number(one.contention),
}
MODEL_SORTS: Mapping[str, Sort] = {
    "name": lambda one: one.key,
    "hbm": lambda one: -one.hbm_bytes,
    "kv": lambda one: -_number(one.kv_ratio),
    "waiting": lambda one: -_number(one.num_waiting),
    "missing": lambda one: one.ready - one.wanted,
}


def sorted_by(usage: Usage, name: str) -> Usage:
    """The same in that order, in every view that knows it; the others by name."""
    return replace(
        usage,
        nodes=tuple(sorted(usage.nodes, key=NODE_SORTS.get(name, NODE_SORTS["name"]))),
        devices=tuple(sorted(usage.devices, key=DEVICE_SORTS.get(name, DEVICE_SORTS["name"]))),
        models=tuple(sorted(usage.models, key=MODEL_SORTS.get(name, MODEL_SORTS["name"]))),
    )


def device_document(use: DeviceUse) -> dict[str, Any]:
    """One device for a program, in bytes; what nobody knows is null."""
    device = use.device
    return {
        "node": device.node, "index": device.index, "uuid": device.uuid,
        "product": device.product, "usableBytes": device.usable_bytes,
        "promisedBytes": use.promised_bytes, "observedBytes": use.observed_bytes,
        "foreignBytes": use.foreign_bytes, "unclearBytes": use.unclear_bytes,
        "lentBytes": use.lent_bytes, "freeBytes": use.free_bytes, "contention": use.contention,
        "observedAgeSeconds": device.live_age_seconds, "unusable": device.unusable_reason,
        "holders": [{"pod": pod, "bytes": size} for pod, size in use.holders],
    }  # fmt: skip


def node_document(use: NodeUse) -> dict[str, Any]:
    """One node for a program."""
    node = use.node
    return {
        "node": node.name, "resource": node.resource, "mode": node.mode.value,
        "numDevices": len(use.devices), "numFreeDevices": use.num_free_devices,
        "usableBytes": use.usable_bytes, "promisedBytes": use.promised_bytes,
        "observedBytes": use.observed_bytes, "foreignBytes": use.foreign_bytes,
        "unclearBytes": use.unclear_bytes, "freeBytes": use.free_bytes,
        "observedAgeSeconds": use.age_seconds,
        "unusable": node.unusable_reason, "devicesUnknown": node.devices_unknown,
    }  # fmt: skip


def model_document(use: ModelUse) -> dict[str, Any]:
    """One model for a program."""
    return {
        "namespace": use.namespace, "name": use.name, "wantedReplicas": use.wanted,
        "readyReplicas": use.ready, "state": use.state, "promisedBytes": use.hbm_bytes,
        "kvCapacityTokens": use.kv_capacity_tokens, "kvRatio": use.kv_ratio,
        "numInFlight": use.num_in_flight, "numWaiting": use.num_waiting, "nodes": list(use.nodes),
    }  # fmt: skip


def document(usage: Usage) -> dict[str, Any]:
    """All of it for a program."""
    fleet = usage.fleet
    return {
        "observedAgeSeconds": usage.observed_age_seconds,
        "notes": list(usage.notes),
        "fleet": {
            "numNodes": fleet.num_nodes, "numDevices": fleet.num_devices,
            "usableBytes": fleet.usable_bytes, "promisedBytes": fleet.promised_bytes,
            "observedBytes": fleet.observed_bytes, "foreignBytes": fleet.foreign_bytes,
            "unclearBytes": fleet.unclear_bytes, "freeBytes": fleet.free_bytes,
        },
        "nodes": [node_document(one) for one in usage.nodes],
        "devices": [device_document(one) for one in usage.devices],
        "models": [model_document(one) for one in usage.models],
    }  # fmt: skip


def state_of(use: NodeUse) -> str:
    """What a person has to know of a node, in a word or two."""
    node = use.node
    if node.unusable_reason is not None:
        return node.unusable_reason
    if node.devices_unknown is not None:
        return "unknown"
    return "shared" if node.mode is PlacementMode.SHARED else "whole"
