"""Plans on a real fleet: a live cluster, or what ``kubectl`` saved of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memroute.catalog import Accelerator, accelerator_for_product
from memroute.catalog.accelerators import with_product_first
from memroute.placement import Inventory
from memroute_cli.cluster.looking import look
from memroute_cli.plan.files import PlanError
from memroute_cli.plan.saved import read_saved
from memroute_cli.terminal.progress import working
from memroute_kube.resources import LABEL_GPU_SHARING
from memroute_operator.explaining import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The devices, what is promised of them, and what is not known."""

    source: str
    inventory: Inventory
    notes: tuple[str, ...] = ()
    """What nobody told, a sentence each."""


def saved_fleet(paths: Sequence[Path]) -> Fleet:
    """From what ``kubectl get … -o json`` has saved. Raises ``PlanError``."""
    saved = read_saved(paths)
    return _fleet(saved.picture, saved.source, saved.notes)


def live_fleet(kubeconfig: Path | None, operator_namespace: str) -> Fleet:
    """From the cluster that kubeconfig points at. Raises ``PlanError`` or ``LookError``.

    Also from one without memroute.
    """
    with working("looking at the cluster"):
        seen = look(
            kubeconfig=kubeconfig, operator_namespace=operator_namespace, needs_memroute=False
        )
    return _fleet(seen.picture, "the cluster", seen.notes)


def _fleet(picture: Picture, source: str, notes: Sequence[str]) -> Fleet:
    inventory = picture.facts().inventory
    unknown = sorted(
        {f"{node.name}: {node.devices_unknown}" for node in inventory.nodes if node.devices_unknown}
    )
    if not any(node.devices for node in inventory.nodes):
        what = unknown[0] if unknown else "no node has an accelerator"
        msg = f"{source}: {what}"
        raise PlanError(msg)
    more = [*notes, *unknown]
    is_shared = any(
        LABEL_GPU_SHARING in node["metadata"].get("labels", {}) for node in picture.nodes
    )
    if not is_shared:
        more.append(
            "whether accelerators may be shared: no node is labelled "
            f"{LABEL_GPU_SHARING}=shared, so whole devices alone were tried"
        )
    return Fleet(source=source, inventory=inventory, notes=tuple(more))


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


def links_of(inventory: Inventory) -> dict[str, str]:
    """What joins the devices of a node, by accelerator, where all nodes that have it agree."""
    said: dict[str, set[str | None]] = {}
    for node in inventory.nodes:
        for device in node.devices:
            accelerator = accelerator_for_product(device.product or "")
            if accelerator is not None:
                said.setdefault(accelerator.name, set()).add(node.link)
    return {
        name: link
        for name, links in said.items()
        if len(links) == 1 and (link := next(iter(links))) is not None
    }
