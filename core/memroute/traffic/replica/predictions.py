"""Predictions of a pool, compared with what happens; far-off ones put the pool into safe mode.

Decisions rest on four predictions. Each is compared with the truth when that shows:

| prediction | predicted | truth |
| --- | --- | --- |
| ``ttft`` | wait and prefill, as it was chosen | when a streamed answer's first token comes |
| ``tpot`` | the replica's tick | time per token of a streamed answer that has ended |
| ``kv`` | tokens held, as the ledger has it | the next reading |
| ``prompt`` | the prompt's tokens, estimated | ``usage.prompt_tokens`` |

A prediction is **off** while its mean error (of the logarithm, older samples fading) is above
threefold, either way. When one has been off for ten seconds the pool is in **safe mode**: it routes
by least request within memory and holds no request for time. Safe mode ends when every prediction
has been within twofold for ten seconds. To ignore differences that nobody would notice, a constant
is added to both sides (``_…_SLACK_…``).
"""

import math
from bisect import bisect_left
from enum import StrEnum
from typing import Final

# Mean error, either way, beyond which a prediction is off.
# Unit: ratio. Source: chosen by hand.
OFF_RATIO: Final = 3.0
# Mean error, either way, within which a prediction that was off is right again.
# Unit: ratio. Source: chosen by hand.
RIGHT_RATIO: Final = 2.0
# Time that a prediction has to be off, or right, for the mode to change.
# Unit: seconds. Source: chosen by hand.
PATIENCE_SECONDS: Final = 10.0
# Weight that a sample keeps with each later one: half after seven others.
# Unit: ratio. Source: chosen by hand.
FORGET_RATIO: Final = 0.9
# Samples whose mean says something.
# Unit: samples. Source: chosen by hand.
MIN_SAMPLES: Final = 10
# Time without a sample after which a prediction is not off: what was believed then is of no use.
# Unit: seconds. Source: chosen by hand.
FORGOTTEN_SECONDS: Final = 30.0
# Bounds of the histograms: truth over prediction.
RATIO_BUCKETS: Final[tuple[float, ...]] = (
    0.1,
    0.2,
    0.33,
    0.5,
    0.67,
    0.8,
    0.9,
    1.0,
    1.1,
    1.25,
    1.5,
    2.0,
    3.0,
    5.0,
    10.0,
)


class Prediction(StrEnum):
    """What is predicted; the value is a metric label."""

    TTFT = "ttft"
    TPOT = "tpot"
    KV = "kv"
    PROMPT = "prompt"


# Time added to both sides of a time to the first token: a step or two of an engine.
# Unit: seconds. Source: chosen by hand.
_TTFT_SLACK_SECONDS: Final = 0.1
# Time added to both sides of a time per token.
# Unit: seconds. Source: chosen by hand.
_TPOT_SLACK_SECONDS: Final = 0.002
# Share of the KV cache added to both sides of the tokens that it holds.
# Unit: ratio of the KV cache. Source: chosen by hand.
_KV_SLACK_RATIO: Final = 0.05
# Tokens added to both sides of a prompt's: a short prompt.
# Unit: tokens. Source: chosen by hand.
_PROMPT_SLACK_TOKENS: Final = 64.0


