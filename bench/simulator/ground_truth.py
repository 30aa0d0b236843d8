"""Predicted against real, figure by figure, with how sure the step times say they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from bench.simulator.recorded import RecordedRun, SimulatedRun, simulate

TOLERANCE_RATIO = 0.10
QUANTILES = (("p50", 50), ("p90", 90), ("p99", 99))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of one run."""

    run: str
    name: str
    unit: str
    predicted: float
    low: float
    """With every step as short as its error allows."""
    high: float
    real: float | None
    """None where the run did not record it."""

    @property
    def error_ratio(self) -> float | None:
        """How far off the prediction is, of the real figure."""
        if self.real is None:
            return None
        if not self.real:
            return 0.0 if not self.predicted else float("inf")
        return self.predicted / self.real - 1

    @property
    def is_off(self) -> bool:
        """Whether it is further off than 10 %, where that can be told."""
        return self.error_ratio is not None and abs(self.error_ratio) > TOLERANCE_RATIO

    @property
    def is_inside(self) -> bool:
        """Whether the real figure lies in the range; also where there is none to compare."""
        return self.real is None or self.low <= self.real <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One run and what was made of it."""

    run: RecordedRun
    simulated: SimulatedRun
    figures: tuple[Figure, ...]


def compare(run: RecordedRun) -> Comparison:
    """Replay a run, and again with steps as fast and as slow as their error allows."""
    simulated = simulate(run)
    law = run.spec.step_time
    fast, slow = simulate(run, law=law.fastest()), simulate(run, law=law.slowest())
    return Comparison(
        run=run, simulated=simulated, figures=tuple(_figures(run, simulated, fast, slow))
    )


def _figures(
    run: RecordedRun, simulated: SimulatedRun, fast: SimulatedRun, slow: SimulatedRun
) -> Iterator[Figure]:
    def figure(name: str, unit: str, real: float | None, values: Sequence[float]) -> Figure:
        return Figure(
            run=run.name, name=name, unit=unit, predicted=values[0],
            low=min(values), high=max(values), real=real,
        )  # fmt: skip

    recorded = {
        "TTFT": [request.ttft_seconds for request in run.requests],
        "TPOT": [r.tpot_seconds for r in run.requests if r.tpot_seconds is not None],
        "E2E": [request.e2e_seconds for request in run.requests],
    }
    for name, real in recorded.items():
        field = f"{name.lower()}_seconds"
        columns = [_summary(getattr(s, field)) for s in (simulated, fast, slow)]
        for statistic, value in _summary(real).items():
            yield figure(f"{name} {statistic}", "s", value, [c[statistic] for c in columns])
    for name, field in (("peak running", "num_running"), ("peak waiting", "num_waiting")):
        peaks = [max(getattr(x, field) for x in s.samples) for s in (simulated, fast, slow)]
        real_peak = max((getattr(x, field) for x in run.samples), default=None)
        yield figure(name, "requests", real_peak, peaks)
    counts = [s.num_preemptions for s in (simulated, fast, slow)]
    yield figure("preemptions", "", run.num_preemptions, counts)


def _summary(values: Sequence[float]) -> dict[str, float]:
    quantiles = {name: float(np.percentile(values, q)) for name, q in QUANTILES}
    return {"mean": float(np.mean(values))} | quantiles


def table(comparison: Comparison) -> Table:
    """The figures of one run, for people."""
    run, spec = comparison.run, comparison.run.spec
    law = spec.step_time
    blocks = f"{spec.total_blocks:,} blocks"
    if not run.are_blocks_recorded:
        blocks += " (computed: not recorded)"
    table = Table(
        title=f"{run.name}: {len(run.requests)} requests, {blocks}, at most "
        f"{spec.max_num_seqs} sequences\nstep times within {law.error_ratio:.0%}: {law.source}",
    )
    table.add_column("figure")
    for name in ("predicted", "range", "real", "error", ""):
        table.add_column(name, justify="right")
    for figure in comparison.figures:
        error = figure.error_ratio
        table.add_row(
            figure.name,
            _number(figure.predicted),
            f"{_number(figure.low)} to {_number(figure.high)}",
            "not recorded" if figure.real is None else _number(figure.real),
            "-" if error is None else f"{error:+.1%}",
            "" if error is None else "OFF" if figure.is_off else "ok",
        )
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def plot(comparison: Comparison, path: Path) -> None:
    """KV use, running and waiting over time: real as lines, predicted dashed."""
    import matplotlib as mpl  # noqa: PLC0415 - a second of import that only plots need

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    run, simulated = comparison.run, comparison.simulated
    figure, axes = plt.subplots(3, 1, figsize=(9, 8), sharex=True, layout="constrained")
    rows = (
        ("KV cache in use, ratio", "kv_cache_utilization_ratio"),
        ("running requests", "num_running"),
        ("waiting requests", "num_waiting"),
    )
    for axis, (label, field) in zip(axes, rows, strict=True):
        for samples, name, style in (
            (run.samples, "real", "-"),
            (simulated.samples, "predicted", "--"),
        ):
            points = [(s.seconds, getattr(s, field)) for s in samples]
            points = [(x, y) for x, y in points if y is not None]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=name)
        axis.set_ylabel(label)
        axis.legend()
    axes[0].set_title(run.name)
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=110)
    plt.close(figure)
