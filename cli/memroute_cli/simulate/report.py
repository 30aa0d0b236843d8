"""What was simulated: tables, a document, plots."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memroute.sizing.sharing import card_shares
from memroute_cli.simulate.scenario import Scenario
from memroute_cli.terminal.table import Column, Table
from memroute_simulator.virtual.cluster import FleetSample
from memroute_simulator.virtual.outcome import Latency, Outcome, OutcomeStatus, Summary
from memroute_simulator.workloads.lengths import percentile

UNKNOWN = "-"
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


def tables(
    checked: Scenario, results: Sequence[Result], *, is_wide: bool = False
) -> Iterator[Table | str]:
    """For people."""
    workload, target = checked.workload, checked.target
    yield (
        f"{workload.name}: {workload.num_requests:,} requests over {workload.span_seconds:,.0f} s "
        f"({workload.rate_per_second:.3g}/s)" + "".join(f"; {note}" for note in workload.notes)
    )
    yield ""
    yield _fleets(checked, is_wide=is_wide)
    yield from _shared(checked)
    yield from _unmet(checked)
    yield ""
    yield (
        f"targets: TTFT <= {target.ttft_seconds:g} s and TPOT <= {target.tpot_seconds * 1e3:g} ms; "
        "attained = share of all requests offered"
    )
    yield _runs(results, is_wide=is_wide)
    if not is_wide:
        yield "\nlatencies of served requests: TTFT and E2E in s, TPOT in ms"
        yield _latencies(results)
    if any(result.summary.num_shed for result in results):
        yield "Latencies are of served requests: compare them with what was shed beside them."


RUN_NAMES = (
    "FLEET", "POLICY", "ATTAINED", "GOODPUT/S", "SHED", "FAILED", "PREEMPTED", "OUT TOK/S",
    "KV MEAN", "KV P99", "PREFIX HIT",
)  # fmt: skip
# Seconds, but of TPOT milliseconds.
LATENCY_NAMES = (
    "TTFT P50", "P90", "P99", "TPOT P50", "P90", "P99", "E2E P50", "P99",
)  # fmt: skip
# Those that a line of 80 characters has no room for: told with --wide.
WIDE_LATENCIES = frozenset({"P90"})


def _columns(names: Sequence[str], wide: frozenset[str] = frozenset()) -> tuple[Column, ...]:
    return tuple(
        Column(
            name=name, is_number=n > 1, least=(6, 8)[n] if n < len(NAMED) else None,
            is_wide=name in wide,
        )
        for n, name in enumerate(names)
    )  # fmt: skip


NAMED = ("FLEET", "POLICY")


def _runs(results: Sequence[Result], *, is_wide: bool) -> Table:
    rows = []
    for result in results:
        s, ratios = result.summary, result.kv_ratios()
        kv = (f"{sum(ratios) / len(ratios):.0%}", f"{percentile(ratios, 99):.0%}") if ratios else (
            UNKNOWN, UNKNOWN,
        )  # fmt: skip
        cells = (
            result.fleet, result.policy, f"{s.attainment_ratio:.1%}",
            f"{s.goodput_per_second:.3g}", f"{s.num_shed:,}", f"{s.num_failed:,}",
            f"{s.num_preemptions:,}", f"{s.output_tokens_per_second:,.0f}", *kv,
            f"{s.prefix_hit_ratio:.0%}",
        )  # fmt: skip
        rows.append((*cells, *_latency_cells(result)) if is_wide else cells)
    names = (*RUN_NAMES, *LATENCY_NAMES) if is_wide else RUN_NAMES
    wide = frozenset({"OUT TOK/S", "KV MEAN", "PREFIX HIT"})
    return Table(_columns(names, wide), tuple(rows), is_wide)


def _latencies(results: Sequence[Result]) -> Table:
    rows = [(result.fleet, result.policy, *_latency_cells(result)) for result in results]
    names = ("FLEET", "POLICY", *LATENCY_NAMES)
    return Table(_columns(names, WIDE_LATENCIES), tuple(rows))


def _latency_cells(result: Result) -> tuple[str, ...]:
    s = result.summary
    return (
        *_quantiles(s.ttft, 1, ("p50", "p90", "p99")),
        *_quantiles(s.tpot, 1e3, ("p50", "p90", "p99")),
        *_quantiles(s.e2e, 1, ("p50", "p99")),
    )


def _fleets(checked: Scenario, *, is_wide: bool) -> Table:
    rows = []
    for name, engines in checked.fleets.items():
        for spec, count in engines:
            law = spec.step_time
            devices = spec.parallelism.num_devices
            rows.append((
                name, f"{spec.kind} on {devices} x {spec.accelerator.name}", str(count),
                f"{spec.capacity_tokens:,}",
                f"{law.decode_seconds(1, ALONE_TOKENS) * 1e3:.1f} ms",
                f"{law.decode_seconds(32, ALONE_TOKENS) * 1e3:.1f} ms",
                f"{law.error_ratio:.0%}", law.source,
            ))  # fmt: skip
    columns = (
        Column(name="FLEET", least=6),
        Column(name="ENGINE", least=12),
        Column(name="REPLICAS", is_number=True),
        Column(name="KV TOKENS", is_number=True),
        Column(name="STEP", is_number=True),
        Column(name="OF 32", is_number=True),
        Column(name="WITHIN", is_number=True),
        Column(name="BY", is_wide=True),
    )
    return Table(columns, tuple(rows), is_wide)


def _shared(checked: Scenario) -> Iterator[str]:
    """What replicas keep that share cards, with requests as long as the workload's on average."""
    number = checked.replicas_per_card
    requests = [one for session in checked.workload.sessions for one in session.requests]
    if number < 2 or not requests:  # noqa: PLR2004 - one shares nothing
        return
    for name, engines in checked.fleets.items():
        for spec, _ in engines:
            shares = card_shares(
                spec.step_time,
                num_engines=number,
                prompt_tokens=max(1, sum(r.num_prompt_tokens for r in requests) // len(requests)),
                output_tokens=max(1, sum(r.num_output_tokens for r in requests) // len(requests)),
                max_num_batched_tokens=spec.max_num_batched_tokens,
            )
            kept = ", ".join(
                f"{share.kept_ratio:.0%} at {share.requests_per_card}"
                for share in shares
                if share.mechanism is checked.sharing
            )
            yield (
                f"{name}: {number} replicas share each card ({checked.sharing.value}); while all "
                f"have work they make of one engine's tokens/s: {kept} requests per card"
            )


def _unmet(checked: Scenario) -> Iterator[str]:
    """Fleets that are slower than the targets, whatever a router does: so that nobody wonders."""
    for name, engines in checked.fleets.items():
        fastest = min(spec.step_time.decode_seconds(1, ALONE_TOKENS) for spec, _ in engines)
        if fastest > checked.target.tpot_seconds:
            yield (
                f"{name}: the target cannot be met: {fastest * 1e3:.0f} ms per token alone, "
                f"{checked.target.tpot_seconds * 1e3:.0f} ms asked (see --tpot)"
            )


def _quantiles(latency: Latency, factor: float, names: Sequence[str]) -> list[str]:
    values = [getattr(latency, name) for name in names]
    return [UNKNOWN if v is None else f"{v * factor:.3g}" for v in values]


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
        "replicas_per_card": checked.replicas_per_card,
        "sharing": checked.sharing.value,
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
                    "link": spec.step_time.link.name,
                    "link_source": spec.step_time.link.source.value,
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
