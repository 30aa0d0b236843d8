"""Answers as a table for people and as a document for programs."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from memroute.footprint import Quantization
from memroute.footprint.architecture import KNOWN_FAMILIES
from memroute.footprint.weights import stored_formats
from memroute.sizing import NoOption, Option, Question
from memroute.units import format_gib
from memroute_cli.plan import sharing
from memroute_cli.plan.links import link_notes
from memroute_cli.plan.models import NamedModel
from memroute_cli.plan.targets import reachable_targets
from memroute_cli.terminal.table import Column, Table

UNKNOWN = "-"
MADE_WHILE_LOADING = frozenset({Quantization.NONE, Quantization.FP8, Quantization.BITSANDBYTES})
# Characters that the name of an accelerator keeps where a line is too narrow.
MIN_NAME = 8
# GiB are of each device. AS: devices of one replica, and how its layers are stored.
NAMES = (
    "ACCELERATOR", "FITS", "AS", "NEEDED", "KV TOKENS", "USERS", "TOKENS/S", "TTFT", "PER 1M",
    "ALONE", "BOUND", "READS", "EXPECTED", "WEIGHTS", "LEFT FOR KV",
)  # fmt: skip
WIDE_NAMES = frozenset({"ALONE", "BOUND", "READS", "EXPECTED", "WEIGHTS", "LEFT FOR KV"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """All answers for one model, in the order of the accelerators."""

    model: NamedModel
    question: Question
    num_per_card: int = 1
    """Replicas that are to share each card."""
    found: tuple[Option | NoOption, ...]

    def best(self, prices: dict[str, float]) -> Option | None:
        """The cheapest per token where prices are known, else the least hardware."""
        options = [option for option in self.found if isinstance(option, Option) and option.fits]
        return min(options, key=lambda option: _rank(option, prices), default=None)


def _rank(option: Option, prices: dict[str, float]) -> tuple[float, float]:
    cost = cost_per_million(option, prices)
    hardware = option.num_devices * option.accelerator.usable_bytes
    return (float("inf") if cost is None else cost, hardware)


def cost_per_million(option: Option, prices: dict[str, float]) -> float | None:
    """What a million output tokens cost; None without a price or a rate."""
    price = prices.get(option.accelerator.name)
    if price is None or option.throughput is None:
        return None
    return option.throughput.cost_per_million_tokens(price * option.num_devices)


def print_answers(
    console: Console, answers: Answers, prices: dict[str, float], *, is_wide: bool = False
) -> None:
    """One table per model, its caveats below."""
    question = answers.question
    console.print(Text(f"\n{answers.model.name}", style="bold"))
    console.print(Text(f"facts: {answers.model.facts.sentence}"))
    console.print(
        f"{question.concurrency} x {question.max_context_tokens:,} tokens of context must fit; "
        f"a usual request is {question.prompt_tokens:,} + {question.output_tokens:,} tokens"
    )
    console.print(_table(answers, prices, is_wide=is_wide))
    for found in answers.found:
        if isinstance(found, NoOption):
            hint = (
                f"would fit with {', or '.join(found.suggestions)}"
                if found.suggestions
                else "no single change of the question makes it fit"
            )
            console.print(Text(f"{found.accelerator.name}: {found.reason}"))
            console.print(Padding(Text(hint), (0, 0, 0, 4)))
    for note in _notes(answers):
        console.print(Text(note, style="dim"))
    best = answers.best(prices)
    if best is not None:
        console.print(_sentence(best))
        shares = sharing.shares_of(best, question, answers.num_per_card)
        if shares:
            console.print(_sharing_words(best, answers.num_per_card))
            console.print(sharing.table(shares))
        for sentence in (*caveats(answers.model, best), *target_sentences(best)):
            console.print(Text(sentence))


def _table(answers: Answers, prices: dict[str, float], *, is_wide: bool) -> Table:
    rows = tuple(
        (found.accelerator.name, "no", *[UNKNOWN] * (len(NAMES) - 2))
        if isinstance(found, NoOption)
        else _cells(found, prices)
        for found in answers.found
    )
    # A price takes the place of the time to the first token.
    hidden = {"TTFT"} if prices else {"PER 1M"}
    columns = tuple(
        Column(
            name=name,
            is_number=name not in {"ACCELERATOR", "FITS", "AS", "BOUND"},
            least=MIN_NAME if name == "ACCELERATOR" else None,
            is_wide=name in WIDE_NAMES or name in hidden,
        )
        for name in NAMES
    )
    return Table(columns, rows, is_wide)


def _cells(option: Option, prices: dict[str, float]) -> tuple[str, ...]:
    footprint, rate = option.footprint, option.throughput
    cost = cost_per_million(option, prices)
    return (
        option.accelerator.name,
        "yes" if option.fits else "no",
        f"{option.num_devices} x {option.precision}",
        format_gib(footprint.total_bytes),
        f"{option.kv_capacity_tokens:,}",
        f"{option.num_users:,}",
        UNKNOWN if rate is None else f"{rate.tokens_per_second:,.0f}",
        UNKNOWN if rate is None else f"{rate.ttft_seconds:.2f} s",
        UNKNOWN if cost is None else f"{cost:.2f}",
        UNKNOWN if rate is None else f"{rate.tpot_alone_seconds * 1e3:.0f} ms",
        UNKNOWN if rate is None else rate.bound.value,
        UNKNOWN if rate is None else f"{rate.read_bytes_per_second / 1e9:,.0f} GB/s",
        format_gib(footprint.total.expected),
        format_gib(footprint.weights.expected),
        format_gib(option.pool_bytes),
    )


def _sharing_words(best: Option, number: int) -> Text:
    room = number * best.footprint.total_bytes
    usable = best.accelerator.usable_bytes
    fits = "" if room <= usable else (
        f" (they do not fit: {format_gib(room)} of {format_gib(usable)})"
    )  # fmt: skip
    return Text(
        f"{number} of them on one {best.accelerator.name}{fits}, of the tokens/s of one engine "
        "with all those requests, and of what each makes alone with its part of them:"
    )


def _sentence(best: Option) -> Text:
    devices = "one" if best.num_devices == 1 else str(best.num_devices)
    text = (
        f"=> {best.precision} on {devices} {best.accelerator.name}: {best.num_users:,} usual "
        f"requests at once"
    )
    if best.throughput is not None:
        rate = best.throughput
        text += (
            f", about {rate.tokens_per_second:,.0f} output tokens/s with "
            f"{rate.num_sequences} of them running ({1 / rate.step_seconds:.0f} per request)"
        )
    return Text(f"{text}.", style="bold")


def caveats(model: NamedModel, option: Option) -> list[str]:
    """What has to be true before the option is deployed, beside its targets; often nothing.

    Engines make fp8 of 16-bit weights while they load them, and nothing else.
    """
    wanted = option.shape.quantization
    architecture = model.architecture
    is_made_so = bool(architecture.quantization_config)
    if option.footprint.weights_estimate.has_formula:
        # A configuration may quantize nothing but the cache.
        is_made_so = stored_formats(architecture).is_quantized
    if wanted in MADE_WHILE_LOADING or is_made_so:
        return []
    sentence = (
        f"{option.precision} needs a checkpoint that was quantized so ({wanted}): "
        f"{model.name} is not, name one that is"
    )
    return [sentence]


def target_sentences(option: Option) -> list[str]:
    """Why the manifest's latency targets are not the defaults; empty where they are."""
    targets = reachable_targets(option)
    if targets is None:
        return []
    name = option.accelerator.name
    is_one = option.num_devices == 1
    return targets.sentences(f"one {name} needs" if is_one else f"{option.num_devices} {name} need")


