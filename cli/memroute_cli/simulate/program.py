"""The work of ``memroute simulate``: a scenario from flags or a file, a progress bar, a table."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memroute_cli.simulate import report
from memroute_cli.simulate.asked import Asked
from memroute_cli.simulate.flags import IN_FLAGS, check_picture, document_of
from memroute_cli.simulate.scenario import Scenario, ScenarioError, read_scenario, scenario
from memroute_cli.terminal.console import open_console
from memroute_cli.terminal.output import Output, write
from memroute_cli.terminal.table import Column, Table
from memroute_simulator.virtual.cluster import Cluster
from memroute_simulator.virtual.outcome import summarize
from memroute_simulator.virtual.router import CLAIRVOYANT, MEMROUTE, ORACLE, POLICIES, SEES_CACHES
from memroute_simulator.workloads import GENERATORS
from memroute_simulator.workloads.benchmarks import MIXES

# What each policy goes by: the formulas are in memroute/traffic/routing/published.py.
POLICY_NOTES = {
    MEMROUTE: "what a default install does: guesses cached prefixes from what was sent where",
    "random": "any replica, all with the same chance",
    "round-robin": "one replica after another",
    "least-request": "the fewest of our requests (Envoy, AIBrix)",
    "power-of-two": "of two at random the one with fewer of our requests (SGLang)",
    "least-kv": "the least scraped KV use (AIBrix)",
    "kv-in-flight": "the least scraped KV use, with our tokens that are not computed yet",
    "headroom": "the same with this request's tokens that are not cached",
    "gie-kv-queue": "free KV and short queues, summed (Gateway API Inference Extension)",
    "gie-prefix-kv-queue": "the same and cached prefixes, weighted (llm-d before 1.0)",
    "lmetric": "the least new prefill work times the batch (arXiv 2603.15202)",
    "vllm-dp": "the least of 4 x waiting + running (vLLM's data-parallel balancer)",
    "smg-least-load": "the fewest seconds to drain, and a term of KV use (smg)",
    "llm-d": "sticky to cached prefixes until saturated, then the least token load (1.0)",
    ORACLE: "memroute's own policy, told what each prefix cache holds (--kv-events)",
    CLAIRVOYANT: "the same, with the lengths of all answers and readings of the moment",
}


def run(asked: Asked) -> None:
    """Simulate and tell. Raises ``ScenarioError``."""
    check_picture(asked.plot)
    if asked.file is not None:
        if asked.model is not None:
            msg = f"give a MODEL ({asked.model}) or --file, not both"
            raise ScenarioError(msg)
        checked = scenario(read_scenario(asked.file))
    else:
        checked = scenario(document_of(asked), IN_FLAGS)
    results = _run(checked)
    if asked.output is not Output.TABLE:
        write(report.as_document(checked, results), asked.output)
    else:
        console = open_console(is_wide=asked.is_wide)
        for line in report.tables(checked, results, is_wide=asked.is_wide):
            console.print(line)
    if asked.plot is not None:
        report.draw(checked, results, asked.plot)
        if asked.output is Output.TABLE:
            sys.stdout.write(f"drawn into {asked.plot}\n")


def _run(checked: Scenario) -> list[report.Result]:
    runs = checked.runs()
    results = []
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
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


def list_all(output: Output) -> None:
    """Print workloads and policies."""
    workloads = {name: _about(name) for name in GENERATORS}
    policies = {name: _policy(name) for name in POLICIES}
    if output is not Output.TABLE:
        write({"workloads": workloads, "policies": policies}, output)
        return
    console = open_console()
    for title, rows in (("WORKLOAD", workloads), ("POLICY", policies)):
        columns = (Column(name=title), Column(name="ABOUT", is_sentence=True))
        console.print(Table(columns, tuple(rows.items())), "", sep="\n")
    console.print("A workload may also be a trace file, or its name under MEMROUTE_TRACES.")


def _about(name: str) -> str:
    generator = GENERATORS[name]
    function = getattr(generator, "func", generator)
    return MIXES[name].about if name in MIXES else (function.__doc__ or "").splitlines()[0]


def _policy(name: str) -> str:
    told = "; told what each prefix cache holds" if name in SEES_CACHES - {ORACLE} else ""
    return f"{POLICY_NOTES.get(name, '')}{told}"
