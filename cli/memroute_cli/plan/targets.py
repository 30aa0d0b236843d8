"""Latency targets that the planned hardware can meet.

```text
tpotTargetMilliseconds = the default, or 2 x the time per token of one request alone, rounded up
ttftTargetMilliseconds = the default, or 2 x the prefill of a usual prompt alone, rounded up
```

A target at what one request alone needs would leave no room for a second one. Twice that is a
batch whose KV reads take as long as the weights do: 26 requests of 1,152 tokens or more at once,
for each of the 159 models and accelerators of the catalogue with which the default does not do.
"""

import math
from dataclasses import dataclass

from memroute.sizing import Option
from memroute.traffic.admission import AdmissionSettings
from memroute.traffic.admission.settings import FLOOR_RATIO

# Of what a request needs alone: room for others beside it. It is the router's own floor for targets
# that are out of reach; 1.5 would leave room for half as many (13 instead of 26 where it is least).
ROOM_RATIO = FLOOR_RATIO
# What a target is rounded up to, times a power of ten: numbers that people would choose.
ROUND_NUMBERS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachableTargets:
    """Targets of ``spec.routing``, and what they follow from. Seconds."""

    tpot_alone: float
    """Per output token, with one request."""
    tpot: float
    ttft_alone: float
    """Prefill of a usual prompt on an idle replica."""
    ttft: float

    @property
    def routing(self) -> dict[str, int]:
        """The fields of ``spec.routing`` that have to differ from the defaults; often none."""
        defaults = AdmissionSettings()
        fields = {}
        if self.ttft > defaults.ttft_target_seconds:
            fields["ttftTargetMilliseconds"] = round(self.ttft * 1e3)
        if self.tpot > defaults.tpot_target_seconds:
            fields["tpotTargetMilliseconds"] = round(self.tpot * 1e3)
        return fields

    def sentences(self, subject: str) -> list[str]:
        """Why the targets are not the defaults: one sentence for each that is not.

        ``subject``: who needs that much, with its verb.
        """
        needs = {
            "ttftTargetMilliseconds": f"{self.ttft_alone:.2g} s for a usual prompt alone",
            "tpotTargetMilliseconds": f"{self.tpot_alone * 1e3:.0f} ms per token alone",
        }
        return [f"{subject} {needs[name]}: {name} {value}" for name, value in self.routing.items()]


def reachable_targets(option: Option) -> ReachableTargets | None:
    """The targets for one option; None where its speed is not known."""
    rate = option.throughput
    if rate is None:
        return None
    defaults = AdmissionSettings()
    return ReachableTargets(
        tpot_alone=rate.tpot_alone_seconds,
        tpot=max(defaults.tpot_target_seconds, rounded_up(ROOM_RATIO * rate.tpot_alone_seconds)),
        ttft_alone=rate.ttft_seconds,
        ttft=max(defaults.ttft_target_seconds, rounded_up(ROOM_RATIO * rate.ttft_seconds)),
    )


def rounded_up(seconds: float) -> float:
    """The next round number at or above ``seconds`` (> 0)."""
    power = 10.0 ** math.floor(math.log10(seconds))
    factor = next(f for f in ROUND_NUMBERS if f * power >= seconds * (1 - 1e-9))
    return float(f"{factor * power:.6g}")