def _notes(answers: Answers) -> list[str]:
    options = [option for option in answers.found if isinstance(option, Option)]
    notes = list(answers.model.facts.notes)
    architecture = answers.model.architecture
    if not architecture.is_exact and architecture.family in KNOWN_FAMILIES:
        notes.append(
            "Its config.json leaves out sizes that the formula needs: weights are the bytes of its "
            "checkpoint, split evenly, and rates are not known."
        )
    elif not architecture.is_exact:
        notes.append(
            f"The family {architecture.family!r} is not known: weights are the bytes "
            "of its checkpoint, and its cache is bounded by full attention on every layer."
        )
    estimates = [option.footprint.weights_estimate for option in options]
    notes += dict.fromkeys(one.note for one in estimates if one.note)
    if any(not one.is_vision_exact and not one.note for one in estimates):
        notes.append(
            "The vision tower is sized by its shape (within 15 %): --checkpoint makes it exact."
        )
    cached = {option.shape.cache_dtype for option in options if option.shape.is_cache_published}
    notes += [
        f"Its checkpoint comes with a KV cache of {one}, which vLLM follows." for one in cached
    ]
    if any(not option.accelerator.is_usable_measured for option in options):
        names = {o.accelerator.name for o in options if not o.accelerator.is_usable_measured}
        notes.append(
            f"No public log says what {', '.join(sorted(names))} leaves to processes; "
            "0.75 GiB are taken off."
        )
    notes += link_notes(options)
    errors = {
        option.accelerator.name: option.throughput.error_ratio
        for option in options
        if option.throughput is not None
    }
    surely = ", ".join(f"{name} {error:.0%}" for name, error in errors.items())
    rates = f" Rates are priced by kernels and may be off by: {surely}." if surely else ""
    notes.append(
        "NEEDED is of each device, with the KV cache that was asked for and what may be wrong with "
        f"the estimate; what is left over is KV cache too.{rates}"
    )
    return notes


