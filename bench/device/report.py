"""What was measured: as JSON, as tables, and as what to write on a node."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from memroute.hierarchy.measured import FORMAT, VERSION, LinkFit, fit_link, link_text
from memroute.units import format_gib

HOST_LINK = "memroute.dev/host-link"


def document(name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON: parts as they were measured, and the law of the link."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "device": name,
        "hostLink": host_link(results.get("host")),
        "parts": dict(results),
    }


def host_link(host: Mapping[str, Any] | None) -> str | None:
    """The link as an annotation has it; None where too little was measured."""
    fits = [_fit(host, way) for way in ("read", "write")]
    read, write = fits
    return None if read is None or write is None else link_text(read, write)


def _fit(host: Mapping[str, Any] | None, way: str) -> LinkFit | None:
    points = [] if host is None else host.get("points", [])
    return fit_link(
        [
            (one["blockBytes"], one["bytesPerSecond"])
            for one in points
            if one["way"] == way and one["isPinned"]
        ]
    )


def annotate(said: str | None, node: str) -> str:
    """The command that tells the cluster; raises ``ValueError`` where there is nothing to tell."""
    if said is None:
        msg = "the link to the host was not measured: there is nothing to write on the node"
        raise ValueError(msg)
    return f"kubectl annotate node {node} --overwrite {HOST_LINK}={said}"


def told(found: Mapping[str, Any]) -> Iterator[str | Table]:
    """For people."""
    parts = found["parts"]
    yield f"{found['device']}"
    for name, part in parts.items():
        if part is None:
            yield f"{name}: left out (no time, or nothing there to measure)"
        elif "error" in part:
            yield f"{name}: {part['error']}"
    if _has(parts, "context"):
        one = parts["context"]
        yield (
            f"memory: {format_gib(one['freeBytes'])} of {format_gib(one['totalBytes'])} free; "
            f"another process's context takes {one['contextBytes'] / 2**20:.0f} MiB"
        )
    if _has(parts, "host"):
        yield _rates(parts["host"]["points"])
        yield f"link to the host: {found['hostLink'] or 'not enough points'}"
    if _has(parts, "shapes"):
        yield _shapes(parts["shapes"]["shapes"])
    if _has(parts, "sharing"):
        yield _sharing(parts["sharing"])
    if _has(parts, "peer"):
        rates = ", ".join(
            f"{one['blockBytes'] / 1024:,.0f} KiB {one['bytesPerSecond'] / 1e9:.1f} GB/s"
            for one in parts["peer"]["points"]
        )
        yield f"to the next device: {rates or 'no peer access'}"
        yield (
            "memroute.dev/device-link is of an all-reduce, which copies do not tell: measure it "
            "with nccl-tests."
        )


def _has(parts: Mapping[str, Any], name: str) -> bool:
    part = parts.get(name)
    return part is not None and "error" not in part


def _rates(points: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="GB/s by size of copy")
    columns = dict.fromkeys((one["way"], one["isPinned"]) for one in points)
    table.add_column("KiB", justify="right")
    for way, pinned in columns:
        table.add_column(way if pinned else f"{way}, pageable", justify="right")
    by_key = {(one["blockBytes"], one["way"], one["isPinned"]): one for one in points}
    for size in sorted({one["blockBytes"] for one in points}):
        rates = [by_key.get((size, *column)) for column in columns]
        table.add_row(
            f"{size / 1024:,.0f}",
            *("-" if one is None else f"{one['bytesPerSecond'] / 1e9:.1f}" for one in rates),
        )
    return table


def _shapes(shapes: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Weights and KV cache as the footprint counts them, against free memory")
    for name in ("model", "counted", "taken", "error"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for one in shapes:
        counted = one["weightsBytes"] + one["kvCacheBytes"]
        table.add_row(
            f"{one['model']} ({one['quantization']})", format_gib(counted),
            format_gib(one["takenBytes"]), f"{one['errorRatio']:+.2%}",
        )  # fmt: skip
    return table


def _sharing(one: Mapping[str, Any]) -> str:
    kept = one["keptRatio"]
    each = ", ".join(f"{rate / 1e9:,.0f}" for rate in one["togetherBytesPerSecond"])
    share = "" if kept is None else f"; together {kept:.0%} of it"
    return (
        f"memory bandwidth (copies within the device): {one['aloneBytesPerSecond'] / 1e9:,.0f} "
        f"GB/s for one process, {each} for two at once{share}"
    )
