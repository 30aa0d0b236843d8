"""What a pool admits by: two targets and a watermark, and every time that follows from them.

Every time that requests are given is a share of the two targets, within bounds: engines that are
ten times slower have targets that are ten times longer, and nothing else to set. Where an engine
cannot meet a target even with one request, what it does alone is the floor (``FLOOR_RATIO``).
"""

import math
from enum import StrEnum
from typing import Final

# The safety margin below the TPOT target, as a fraction of it: PACE_MARGIN_RATIO / sqrt(expected
# output tokens), at most MAX_PACE_MARGIN_RATIO. A short answer averages fewer steps, so its mean is
# noisier and needs more margin. Chosen by hand.
PACE_MARGIN_RATIO: Final = 0.35
MAX_PACE_MARGIN_RATIO: Final = 0.15
# The least time per token that pace holds a replica to, over what the replica needs alone. Batching
# is what makes an engine worth its money: at twice the time of one request it still carries most
# of what it ever does. Chosen by hand; docs/reference/figures.md has what 1.5 and 3 do.
FLOOR_RATIO: Final = 2.0
# Shares of the TTFT target: prompts that may wait at a replica; what waiting for a closed replica
# is worth; what a first token in time is worth; silence that makes a replica hang; the same on
# trial. Chosen by hand.
MAX_PREFILL_RATIO: Final = 0.25
CLOSED_RATIO: Final = 0.3
MISS_RATIO: Final = 1.0
STUCK_RATIO: Final = 5.0
TRIAL_RATIO: Final = 0.6
# Longer targets (seconds) count as these: a batch that may take an hour need not find out in five
# of them that a replica hangs.
MAX_TTFT_SECONDS: Final = 12.0
MAX_TPOT_SECONDS: Final = 1.0
# Shorter times (seconds) count as these: engines pause for a second now and then.
MIN_STUCK_SECONDS: Final = 5.0
MIN_TRIAL_SECONDS: Final = 0.3
# A replica with unanswered requests that shows nothing for so many tokens, each as slow as the
# target allows, on top of what its prompts should take, has to prove that it lives.
UNPROVEN_STEPS: Final = 10.0
# The same where streams should show every step: silent for two tokens as slow as allowed.
LEAST_SILENT_STEPS: Final = 2.0
# A prompt that takes longer than the TTFT target on an idle replica is due after so many times
# what it takes there.
OWN_PREFILL_RATIO: Final = 1.5


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
    """What a pool admits by; never changed. A plain class: it is read for every replica.

    Every time that requests are given here is a share of the targets: engines that are ten times
    slower have targets that are ten times longer, and nothing else to set.
    """

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
        """The latency that answers are meant to have: what makes a replica full in time."""
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
        self.miss_seconds = MISS_RATIO * ttft
        """What a first token in time is worth: with no time left to wait for the cheapest replica,
        a request takes another that costs less than this more. Beyond, it would take from many
        what it gains itself: a long prefix computed twice is held twice, too."""
        self.stuck_seconds = max(MIN_STUCK_SECONDS, STUCK_RATIO * ttft)
        """A replica that shows nothing for so long hangs."""
        self.trial_seconds = max(MIN_TRIAL_SECONDS, TRIAL_RATIO * ttft)
        """The same for one on trial: its request can still be in time elsewhere."""
        self.unproven_seconds = UNPROVEN_STEPS * tpot
        self.least_silent_seconds = LEAST_SILENT_STEPS * tpot

    def without_time(self) -> "AdmissionSettings":
        """The same, where nothing is held for time: what is believed of it is wrong (safe mode)."""
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
        """The same, for requests that have to leave room for others' (0 to 1 of each limit)."""
        return AdmissionSettings(
            watermark_ratio=ratio * self.watermark_ratio,
            ttft_target_seconds=self.ttft_target_seconds,
            tpot_target_seconds=ratio * self.tpot_target_seconds,
            max_prefill_seconds=ratio * self.max_prefill_seconds,
            objective=self.objective,
        )
