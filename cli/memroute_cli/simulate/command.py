"""The command: a scenario from flags or a file, a progress bar, a table.

Exit status 0: simulated; 2: the scenario makes no sense.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memroute_cli.simulate import report
from memroute_cli.simulate.scenario import (
    DEFAULT_OBJECTIVE,
    DEFAULT_SCRAPE_SECONDS,
    DEFAULT_TARGET,
    Scenario,
    ScenarioError,
    read_scenario,
    scenario,
)
from memroute_simulator.virtual.cluster import Cluster
from memroute_simulator.virtual.outcome import summarize
from memroute_simulator.virtual.router import CLAIRVOYANT, MEMROUTE, ORACLE, POLICIES, SEES_CACHES
from memroute_simulator.workloads import GENERATORS
from memroute_simulator.workloads.benchmarks import MIXES

WIDTH_WITHOUT_TERMINAL = 170
POLICY_NOTES = {
    MEMROUTE: "what a default install does: guesses cached prefixes from what was sent where",
    ORACLE: "memroute's own policy",
    CLAIRVOYANT: "the same, with the lengths of all answers and readings of the moment",
}


def simulate(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Hugging Face name, or a config.json; not needed with --file.",
            show_default=False,
        ),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Scenario in YAML: several fleets, mixed, with faults."),
    ] = None,
    accelerator: Annotated[
        list[str] | None,
        typer.Option("--accelerator", "-a", metavar="NAME", help="One fleet for each (repeat it)."),
    ] = None,
    replicas: Annotated[int, typer.Option(help="Replicas of each fleet.")] = 1,
    tensor_parallel: Annotated[int, typer.Option(help="Devices per replica.")] = 1,
    quantization: Annotated[str, typer.Option(help="none, fp8, awq, …")] = "none",
    kv_cache_dtype: Annotated[str, typer.Option(help="auto or fp8, …")] = "auto",
    context: Annotated[int, typer.Option(help="Longest sequence, in tokens.")] = 16_384,
    engine: Annotated[str, typer.Option(help="vllm or sglang: whose rules.")] = "vllm",
    workload: Annotated[
        str,
        typer.Option("--workload", "-w", help="A generator (see --list), or a trace file."),
    ] = "azure-conv",
    requests: Annotated[int, typer.Option(help="How many.")] = 2000,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second; default: the workload's own.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", "-p", help="Routing policy (repeat it to compare; see --list)."),
    ] = None,
    routers: Annotated[int, typer.Option(help="Router replicas, without shared state.")] = 1,
    scrape: Annotated[float, typer.Option(help="Seconds between scrapes of a replica.")] = (
        DEFAULT_SCRAPE_SECONDS
    ),
    ttft: Annotated[
        float,
        typer.Option(help="Target and SLO: time to first token, seconds (ttftTargetMilliseconds)."),
    ] = DEFAULT_TARGET.ttft_seconds,
    tpot: Annotated[
        float,
        typer.Option(
            help="Target and SLO: time per output token, seconds (tpotTargetMilliseconds)."
        ),
    ] = DEFAULT_TARGET.tpot_seconds,
    objective: Annotated[
        str,
        typer.Option(
            help="Who is late when not all can be in time (overloadObjective): those with most "
            "work (requests), with the fewest tokens for their work (tokens), the newest (sizes)."
        ),
    ] = DEFAULT_OBJECTIVE.value,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.")] = 0,
    output: Annotated[str, typer.Option(help="table or json.")] = "table",
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw latencies, KV use and queues into this file (.png, .svg)."),
    ] = None,
    list_known: Annotated[
        bool, typer.Option("--list", help="List workloads and policies.")
    ] = False,
) -> None:
    """How would a fleet serve a workload? Latencies, goodput, preemptions, KV use, without GPUs."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
    if list_known:
        _list(console)
        return
    document: dict[str, Any] = {
        "workload": {"name": workload, "requests": requests}
        | ({} if rate is None else {"rate": rate}),
        "policies": policy or ["memroute"],
        "routers": routers,
        "scrape": scrape,
        "target": {"ttft": ttft, "tpot": tpot},
        "objective": objective,
        "seed": seed,
    }
    try:
        _check_outputs(output, plot)
        if file is not None:
            document = _from_file(file, model)
        else:
            document["fleets"] = _fleets(
                model, accelerator, replicas=replicas, tensorParallelSize=tensor_parallel,
                quantization=quantization, kvCacheDtype=kv_cache_dtype,
                maxContextTokens=context, kind=engine,
            )  # fmt: skip
        checked = scenario(document)
    except ScenarioError as error:
        typer.echo(f"memroute simulate: {error}", err=True)
        raise typer.Exit(2) from None
    results = _run(checked)
    if output == "json":
        typer.echo(json.dumps(report.as_document(checked, results), indent=1))
    else:
        for line in report.tables(checked, results):
            console.print(line)
    if plot is not None:
        report.draw(checked, results, plot)
        if output == "table":
            console.print(f"drawn into {plot}")


def _check_outputs(output: str, plot: Path | None) -> None:
    if output not in {"table", "json"}:
        msg = f"--output is table or json, not {output}"
        raise ScenarioError(msg)
    if plot is not None and plot.suffix not in {".png", ".svg", ".pdf"}:
        msg = f"--plot takes a .png, .svg or .pdf, not {plot.name}"
        raise ScenarioError(msg)


def _from_file(file: Path, model: str | None) -> dict[str, Any]:
    if model is not None:
        msg = "give a MODEL or --file, not both"
        raise ScenarioError(msg)
    return read_scenario(file)


def _fleets(
    model: str | None, accelerators: list[str] | None, **engine: Any
) -> dict[str, list[dict[str, Any]]]:
    if model is None:
        msg = "name a MODEL (memroute plan --list shows some), or a scenario with --file"
        raise ScenarioError(msg)
    names = [part for name in accelerators or ["H100"] for part in name.split(",")]
    return {
        f"{engine['replicas']} x {name}": [{"model": model, "accelerator": name} | engine]
        for name in names
    }


def _run(checked: Scenario) -> list[report.Result]:
    runs = checked.runs()
    results = []
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with progress:
        for name, policy, fleet in runs:
            task = progress.add_task(f"{name}, {policy}", total=checked.workload.num_requests)

            def advance(ended: int, task: Any = task) -> None:
                if ended % 50 == 0:
                    progress.update(task, completed=ended)

            cluster = Cluster(fleet, seed=checked.seed, on_progress=advance)
            outcomes = cluster.run(checked.workload, checked.events)
            progress.update(task, completed=len(outcomes))
            results.append(
                report.Result(
                    fleet=name,
                    policy=policy,
                    summary=summarize(outcomes, checked.target),
                    samples=tuple(cluster.samples),
                    outcomes=tuple(outcomes),
                )
            )
    return results


def _list(console: Console) -> None:
    console.print("[bold]workloads[/bold] (or a trace file, or its name under MEMROUTE_TRACES)")
    for name, generator in GENERATORS.items():
        function = getattr(generator, "func", generator)
        text = MIXES[name].about if name in MIXES else (function.__doc__ or "").splitlines()[0]
        console.print(f"  {name:24} {text}")
    console.print("[bold]policies[/bold]")
    for name in POLICIES:
        note = POLICY_NOTES.get(name, "")
        if name in SEES_CACHES:
            note += ("; " if note else "") + "told what each prefix cache holds"
        console.print(f"  {name:24} {note}")