class _Error:
    """One prediction's error. Owns its sums."""

    __slots__ = ("_log_sum", "_weight", "counts", "num_samples", "off_since", "right_since",
                 "sampled_at", "total")  # fmt: skip

    def __init__(self) -> None:
        self._log_sum = self._weight = 0.0
        self.num_samples = 0
        self.counts = [0] * (len(RATIO_BUCKETS) + 1)
        self.total = 0.0
        self.off_since = self.right_since = -1.0
        self.sampled_at = -math.inf

    @property
    def ratio(self) -> float:
        """Truth over prediction: the exponential of the mean logarithm."""
        return math.exp(self._log_sum / self._weight) if self._weight > 0.0 else 1.0

    def observe(self, ratio: float, now_seconds: float) -> None:
        """Count one sample: truth over prediction."""
        if now_seconds - self.sampled_at > FORGOTTEN_SECONDS:
            self._log_sum = self._weight = 0.0
            self.num_samples = 0
            self.off_since = self.right_since = -1.0
        self.sampled_at = now_seconds
        self._log_sum = self._log_sum * FORGET_RATIO + math.log(ratio)
        self._weight = self._weight * FORGET_RATIO + 1.0
        self.num_samples += 1
        self.counts[bisect_left(RATIO_BUCKETS, ratio)] += 1
        self.total += ratio
        mean = self.ratio
        is_known = self.num_samples >= MIN_SAMPLES
        is_off = is_known and not 1.0 / OFF_RATIO <= mean <= OFF_RATIO
        is_right = 1.0 / RIGHT_RATIO <= mean <= RIGHT_RATIO
        self.off_since = _since(self.off_since, now_seconds, holds=is_off)
        self.right_since = _since(self.right_since, now_seconds, holds=is_right)

    def is_off(self, now_seconds: float) -> bool:
        """Whether the prediction has been off for ``PATIENCE_SECONDS``, and still is."""
        since = self.off_since
        if since < 0 or now_seconds - self.sampled_at > FORGOTTEN_SECONDS:
            return False
        return now_seconds - since >= PATIENCE_SECONDS

    def is_right(self, now_seconds: float) -> bool:
        """Whether it has been right for ``PATIENCE_SECONDS``, or has no recent sample."""
        if now_seconds - self.sampled_at > FORGOTTEN_SECONDS:
            return True
        return self.right_since >= 0 and now_seconds - self.right_since >= PATIENCE_SECONDS


def _since(since: float, now_seconds: float, *, holds: bool) -> float:
    if not holds:
        return -1.0
    return since if since >= 0 else now_seconds


class Predictions:
    """Owns the errors of one pool's predictions, and whether it is in safe mode."""

    __slots__ = ("_errors", "_kv", "_prompt", "_tpot", "_ttft", "distrusted")

    def __init__(self) -> None:
        self._ttft, self._tpot, self._kv, self._prompt = _Error(), _Error(), _Error(), _Error()
        self._errors = {
            Prediction.TTFT: self._ttft,
            Prediction.TPOT: self._tpot,
            Prediction.KV: self._kv,
            Prediction.PROMPT: self._prompt,
        }
        self.distrusted: Prediction | None = None
        """The prediction that has put the pool into safe mode; None: not in safe mode."""

    @property
    def message(self) -> str:
        """Why the pool is in safe mode, with numbers; empty when it is not in it."""
        which = self.distrusted
        if which is None:
            return ""
        ratio = self._errors[which].ratio
        times = f"{ratio:.1f} times" if ratio >= 1.0 else f"one {1.0 / ratio:.1f}th of"
        return f"{which.value} is {times} what was predicted"

    def first_token(self, *, expected: float, actual: float, now_seconds: float) -> None:
        """Compare seconds until a first token."""
        slack = _TTFT_SLACK_SECONDS
        self._ttft.observe((actual + slack) / (expected + slack), now_seconds)

    def token(self, *, expected: float, actual: float, now_seconds: float) -> None:
        """Compare seconds per output token of one answer."""
        slack = _TPOT_SLACK_SECONDS
        self._tpot.observe((actual + slack) / (expected + slack), now_seconds)

    def kv_cache(self, *, expected: int, actual: int, capacity: int, now_seconds: float) -> None:
        """Compare tokens held in a KV cache of ``capacity`` tokens."""
        slack = max(1.0, _KV_SLACK_RATIO * capacity)
        self._kv.observe((actual + slack) / (max(0, expected) + slack), now_seconds)

    def prompt(self, *, expected: int, actual: int, now_seconds: float) -> None:
        """Compare tokens of one prompt."""
        slack = _PROMPT_SLACK_TOKENS
        self._prompt.observe((actual + slack) / (expected + slack), now_seconds)

    def judge(self, *, now_seconds: float) -> bool:
        """Enter or leave safe mode where that is due; True when the mode has changed."""
        before = self.distrusted
        if before is None:
            for which, error in self._errors.items():
                if error.is_off(now_seconds):
                    self.distrusted = which
                    break
        elif all(error.is_right(now_seconds) for error in self._errors.values()):
            self.distrusted = None
        return self.distrusted is not before

    def histogram(self, which: Prediction) -> tuple[list[int], float]:
        """Counts by ``RATIO_BUCKETS`` and above, and the sum of the ratios."""
        error = self._errors[which]
        return error.counts, error.total
