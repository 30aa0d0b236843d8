"""Several engines on one card: what each keeps of its dedicated throughput.

An engine's step has two parts: seconds in which the card moves or computes (*occupied*), and
seconds in which it waits for the CPU or for the next kernel (*idle*). Two laws, by how the card
is shared:

* **Time slices** (the driver's own, MIG time slices, HAMi): one engine has the card at a time,
  its idle seconds included. n engines that always have work take n times as long, and 5.5 % more
  for switching.
* **Fractions** (MPS): kernels of both run side by side. The same bytes are moved by the same
  card, and the idle seconds of one hide behind the other: n engines take n times the occupied
  seconds, or their dedicated time where that is longer.

Unequal engines divide the card's time so that none that wants less than an equal share is held
up by one that wants more. An engine without work takes nothing.

Published to compare with: Dynamo's "Interpreting GPU Sharing Results" (Qwen3-4B pairs on A100-40)
and Project-HAMi/gpu-sharing-benchmarks; ``python -m bench.sharing`` prints both beside the laws.
What they leave out: the KV cache is half as large, so that requests queue for it sooner.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from memroute.bandwidth.step_time import StepTime

# Time slices: what switching between engines costs. From the published pairs at 2 to 32 requests
# per card (101.1 to 831.4 tokens/s) beside one engine's step times fitted to the same table.
SWITCHING_RATIO = 1.055


class SharingMechanism(StrEnum):
    """How engines on one card take turns."""

    TIME_SLICES = "time-slices"
    FRACTIONS = "fractions"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """One engine that serves so many requests at once, each replaced when it ends."""

    num_requests: int
    output_tokens: int
    """Of each request."""
    step_seconds: float
    """A decode step of all of them on a card of its own."""
    idle_seconds: float
    """Of that, seconds in which the card neither moves nor computes."""
    prefill_seconds: float
    """Of one prompt."""
    activity_ratio: float = 1.0
    """Share of the time in which it has work at all."""

    @property
    def request_seconds(self) -> float:
        """From a request's start to its end: its steps, and the prefills of those beside it."""
        return self.output_tokens * self.step_seconds + self.num_requests * self.prefill_seconds

    @property
    def tokens_per_second(self) -> float:
        """Output tokens per second on a card of its own."""
        tokens = self.num_requests * self.output_tokens
        return self.activity_ratio * tokens / self.request_seconds

    @property
    def occupied_ratio(self) -> float:
        """Share of the card's time in which it moves or computes for this engine, alone on it."""
        idle = self.output_tokens * self.idle_seconds
        return self.activity_ratio * (1 - idle / self.request_seconds)


def engine_load(
    step_time: StepTime,
    *,
    num_requests: int,
    prompt_tokens: int,
    output_tokens: int,
    max_num_batched_tokens: int,
    activity_ratio: float = 1.0,
) -> EngineLoad:
    """The load of an engine whose step times are known. Half of the answer is there on average."""
    context = prompt_tokens + output_tokens // 2
    return EngineLoad(
        num_requests=num_requests,
        output_tokens=output_tokens,
        step_seconds=step_time.decode_seconds(num_requests, context),
        idle_seconds=step_time.idle_seconds(num_requests),
        prefill_seconds=step_time.prefill_seconds(prompt_tokens, max_num_batched_tokens),
        activity_ratio=activity_ratio,
    )


def fair_shares(demands: Sequence[float]) -> tuple[float, ...]:
    """Of a whole, what each gets: all it wants, or an equal share of what the modest leave.

    Invariants: nobody gets more than is wanted, all together no more than 1, and 1 is used up
    where more is wanted.
    """
    shares = [0.0] * len(demands)
    left, waiting = 1.0, sorted(range(len(demands)), key=lambda index: demands[index])
    for position, index in enumerate(waiting):
        equal = left / (len(waiting) - position)
        shares[index] = min(demands[index], equal)
        left -= shares[index]
    return tuple(shares)


def kept_ratios(loads: Sequence[EngineLoad], mechanism: SharingMechanism) -> tuple[float, ...]:
    """What each engine of a card keeps of its dedicated throughput, 0 to 1."""
    if mechanism is SharingMechanism.FRACTIONS:
        demands = [load.occupied_ratio for load in loads]
    else:
        active = sum(load.activity_ratio > 0 for load in loads)
        tax = SWITCHING_RATIO if active > 1 else 1.0
        demands = [load.activity_ratio * tax for load in loads]
    return tuple(
        share / demand if demand else 1.0
        for share, demand in zip(fair_shares(demands), demands, strict=True)
    )


def shared_step_seconds(
    step_seconds: float, idle_seconds: float, num_busy: float, mechanism: SharingMechanism
) -> float:
    """A step of one of several engines that have work on a card now; the laws step by step.

    ``num_busy``: engines that have work, this one among them; a mean where that varies.
    ``idle_seconds``: of the step, those in which the card neither moves nor computes.
    """
    if num_busy <= 1:
        return step_seconds
    if mechanism is SharingMechanism.FRACTIONS:
        return max(step_seconds, num_busy * (step_seconds - min(idle_seconds, step_seconds)))
    return num_busy * SWITCHING_RATIO * step_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class CardShare:
    """A card that several equal engines share, beside the same card with one of them."""

    requests_per_card: int
    mechanism: SharingMechanism
    tokens_per_second: float
    """Of all engines together."""
    kept_ratio: float
    """Of what one engine makes of all those requests on a card of its own."""
    engine_kept_ratio: float
    """What each engine keeps of its own throughput with its part of the requests."""


def card_share(
    load_with: Callable[[int], EngineLoad],
    *,
    num_engines: int,
    requests_per_card: int,
    mechanism: SharingMechanism,
) -> CardShare:
    """What equal engines on one card make together. ``load_with``: the load of so many requests.

    Each engine has an equal part of the requests, one at least.
    """
    each = max(1, requests_per_card // num_engines)
    loads = [load_with(each)] * num_engines
    kept = kept_ratios(loads, mechanism)
    together = sum(one * load.tokens_per_second for one, load in zip(kept, loads, strict=True))
    return CardShare(
        requests_per_card=requests_per_card,
        mechanism=mechanism,
        tokens_per_second=together,
        kept_ratio=together / load_with(requests_per_card).tokens_per_second,
        engine_kept_ratio=kept[0],
    )
