"""``memroute plan --host-memory``: what memory on the host buys for traffic that comes back."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from memroute.bandwidth import StepTime, Throughput, link_of
from memroute.closeness import did_you_mean
from memroute.errors import UnsupportedShapeError
from memroute.hierarchy import (
    HOST_LINKS,
    FetchOrCompute,
    HostLink,
    KVTier,
    Reuse,
    TierGain,
    host_link_of,
    kv_tier,
    lmcache_settings,
    lmcache_tier,
    tier_gain,
)
from memroute.sizing import Option, Question
from memroute.units import MIB, format_gib
from memroute_cli.plan.asked import Asked
from memroute_cli.plan.files import PlanError
from memroute_cli.terminal.host_links import read_host_link
from memroute_cli.terminal.quantities import bytes_of
from memroute_cli.terminal.table import Column, Table

# Names of the table's columns. PER 1M takes the place of TOKENS/S where there is a price.
NAMES = ("HOST MEMORY", "KEPT", "DEVICE HITS", "HOST HITS", "TTFT", "TOKENS/S")


class Backend(StrEnum):
    """What keeps KV cache on the host."""

    NATIVE = "native"
    """vLLM's own connector."""
    LMCACHE = "lmcache"
    """LMCache in the engine's process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostQuestion:
    """What was asked of the host, checked."""

    sizes: tuple[int, ...]
    """Bytes of one engine, in the order typed."""
    link: HostLink | None
    """None: the accelerator's by its data sheet."""
    num_conversations: int
    reuse_ratio: float
    backend: Backend = Backend.NATIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAnswer:
    """One size's figures. ``tier`` and ``break_even_tokens`` are None without memory."""

    size_bytes: int
    tier: KVTier | None
    gain: TierGain
    cost_per_million: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAnswers:
    """All sizes on the option that was planned."""

    link: HostLink
    question: HostQuestion
    reuse: Reuse
    break_even_tokens: int | None
    """None: up to the whole context it is faster to compute again."""
    page_bytes: int
    answers: tuple[HostAnswer, ...]


def read_host_question(asked: Asked) -> HostQuestion | None:
    """What was typed; None where nobody asked. Raises ``PlanError``."""
    if not asked.host_memory:
        if asked.conversations is not None:
            msg = "--conversations needs --host-memory, such as 64GiB,256GiB"
            raise PlanError(msg)
        if asked.backend != Backend.NATIVE:
            msg = "--backend needs --host-memory, such as 64GiB,256GiB"
            raise PlanError(msg)
        if asked.host_link is not None and asked.weights_offload is None:
            msg = "--host-link needs --host-memory, such as 64GiB,256GiB, or --weights-offload"
            raise PlanError(msg)
        return None
    sizes = tuple(_size(text) for text in asked.host_memory)
    if not 0 <= asked.reuse <= 1:
        msg = f"--reuse {asked.reuse:g}: a share of the prompt, from 0 to 1"
        raise PlanError(msg)
    if asked.conversations is not None and asked.conversations < 1:
        msg = f"--conversations must be at least 1, got {asked.conversations}"
        raise PlanError(msg)
    return HostQuestion(
        sizes=sizes,
        link=None if asked.host_link is None else _link(asked.host_link),
        num_conversations=asked.conversations or 1000,
        reuse_ratio=asked.reuse,
        backend=_backend(asked.backend),
    )


def _backend(text: str) -> Backend:
    try:
        return Backend(text.casefold())
    except ValueError:
        names = [one.value for one in Backend]
        msg = f"--backend {text}: one of {', '.join(names)}{did_you_mean(text, names)}"
        raise PlanError(msg) from None


def _size(text: str) -> int:
    size = bytes_of(text)
    if size is None or size < 1:
        msg = f"--host-memory {text}: a size such as 64GiB"
        raise PlanError(msg)
    if size < MIB:
        msg = f"--host-memory {text}: that is {size:,} bytes; 64GiB is a size with its unit"
        raise PlanError(msg)
    return size


def _link(name: str) -> HostLink:
    try:
        return read_host_link("--host-link", name)
    except ValueError as error:
        raise PlanError(str(error)) from None


def host_answers(
    host: HostQuestion, question: Question, option: Option, price_per_hour: float | None
) -> HostAnswers:
    """The figures on one option that fits. Raises ``PlanError`` where they cannot be known."""
    name, rate = option.accelerator.name, option.throughput
    link = host.link or host_link_of(option.accelerator)
    if link is None:
        links = ", ".join(one.name for one in HOST_LINKS)
        msg = (
            f"--host-memory: no data sheet says how {name} reaches its host: "
            f"name it by --host-link ({links})"
        )
        raise PlanError(msg)
    if rate is None:
        msg = "--host-memory: how fast this model computes is not known, so neither is what pays"
        raise PlanError(msg)
    reuse = Reuse(
        num_conversations=host.num_conversations,
        prompt_tokens=question.prompt_tokens,
        output_tokens=question.output_tokens,
        reuse_ratio=host.reuse_ratio,
    )
    shared = link.shared_by(option.num_devices)
    try:
        make = lmcache_tier if host.backend is Backend.LMCACHE else kv_tier
        tiers = [make(option.shape, size) for size in host.sizes]
        if host.backend is Backend.LMCACHE:
            for size in host.sizes:
                lmcache_settings(option.shape, size)
    except UnsupportedShapeError as error:
        msg = f"--host-memory: {error}"
        raise PlanError(msg) from error
    ways = _ways(question, option, tiers[0], shared)
    found = [_answer(0, None, reuse, option, rate, ways, price_per_hour)]
    for size, tier in zip(host.sizes, tiers, strict=True):
        own = replace(ways, tier=tier)
        found.append(_answer(size, tier, reuse, option, rate, own, price_per_hour))
    return HostAnswers(
        link=link,
        question=host,
        reuse=reuse,
        break_even_tokens=ways.break_even_tokens(question.max_context_tokens),
        page_bytes=tiers[0].page_bytes,
        answers=tuple(found),
    )


