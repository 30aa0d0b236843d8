"""Each pool's traffic through the router's own parser and what it learns, against true counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from bench.sizing.corpus import Case
from memroute.traffic.lengths import PromptLengths
from memroute.traffic.prefixes import CachedPrompts
from memroute.traffic.replica import ReplicaLedger
from memroute_router.requests import MediaFamily, ParsedRequest, media_family
from memroute_router.surface import ROUTES

TAUGHT_SHARE = 1 / 3
# Of a pool's traffic, from which it has learned before it is judged.
MIN_CACHED_TOKENS = 256
# Below, one block more or less is most of it, and matters to nobody.


@dataclass(frozen=True, slots=True)
class TrueCount:
    """What a real tokenizer says of one case."""

    case: int
    prompt_tokens: int
    cached_tokens: int | None
    """Of its prompt, what an engine would have cached of the one before; None: none before."""


@dataclass(frozen=True, slots=True)
class Error:
    """How far off one case was, relative to the truth."""

    kind: str
    prompt: float
    cold: float
    """The same without anything learned."""
    cached: float | None
    """Of the credit for what is cached, where that is at least a few blocks."""
    share: float | None
    """Of the share of its prompt that is cached, in points of 0 to 1: what is left to compute."""
    is_judged: bool


def estimate_errors(model: str, cases: Sequence[Case], counts: Sequence[TrueCount]) -> list[Error]:
    """Signed relative errors, in the order of the traffic. ``model``: the name it is served by."""
    prompts = PromptLengths()
    media = media_family(model)
    errors = []
    requests: dict[int | None, ParsedRequest] = {}
    for number, count in enumerate(counts):
        case = cases[count.case]
        request = ROUTES[case.path.encode()].parse(orjson.dumps(case.body), b"application/json")
        cold = request.profile(assumed_output_tokens=0, media=media).num_prompt_tokens
        profile = request.profile(assumed_output_tokens=0, prompts=prompts, media=media)
        requests[count.case] = request
        cached = share = None
        if count.cached_tokens is not None and case.after in requests:
            hits = _credit(requests[case.after], request, prompts, media)
            share = hits / profile.num_prompt_tokens - count.cached_tokens / count.prompt_tokens
            if count.cached_tokens >= MIN_CACHED_TOKENS:
                cached = hits / count.cached_tokens - 1
        errors.append(
            Error(
                kind=case.kind,
                prompt=profile.num_prompt_tokens / count.prompt_tokens - 1,
                cold=cold / count.prompt_tokens - 1,
                cached=cached,
                share=share,
                is_judged=number >= TAUGHT_SHARE * len(counts),
            )
        )
        request.teach(prompts, count.prompt_tokens)
    return errors


def _credit(
    before: ParsedRequest, request: ParsedRequest, prompts: PromptLengths, media: MediaFamily
) -> int:
    """Tokens of a prompt that the index takes a replica to have, which was sent another before."""
    index = CachedPrompts()
    ledger = ReplicaLedger("a", promised_capacity_tokens=1_000_000)
    index.sent(ledger, before.profile(assumed_output_tokens=0, prompts=prompts, media=media))
    asked = request.profile(assumed_output_tokens=0, prompts=prompts, media=media)
    return index.hits(asked).get("a", 0)


def quantile(values: Sequence[float], share: float) -> float:
    """Of absolute errors."""
    ordered = sorted(abs(value) for value in values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
