"""The published table of sharing, and what memroute's laws make of the same set-up.

Dynamo documentation, "Interpreting GPU Sharing Results" (8 x A100-40, Qwen3-4B, 2,048 tokens in,
256 out, no shared prefixes claimed): a pair of engines per card, by requests per card. HAMi
without core limits takes turns in time slices; fractions are MPS with half the SMs each.

**The published baseline is too good at low load.** 2,048 tokens of that model are 16 TFLOP: 51.6 ms
at the A100's peak. A median TTFT of 48.6 and 49.0 ms at 2 and 4 requests can only be prefix hits.
Against those rows the prediction's baseline has its prompts cached too; its pairs never have.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from memroute.bandwidth import (
    EngineLoad,
    SharingMechanism,
    StepTime,
    card_share,
    engine_load,
    kept_ratios,
)
from memroute.catalog import accelerator_by_name, architecture_for_model

MODEL, ACCELERATOR = "Qwen/Qwen3-4B", "A100-40"
PROMPT_TOKENS, OUTPUT_TOKENS = 2048, 256
MAX_NUM_BATCHED_TOKENS = 8192
TOLERANCE_RATIO = 0.15
# 2 x 3.63e9 weights x 2,048 tokens and attention, at 312 TFLOP/s.
PREFILL_FLOOR_SECONDS = 0.0516


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One load of the published table: tokens/s of a card."""

    requests_per_card: int
    dedicated: float
    dedicated_ttft_seconds: float
    pairs: dict[SharingMechanism, float]

    @property
    def has_prefix_hits(self) -> bool:
        """Whether its baseline answers faster than the prompt can be computed."""
        return self.dedicated_ttft_seconds < PREFILL_FLOOR_SECONDS


def _row(requests: int, dedicated: float, ttft_ms: float, hami: float, mps: float) -> Published:
    return Published(
        requests_per_card=requests, dedicated=dedicated, dedicated_ttft_seconds=ttft_ms / 1e3,
        pairs={SharingMechanism.TIME_SLICES: hami, SharingMechanism.FRACTIONS: mps},
    )  # fmt: skip


TABLE = (
    _row(2, 227.5, 48.6, 101.1, 144.4),
    _row(4, 429.1, 49.0, 193.0, 259.2),
    _row(8, 671.2, 331, 343.9, 456.1),
    _row(16, 929.2, 431, 572.0, 722.8),
    _row(32, 1141.8, 482, 831.4, 1003.4),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One load and mechanism: predicted beside published."""

    requests_per_card: int
    mechanism: str
    tokens_per_second: float
    published_tokens_per_second: float
    kept_ratio: float
    """Of a dedicated card's tokens per second, with the baseline as it was published."""
    published_kept_ratio: float
    cold_kept_ratio: float
    """Of a dedicated card that has no prefix hits either: what a user will see."""

    @property
    def tokens_error_ratio(self) -> float:
        """How far the pair's tokens per second are off."""
        return self.tokens_per_second / self.published_tokens_per_second - 1

    @property
    def kept_error_ratio(self) -> float:
        """How far the share is off."""
        return self.kept_ratio / self.published_kept_ratio - 1

    @property
    def is_off(self) -> bool:
        """Whether either is more than 15 % off."""
        errors = (self.tokens_error_ratio, self.kept_error_ratio)
        return any(abs(error) > TOLERANCE_RATIO for error in errors)


def step_time() -> StepTime:
    """Of the published model on the published card: no constant is fitted to that table."""
    accelerator = accelerator_by_name(ACCELERATOR)
    if accelerator is None:
        raise LookupError(ACCELERATOR)
    return StepTime.of(architecture_for_model(MODEL), accelerator)


def load_with(law: StepTime, num_requests: int, activity_ratio: float = 1.0) -> EngineLoad:
    """The load of one engine with so many of the published requests."""
    return engine_load(
        law, num_requests=num_requests, prompt_tokens=PROMPT_TOKENS, output_tokens=OUTPUT_TOKENS,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS, activity_ratio=activity_ratio,
    )  # fmt: skip


def rows(law: StepTime) -> Iterator[Row]:
    """Every load of the table, by mechanism."""
    for mechanism in SharingMechanism:
        for published in TABLE:
            share = card_share(
                lambda count: load_with(law, count),
                num_engines=2,
                requests_per_card=published.requests_per_card,
                mechanism=mechanism,
            )
            alone = load_with(law, published.requests_per_card)
            if published.has_prefix_hits:
                alone = replace(alone, prefill_seconds=0.0)
            yield Row(
                requests_per_card=published.requests_per_card,
                mechanism=mechanism.value,
                tokens_per_second=share.tokens_per_second,
                published_tokens_per_second=published.pairs[mechanism],
                kept_ratio=share.tokens_per_second / alone.tokens_per_second,
                published_kept_ratio=published.pairs[mechanism] / published.dedicated,
                cold_kept_ratio=share.kept_ratio,
            )


def pays_up_to(law: StepTime, mechanism: SharingMechanism, num_requests: int) -> float:
    """The share of the time that each of two equal engines may have work and lose nothing."""
    for percent in range(100, 0, -1):
        load = load_with(law, num_requests, percent / 100)
        if kept_ratios([load, load], mechanism)[0] > 0.999:  # noqa: PLR2004 - rounding
            return percent / 100
    return 0.0
