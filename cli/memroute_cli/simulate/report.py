"""What was simulated: tables, a document, plots."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from memroute_cli.simulate.scenario import Scenario
from memroute_simulator.virtual.cluster import FleetSample
from memroute_simulator.virtual.outcome import Latency, Outcome, OutcomeStatus, Summary
from memroute_simulator.workloads.lengths import percentile

ALONE_TOKENS = 1024
# Context of the one request that a replica is shown with, tokens: a usual chat. Weights, not
# context, decide how long its step takes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One fleet with one policy."""

    fleet: str
    policy: str
    summary: Summary
    samples: tuple[FleetSample, ...]
    outcomes: tuple[Outcome, ...]

    def kv_ratios(self) -> list[float]:
        """KV use of every replica at every sample, sorted."""
        return sorted(ratio for sample in self.samples for ratio in sample.kv_cache_ratios)


def tables(checked: Scenario, results: Sequence[Result]) -> Iterator[Table | str]:
    """For people."""
    workload, target = checked.workload, checked.target
    yield (
        f"{workload.name}: {workload.num_requests:,} requests over {workload.span_seconds:,.0f} s "
        f"({workload.rate_per_second:.3g}/s)" + "".join(f"; {note}" for note in workload.notes)
    )
    yield _fleets(checked)
    yield from _unmet(checked)
    table = Table(
        title=f"targets: TTFT ≤ {target.ttft_seconds:g} s and "
        f"TPOT ≤ {target.tpot_seconds * 1e3:g} ms; attained = share of all requests offered"
    )
    for name in ("fleet", "policy"):
        table.add_column(name)
    for name in (
        "attained", "goodput/s", "TTFT p50 / p90 / p99 s", "TPOT p50 / p90 / p99 ms",
        "E2E p50 / p99 s", "out tok/s", "preempted", "shed", "failed", "prefix hit",
        "KV mean / p99",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for result in results:
        s, ratios = result.summary, result.kv_ratios()
        kv = f"{sum(ratios) / len(ratios):.0%} / {percentile(ratios, 99):.0%}" if ratios else "-"
        table.add_row(
            result.fleet, result.policy, f"{s.attainment_ratio:.1%}",
            f"{s.goodput_per_second:.3g}",
            _quantiles(s.ttft, 1, ("p50", "p90", "p99")),
            _quantiles(s.tpot, 1e3, ("p50", "p90", "p99")),
            _quantiles(s.e2e, 1, ("p50", "p99")), f"{s.output_tokens_per_second:,.0f}",
            f"{s.num_preemptions:,}", f"{s.num_shed:,}", f"{s.num_failed:,}",
            f"{s.prefix_hit_ratio:.0%}", kv,
        )  # fmt: skip
    yield table
    if any(result.summary.num_shed for result in results):
        yield "Latencies are of served requests: compare them with what was shed beside them."


def _fleets(checked: Scenario) -> Table:
    table = Table(title="Fleets")
    table.add_column("fleet")
    table.add_column("engine")
    for name in (
        "replicas", "KV tokens each", "step of 1 x 1k, ms", "of 32 x 1k", "step times within",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for name, engines in checked.fleets.items():
        for spec, count in engines:
            law = spec.step_time
            devices = spec.parallelism.num_devices
            table.add_row(
                name, f"{spec.kind} on {devices} x {spec.accelerator.name}", str(count),
                f"{spec.capacity_tokens:,}", f"{law.decode_seconds(1, ALONE_TOKENS) * 1e3:.1f}",
                f"{law.decode_seconds(32, 1024) * 1e3:.1f}",
                f"{law.error_ratio:.0%} ({law.source})",
            )  # fmt: skip
    return table


def _unmet(checked: Scenario) -> Iterator[str]:
    """Fleets that are slower than the targets, whatever a router does: so that nobody wonders."""
    for name, engines in checked.fleets.items():
        fastest = min(spec.step_time.decode_seconds(1, ALONE_TOKENS) for spec, _ in engines)
        if fastest > checked.target.tpot_seconds:
            yield (
                f"{name}: the target cannot be met: {fastest * 1e3:.0f} ms per token alone, "
                f"{checked.target.tpot_seconds * 1e3:.0f} ms asked (see --tpot)"
            )


def _quantiles(latency: Latency, factor: float, names: Sequence[str]) -> str:
    values = [getattr(latency, name) for name in names]
    return " / ".join("-" if v is None else f"{v * factor:.3g}" for v in values)


def as_document(checked: Scenario, results: Sequence[Result]) -> dict[str, Any]:
    """For programs. Seconds, tokens, ratios from 0 to 1."""
    workload = checked.workload
    return {
        "workload": {
            "name": workload.name,
            "num_requests": workload.num_requests,
            "rate_per_second": workload.rate_per_second,
            "notes": list(workload.notes),
        },
        "target": asdict(checked.target),
        "seed": checked.seed,
        "fleets": {
            name: [
                {
                    "accelerator": spec.accelerator.name,
                    "engine": spec.kind.value,
                    "num_replicas": count,
                    "kv_capacity_tokens": spec.capacity_tokens,
                    "tpot_alone_seconds": spec.step_time.decode_seconds(1, ALONE_TOKENS),
                    "step_time_error_ratio": spec.step_time.error_ratio,
                    "step_time_source": spec.step_time.source,
                }
                for spec, count in engines
            ]
            for name, engines in checked.fleets.items()
        },
        "runs": [
            {
                "fleet": result.fleet,
                "policy": result.policy,
                **asdict(result.summary),
                "samples": [asdict(sample) for sample in result.samples],
            }
            for result in results
        ],
    }


def draw(checked: Scenario, results: Sequence[Result], path: Path) -> None:
    """TTFT over time, KV use, requests that wait: one line per run."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second that only a plot pays

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(2, 2, figsize=(13, 8), layout="constrained")
    (ttft, cdf), (kv, waiting) = axes
    for result in results:
        label = f"{result.fleet}, {result.policy}"
        served = [
            (o.sent_seconds, o.ttft_seconds)
            for o in result.outcomes
            if o.status is OutcomeStatus.SERVED and o.ttft_seconds is not None
        ]
        if served:
            ttft.plot(*zip(*served, strict=True), ".", markersize=2, label=label)
            ordered = sorted(seconds for _, seconds in served)
            # Over all requests offered: what was not served never gets there.
            shares = [(i + 1) / len(result.outcomes) for i in range(len(ordered))]
            cdf.plot(ordered, shares, label=label)
        times = [sample.seconds for sample in result.samples]
        mean = [sum(s.kv_cache_ratios) / len(s.kv_cache_ratios) for s in result.samples]
        (line,) = kv.plot(times, mean, label=label)
        most = [max(s.kv_cache_ratios) for s in result.samples]
        kv.plot(times, most, ":", color=line.get_color(), linewidth=0.8)
        waiting.plot(times, [s.num_waiting for s in result.samples], label=label)
    ttft.set(ylabel="TTFT, seconds", xlabel="sent at, seconds", yscale="log")
    cdf.set(ylabel="share of requests offered", xlabel="TTFT, seconds", xscale="log")
    cdf.axvline(checked.target.ttft_seconds, color="black", linestyle="--", linewidth=0.8)
    kv.set(ylabel="KV cache in use, ratio (dotted: fullest)", xlabel="seconds")
    waiting.set(ylabel="requests waiting in engines", xlabel="seconds")
    for axis in (ttft, cdf, kv, waiting):
        axis.grid(alpha=0.3)
    cdf.legend(fontsize=8)
    figure.suptitle(checked.workload.name)
    figure.savefig(path, dpi=110)
    plt.close(figure)
