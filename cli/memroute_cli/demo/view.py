"""The live table: nodes, HBM, replicas, KV pressure."""

from rich.console import Group, RenderableType
from rich.text import Text

from memroute.units import GIB
from memroute_cli.demo.readings import Readings
from memroute_cli.terminal.table import Column, Table

BAR_CELLS = 10
UNKNOWN = "-"


def bar(ratio: float) -> str:
    """A bar of text, and the share in percent."""
    filled = round(min(1.0, max(0.0, ratio)) * BAR_CELLS)
    return f"{'█' * filled}{'░' * (BAR_CELLS - filled)} {ratio:4.0%}"


def render(readings: Readings, title: str, caption: str) -> RenderableType:
    """Both tables, in 80 columns."""
    return Group(
        Text(title, style="bold"), _devices(readings), "", _replicas(readings),
        Text(caption, style="dim"),
    )  # fmt: skip


def _devices(readings: Readings) -> Table:
    rows = []
    for device in readings.devices:
        usable, live = device.usable_bytes, device.live_free_bytes
        rows.append((
            device.node, f"{device.product.removeprefix('NVIDIA-')} {device.device[:8]}",
            bar(device.reserved_bytes / usable) if usable else UNKNOWN,
            f"{device.reserved_bytes / GIB:.1f}", f"{usable / GIB:.1f}" if usable else UNKNOWN,
            UNKNOWN if live is None else f"{live / GIB:.1f}",
        ))  # fmt: skip
    columns = (
        Column(name="NODE", least=6), Column(name="DEVICE", least=10),
        Column(name="HBM PROMISED"), Column(name="GiB", is_number=True),
        Column(name="OF", is_number=True), Column(name="FREE (EXPORTER)", is_number=True),
    )  # fmt: skip
    return Table(columns, tuple(rows))


def _replicas(readings: Readings) -> Table:
    rows = []
    for replica in readings.replicas:
        ratio = replica.projected_ratio
        rows.append((
            replica.pod, "routable" if replica.is_routable else "out", str(replica.in_flight),
            UNKNOWN if ratio is None else bar(ratio),
            UNKNOWN if replica.capacity_tokens is None else f"{replica.capacity_tokens:,}",
            f"{replica.reserved_tokens:,}",
        ))  # fmt: skip
    columns = (
        Column(name="REPLICA", least=10), Column(name="STATE"),
        Column(name="IN FLIGHT", is_number=True), Column(name="KV PROJECTED"),
        Column(name="KV TOKENS", is_number=True), Column(name="RESERVED", is_number=True),
    )  # fmt: skip
    return Table(columns, tuple(rows))


def one_line(readings: Readings, seconds: float) -> str:
    """The same for a terminal that cannot redraw."""
    parts = [
        f"{r.pod}{'' if r.is_routable else ' (out)'} {r.in_flight} in flight, "
        f"KV {'?' if r.projected_ratio is None else f'{r.projected_ratio:.0%}'}"
        for r in readings.replicas
    ]
    return f"  {seconds:4.0f} s  " + " | ".join(parts)
