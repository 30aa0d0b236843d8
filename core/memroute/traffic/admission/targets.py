"""Whether the replicas of a pool can meet its latency targets at all, with one request alone.

A target shorter than what the best replica needs for one request cannot be met by any admission. So
such a target does not stop the service (``gates.py``). It is reported once, in a sentence:

```text
tpotTargetMilliseconds   against the least time per token of any replica with one request
ttftTargetMilliseconds   against the least prefill of a typical prompt on any replica
unknown             no replica has shown its speed yet: nothing is reported
```

A faster replica shows itself by serving. The verdict is taken back then.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from memroute.traffic.admission.settings import AdmissionSettings
from memroute.traffic.replica.ledger import ReplicaLedger

# Share of the target below which a replica has to be for the verdict to be taken back: noise of a
# few per cent around the target does not flip it.
# Unit: ratio of the target. Source: chosen by hand.
TAKEN_BACK_RATIO: Final = 0.95
# Times in which prompts were waited for, before what a typical prompt takes is believed: the prior
# weighs two prompts (``PrefillLaw``).
# Unit: samples. Source: chosen by hand.
MIN_PREFILL_SAMPLES: Final = 8
# Value from which on a number in the sentence has no digit after the point.
# Unit: the sentence's own unit. Source: how numbers are written.
WHOLE: Final = 10.0
# Digits after the point in the sentence: closer times are written as equal.
# Unit: digits. Source: how numbers are written.
MAX_DIGITS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AloneLatency:
    """What the best replica of a pool needs with one request; None where unknown."""

    tpot_seconds: float | None = None
    """Per output token."""
    ttft_seconds: float | None = None
    """For the prompt of a typical request."""
    prompt_tokens: int = 0
    """Uncached tokens of that prompt; 0 where unknown."""

    @property
    def is_known(self) -> bool:
        """Whether either time is known."""
        return self.tpot_seconds is not None or self.ttft_seconds is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmetTarget:
    """Targets that no replica of the pool meets even with one request. At least one is set."""

    tpot_alone_seconds: float | None = None
    """Seconds per output token, alone; None: the target can be met, or the time is unknown."""
    tpot_target_seconds: float
    ttft_alone_seconds: float | None = None
    """Seconds for a typical prompt, alone; None: the target can be met, or the time is unknown."""
    ttft_target_seconds: float
    prompt_tokens: int = 0
    """Uncached tokens of that prompt; 0 where unknown."""

    @property
    def message(self) -> str:
        """The sentence for the log, the condition and the person who reads them."""
        parts = []
        if self.tpot_alone_seconds is not None:
            alone, asked = _both(self.tpot_alone_seconds, self.tpot_target_seconds)
            parts.append(f"{alone} per token alone, {asked} asked")
        if self.ttft_alone_seconds is not None:
            alone, asked = _both(self.ttft_alone_seconds, self.ttft_target_seconds)
            prompt = f" ({self.prompt_tokens:,} tokens)" if self.prompt_tokens else ""
            parts.append(f"{alone} for a typical prompt{prompt} alone, {asked} asked")
        return f"targets cannot be met here: {'; '.join(parts)}"


def alone_latency(replicas: Iterable[ReplicaLedger]) -> AloneLatency:
    """The least times that any replica needs alone, of the replicas that have shown theirs."""
    tpot: float | None = None
    ttft: float | None = None
    tokens = 0
    for replica in replicas:
        own = replica.alone_tpot_seconds
        if own is not None and (tpot is None or own < tpot):
            tpot = own
        speed = replica.speed
        if speed.num_samples >= MIN_PREFILL_SAMPLES:
            typical = int(speed.typical_tokens)
            seconds = speed.prefill_seconds(1, typical)
            if ttft is None or seconds < ttft:
                ttft, tokens = seconds, typical
    return AloneLatency(tpot_seconds=tpot, ttft_seconds=ttft, prompt_tokens=tokens)


def unmet_target(
    alone: AloneLatency, settings: AdmissionSettings, *, before: UnmetTarget | None = None
) -> UnmetTarget | None:
    """The targets that cannot be met; None when all can be met, or when the times are unknown.

    ``before``: the verdict so far. A target that it names stays named until it is met with room.
    """
    tpot_before = ttft_before = None
    if before is not None and before.tpot_target_seconds == settings.tpot_target_seconds:
        tpot_before = before.tpot_alone_seconds
    if before is not None and before.ttft_target_seconds == settings.ttft_target_seconds:
        ttft_before = before.ttft_alone_seconds
    tpot = _over(alone.tpot_seconds, settings.tpot_target_seconds, before=tpot_before)
    ttft = _over(alone.ttft_seconds, settings.ttft_target_seconds, before=ttft_before)
    if tpot is None and ttft is None:
        return None
    return UnmetTarget(
        tpot_alone_seconds=tpot,
        tpot_target_seconds=settings.tpot_target_seconds,
        ttft_alone_seconds=ttft,
        ttft_target_seconds=settings.ttft_target_seconds,
        prompt_tokens=alone.prompt_tokens,
    )


def _over(alone: float | None, target: float, *, before: float | None) -> float | None:
    """``alone`` where it is over the target; None where it is not, or is unknown.

    Between the target and the point at which a verdict is taken back, the number of that verdict.
    """
    if alone is None:
        return None
    if alone > target:
        return alone
    return before if alone > TAKEN_BACK_RATIO * target else None


def _both(alone: float, asked: float) -> tuple[str, str]:
    """Two times, with as many digits as tell them apart."""
    digits = 0
    while digits < MAX_DIGITS and _time(alone, digits) == _time(asked, digits):
        digits += 1
    return _time(alone, digits), _time(asked, digits)


def _time(seconds: float, digits: int) -> str:
    """``68 ms``, ``0.5 ms``, ``2.4 s``: more digits on demand."""
    value, unit = (1e3 * seconds, "ms") if seconds < 1.0 else (seconds, "s")
    return f"{value:.{digits if value >= WHOLE else digits + 1}f} {unit}"
