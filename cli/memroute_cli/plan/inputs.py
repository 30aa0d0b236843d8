"""What a person typed, as questions and accelerators; a clear sentence for what makes no sense."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from memroute.catalog import (
    ACCELERATORS,
    MODELS,
    Accelerator,
    accelerator_by_name,
    architecture_for_model,
)
from memroute.errors import MemrouteError, UnknownModelError
from memroute.footprint import KVCacheDtype, ModelArchitecture, Quantization
from memroute.footprint.architecture import architecture_from_json
from memroute.footprint.calibration import StartLog, read_start_log
from memroute.footprint.weights import index_total_bytes, safetensors_header_bytes
from memroute.sizing import Question

DEFAULT_ACCELERATORS = ("L4", "L40S", "A100-80", "H100", "H200", "B200")
MAX_CLOSE_NAMES = 3
SAFETENSORS_LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100 * 1024 * 1024
# What the safetensors library itself allows.


Choice = TypeVar("Choice", bound=StrEnum)


class PlanError(Exception):
    """What was asked makes no sense; the message is for the person who asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A model and what it was called."""

    name: str
    architecture: ModelArchitecture
    config: dict[str, object] | None = None
    """Its ``config.json``, where it is not from the catalogue."""


def read_model(name: str, checkpoint: str | None) -> NamedModel:
    """A model by its Hugging Face name, or from a ``config.json``.

    ``checkpoint``: bytes, or a file that gives them. Raises ``PlanError``.
    """
    size = None if checkpoint is None else read_checkpoint_bytes(checkpoint)
    path = Path(name)
    try:
        if path.suffix == ".json" or path.is_file():
            folder = path.resolve().parent.name
            return NamedModel(
                name=f"local/{folder if path.name == 'config.json' else path.stem}",
                architecture=architecture_from_json(path.read_text(), size),
                config=read_document(path),
            )
        if path.is_dir():
            return read_model(str(path / "config.json"), checkpoint)
        return NamedModel(name=name, architecture=architecture_for_model(name))
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise PlanError(msg) from error
    except UnknownModelError as error:
        raise PlanError(_unknown_model(error)) from error
    except MemrouteError as error:
        msg = f"{name}: {error}"
        raise PlanError(msg) from error


def _unknown_model(error: UnknownModelError) -> str:
    wanted = error.model.rsplit("/", 1)[-1].casefold()
    close = [known for known in MODELS if wanted[:6] in known.casefold()][:MAX_CLOSE_NAMES]
    hint = f"; did you mean {', or '.join(close)}?" if close else "."
    return (
        f"model {error.model!r} is not in the catalogue of {len(MODELS)} models{hint} Give "
        f"the path of its config.json instead, or see `memroute plan --list`."
    )


def read_checkpoint_bytes(text: str) -> int:
    """Bytes of a checkpoint: a number, an index or a safetensors file. Raises ``PlanError``."""
    if text.isdigit():
        return int(text)
    path = Path(text)
    try:
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                length = int.from_bytes(file.read(SAFETENSORS_LENGTH_BYTES), "little")
                if length > MAX_HEADER_BYTES:
                    msg = f"{path}: no safetensors file (its header would be {length} bytes)"
                    raise PlanError(msg)
                return safetensors_header_bytes(file.read(length).decode())
        return index_total_bytes(path.read_text())
    except OSError as error:
        msg = f"--checkpoint {text}: neither a number of bytes nor a file ({error.strerror})"
        raise PlanError(msg) from error
    except (UnicodeDecodeError, MemrouteError) as error:
        msg = f"--checkpoint {text}: {error}"
        raise PlanError(msg) from error


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


def read_document(path: Path) -> dict[str, object]:
    """A JSON object from a file. Raises ``PlanError``."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise PlanError(msg) from error
    except ValueError as error:
        msg = f"{path}: not JSON ({error})"
        raise PlanError(msg) from error
    if not isinstance(document, dict):
        msg = f"{path}: a JSON object is wanted"
        raise PlanError(msg)
    return document
