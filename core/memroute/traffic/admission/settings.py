"""What a pool admits by: two targets and a watermark, and the times that follow from them.

The times here are shares of the two targets, within bounds. For engines that are ten times slower,
set targets that are ten times longer. (Times elsewhere that are absolute: docs/adr/0013.) Where an
engine cannot meet a target with one request, what it does alone is the floor (``FLOOR_RATIO``).
"""

import math
from enum import StrEnum
from typing import Final

# Safety margin below the TPOT target of an answer of one token. The margin shrinks with the square
# root of the expected tokens: the mean of a short answer averages fewer steps, so it is noisier.
# Prompts that other routers send in the same moments are a part of that noise. (Of azure-code's
# answers, median 13 tokens, at 11/s in the real mix, 0.35 lets 89 % meet their target, 1.05 95 %,
# 1.4 96 %. Cases with longer answers are indifferent.)
# Unit: ratio of the target. Source: the study ``capacity``, three seeds.
PACE_MARGIN_RATIO: Final = 1.2
# Most that this margin may be.
# Unit: ratio of the target. Source: chosen by hand.
MAX_PACE_MARGIN_RATIO: Final = 0.5
# Least time per token that pace holds a replica to, over what the replica needs alone. Batching is
# what makes an engine worth its money: at twice the time of one request it carries most of what it
# ever does.
# Unit: ratio. Source: chosen by hand.
FLOOR_RATIO: Final = 2.0
# Prompts that may wait at a replica.
# Unit: ratio of the TTFT target. Source: chosen by hand.
MAX_PREFILL_RATIO: Final = 0.25
# What waiting for a closed replica is worth.
# Unit: ratio of the TTFT target. Source: chosen by hand.
CLOSED_RATIO: Final = 0.3
# Silence that makes a replica hang.
# Unit: ratio of the TTFT target. Source: chosen by hand.
STUCK_RATIO: Final = 5.0
# Silence that makes a replica on trial hang: its request can still be in time elsewhere.
# Unit: ratio of the TTFT target. Source: chosen by hand.
TRIAL_RATIO: Final = 0.6
# A prompt that takes longer than the TTFT target on an idle replica is due after this many times
# what the prompt takes there.
# Unit: ratio. Source: chosen by hand.
OWN_PREFILL_RATIO: Final = 1.5
# Longest TTFT target that times are shares of: a batch that may take an hour need not find out in
# five of them that a replica hangs.
# Unit: seconds. Source: a bound, chosen by hand.
MAX_TTFT_SECONDS: Final = 12.0
# Longest TPOT target that times are shares of, likewise.
# Unit: seconds. Source: a bound, chosen by hand.
MAX_TPOT_SECONDS: Final = 1.0
# Least silence that makes a replica hang: engines pause for a second now and then.
# Unit: seconds. Source: a bound, chosen by hand.
MIN_STUCK_SECONDS: Final = 5.0
# Least silence that makes a replica on trial hang.
# Unit: seconds. Source: a bound, chosen by hand.
MIN_TRIAL_SECONDS: Final = 0.3
# Tokens, each as slow as the target allows, that a replica with unanswered requests may show
# nothing for, on top of what its prompts should take, before it has to prove that it lives.
# Unit: tokens at the TPOT target. Source: chosen by hand.
UNPROVEN_STEPS: Final = 10.0
# The same where streams should show every step.
# Unit: tokens at the TPOT target. Source: chosen by hand.
LEAST_SILENT_STEPS: Final = 2.0


class OverloadObjective(StrEnum):
    """Who is late when not all can be in time; the value is that of ``overloadObjective``."""

    REQUESTS = "requests"
    """As many requests in time as possible: those with most work are late."""
    TOKENS = "tokens"
    """As many tokens in time as possible: those that bring few tokens for their work, then those
    with most work."""
    SIZES = "sizes"
    """The same chance for every size: the newest are late, of sizes that were served most."""


class AdmissionSettings:
    """What a pool admits by; never changed. A plain class: it is read for every replica."""

    __slots__ = (
        "closed_seconds", "least_silent_seconds", "max_prefill_seconds", "miss_seconds",
        "objective", "stuck_seconds", "tpot_target_seconds", "trial_seconds", "ttft_target_seconds",
        "unproven_seconds", "watermark_ratio",
    )  # fmt: skip

    def __init__(
        self,
        *,
        watermark_ratio: float = 0.95,
        ttft_target_seconds: float = 1.0,
        tpot_target_seconds: float = 0.05,
        max_prefill_seconds: float | None = None,
        objective: OverloadObjective = OverloadObjective.REQUESTS,
    ) -> None:
        self.objective = objective
        """Who is late when not all can be in time."""
        self.watermark_ratio = watermark_ratio
        """Projected KV use that an admission may reach, 0 to 1."""
        self.ttft_target_seconds = ttft_target_seconds
        self.tpot_target_seconds = tpot_target_seconds
        """Seconds to the first token, and per output token, that answers should have."""
        ttft = min(MAX_TTFT_SECONDS, ttft_target_seconds)
        tpot = min(MAX_TPOT_SECONDS, tpot_target_seconds)
        if max_prefill_seconds is None:
            max_prefill_seconds = MAX_PREFILL_RATIO * ttft
        self.max_prefill_seconds = max_prefill_seconds
        """Prompts that may wait at a replica: enough that its steps are full, little enough that
        what comes later and is more urgent does not wait behind them."""
        self.closed_seconds = CLOSED_RATIO * ttft
        """What waiting for a replica that is closed is worth: some prompts of some thousand tokens.
        When the one that has the prefix is busy for a moment, waiting for it is cheaper than
        computing it again elsewhere."""
        self.miss_seconds = ttft
        """What a first token in time is worth, as long as it may take: with no time left to wait
        for the cheapest replica, a request takes another that costs less than this more. Beyond, it
        would take from many what it gains itself: a long prefix computed twice is held twice,
        too."""
        self.stuck_seconds = max(MIN_STUCK_SECONDS, STUCK_RATIO * ttft)
        """Seconds without any sign, after which a replica counts as hung."""
        self.trial_seconds = max(MIN_TRIAL_SECONDS, TRIAL_RATIO * ttft)
        """The same for a replica on trial: its request can still be in time elsewhere."""
        self.unproven_seconds = UNPROVEN_STEPS * tpot
        self.least_silent_seconds = LEAST_SILENT_STEPS * tpot

    def without_time(self) -> "AdmissionSettings":
        """The same without limits on time: for safe mode, where predictions are wrong."""
        settings = AdmissionSettings(
            watermark_ratio=self.watermark_ratio,
            ttft_target_seconds=self.ttft_target_seconds,
            tpot_target_seconds=self.tpot_target_seconds,
            max_prefill_seconds=math.inf,
            objective=self.objective,
        )
        settings.tpot_target_seconds = math.inf
        return settings

    def reduced(self, ratio: float) -> "AdmissionSettings":
        """The same with ``ratio`` (0 to 1) of each limit: for a tenant over its share."""
        return AdmissionSettings(
            watermark_ratio=ratio * self.watermark_ratio,
            ttft_target_seconds=self.ttft_target_seconds,
            tpot_target_seconds=ratio * self.tpot_target_seconds,
            max_prefill_seconds=ratio * self.max_prefill_seconds,
            objective=self.objective,
        )
