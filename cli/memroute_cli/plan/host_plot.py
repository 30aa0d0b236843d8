"""What a size of host memory buys, drawn."""

from pathlib import Path

from memroute.sizing import Option
from memroute.units import GIB
from memroute_cli.plan.host_memory import HostAnswers


def draw(model: str, option: Option, answers: HostAnswers, path: Path) -> None:
    """Hits, time to first token and tokens per second against the size of the tier."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second that only a plot pays

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    sizes = [one.size_bytes / GIB for one in answers.answers]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4))
    gains = [one.gain for one in answers.answers]
    left.stackplot(
        sizes, [one.device_hit_ratio for one in gains], [one.host_hit_ratio for one in gains],
        labels=("from the device", "from the host"), alpha=0.85,
    )  # fmt: skip
    left.set_ylabel("share of prompt tokens")
    left.legend(loc="lower right")
    middle.plot(sizes, [one.ttft_seconds for one in gains], marker="o")
    middle.set_ylabel("time to first token, s")
    right.plot(sizes, [one.tokens_per_second for one in gains], marker="o")
    right.set_ylabel("output tokens/s")
    for axis in (left, middle, right):
        axis.set_xlabel("host memory of one engine, GiB")
        # As much above the highest point as its mark needs.
        axis.set_ylim(0, axis.get_ylim()[1] * 1.05)
        axis.grid(alpha=0.3)
    figure.suptitle(
        f"{model}: {option.precision} on {option.num_devices} x {option.accelerator.name}"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
