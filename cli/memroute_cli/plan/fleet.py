"""Plans on a real fleet: a live cluster, or what ``kubectl`` saved of one."""

import asyncio
from dataclasses import replace
from pathlib import Path

from memroute.catalog import Accelerator, accelerator_for_product
from memroute.catalog.accelerators import with_product_first
from memroute.placement import (
    Decision,
    Inventory,
    Node,
    PlacementMode,
    ReplicaKey,
    WantedReplica,
    plan,
)
from memroute.sizing import Option
from memroute_cli.plan.files import PlanError, read_document
from memroute_kube import ApiError, KubernetesClient
from memroute_kube.resources import NODES, PODS
from memroute_operator.gather import gather
from memroute_operator.readings.device_metrics import DeviceMetrics
from memroute_operator.store.store import Store

# A label for the plan alone: the catalogue's name of a node's accelerators.
ACCELERATOR = "memroute.dev/accelerator"


def saved_inventory(path: Path) -> Inventory:
    """From ``kubectl get nodes,pods -A -o json``. Raises ``PlanError``."""
    items = read_document(path).get("items")
    if not isinstance(items, list):
        msg = f"{path}: save it with `kubectl get nodes,pods -A -o json`"
        raise PlanError(msg)
    store = Store()
    for item in items:
        kind = item.get("kind") if isinstance(item, dict) else None
        if kind == "Node":
            store.nodes.upsert(item)
        elif kind == "Pod":
            store.pods.upsert(item)
    return _inventory(store, str(path))


def live_inventory() -> Inventory:
    """From the cluster that kubeconfig points at. Raises ``PlanError``."""
    return asyncio.run(_live_inventory())


async def _live_inventory() -> Inventory:
    store = Store()
    try:
        async with await KubernetesClient.from_environment() as client:
            for resource, collection in ((NODES, store.nodes), (PODS, store.pods)):
                objects, _ = await client.list(resource)
                for obj in objects:
                    collection.upsert(obj)
    except ApiError as error:
        msg = f"the cluster refuses: {error}"
        raise PlanError(msg) from error
    except Exception as error:
        msg = f"no cluster can be reached: {error}"
        raise PlanError(msg) from error
    return _inventory(store, "the cluster")


def _inventory(store: Store, source: str) -> Inventory:
    facts = gather(store, DeviceMetrics(scrape_seconds=1.0), now_seconds=0.0)
    if not any(node.devices for node in facts.inventory.nodes):
        unknown = [node.devices_unknown for node in facts.inventory.nodes if node.devices_unknown]
        what = unknown[0] if unknown else "no node has an accelerator"
        msg = f"{source}: {what}"
        raise PlanError(msg)
    return facts.inventory


def accelerators_of(inventory: Inventory) -> list[Accelerator]:
    """The kinds of accelerators of a fleet that the catalogue knows, each once."""
    found: dict[str, Accelerator] = {}
    for node in inventory.nodes:
        for device in node.devices:
            accelerator = accelerator_for_product(device.product or "")
            if accelerator is not None:
                # What a manifest selects by must be what the fleet's nodes are labelled with.
                named = with_product_first(accelerator, device.product or "")
                found.setdefault(accelerator.name, named)
    if not found:
        msg = "no accelerator of the fleet is in the catalogue: name one with --accelerator"
        raise PlanError(msg)
    return list(found.values())


def place(inventory: Inventory, chosen: list[tuple[str, Option]]) -> tuple[Decision, ...]:
    """One replica of each model, one after the other, on what is free."""
    wanted = [_wanted(model, index, option) for index, (model, option) in enumerate(chosen)]
    return plan(replace(inventory, nodes=tuple(map(_labelled, inventory.nodes))), wanted)


def _labelled(node: Node) -> Node:
    """The node with the catalogue's name of its accelerators as a label: what options name.

    One row of the catalogue stands for several products, and many nodes carry no product.
    """
    found = (accelerator_for_product(device.product or "") for device in node.devices)
    names = sorted({accelerator.name for accelerator in found if accelerator is not None})
    vendor = {"amd.com/gpu": "amd"} if node.resource == "amd.com/gpu" else {}
    return replace(node, labels={**node.labels, **vendor, ACCELERATOR: "+".join(names)})


def _wanted(model: str, index: int, option: Option) -> WantedReplica:
    selector = {ACCELERATOR: option.accelerator.name}
    if option.accelerator.vendor == "amd":
        selector["amd.com/gpu"] = "amd"
    return WantedReplica(
        key=ReplicaKey(namespace="plan", name=model, index=index),
        shape=option.shape,
        footprint=option.footprint,
        mode=PlacementMode.EXCLUSIVE,
        node_selector=selector,
    )
