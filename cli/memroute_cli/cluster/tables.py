"""``memroute top`` in 80 columns."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from memroute.placement import DeviceUse, NodeUse
from memroute.units import GIB
from memroute_cli.cluster.usage import ModelUse, Usage, product_name, state_of
from memroute_cli.terminal.table import Column, Table

UNKNOWN = "-"
# Rows of each part of the summary: chosen by hand, half of a screen.
SUMMARY_ROWS = 12
LEFT = frozenset({"NODE", "DEVICES", "STATE", "DEVICE", "PRODUCT", "MODEL", "RESOURCE", "NODES"})
# Reasons: ReplicasNotServing without its middle would say the opposite.
WORDS = frozenset({"STATE", "AGE"})
# Nodes that a line of the heading names: chosen by hand.
MAX_NAMED = 3
# Characters that names keep where a line is too narrow: chosen by hand.
LEAST = {"NODE": 10, "DEVICES": 5, "DEVICE": 12, "PRODUCT": 4, "MODEL": 10, "STATE": 7, "AGE": 7}


def heading(usage: Usage) -> RenderableType:
    """The sums, and how old what is observed is."""
    fleet = usage.fleet
    observed = "-" if fleet.observed_bytes is None else f"{fleet.observed_bytes / GIB:,.0f}"
    size = f"{fleet.usable_bytes / GIB:,.0f} GiB of HBM"
    use = (
        f"promised {fleet.promised_bytes / GIB:,.0f}, in use {observed}, foreign "
        f"{fleet.foreign_bytes / GIB:,.0f}, free {'~' if fleet.is_free_at_least else ''}"
        f"{fleet.free_bytes / GIB:,.0f} GiB"
    )
    lines = [
        f"{fleet.num_devices} device(s) on {fleet.num_nodes} node(s): {size}",
        f"{use}; {age_words(usage.observed_age_seconds)}",
        *_unclear(usage),
        *usage.notes,
    ]
    return Text("\n".join(lines))


def _unclear(usage: Usage) -> Iterable[str]:
    """What is in use and not told apart, as a sentence; nothing where all is."""
    size = usage.fleet.unclear_bytes
    if not size:
        return
    nodes = [
        f"{one.node.name} {_gib(one.unclear_bytes)}" for one in usage.nodes if one.unclear_bytes
    ]
    more = f" and {len(nodes) - MAX_NAMED} more" if nodes[MAX_NAMED:] else ""
    yield (
        f"{_gib(size)} GiB in use are not told apart yet, and are neither foreign nor free (~: at "
        f"least so much is): replicas start, or have ended since the reading "
        f"({', '.join(nodes[:MAX_NAMED])}{more})"
    )


def age_words(seconds: float | None) -> str:
    """How old what the operator has told is."""
    return "nothing is observed" if seconds is None else f"told {seconds:.0f} s ago"


def nodes_table(rows: Iterable[NodeUse], *, is_wide: bool = False) -> Table:
    """Nodes, in GiB."""
    cells = []
    for one in rows:
        products = sorted({product_name(use.device.product) for use in one.devices})
        cells.append((
            one.node.name,
            f"{len(one.devices)} {'+'.join(products)}" if one.devices else UNKNOWN,
            _gib(one.usable_bytes), _gib(one.promised_bytes), _gib(one.observed_bytes),
            _gib(one.foreign_bytes), _free(one), state_of(one),
            f"{one.num_free_devices}", one.node.resource,
        ))  # fmt: skip
    names = (
        "NODE", "DEVICES", "HBM", "PROMISED", "IN USE", "FOREIGN", "FREE", "STATE",
        "WHOLLY FREE", "RESOURCE",
    )  # fmt: skip
    return _table(names, cells, num_narrow=8, is_wide=is_wide)


def devices_table(rows: Iterable[DeviceUse], *, is_wide: bool = False) -> Table:
    """Devices, in GiB; the age in seconds."""
    cells = []
    for one in rows:
        age = one.device.live_age_seconds
        cells.append((
            one.device.display_name, product_name(one.device.product),
            _gib(one.device.usable_bytes), _gib(one.promised_bytes), _gib(one.observed_bytes),
            _gib(one.foreign_bytes), _free(one),
            UNKNOWN if one.contention is None else f"{one.contention:.1f}",
            one.device.unusable_reason or (UNKNOWN if age is None else f"{age:.0f}s"),
            ", ".join(pod for pod, _ in one.holders) or UNKNOWN,
        ))  # fmt: skip
    names = (
        "DEVICE", "PRODUCT", "HBM", "PROMISED", "IN USE", "FOREIGN", "FREE", "TIME", "AGE",
        "PROMISED TO",
    )  # fmt: skip
    return _table(names, cells, num_narrow=9, is_wide=is_wide)


def models_table(rows: Sequence[ModelUse], *, is_wide: bool = False) -> RenderableType:
    """Models: HBM in GiB, KV cache in tokens and how full it is."""
    if not rows:
        return Text("no ModelDeployment is there")
    names = ("MODEL", "STATE", "READY", "HBM", "KV-TOKENS", "KV", "RUNNING", "WAITING", "NODES")
    return _table(names, [_model_cells(one) for one in rows], num_narrow=8, is_wide=is_wide)


def _model_cells(one: ModelUse) -> tuple[str, ...]:
    return (
        one.key, one.state, f"{one.ready}/{one.wanted}", _gib(one.hbm_bytes),
        f"{one.kv_capacity_tokens:,}", UNKNOWN if one.kv_ratio is None else f"{one.kv_ratio:.0%}",
        _count(one.num_in_flight), _count(one.num_waiting), ", ".join(one.nodes) or UNKNOWN,
    )  # fmt: skip


def summary(usage: Usage, *, is_wide: bool = False) -> RenderableType:
    """The sums, models and nodes on one screen."""
    models, nodes = usage.models, usage.nodes
    parts: list[RenderableType] = [heading(usage), ""]
    shown = models_table(models[:SUMMARY_ROWS], is_wide=is_wide)
    parts += [shown, *_more(len(models), "models"), ""]
    shown = nodes_table(nodes[:SUMMARY_ROWS], is_wide=is_wide)
    parts += [shown, *_more(len(nodes), "nodes")]
    return Group(*parts)


def _more(number: int, what: str) -> list[str]:
    more = number - SUMMARY_ROWS
    return [f"and {more} more: memroute top {what}"] if more > 0 else []


def _table(
    names: Sequence[str], rows: Sequence[Sequence[str]], *, num_narrow: int, is_wide: bool
) -> Table:
    """The first columns, all of them with ``--wide``: names give way, numbers are never cut."""
    columns = tuple(
        Column(
            name=name,
            is_number=name not in LEFT,
            least=LEAST.get(name),
            is_word=name in WORDS,
            is_wide=n >= num_narrow,
        )
        for n, name in enumerate(names)
    )
    return Table(columns, tuple(tuple(row) for row in rows), is_wide)


def _gib(num_bytes: int | None) -> str:
    return UNKNOWN if num_bytes is None else f"{num_bytes / GIB:,.1f}"


def _free(one: NodeUse | DeviceUse) -> str:
    """``~12.3``: at least so much, as something in use is not told apart yet."""
    text = _gib(one.free_bytes)
    return f"~{text}" if one.is_free_at_least else text


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"