def _ways(question: Question, option: Option, tier: KVTier, link: HostLink) -> FetchOrCompute:
    """Priced as the option is: what joins its devices counts here too."""
    shape, accelerator = option.shape, option.accelerator
    return FetchOrCompute(
        tier=tier,
        link=link,
        step_time=StepTime.of(
            shape.architecture, accelerator, quantization=shape.quantization,
            kv_cache_dtype=shape.kv_cache_dtype, parallelism=shape.parallelism,
            link=link_of(question.links.get(accelerator.name), accelerator),
        ),
        max_num_batched_tokens=shape.max_num_batched_tokens,
    )  # fmt: skip


def _answer(
    size: int,
    tier: KVTier | None,
    reuse: Reuse,
    option: Option,
    rate: Throughput,
    ways: FetchOrCompute,
    price_per_hour: float | None,
) -> HostAnswer:
    # What comes back finds what running requests leave: half of them are under way at a time.
    sequences = max(1, rate.num_sequences // 2)
    held = sequences * (reuse.prompt_tokens + reuse.output_tokens // 2)
    gain = tier_gain(
        reuse,
        device_tokens=max(0, option.kv_capacity_tokens - held),
        host_tokens=0 if tier is None else tier.capacity_tokens,
        ways=ways,
        step_seconds=rate.step_seconds,
        num_sequences=sequences,
    )
    cost = None
    if price_per_hour is not None:
        cost = price_per_hour * option.num_devices / 3600 / gain.tokens_per_second * 1e6
    return HostAnswer(size_bytes=size, tier=tier, gain=gain, cost_per_million=cost)


def told(answers: HostAnswers, option: Option) -> Iterator[str | Table]:
    """The section for people."""
    reuse, link = answers.reuse, answers.link
    yield (
        f"\nhost memory, {reuse.num_conversations:,} conversations that come back with "
        f"{reuse.reuse_ratio:.0%} of {reuse.prompt_tokens:,} tokens known; {link.name}: "
        f"{link.read_bytes_per_second / 1e9:.0f} GB/s"
    )
    has_price = any(one.cost_per_million is not None for one in answers.answers)
    names = NAMES if not has_price else (*NAMES[:-1], "PER 1M")
    rows = tuple(_cells(one, has_price=has_price) for one in answers.answers)
    columns = tuple(Column(name=name, is_number=name != "HOST MEMORY") for name in names)
    yield Table(columns, rows)
    yield _break_even(answers, option)
    if answers.question.backend is Backend.LMCACHE:
        environment, flag = lmcache_settings(option.shape, max(answers.question.sizes))
        words = " ".join(f"{name}={value}" for name, value in environment.items())
        yield f"LMCache, each rank a part: {words} {flag}"
    yield (
        f"Rates of {link.name} may be off by {link.error_ratio:.0%} ({link.source}); "
        "TTFT is the mean without a queue; half of the sequences that fit are under way."
    )


def _cells(one: HostAnswer, *, has_price: bool) -> tuple[str, ...]:
    gain = one.gain
    rate = f"{gain.tokens_per_second:,.0f}"
    return (
        "none" if one.tier is None else format_gib(one.size_bytes),
        f"{gain.kept_conversations:,}",
        f"{gain.device_hit_ratio:.0%}",
        f"{gain.host_hit_ratio:.0%}",
        f"{gain.ttft_seconds:.2f} s",
        rate if not has_price else f"{one.cost_per_million or 0:.2f}",
    )


def _break_even(answers: HostAnswers, option: Option) -> str:
    tokens = answers.break_even_tokens
    unit = f"copies of {answers.page_bytes / 1024:,.0f} KiB"
    rate = answers.link.shared_by(option.num_devices).read_rate(answers.page_bytes) / 1e9
    if tokens is None:
        return (
            f"Fetching never beats computing again here ({unit}, {rate:.1f} GB/s per device): "
            "a host tier would slow it."
        )
    native = answers.question.backend is Backend.NATIVE
    hint = "; a larger block size makes larger copies" if native else ""
    return (
        f"Fetching beats computing from {tokens:,} tokens on ({unit}, {rate:.1f} GB/s per "
        f"device{hint})."
    )


def document(answers: HostAnswers) -> dict[str, Any]:
    """The same for programs."""
    return {
        "backend": answers.question.backend.value,
        "link": answers.link.name,
        "conversations": answers.reuse.num_conversations,
        "reuseRatio": answers.reuse.reuse_ratio,
        "breakEvenTokens": answers.break_even_tokens,
        "copyBytes": answers.page_bytes,
        "sizes": [
            {
                "hostBytes": 0 if one.tier is None else one.tier.host_bytes,
                "hostTokens": 0 if one.tier is None else one.tier.capacity_tokens,
                "keptConversations": one.gain.kept_conversations,
                "deviceHitRatio": one.gain.device_hit_ratio,
                "hostHitRatio": one.gain.host_hit_ratio,
                "ttftSeconds": one.gain.ttft_seconds,
                "tokensPerSecond": one.gain.tokens_per_second,
                "costPerMillionTokens": one.cost_per_million,
            }
            for one in answers.answers
        ],
    }
