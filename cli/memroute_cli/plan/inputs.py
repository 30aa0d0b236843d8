"""What a person typed, as questions and accelerators; a clear sentence for what makes no sense."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from memroute.bandwidth import is_link, link_names
from memroute.catalog import ACCELERATORS, Accelerator, accelerator_by_name
from memroute.closeness import did_you_mean
from memroute.footprint import EngineType, KVCacheDtype, Quantization
from memroute.footprint.calibration import StartLog, read_start_log
from memroute.sizing import Question
from memroute_cli.plan.asked import Asked
from memroute_cli.plan.files import PlanError
from memroute_cli.plan.models import NamedModel

DEFAULT_ACCELERATORS = ("L4", "L40S", "A100-80", "H100", "H200", "B200")


Choice = TypeVar("Choice", bound=StrEnum)


def read_accelerators(names: Iterable[str]) -> list[Accelerator]:
    """Accelerators by name, product label or MIG profile. Raises ``PlanError``."""
    return [read_accelerator(name) for name in tuple(names) or DEFAULT_ACCELERATORS]


def read_accelerator(name: str) -> Accelerator:
    """One accelerator. Raises ``PlanError``."""
    found = accelerator_by_name(name)
    if found is None:
        hint = did_you_mean(name, (row.name for row in ACCELERATORS))
        known = ", ".join(row.name for row in ACCELERATORS)
        msg = (
            f"accelerator {name!r} is not known{hint}"
            if hint
            else f"accelerator {name!r} is not known; known: {known}, and MIG slices (H100/1g.10gb)"
        )
        raise PlanError(msg)
    return found


def read_prices(texts: Sequence[str]) -> dict[str, float]:
    """Prices per accelerator and hour by catalogue name. Raises ``PlanError``."""
    prices = {}
    for text in texts:
        name, equals, value = text.partition("=")
        price = _price(value)
        if not equals or price is None:
            msg = f"--price {text}: write it as NAME=PER_HOUR, such as H100=2.50"
            raise PlanError(msg)
        try:
            prices[read_accelerator(name).name] = price
        except PlanError as error:
            msg = f"--price {text}: {error}"
            raise PlanError(msg) from error
    return prices


def _price(text: str) -> float | None:
    """Money per hour; None for what is no price."""
    try:
        price = float(text)
    except ValueError:
        return None
    return price if 0 <= price < float("inf") else None


def check_prices(prices: dict[str, float], accelerators: Sequence[Accelerator]) -> None:
    """Raises ``PlanError`` for a price of what is not asked about."""
    asked = [one.name for one in accelerators]
    unused = [name for name in prices if name not in asked]
    if unused:
        msg = f"--price {unused[0]}: the plan is for {', '.join(asked)} (see --accelerator)"
        raise PlanError(msg)


def read_links(text: str | None, accelerators: Sequence[Accelerator]) -> dict[str, str]:
    """What joins the devices of a node, by accelerator; empty where nobody typed it.

    Raises ``PlanError`` for what is neither a name nor a measurement.
    """
    if text is None:
        return {}
    if not is_link(text):
        hint = did_you_mean(text, link_names())
        msg = (
            f"--link {text}: one of {', '.join(link_names())}, or what was measured, such as "
            f"17.4us-15GBps{hint}"
        )
        raise PlanError(msg)
    return {one.name: text for one in accelerators}


def read_question(
    model: NamedModel, asked: Asked, links: Mapping[str, str] | None = None
) -> Question:
    """A question from what was typed; ``links``: what joins the devices, by accelerator.

    Raises ``PlanError``.
    """
    longest = model.architecture.max_context_tokens
    prompt, answer = asked.prompt_tokens, asked.output_tokens
    context = asked.context_tokens
    if context is None:
        context = min(longest or 8192, max(8192, prompt + answer))
    for name, value in (
        ("--context", context), ("--concurrency", asked.concurrency),
        ("--prompt-tokens", prompt), ("--output-tokens", answer),
    ):  # fmt: skip
        if value < 1:
            msg = f"{name} must be at least 1, got {value}"
            raise PlanError(msg)
    if longest is not None and context > longest:
        note = model.architecture.context_note
        how = f" ({note})" if note else ""
        msg = f"--context {context}: {model.name} was made for at most {longest} tokens{how}"
        raise PlanError(msg)
    if prompt + answer > context:
        may_rise = longest is None or prompt + answer <= longest
        remedy = "raise --context, or lower" if may_rise else "lower"
        limit = "" if may_rise else f", and {model.name} was made for at most {longest}"
        msg = (
            f"a request of {prompt} + {answer} tokens does not fit a context of {context}{limit}: "
            f"{remedy} --prompt-tokens or --output-tokens"
        )
        raise PlanError(msg)
    log = None if asked.start_log is None else read_log(asked.start_log)
    return Question(
        architecture=model.architecture,
        max_context_tokens=context,
        concurrency=asked.concurrency,
        prompt_tokens=prompt,
        output_tokens=answer,
        quantization=_choice("--precision", asked.precision, Quantization),
        kv_cache_dtype=_choice("--kv-cache-dtype", asked.kv_cache_dtype, KVCacheDtype)
        or KVCacheDtype.AUTO,
        tensor_parallel_size=_size(asked.tensor_parallel),
        engine=EngineType.VLLM if model.file is None else EngineType.LLAMA_CPP,
        links=links or {},
        start_log=log,
    )


def read_log(path: Path) -> StartLog:
    """The start log of an engine. Raises ``PlanError`` when it says nothing of activations."""
    try:
        log = read_start_log(path.read_text(errors="replace"))
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise PlanError(msg) from error
    if log.peak_activation_bytes is None:
        msg = f"{path}: no line says what activations took (vLLM logs it while it profiles)"
        raise PlanError(msg)
    return log


def _choice(option: str, text: str, kind: type[Choice]) -> Choice | None:
    if text == "auto":
        return None
    try:
        return kind(text)
    except ValueError as error:
        names = list(dict.fromkeys(["auto", *(str(member) for member in kind)]))
        msg = f"{option} {text}: one of {', '.join(names)}{did_you_mean(text, names)}"
        raise PlanError(msg) from error


def _size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        msg = f"--tensor-parallel {text}: a positive number of devices, or auto"
        raise PlanError(msg)
    return int(text)
