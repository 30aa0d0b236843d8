"""What fits now, told for a terminal and for a program."""

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from memroute.placement import PlacementMode
from memroute.units import format_gib
from memroute_cli.cluster.usage import product_name
from memroute_cli.plan.fitting import DeviceNow, ModelNow, Now, Way
from memroute_cli.terminal.table import Column, Table

UNKNOWN = "-"
# Ways that fit nowhere are told up to this number, the nearest first; --wide has them all.
MAX_MISSES = 3
# Nodes that a way names: of a large fleet most would be; --wide has them all.
MAX_NODES = 2
MODE_WORDS = {PlacementMode.EXCLUSIVE: "whole", PlacementMode.SHARED: "shared"}


def told(now: Now, one: ModelNow, *, is_wide: bool) -> Iterator[RenderableType]:
    """One model on the fleet: what fits, where it would go, device by device, what is not known."""
    yield Text(f"\nnow, on {now.source}", style="bold")
    yield _ways(one, is_wide=is_wide)
    hidden = 0 if is_wide else max(0, sum(not way.nodes for way in one.ways) - MAX_MISSES)
    if hidden:
        yield Text(f"{hidden} more way(s) fit nowhere now: --wide has them", style="dim")
    yield Text()
    yield _devices(one, is_wide=is_wide)
    if any(device.use.free_bytes is None for device in one.devices):
        yield Text(
            "not known: which devices of a node pods hold that asked for a number of them",
            style="dim",
        )
    for note in now.notes:
        yield Text(f"not known: {note}", style="dim")
    yield Text(_sentence(one), style="bold")


def _sentence(one: ModelNow) -> str:
    if one.placed is None or one.chosen is None:
        tried = len(one.ways)
        return f"=> {one.name} fits nowhere now: {tried} way(s) were tried, see above"
    mode = "whole devices" if one.chosen.mode is PlacementMode.EXCLUSIVE else "shared"
    devices = "1 device" if one.chosen.option.num_devices == 1 else (
        f"{one.chosen.option.num_devices} devices"
    )  # fmt: skip
    return (
        f"=> {one.name} -> {one.placed.node}: {one.chosen.option.precision} on {devices}, {mode}: "
        f"{one.placed.why}"
    )


def _ways(one: ModelNow, *, is_wide: bool) -> Table:
    fitting = [way for way in one.ways if way.nodes]
    missing = [way for way in one.ways if not way.nodes]
    nearest = sorted(missing, key=_shortness)
    shown = [*fitting, *(nearest if is_wide else nearest[:MAX_MISSES])]
    columns = (
        Column(name="DEVICES", is_number=True),
        Column(name="MODE"),
        Column(name="PRECISION"),
        Column(name="NEEDED", is_number=True),
        Column(name="FITS NOW", is_sentence=True),
    )
    return Table(columns, tuple(_way_cells(way, is_wide=is_wide) for way in shown), is_wide)


def _shortness(way: Way) -> int:
    """How far the nearest node is from it, bytes; the largest number where that is not bytes."""
    short = [one.short_bytes for one in way.verdicts if one.short_bytes is not None]
    return min(short, default=2**62)


def _way_cells(way: Way, *, is_wide: bool) -> tuple[str, ...]:
    if way.nodes:
        more = 0 if is_wide else len(way.nodes) - MAX_NODES
        named = way.nodes[:MAX_NODES] if more > 0 else way.nodes
        fits = f"on {', '.join(named)}{f' and {more} more' if more > 0 else ''}"
    else:
        nearest = way.verdicts[0] if way.verdicts else None
        fits = "no" if nearest is None else f"no; nearest is {nearest.node}: {nearest.why}"
    return (
        str(way.option.num_devices), MODE_WORDS[way.mode], way.option.precision,
        format_gib(way.option.footprint.total_bytes), fits,
    )  # fmt: skip


def _devices(one: ModelNow, *, is_wide: bool) -> Table:
    columns = (
        Column(name="DEVICE", least=16),
        Column(name="PRODUCT", least=8),
        Column(name="FREE", is_number=True),
        Column(name="TAKES NOW", is_sentence=True),
    )
    alike: dict[tuple[str, ...], list[DeviceNow]] = {}
    for device in one.devices:
        # Of a large fleet most are alike: --wide tells each node's apart.
        node = device.use.device.node if is_wide else ""
        alike.setdefault((node, *_device_cells(device)), []).append(device)
    rows = tuple((_names(devices), *key[1:]) for key, devices in alike.items())
    return Table(columns, rows, is_wide)


def _names(devices: list[DeviceNow]) -> str:
    """The device; the first of several alike and how many more; of several nodes the number."""
    first = devices[0].use.device.display_name
    num_nodes = len({one.use.device.node for one in devices})
    if num_nodes > 1:
        return f"{len(devices)} alike on {num_nodes} nodes"
    return first if len(devices) == 1 else f"{first} + {len(devices) - 1} alike"


def _device_cells(one: DeviceNow) -> tuple[str, ...]:
    device, free = one.use.device, one.use.free_bytes
    grouped: dict[tuple[int, str], list[str]] = {}
    for way in one.ways:
        key = (way.option.num_devices, MODE_WORDS[way.mode])
        grouped.setdefault(key, []).append(way.option.precision)
    takes = "; ".join(
        f"{count} x {'/'.join(precisions)} {mode}" for (count, mode), precisions in grouped.items()
    )
    return (
        product_name(device.product),
        UNKNOWN if free is None else format_gib(free),
        takes or device.unusable_reason or "nothing",
    )


def document(now: Now, one: ModelNow) -> dict[str, Any]:
    """The same for a program: bytes."""
    return {
        "source": now.source,
        "notKnown": list(now.notes),
        "placed": None if one.placed is None or one.chosen is None else {
            "node": one.placed.node, "why": one.placed.why,
            "devices": list(one.placed.device_uuids), **_way_document(one.chosen),
        },
        "ways": [
            {
                **_way_document(way),
                "fitsOn": list(way.nodes),
                "nodes": [
                    {"node": v.node, "fits": v.fits, "why": v.why, "shortBytes": v.short_bytes}
                    for v in way.verdicts
                ],
            }
            for way in one.ways
        ],
        "devices": [
            {
                "node": d.use.device.node, "index": d.use.device.index, "uuid": d.use.device.uuid,
                "product": d.use.device.product, "freeBytes": d.use.free_bytes,
                "ways": [way.words for way in d.ways],
            }
            for d in one.devices
        ],
    }  # fmt: skip


def _way_document(way: Way) -> dict[str, Any]:
    return {
        "mode": way.mode.value,
        "precision": way.option.precision,
        "numDevices": way.option.num_devices,
        "neededBytes": way.option.footprint.total_bytes,
    }
