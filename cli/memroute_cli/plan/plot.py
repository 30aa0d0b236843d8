"""Where the bytes go, against context and against concurrency."""

from dataclasses import replace
from pathlib import Path

from memroute.footprint import ReplicaFootprint, replica_footprint
from memroute.sizing import Option
from memroute.units import GIB
from memroute_cli.plan.files import PlanError

NUM_POINTS = 48
SUFFIXES = (".png", ".svg", ".pdf")
TERMS = ("weights", "activation", "graphs and libraries", "context and margin", "KV cache")


def check_plot(path: Path | None) -> None:
    """Raises ``PlanError`` for a picture that cannot be written, before anything is computed."""
    if path is None:
        return
    if path.suffix not in SUFFIXES:
        msg = f"--plot takes a .png, .svg or .pdf, not {path.name}"
        raise PlanError(msg)
    if not path.parent.is_dir():
        msg = f"--plot {path}: there is no folder {path.parent}"
        raise PlanError(msg)


def draw(model: str, option: Option, path: Path) -> None:
    """Two stacked plots of one option, the device's limit across them."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second that only a plot pays

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shape = option.shape
    contexts = _spread(max(1, shape.max_context_tokens // 64), 2 * shape.max_context_tokens)
    sequences = _spread(1, max(8, 4 * shape.concurrency))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    for axis, values, shapes, label in (
        (
            left, contexts, [replace(shape, max_context_tokens=tokens) for tokens in contexts],
            f"context, tokens ({shape.concurrency} at once)",
        ),
        (
            right, sequences, [replace(shape, concurrency=count) for count in sequences],
            f"sequences of {shape.max_context_tokens:,} tokens",
        ),
    ):  # fmt: skip
        stacks = [_terms(replica_footprint(one)) for one in shapes]
        axis.stackplot(values, *zip(*stacks, strict=True), labels=TERMS, alpha=0.85)
        axis.axhline(option.accelerator.usable_bytes / GIB, color="black", linestyle="--")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    left.set_ylabel(f"GiB on each {option.accelerator.name} (dashed: what it has)")
    left.legend(loc="lower left")
    devices = f"{option.num_devices} x {option.accelerator.name}"
    figure.suptitle(f"{model}: {option.precision} on {devices}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _terms(footprint: ReplicaFootprint) -> tuple[float, ...]:
    return tuple(
        size / GIB
        for size in (
            footprint.weights_bytes,
            footprint.peak_activation.high,
            footprint.cuda_graphs.high + footprint.non_torch.high,
            footprint.outside_bytes,
            footprint.kv_cache_bytes,
        )
    )


def _spread(first: int, last: int) -> list[int]:
    step = max(1, (last - first) // NUM_POINTS)
    return list(range(first, last + 1, step))
