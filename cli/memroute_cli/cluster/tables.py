"""``memroute top`` in 80 columns."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from memroute.placement import DeviceUse, NodeUse
from memroute.units import GIB
from memroute_cli.cluster.usage import ModelUse, Usage, product_name, state_of

UNKNOWN = "-"
# Rows of each part of the summary: chosen by hand, half of a screen.
SUMMARY_ROWS = 12
# Characters of a node beside the name of its device: both fit 80 columns with the numbers.
MAX_NODE_NAME = 20
LEFT = frozenset({"NODE", "DEVICES", "STATE", "DEVICE", "PRODUCT", "MODEL"})


def heading(usage: Usage) -> RenderableType:
    """The sums, and how old what is observed is."""
    fleet = usage.fleet
    observed = "-" if fleet.observed_bytes is None else f"{fleet.observed_bytes / GIB:,.0f}"
    size = f"{fleet.usable_bytes / GIB:,.0f} GiB of HBM"
    use = (
        f"promised {fleet.promised_bytes / GIB:,.0f}, in use {observed}, foreign "
        f"{fleet.foreign_bytes / GIB:,.0f}, free {fleet.free_bytes / GIB:,.0f} GiB"
    )
    lines = [
        f"{fleet.num_devices} device(s) on {fleet.num_nodes} node(s): {size}",
        f"{use}; {age_words(usage.observed_age_seconds)}",
        *usage.notes,
    ]
    return Text("\n".join(lines))


def age_words(seconds: float | None) -> str:
    """How old what the operator has told is."""
    return "nothing is observed" if seconds is None else f"told {seconds:.0f} s ago"


def nodes_table(rows: Iterable[NodeUse]) -> Table:
    """Nodes, in GiB."""
    cells = []
    for one in rows:
        products = sorted({product_name(use.device.product) for use in one.devices})
        cells.append((
            one.node.name,
            f"{len(one.devices)} {'+'.join(products)}" if one.devices else UNKNOWN,
            _gib(one.usable_bytes), _gib(one.promised_bytes), _gib(one.observed_bytes),
            _gib(one.foreign_bytes), _gib(one.free_bytes), state_of(one),
        ))  # fmt: skip
    names = ("NODE", "DEVICES", "HBM", "PROMISED", "IN USE", "FOREIGN", "FREE", "STATE")
    return _table(names, cells)


def devices_table(rows: Iterable[DeviceUse]) -> Table:
    """Devices, in GiB; the age in seconds."""
    cells = []
    for one in rows:
        age = one.device.live_age_seconds
        cells.append((
            _device_name(one), product_name(one.device.product),
            _gib(one.device.usable_bytes), _gib(one.promised_bytes), _gib(one.observed_bytes),
            _gib(one.foreign_bytes), _gib(one.free_bytes),
            one.device.unusable_reason or (UNKNOWN if age is None else f"{age:.0f}s"),
        ))  # fmt: skip
    names = ("DEVICE", "PRODUCT", "HBM", "PROMISED", "IN USE", "FOREIGN", "FREE", "AGE")
    return _table(names, cells)


def _device_name(one: DeviceUse) -> str:
    """Node and UUID, of which the latter is never cut."""
    node, slash, uuid = one.device.display_name.partition("/")
    if len(node) > MAX_NODE_NAME:
        node = f"{node[: MAX_NODE_NAME - 1]}…"
    return f"{node}{slash}{uuid}"


def models_table(rows: Iterable[ModelUse]) -> Table:
    """Models: HBM in GiB, KV cache in tokens and how full it is."""
    names = ("MODEL", "STATE", "READY", "HBM", "KV-TOKENS", "KV", "RUNNING", "WAITING")
    return _table(names, [_model_cells(one) for one in rows])


def _model_cells(one: ModelUse) -> tuple[str, ...]:
    return (
        one.key, one.state, f"{one.ready}/{one.wanted}", _gib(one.hbm_bytes),
        f"{one.kv_capacity_tokens:,}", UNKNOWN if one.kv_ratio is None else f"{one.kv_ratio:.0%}",
        _count(one.num_in_flight), _count(one.num_waiting),
    )  # fmt: skip


def summary(usage: Usage) -> RenderableType:
    """The sums, models and nodes on one screen."""
    models, nodes = usage.models, usage.nodes
    parts: list[RenderableType] = [heading(usage), ""]
    parts += [models_table(models[:SUMMARY_ROWS]), *_more(len(models), "models"), ""]
    parts += [nodes_table(nodes[:SUMMARY_ROWS]), *_more(len(nodes), "nodes")]
    return Group(*parts)


def _more(number: int, what: str) -> list[str]:
    more = number - SUMMARY_ROWS
    return [f"and {more} more: memroute top {what}"] if more > 0 else []


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column gives way where a line is too narrow: numbers are never cut."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for number, name in enumerate(names):
        widest = max([len(name), *(len(row[number]) for row in rows)])
        table.add_column(
            name,
            justify="left" if name in LEFT else "right",
            no_wrap=number > 0,
            min_width=None if number == 0 else widest,
        )
    for first, *others in rows:
        table.add_row(Text(first, no_wrap=True, overflow="ellipsis"), *others)
    return table


def _gib(num_bytes: int | None) -> str:
    return UNKNOWN if num_bytes is None else f"{num_bytes / GIB:,.1f}"


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"
