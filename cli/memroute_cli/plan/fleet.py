"""Plans on a real fleet: a live cluster, or what ``kubectl`` saved of one."""

import asyncio
from pathlib import Path
from typing import Any

from memroute.catalog import Accelerator, accelerator_for_product
from memroute.placement import (
    Decision,
    Inventory,
    PlacementMode,
    ReplicaKey,
    WantedReplica,
    plan,
)
from memroute.sizing import Option
from memroute_cli.plan.inputs import PlanError, read_document
from memroute_kube import ApiError, KubernetesClient
from memroute_kube.resources import NODES, PODS
from memroute_operator.device_metrics import DeviceMetrics
from memroute_operator.gather import gather
from memroute_operator.store import Store


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
        msg = f"{source}: no node carries nvidia.com/gpu.memory and nvidia.com/gpu.count labels"
        raise PlanError(msg)
    return facts.inventory


def accelerators_of(inventory: Inventory) -> list[Accelerator]:
    """The kinds of accelerators of a fleet that the catalogue knows, each once."""
    found: dict[str, Accelerator] = {}
    for node in inventory.nodes:
        for device in node.devices:
            accelerator = accelerator_for_product(device.product or "")
            if accelerator is not None:
                found.setdefault(accelerator.name, accelerator)
    if not found:
        msg = "no accelerator of the fleet is in the catalogue: name one with --accelerator"
        raise PlanError(msg)
    return list(found.values())


def place(inventory: Inventory, chosen: list[tuple[str, Option]]) -> tuple[Decision, ...]:
    """One replica of each model, one after the other, on what is free."""
    wanted = [_wanted(model, index, option) for index, (model, option) in enumerate(chosen)]
    return plan(inventory, wanted)


def _wanted(model: str, index: int, option: Option) -> WantedReplica:
    selector: dict[str, Any] = {}
    if option.accelerator.products:
        selector["nvidia.com/gpu.product"] = option.accelerator.products[0]
    return WantedReplica(
        key=ReplicaKey(namespace="plan", name=model, index=index),
        shape=option.shape,
        footprint=option.footprint,
        mode=PlacementMode.EXCLUSIVE,
        node_selector=selector,
    )