def document(answers: Answers, prices: dict[str, float]) -> dict[str, Any]:
    """One model's answers for a program: bytes, tokens, seconds."""
    # Half a second (Kubernetes' client) that a table does not need.
    from memroute_cli.plan.manifest import model_deployment  # noqa: PLC0415

    best = answers.best(prices)
    return {
        "model": answers.model.name,
        "facts": {"source": answers.model.facts.source, **dict(answers.model.facts.details)},
        "isExact": answers.model.architecture.is_exact,
        "notes": _notes(answers),
        "options": [_option_document(found, prices) for found in answers.found],
        "sharing": []
        if best is None
        else sharing.document(sharing.shares_of(best, answers.question, answers.num_per_card)),
        "caveats": [] if best is None else caveats(answers.model, best),
        "modelDeployment": None if best is None else model_deployment(answers.model, best),
    }


def _option_document(found: Option | NoOption, prices: dict[str, float]) -> dict[str, Any]:
    if isinstance(found, NoOption):
        return {
            "accelerator": found.accelerator.name,
            "fits": False,
            "reason": found.reason,
            "suggestions": list(found.suggestions),
        }
    footprint, rate = found.footprint, found.throughput
    targets = reachable_targets(found)
    return {
        "accelerator": found.accelerator.name,
        "fits": found.fits,
        "devices": found.num_devices,
        "precision": found.precision,
        "weightsBytes": footprint.weights.expected,
        "weightsSource": footprint.weights_estimate.source.value,
        "visionBytes": footprint.weights_estimate.vision_bytes,
        "isVisionExact": footprint.weights_estimate.is_vision_exact,
        "kvCacheDtype": found.shape.cache_dtype.value,
        "neededBytes": {
            "low": footprint.total.low,
            "expected": footprint.total.expected,
            "reserved": footprint.total_bytes,
        },
        "kvPoolBytes": found.pool_bytes,
        "kvCapacityTokens": found.kv_capacity_tokens,
        "users": found.num_users,
        "longestContextTokens": found.longest_context_tokens,
        "tokensPerSecond": None if rate is None else rate.tokens_per_second,
        "stepSeconds": None if rate is None else rate.step_seconds,
        "readBytesPerSecond": None if rate is None else rate.read_bytes_per_second,
        "stepSecondsRange": None if rate is None else list(rate.step_seconds_range),
        "link": None
        if rate is None or rate.link is None
        else {
            "name": rate.link.name,
            "source": rate.link.source.value,
        },
        "rateErrorRatio": None if rate is None else rate.error_ratio,
        "tpotAloneSeconds": None if rate is None else rate.tpot_alone_seconds,
        "tpotTargetSeconds": None if targets is None else targets.tpot,
        "ttftTargetSeconds": None if targets is None else targets.ttft,
        "ttftSeconds": None if rate is None else rate.ttft_seconds,
        "bound": None if rate is None else rate.bound.value,
        "costPerMillionTokens": cost_per_million(found, prices),
    }
