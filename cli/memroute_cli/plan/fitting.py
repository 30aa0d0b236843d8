"""What fits now on the nodes of a fleet: every precision, number of devices and mode is tried.

```text
way   = precision x devices (tensor parallel) x mode (whole devices, or shared ones)
tried = each node's verdict on one replica of it: the operator's own rules and ledger
taken = the first way that fits: the highest precision, then the fewest devices, then whole ones
```

Several models are placed one after the other: what one takes is not free for the next.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from memroute.catalog import accelerator_for_product
from memroute.placement import (
    DeviceUse,
    Inventory,
    Node,
    Placed,
    PlacementMode,
    ReplicaKey,
    Verdict,
    WantedReplica,
    plan,
    uses,
    verdicts,
)
from memroute.sizing import Option, options_for
from memroute.sizing.occupancy import Occupancies
from memroute_cli.plan.fleet import Fleet, accelerators_of
from memroute_cli.plan.report import Answers

AMD = "amd.com/gpu"
MODES = (PlacementMode.EXCLUSIVE, PlacementMode.SHARED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run a replica, and each node's answer to it."""

    option: Option
    mode: PlacementMode
    verdicts: tuple[Verdict, ...]
    """Those that would take it first, then the nearest misses."""

    @property
    def words(self) -> str:
        """Such as ``2 x fp8 shared``."""
        return f"{self.option.num_devices} x {self.option.precision} {self.mode.value}"

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes that would take it now."""
        return tuple(dict.fromkeys(one.node for one in self.verdicts if one.fits))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNow:
    """One device, and the ways that would fit on it."""

    use: DeviceUse
    ways: tuple[Way, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNow:
    """What fits now of one model."""

    name: str
    ways: tuple[Way, ...]
    """The best first."""
    chosen: Way | None
    placed: Placed | None
    """Where that way would go; None where nothing fits."""
    devices: tuple[DeviceNow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """All models on one fleet."""

    source: str
    notes: tuple[str, ...]
    models: tuple[ModelNow, ...]


def fit_now(fleet: Fleet, answers: list[Answers]) -> Now:
    """Every way of every model, on what is free when it is its turn."""
    inventory = fleet.inventory
    models = []
    for index, one in enumerate(answers):
        model = _model_now(inventory, one, index)
        models.append(model)
        if model.placed is not None:
            held = (*inventory.reservations, model.placed.reservation())
            inventory = replace(inventory, reservations=held)
    return Now(source=fleet.source, notes=fleet.notes, models=tuple(models))


def _model_now(inventory: Inventory, answers: Answers, index: int) -> ModelNow:
    wanted_names = {found.accelerator.name for found in answers.found}
    allowed = replace(
        inventory,
        nodes=tuple(_labelled(node) for node in inventory.nodes if _is_asked(node, wanted_names)),
    )
    # A footprint is the same on every accelerator: only what is left of it for KV cache differs.
    accelerator = accelerators_of(inventory)[0]
    ways = [
        Way(option=option, mode=mode, verdicts=_tried(allowed, option, mode, index))
        for option in options_for(answers.question, accelerator)
        for mode in MODES
        if any(node.mode is mode and node.devices for node in allowed.nodes)
    ]
    chosen = next((way for way in ways if way.nodes), None)
    placed = None if chosen is None else _place(allowed, chosen, index)
    return ModelNow(
        name=answers.model.name,
        ways=tuple(ways),
        chosen=None if placed is None else chosen,
        placed=placed,
        devices=tuple(_devices(allowed, ways)),
    )


def _is_asked(node: Node, names: set[str]) -> bool:
    """Whether the plan is about its accelerators: those of ``-a``, else all that are known."""
    known = [accelerator_for_product(device.product or "") for device in node.devices]
    return not node.devices or any(one is None or one.name in names for one in known)


def _labelled(node: Node) -> Node:
    """AMD's nodes with the label that a manifest for them would ask for."""
    return replace(node, labels={**node.labels, AMD: "amd"}) if node.resource == AMD else node


def _tried(
    inventory: Inventory, option: Option, mode: PlacementMode, index: int
) -> tuple[Verdict, ...]:
    """Each node's answer: AMD's are asked for a replica that names them."""
    found: list[Verdict] = []
    for is_amd in (False, True):
        nodes = tuple(node for node in inventory.nodes if (node.resource == AMD) is is_amd)
        if nodes:
            wanted = _wanted(option, mode, index, is_amd=is_amd)
            found += verdicts(replace(inventory, nodes=nodes), wanted)
    return tuple(sorted(found, key=lambda one: (not one.fits, one.short_bytes is None,
                                                one.short_bytes or 0)))  # fmt: skip


def _wanted(option: Option, mode: PlacementMode, index: int, *, is_amd: bool) -> WantedReplica:
    return WantedReplica(
        key=ReplicaKey(namespace="plan", name="plan", index=index),
        shape=option.shape,
        footprint=option.footprint,
        mode=mode,
        node_selector={AMD: "amd"} if is_amd else {},
        occupancies_by_product=Occupancies(option.shape),
    )


def _place(inventory: Inventory, way: Way, index: int) -> Placed | None:
    """Where the operator would put it: of several nodes the one that it prefers."""
    is_amd = next(one.resource == AMD for one in way.verdicts if one.fits)
    (decision,) = plan(inventory, [_wanted(way.option, way.mode, index, is_amd=is_amd)])
    return decision if isinstance(decision, Placed) else None


def _devices(inventory: Inventory, ways: list[Way]) -> Iterator[DeviceNow]:
    """Each device with the ways whose share of it is free."""
    for node_use in uses(inventory):
        here = [way for way in ways if node_use.node.name in way.nodes]
        for device in node_use.devices:
            yield DeviceNow(use=device, ways=tuple(way for way in here if _has_room(device, way)))


def _has_room(use: DeviceUse, way: Way) -> bool:
    if use.device.unusable_reason is not None:
        return False
    if way.mode is PlacementMode.EXCLUSIVE:
        return not use.holders
    return use.free_bytes is not None and use.free_bytes >= way.option.footprint.total_bytes
