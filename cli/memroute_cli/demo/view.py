"""The live table: nodes, HBM, replicas, KV pressure."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from memroute.units import format_gib
from memroute_cli.demo.readings import Readings

BAR_CELLS = 10


def bar(ratio: float) -> Text:
    """A bar that turns from green to red as it fills."""
    filled = round(min(1.0, max(0.0, ratio)) * BAR_CELLS)
    colour = "green" if ratio < 0.5 else "yellow" if ratio < 0.9 else "red"  # noqa: PLR2004
    text = Text("█" * filled, style=colour)
    return text.append("░" * (BAR_CELLS - filled), style="dim").append(f" {ratio:4.0%}")


def render(readings: Readings, title: str, caption: str) -> RenderableType:
    """Both tables."""
    devices = Table(title=title, title_justify="left", expand=False)
    for column in ("node", "device", "HBM promised", "of usable", "free by exporter"):
        devices.add_column(column)
    for device in readings.devices:
        ratio = device.reserved_bytes / device.usable_bytes if device.usable_bytes else 0.0
        live = device.live_free_bytes
        devices.add_row(
            device.node,
            f"{device.product.removeprefix('NVIDIA-')} {device.device[:8]}",
            bar(ratio),
            f"{format_gib(int(device.reserved_bytes))} / {format_gib(int(device.usable_bytes))}",
            "unknown" if live is None else format_gib(int(live)),
        )
    replicas = Table(caption=caption, caption_justify="left", expand=False)
    for column in ("replica", "state", "in flight", "KV projected", "KV tokens", "reserved"):
        replicas.add_column(column)
    for replica in readings.replicas:
        ratio_known = replica.projected_ratio
        replicas.add_row(
            replica.pod,
            Text("routable", style="green") if replica.is_routable else Text("out", style="red"),
            str(replica.in_flight),
            Text("unknown") if ratio_known is None else bar(ratio_known),
            "unknown" if replica.capacity_tokens is None else f"{replica.capacity_tokens:,}",
            f"{replica.reserved_tokens:,}",
        )
    return Group(devices, replicas)


def one_line(readings: Readings, seconds: float) -> str:
    """The same for a terminal that cannot redraw."""
    parts = [
        f"{r.pod}{'' if r.is_routable else ' (out)'} {r.in_flight} in flight, "
        f"KV {'?' if r.projected_ratio is None else f'{r.projected_ratio:.0%}'}"
        for r in readings.replicas
    ]
    return f"  {seconds:4.0f} s  " + " | ".join(parts)
