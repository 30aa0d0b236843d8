"""What a person typed, as questions and accelerators; a clear sentence for what makes no sense."""

from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from memroute.catalog import ACCELERATORS, Accelerator, accelerator_by_name
from memroute.footprint import KVCacheDtype, Quantization
from memroute.footprint.calibration import StartLog, read_start_log
from memroute.sizing import Question
from memroute_cli.plan.files import PlanError
from memroute_cli.plan.models import NamedModel

DEFAULT_ACCELERATORS = ("L4", "L40S", "A100-80", "H100", "H200", "B200")


Choice = TypeVar("Choice", bound=StrEnum)


def read_accelerators(names: list[str]) -> list[Accelerator]:
    """Accelerators by name, product label or MIG profile. Raises ``PlanError``."""
    wanted = [part for name in names for part in name.split(",") if part]
    found = []
    for name in wanted or DEFAULT_ACCELERATORS:
        accelerator = accelerator_by_name(name)
        if accelerator is None:
            known = ", ".join(row.name for row in ACCELERATORS)
            msg = (
                f"accelerator {name!r} is not known; known: {known}, and MIG slices (H100/1g.10gb)"
            )
            raise PlanError(msg)
        found.append(accelerator)
    return found


def read_prices(texts: list[str]) -> dict[str, float]:
    """Prices per accelerator and hour by catalogue name. Raises ``PlanError``."""
    prices = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            price = float(value)
        except ValueError:
            price = -1.0
        accelerator = accelerator_by_name(name)
        if not equals or price < 0 or accelerator is None:
            msg = f"--price {text}: write it as NAME=PER_HOUR, such as H100=2.50"
            raise PlanError(msg)
        prices[accelerator.name] = price
    return prices


def read_question(
    model: NamedModel,
    *,
    context: int | None,
    concurrency: int,
    prompt_tokens: int,
    output_tokens: int,
    precision: str,
    kv_cache_dtype: str,
    tensor_parallel: str,
    start_log: StartLog | None = None,
) -> Question:
    """A question from what was typed. Raises ``PlanError``."""
    longest = model.architecture.max_context_tokens
    if context is None:
        context = min(longest or 8192, max(8192, prompt_tokens + output_tokens))
    for name, value in (
        ("--context", context), ("--concurrency", concurrency),
        ("--prompt-tokens", prompt_tokens), ("--output-tokens", output_tokens),
    ):  # fmt: skip
        if value < 1:
            msg = f"{name} must be at least 1, got {value}"
            raise PlanError(msg)
    if longest is not None and context > longest:
        msg = f"--context {context}: {model.name} was made for at most {longest} tokens"
        raise PlanError(msg)
    if prompt_tokens + output_tokens > context:
        msg = (
            f"a request of {prompt_tokens} + {output_tokens} tokens does not fit a context of "
            f"{context}: raise --context, or lower --prompt-tokens or --output-tokens"
        )
        raise PlanError(msg)
    return Question(
        architecture=model.architecture,
        max_context_tokens=context,
        concurrency=concurrency,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        quantization=_choice("--precision", precision, Quantization),
        kv_cache_dtype=_choice("--kv-cache-dtype", kv_cache_dtype, KVCacheDtype)
        or KVCacheDtype.AUTO,
        tensor_parallel_size=_size(tensor_parallel),
        start_log=start_log,
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
        known = ", ".join(dict.fromkeys(["auto", *(str(member) for member in kind)]))
        msg = f"{option} {text}: one of {known}"
        raise PlanError(msg) from error


def _size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        msg = f"--tensor-parallel {text}: a positive number of devices, or auto"
        raise PlanError(msg)
    return int(text)
