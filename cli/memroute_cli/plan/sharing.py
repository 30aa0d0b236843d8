"""What replicas keep that share a card, told for a terminal and for a program."""

from collections.abc import Iterator, Sequence
from typing import Any

from memroute.bandwidth import CardShare, SharingMechanism, StepTime, link_of
from memroute.sizing import Option, Question
from memroute.sizing.sharing import card_shares
from memroute_cli.terminal.table import Column, Table

WORDS = {SharingMechanism.TIME_SLICES: "time slices", SharingMechanism.FRACTIONS: "fractions (MPS)"}


def shares_of(option: Option, question: Question, num_engines: int) -> tuple[CardShare, ...]:
    """For usual requests of the question; nothing for a family without formulas."""
    shape = option.shape
    if num_engines < 2 or not shape.architecture.is_exact:  # noqa: PLR2004 - one shares nothing
        return ()
    law = StepTime.of(
        shape.architecture,
        option.accelerator,
        quantization=shape.quantization,
        kv_cache_dtype=shape.kv_cache_dtype,
        parallelism=shape.parallelism,
        link=link_of(question.links.get(option.accelerator.name), option.accelerator),
        is_eager=shape.is_eager,
    )
    return card_shares(
        law,
        num_engines=num_engines,
        prompt_tokens=question.prompt_tokens,
        output_tokens=question.output_tokens,
        max_num_batched_tokens=shape.max_num_batched_tokens,
    )


def table(shares: Sequence[CardShare]) -> Table:
    """By mechanism, one column for each number of requests on the card."""
    counts = tuple(dict.fromkeys(share.requests_per_card for share in shares))
    columns = (
        Column(name="REQUESTS PER CARD"),
        *(Column(name=str(count), is_number=True) for count in counts),
    )
    return Table(columns, tuple(_rows(shares, counts)))


def _rows(shares: Sequence[CardShare], counts: Sequence[int]) -> Iterator[tuple[str, ...]]:
    by_key = {(share.mechanism, share.requests_per_card): share for share in shares}
    for mechanism in SharingMechanism:
        kept = (f"{by_key[mechanism, count].kept_ratio:.0%}" for count in counts)
        yield (f"{WORDS[mechanism]}: of one engine's", *kept)
        each = (f"{by_key[mechanism, count].engine_kept_ratio:.0%}" for count in counts)
        yield (f"{WORDS[mechanism]}: each keeps", *each)


def document(shares: Sequence[CardShare]) -> list[dict[str, Any]]:
    """The same for a program."""
    return [
        {
            "mechanism": share.mechanism.value,
            "requestsPerCard": share.requests_per_card,
            "tokensPerSecond": share.tokens_per_second,
            "keptRatio": share.kept_ratio,
            "engineKeptRatio": share.engine_kept_ratio,
        }
        for share in shares
    ]
