"""The command: questions in, a table or a manifest out.

Exit status 0: everything fits; 1: something does not; 2: the question makes no sense.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from memroute.catalog import ACCELERATORS, MODELS, Accelerator, architecture_for_model
from memroute.footprint import num_parameters
from memroute.placement import Inventory, Placed
from memroute.sizing import NoOption, Option, Question, answer, options_for
from memroute.units import format_gib
from memroute_cli.plan import fleet, inputs, report
from memroute_cli.plan.files import PlanError
from memroute_cli.plan.models import HubOptions, NamedModel, read_model
from memroute_cli.plan.plot import draw

WIDTH_WITHOUT_TERMINAL = 160


def plan(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="owner/name as on the hub, owner/name@revision for one of its versions, or the "
            "path of a config.json. Names of --list need no network.",
            show_default=False,
        ),
    ] = None,
    *,
    accelerator: Annotated[
        list[str] | None,
        typer.Option(
            "--accelerator",
            "-a",
            metavar="NAME",
            help="Which accelerators: H100, L4, a product label, a MIG slice (H100/1g.10gb); "
            "repeat it or separate by commas. Default: L4, L40S, A100-80, H100, H200, B200.",
        ),
    ] = None,
    inventory: Annotated[
        Path | None,
        typer.Option(help="Plan on a saved fleet: `kubectl get nodes,pods -A -o json > FILE`."),
    ] = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Plan on the cluster that kubeconfig points at.")
    ] = False,
    context: Annotated[
        int | None,
        typer.Option(help="Longest sequence, in tokens. Default: 8192, or what the model allows."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(help="Sequences of the whole context that must fit at once.")
    ] = 1,
    prompt_tokens: Annotated[int, typer.Option(help="Prompt of a usual request.")] = 1024,
    output_tokens: Annotated[int, typer.Option(help="Answer of a usual request.")] = 256,
    precision: Annotated[
        str, typer.Option(help="auto (the highest that fits), none (as published), fp8, awq, …")
    ] = "auto",
    kv_cache_dtype: Annotated[str, typer.Option(help="auto or fp8, and vLLM's others.")] = "auto",
    tensor_parallel: Annotated[
        str, typer.Option(help="Devices per replica; auto: the fewest that fit.")
    ] = "auto",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Size of the weights of an unknown family or a vision tower: bytes, a "
            "model.safetensors.index.json, or a .safetensors file."
        ),
    ] = None,
    start_log: Annotated[
        Path | None,
        typer.Option(
            help="Start log of a vLLM that ran this model: what it measured replaces our ranges."
        ),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PER_HOUR", help="Price of one accelerator: H100=2.50."),
    ] = None,
    hub_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The hub that knows models which the catalogue does not. Default: HF_ENDPOINT, "
            "else the public one.",
        ),
    ] = None,
    hub_token_file: Annotated[
        Path | None,
        typer.Option(
            help="Holds a token for gated and private models. Default: HF_TOKEN, else what "
            "`hf auth login` has saved."
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Ask no hub: the catalogue, and what was read before. HF_HUB_OFFLINE=1 as well.",
        ),
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show every precision and number of devices.")
    ] = False,
    output: Annotated[
        str, typer.Option(help="table, json, or yaml (a ready ModelDeployment).")
    ] = "table",
    plot: Annotated[
        Path | None, typer.Option(help="Draw where the bytes go into this file (.png, .svg).")
    ] = None,
    list_known: Annotated[
        bool, typer.Option("--list", help="List the models and accelerators that are known.")
    ] = False,
) -> None:
    """Does a model fit, on which accelerators, for how many users, how fast, at what price?"""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
    if list_known:
        _list(console)
        return
    try:
        names = _names(models, output)
        fleet_now = _fleet(inventory, cluster=cluster)
        accelerators = (
            fleet.accelerators_of(fleet_now)
            if fleet_now is not None and not accelerator
            else inputs.read_accelerators(accelerator or [])
        )
        prices = inputs.read_prices(price or [])
        hub = HubOptions(endpoint=hub_endpoint, token_file=hub_token_file, is_offline=offline)
        answers = []
        for name in names:
            model = read_model(name, checkpoint, hub)
            question = inputs.read_question(
                model, context=context, concurrency=concurrency, prompt_tokens=prompt_tokens,
                output_tokens=output_tokens, precision=precision, kv_cache_dtype=kv_cache_dtype,
                tensor_parallel=tensor_parallel,
                start_log=None if start_log is None else inputs.read_log(start_log),
            )  # fmt: skip
            found = _found(model, question, accelerators, every=every)
            answers.append(report.Answers(model=model, question=question, found=found))
        fits = _print(console, answers, prices, output)
        if fleet_now is not None:
            fits = _print_places(console, fleet_now, answers, prices, output) and fits
        if plot is not None:
            _draw(plot, answers[0], prices)
    except PlanError as error:
        print(f"memroute plan: {error}", file=sys.stderr)  # noqa: T201 - what a person reads
        raise typer.Exit(2) from error
    raise typer.Exit(0 if fits else 1)


def _found(
    model: NamedModel, question: Question, accelerators: list[Accelerator], *, every: bool
) -> tuple[Option | NoOption, ...]:
    """The answers for one model. Raises ``PlanError`` where its configuration makes no sense."""
    found: list[Option | NoOption] = []
    try:
        for kind in accelerators:
            several = list(options_for(question, kind)) if every else []
            found += several or [answer(question, kind)]
    except Exception as error:
        if model.config is None:
            raise
        # A named boundary: a configuration may hold any number, and overflow anywhere.
        msg = (
            f"{model.name}: its config.json makes no sense ({type(error).__name__}: {error!s:.200})"
        )
        raise PlanError(msg) from error
    return tuple(found)


def _names(models: list[str] | None, output: str) -> list[str]:
    if not models:
        msg = "name at least one model, such as Qwen/Qwen3-8B; --list shows what is known"
        raise PlanError(msg)
    if output not in {"table", "json", "yaml"}:
        msg = f"--output {output}: one of table, json, yaml"
        raise PlanError(msg)
    return models


def _fleet(path: Path | None, *, cluster: bool) -> Inventory | None:
    if path is not None and cluster:
        msg = "--inventory and --cluster exclude each other"
        raise PlanError(msg)
    if path is not None:
        return fleet.saved_inventory(path)
    return fleet.live_inventory() if cluster else None


def _print(
    console: Console, answers: list[report.Answers], prices: dict[str, float], output: str
) -> bool:
    """Print all answers; whether each model has one."""
    documents = [report.document(one, prices) for one in answers]
    if output == "json":
        sys.stdout.write(json.dumps({"plans": documents}, indent=2) + "\n")
    elif output == "yaml":
        manifests = [
            _manifest_text(one, document["modelDeployment"], prices)
            for one, document in zip(answers, documents, strict=True)
            if document["modelDeployment"] is not None
        ]
        sys.stdout.write("---\n".join(manifests))
        for one in answers:
            if one.best(prices) is None:
                reasons = [f.reason for f in one.found if isinstance(f, NoOption)]
                told = "; ".join(reasons)
                sys.stderr.write(f"memroute plan: {one.model.name} fits nowhere: {told}\n")
        if not manifests and all(one.best(prices) is not None for one in answers):
            msg = "a ModelDeployment cannot ask for that precision: use none, fp8, awq or gptq"
            raise PlanError(msg)
    else:
        for one in answers:
            report.print_answers(console, one, prices)
    return all(one.best(prices) is not None for one in answers)


def _manifest_text(
    answers: report.Answers, manifest: dict[str, object], prices: dict[str, float]
) -> str:
    """YAML; a comment says why its targets are not the defaults."""
    best = answers.best(prices)
    sentences = [] if best is None else report.target_sentences(best)
    if answers.model.facts.commit is not None:
        sentences.insert(0, f"{answers.model.name} as on {answers.model.facts.sentence}")
    comments = "".join(f"# {sentence}\n" for sentence in sentences)
    return comments + yaml.safe_dump(manifest, sort_keys=False)


def _print_places(
    console: Console,
    inventory: Inventory,
    answers: list[report.Answers],
    prices: dict[str, float],
    output: str,
) -> bool:
    """Say where each model would go now; whether all have a place."""
    best = [(one.model.name, one.best(prices)) for one in answers]
    chosen = [(name, option) for name, option in best if option is not None]
    decisions = fleet.place(inventory, chosen)
    if output == "table":
        console.print()
        for decision in decisions:
            words = decision.why if isinstance(decision, Placed) else decision.message
            where = decision.node if isinstance(decision, Placed) else "nowhere"
            console.print(f"{decision.key.name} -> {where}: {words}", soft_wrap=True)
    return len(chosen) == len(best) and all(isinstance(d, Placed) for d in decisions)


def _draw(path: Path, answers: report.Answers, prices: dict[str, float]) -> None:
    best = answers.best(prices)
    if best is None:
        msg = f"--plot: {answers.model.name} fits nowhere, so there is nothing to draw"
        raise PlanError(msg)
    try:
        draw(answers.model.name, best, path)
    except (OSError, ValueError) as error:
        msg = f"--plot {path}: {error}"
        raise PlanError(msg) from error


def _list(console: Console) -> None:
    models = Table("model", "parameters", "context, tokens", title="Models")
    for name in MODELS:
        architecture = architecture_for_model(name)
        models.add_row(
            name,
            f"{num_parameters(architecture) / 1e9:.1f}B",
            f"{architecture.max_context_tokens or 0:,}",
        )
    console.print(models)
    kinds = Table("accelerator", "usable", "bandwidth", "bf16", "vendor", title="Accelerators")
    for row in ACCELERATORS:
        kinds.add_row(
            row.name, format_gib(row.usable_bytes),
            f"{row.bandwidth_bytes_per_second / 1e9:,.0f} GB/s",
            f"{row.bf16_flops / 1e12:,.0f} TFLOP/s", row.vendor,
        )  # fmt: skip
    console.print(kinds)
