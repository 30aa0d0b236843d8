"""The work of ``memroute plan``: questions in, a table, a document or a manifest out."""

import sys
from pathlib import Path

import yaml

from memroute.catalog import Accelerator
from memroute.sizing import NoOption, Option, Question, answer, options_for
from memroute_cli.plan import fitting_report, fleet, inputs, report
from memroute_cli.plan.asked import Asked
from memroute_cli.plan.files import PlanError
from memroute_cli.plan.fitting import Now, fit_now
from memroute_cli.plan.manifest import model_deployment
from memroute_cli.plan.models import HubOptions, NamedModel, read_model
from memroute_cli.plan.plot import check_plot, draw
from memroute_cli.terminal.console import open_console
from memroute_cli.terminal.output import Output, write


def run(asked: Asked) -> bool:
    """Answer; whether each model has a place. Raises ``PlanError``."""
    names = _names(asked.models)
    check_plot(asked.plot)
    fleet_now = _fleet(asked)
    accelerators = (
        fleet.accelerators_of(fleet_now.inventory)
        if fleet_now is not None and not asked.accelerators
        else inputs.read_accelerators(asked.accelerators)
    )
    prices = inputs.read_prices(asked.prices)
    inputs.check_prices(prices, accelerators)
    answers = [_answers(name, asked, accelerators) for name in names]
    now = None if fleet_now is None else fit_now(fleet_now, answers)
    fits = all(one.best(prices) is not None for one in answers)
    if now is not None:
        fits = all(one.chosen is not None for one in now.models)
    if asked.wants_manifest:
        _print_manifests(answers, prices, asked.output)
    elif asked.output is not Output.TABLE:
        write({"plans": _documents(answers, prices, now)}, asked.output)
    else:
        console = open_console(is_wide=asked.is_wide)
        for number, one in enumerate(answers):
            report.print_answers(console, one, prices, is_wide=asked.is_wide)
            if now is not None:
                console.print(
                    *fitting_report.told(now, now.models[number], is_wide=asked.is_wide), sep="\n"
                )
    if asked.plot is not None:
        _draw(asked.plot, answers, prices, says=asked.output is Output.TABLE)
    return fits


def _answers(name: str, asked: Asked, accelerators: list[Accelerator]) -> report.Answers:
    hub = HubOptions(
        endpoint=asked.hub_endpoint, token_file=asked.hub_token_file, is_offline=asked.is_offline
    )
    model = read_model(name, asked.checkpoint, hub)
    question = inputs.read_question(model, asked)
    found = _found(model, question, accelerators, every=asked.shows_every)
    return report.Answers(model=model, question=question, found=found)


def _documents(
    answers: list[report.Answers], prices: dict[str, float], now: Now | None
) -> list[dict[str, object]]:
    documents = [report.document(one, prices) for one in answers]
    if now is not None:
        for document, one in zip(documents, now.models, strict=True):
            document["now"] = fitting_report.document(now, one)
    return documents


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


def _names(models: tuple[str, ...]) -> tuple[str, ...]:
    if not models:
        msg = "name at least one model, such as Qwen/Qwen3-8B; --list shows what is known"
        raise PlanError(msg)
    return models


def _fleet(asked: Asked) -> fleet.Fleet | None:
    if asked.inventory is not None and asked.is_on_cluster:
        msg = "--inventory and --cluster exclude each other"
        raise PlanError(msg)
    if asked.inventory is not None:
        return fleet.saved_fleet(asked.inventory)
    return fleet.live_fleet(asked.kubeconfig) if asked.is_on_cluster else None


def _print_manifests(
    answers: list[report.Answers], prices: dict[str, float], output: Output
) -> None:
    """ModelDeployments in YAML, in JSON where it is asked for; what fits nowhere on stderr."""
    manifests, texts = [], []
    for one in answers:
        best = one.best(prices)
        if best is None:
            reasons = "; ".join(f.reason for f in one.found if isinstance(f, NoOption))
            sys.stderr.write(f"memroute plan: {one.model.name} fits nowhere: {reasons}\n")
            continue
        manifest = model_deployment(one.model, best)
        if manifest is None:
            msg = "a ModelDeployment cannot ask for that precision: use none, fp8, awq or gptq"
            raise PlanError(msg)
        manifests.append(manifest)
        texts.append(_manifest_text(one, manifest, prices))
    if output is Output.JSON:
        write({"apiVersion": "v1", "kind": "List", "items": manifests}, output)
    else:
        sys.stdout.write("---\n".join(texts))


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


def _draw(
    path: Path, answers: list[report.Answers], prices: dict[str, float], *, says: bool
) -> None:
    first = answers[0]
    best = first.best(prices)
    if best is None:
        msg = f"--plot: {first.model.name} fits nowhere, so there is nothing to draw"
        raise PlanError(msg)
    try:
        draw(first.model.name, best, path)
    except OSError as error:
        msg = f"--plot {path}: {error.strerror or error}"
        raise PlanError(msg) from error
    if says:
        others = f" (of {len(answers)} models the first)" if len(answers) > 1 else ""
        what = f"{first.model.name}, {best.precision} on {best.num_devices} x"
        sys.stdout.write(f"drawn into {path}: {what} {best.accelerator.name}{others}\n")
