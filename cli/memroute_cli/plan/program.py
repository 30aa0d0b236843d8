"""The work of ``memroute plan``: questions in, a table, a document or a manifest out."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml
from rich.console import RenderableType

from memroute.catalog import Accelerator
from memroute.sizing import NoOption, Offloading, Option, Question, answer, options_for
from memroute_cli.plan import host_memory, host_plot, inputs, report, weights_offload
from memroute_cli.plan.asked import Asked
from memroute_cli.plan.files import PlanError
from memroute_cli.plan.host_memory import HostAnswers, HostQuestion, read_host_question
from memroute_cli.plan.models import HubOptions, NamedModel, read_model
from memroute_cli.plan.plot import check_plot, draw
from memroute_cli.plan.weights_offload import OffloadQuestion
from memroute_cli.terminal.console import open_console
from memroute_cli.terminal.errors import tell
from memroute_cli.terminal.output import Output, write


def run(asked: Asked) -> bool:
    """Answer; whether each model has a place. Raises ``UserError``."""
    names = _names(asked.models)
    check_plot(asked.plot)
    if asked.hub_endpoint is not None or asked.hub_token_file is not None:
        # A quarter of a second that only who names a hub pays.
        from memroute_cli.plan.hub import check_options  # noqa: PLC0415

        check_options(asked.hub_endpoint, asked.hub_token_file)
    if asked.inventory or asked.is_on_cluster:
        # A second (the operator's planner) that a plan by the catalogue does not need.
        from memroute_cli.plan.on_fleet import FleetPlan  # noqa: PLC0415

        fleet_plan: Placing = FleetPlan(asked)
    else:
        fleet_plan = NoFleet()
    host = read_host_question(asked)
    offload = weights_offload.read_offload_question(asked)
    accelerators = fleet_plan.accelerators(asked) or inputs.read_accelerators(asked.accelerators)
    prices = inputs.read_prices(asked.prices)
    inputs.check_prices(prices, accelerators)
    links = inputs.read_links(asked.link, accelerators) or fleet_plan.links()
    answers = [_answers(name, asked, accelerators, links) for name in names]
    hosts = [_host_answers(host, one, prices) for one in answers]
    offloads = [_offload_answers(offload, one, accelerators) for one in answers]
    fits = all(
        one.best(prices) is not None or any(two.fits_only_so for two in offloads[number])
        for number, one in enumerate(answers)
    )
    fits = fleet_plan.fits(answers, on_paper=fits)
    if asked.wants_manifest:
        _print_manifests(answers, prices, asked.output)
    elif asked.output is not Output.TABLE:
        documents = [
            report.document(one, prices)
            | _host_document(hosts[number])
            | _offload_document(offload, offloads[number], prices)
            | fleet_plan.document(number)
            for number, one in enumerate(answers)
        ]
        write({"plans": documents}, asked.output)
    else:
        console = open_console(is_wide=asked.is_wide)
        for number, one in enumerate(answers):
            report.print_answers(console, one, prices, is_wide=asked.is_wide)
            for line in (*_told_of_host(hosts[number], one, prices), *fleet_plan.told(number)):
                console.print(line)
            if offload is not None:
                for line in weights_offload.told(offloads[number], offload, prices):
                    console.print(line)
    if asked.plot is not None:
        _draw(asked.plot, answers, hosts[0], prices, says=asked.output is Output.TABLE)
    return fits


class Placing(Protocol):
    """Where answers would go now."""

    def accelerators(self, asked: Asked) -> list[Accelerator]:
        """What the plan is about, where nobody named any; empty for the usual."""

    def links(self) -> Mapping[str, str]:
        """What joins the devices of a node, by accelerator, where its nodes agree."""

    def fits(self, answers: list[report.Answers], *, on_paper: bool) -> bool:
        """Place them; whether each has a place. Called once, before the others below."""

    def document(self, number: int) -> dict[str, Any]:
        """What a document says of the model of that number beside its options."""

    def told(self, number: int) -> Iterable[RenderableType]:
        """The same for people."""


class NoFleet:
    """A plan by the catalogue alone."""

    def accelerators(self, asked: Asked) -> list[Accelerator]:
        return []

    def links(self) -> Mapping[str, str]:
        return {}

    def fits(self, answers: list[report.Answers], *, on_paper: bool) -> bool:
        return on_paper

    def document(self, number: int) -> dict[str, Any]:
        return {}

    def told(self, number: int) -> Iterable[RenderableType]:
        return ()


def _answers(
    name: str, asked: Asked, accelerators: list[Accelerator], links: Mapping[str, str]
) -> report.Answers:
    hub = HubOptions(
        endpoint=asked.hub_endpoint,
        token_file=asked.hub_token_file,
        is_offline=asked.is_offline,
        file=asked.file,
    )
    model = read_model(name, asked.checkpoint, hub)
    question = inputs.read_question(model, asked, links)
    found = _found(model, question, accelerators, every=asked.shows_every)
    return report.Answers(
        model=model, question=question, found=found, num_per_card=asked.num_per_card
    )


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


def _print_manifests(
    answers: list[report.Answers], prices: dict[str, float], output: Output
) -> None:
    """ModelDeployments in YAML, in JSON where it is asked for; what fits nowhere on stderr."""
    # Half a second (Kubernetes' client) that a table does not need.
    from memroute_cli.plan.manifest import model_deployment  # noqa: PLC0415

    manifests, texts = [], []
    for one in answers:
        best = one.best(prices)
        if best is None:
            reasons = "; ".join(f.reason for f in one.found if isinstance(f, NoOption))
            tell(f"memroute plan: {one.model.name} fits nowhere: {reasons}")
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
    """YAML; comments say what it needs, and why its targets are not the defaults."""
    best = answers.best(prices)
    sentences = [] if best is None else report.target_sentences(best)
    if best is not None:
        sentences = report.caveats(answers.model, best) + sentences
    if answers.model.facts.commit is not None:
        sentences.insert(0, f"{answers.model.name} as on {answers.model.facts.sentence}")
    if answers.model.file is not None:
        sentences.append("Set spec.engine.image to llama.cpp's server for your devices.")
    comments = "".join(f"# {sentence}\n" for sentence in sentences)
    return comments + yaml.safe_dump(manifest, sort_keys=False)


def _host_answers(
    host: HostQuestion | None, answers: report.Answers, prices: dict[str, float]
) -> HostAnswers | None:
    """What the host buys for the best option; None where nobody asked or nothing fits."""
    best = answers.best(prices)
    if host is None or best is None:
        return None
    return host_memory.host_answers(host, answers.question, best, prices.get(best.accelerator.name))


def _offload_answers(
    asked: OffloadQuestion | None, answers: report.Answers, accelerators: list[Accelerator]
) -> tuple[Offloading, ...]:
    if asked is None:
        return ()
    return weights_offload.offload_answers(asked, answers.question, accelerators)


def _offload_document(
    asked: OffloadQuestion | None, answers: tuple[Offloading, ...], prices: dict[str, float]
) -> dict[str, Any]:
    if asked is None:
        return {}
    return {"weightsOffload": weights_offload.document(answers, asked, prices)}


def _host_document(host: HostAnswers | None) -> dict[str, Any]:
    return {} if host is None else {"hostMemory": host_memory.document(host)}


def _told_of_host(
    host: HostAnswers | None, answers: report.Answers, prices: dict[str, float]
) -> Iterable[RenderableType]:
    best = answers.best(prices)
    return () if host is None or best is None else host_memory.told(host, best)


def _draw(
    path: Path,
    answers: list[report.Answers],
    host: HostAnswers | None,
    prices: dict[str, float],
    *,
    says: bool,
) -> None:
    first = answers[0]
    best = first.best(prices)
    if best is None:
        msg = f"--plot: {first.model.name} fits nowhere, so there is nothing to draw"
        raise PlanError(msg)
    try:
        if host is None:
            draw(first.model.name, best, path)
        else:
            host_plot.draw(first.model.name, best, host, path)
    except OSError as error:
        msg = f"--plot {path}: {error.strerror or error}"
        raise PlanError(msg) from error
    if says:
        others = f" (of {len(answers)} models the first)" if len(answers) > 1 else ""
        what = f"{first.model.name}, {best.precision} on {best.num_devices} x"
        sys.stdout.write(f"drawn into {path}: {what} {best.accelerator.name}{others}\n")
