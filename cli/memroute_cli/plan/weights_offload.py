"""``memroute plan --weights-offload``: weights that stay on the host, beside a plan without."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from memroute.catalog import Accelerator
from memroute.hierarchy import HostLink, WeightsOffload, host_link_of
from memroute.sizing import NoOption, Offloading, Option, Question, offloading_on
from memroute.units import GIB, format_gib
from memroute_cli.plan.asked import Asked
from memroute_cli.plan.files import PlanError
from memroute_cli.plan.report import cost_per_million
from memroute_cli.terminal.host_links import read_host_link
from memroute_cli.terminal.table import Column, Table

OPTION = "--weights-offload"
AUTO = "auto"
NAMES = ("ACCELERATOR", "ON HOST", "AS", "USERS", "STEP", "TTFT", "TOKENS/S")
UNKNOWN = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadQuestion:
    """What was asked, checked."""

    size_gib: int | None
    """Of each device; None: the fewest that make it fit."""
    link: HostLink | None
    """None: the accelerator's by its data sheet."""


def read_offload_question(asked: Asked) -> OffloadQuestion | None:
    """What was typed; None where nobody asked. Raises ``PlanError``."""
    text = asked.weights_offload
    if text is None:
        return None
    size = None
    if text.casefold() != AUTO:
        number = text.casefold().removesuffix("gib")
        if not number.isdecimal() or int(number) < 1:
            msg = f"{OPTION} {text}: whole GiB of each device, such as 8, or auto"
            raise PlanError(msg)
        size = int(number)
    if asked.file is not None:
        msg = f"{OPTION} is vLLM's: llama.cpp keeps layers on the host by flags of its own"
        raise PlanError(msg)
    link = None
    if asked.host_link is not None:
        try:
            link = read_host_link("--host-link", asked.host_link)
        except ValueError as error:
            raise PlanError(str(error)) from None
    return OffloadQuestion(size_gib=size, link=link)


def offload_answers(
    asked: OffloadQuestion, question: Question, accelerators: list[Accelerator]
) -> tuple[Offloading, ...]:
    """Each accelerator, without and with."""
    question = replace(question, host_link=asked.link)
    return tuple(offloading_on(question, one, asked.size_gib) for one in accelerators)


def told(
    answers: tuple[Offloading, ...], asked: OffloadQuestion, prices: dict[str, float]
) -> Iterator[str | Table]:
    """The section for people."""
    yield "\nweights on the host (vLLM's --cpu-offload-gb), read over the link in every step"
    names = NAMES if not prices else (*NAMES[:-1], "PER 1M")
    rows = [row for one in answers for row in _rows(one, prices)]
    columns = tuple(
        Column(name=name, is_number=name not in {"ACCELERATOR", "AS"}) for name in names
    )
    yield Table(columns, tuple(rows))
    for one in answers:
        yield from _sentences(one, asked)


def _rows(one: Offloading, prices: dict[str, float]) -> Iterator[tuple[str, ...]]:
    yield _cells(one.without, "none", prices)
    if one.with_weights is not None:
        yield _cells(one.with_weights, None, prices)


def _cells(
    found: Option | NoOption, on_host: str | None, prices: dict[str, float]
) -> tuple[str, ...]:
    if isinstance(found, NoOption):
        return (found.accelerator.name, on_host or "-", "does not fit", *[UNKNOWN] * 4)
    rate, cost = found.throughput, cost_per_million(found, prices)
    last = UNKNOWN if rate is None else f"{rate.tokens_per_second:,.0f}"
    if prices:
        last = UNKNOWN if cost is None else f"{cost:.2f}"
    return (
        found.accelerator.name,
        on_host or format_gib(found.shape.weights_on_host_bytes),
        f"{found.num_devices} x {found.precision}",
        f"{found.num_users:,}",
        UNKNOWN if rate is None else f"{rate.step_seconds * 1e3:,.0f} ms",
        UNKNOWN if rate is None else f"{rate.ttft_seconds:.2f} s",
        last,
    )


def _sentences(one: Offloading, asked: OffloadQuestion) -> Iterator[str]:
    found = one.with_weights
    name = one.without.accelerator.name
    if found is None:
        yield f"{name}: it fits without; weights on the host would only make it slower."
        return
    if isinstance(found, NoOption):
        yield f"{name}: {found.reason}"
        return
    offload = _offload(found)
    link = asked.link or host_link_of(found.accelerator)
    if link is None:
        return
    each = offload.read_seconds(link) * 1e3
    so = " It fits only so." if one.fits_only_so else ""
    yield (
        f"{name}: {format_gib(offload.bytes_per_device)} of each device are KV cache instead of "
        f"weights, {format_gib(offload.host_bytes)} of the node are pinned, and a step that reads "
        f"every weight takes {each:,.0f} ms longer over {link.name} "
        f"({link.shared_by(offload.num_devices).read_bytes_per_second / 1e9:.0f} GB/s per device, "
        f"give or take {link.error_ratio:.0%}).{so}"
    )


def _offload(option: Option) -> WeightsOffload:
    return WeightsOffload(
        bytes_per_device=option.shape.weights_on_host_bytes, num_devices=option.num_devices
    )


def document(
    answers: tuple[Offloading, ...], asked: OffloadQuestion, prices: dict[str, float]
) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "accelerator": one.without.accelerator.name,
            "fitsOnlySo": one.fits_only_so,
            "without": _side(one.without, asked, prices),
            "with": None if one.with_weights is None else _side(one.with_weights, asked, prices),
        }
        for one in answers
    ]


def _side(
    found: Option | NoOption, asked: OffloadQuestion, prices: dict[str, float]
) -> dict[str, Any]:
    if isinstance(found, NoOption):
        return {"fits": False, "reason": found.reason}
    rate, offload = found.throughput, _offload(found)
    link = asked.link or host_link_of(found.accelerator)
    return {
        "fits": True,
        "devices": found.num_devices,
        "precision": found.precision,
        "weightsOnHostGiB": found.shape.weights_on_host_bytes / GIB,
        "hostBytes": offload.host_bytes,
        "readSeconds": None if link is None else offload.read_seconds(link),
        "users": found.num_users,
        "kvCapacityTokens": found.kv_capacity_tokens,
        "stepSeconds": None if rate is None else rate.step_seconds,
        "ttftSeconds": None if rate is None else rate.ttft_seconds,
        "tokensPerSecond": None if rate is None else rate.tokens_per_second,
        "costPerMillionTokens": cost_per_million(found, prices),
    }
