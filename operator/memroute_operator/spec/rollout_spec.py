"""``spec.rollout``: how many replicas are changed at a time, and what becomes of a failure.

```text
maxSurge        more than ``replicas`` there may be            1, where there is room for it
maxUnavailable  fewer than ``replicas`` that may serve         0 where a surge fits, else 1
partition       replicas that keep the revision before (canary)  0
fetchAhead      weights and image come before a replica leaves   true
```

Each is a number or a percentage of ``replicas``; as for Deployments, a surge is rounded up and
what may be missing is rounded down.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from memroute_kube.shapes import mapping

# Seconds of ``progressDeadlineSeconds``, where it is not set, beside twice the time that the
# weights take from a network disk: as Kubernetes' own default for Deployments.
DEADLINE_SECONDS = 600.0
Amount = int | str


class OnFailure(StrEnum):
    """What becomes of a revision that fails; the value is in ``spec.rollout.onFailure``."""

    RETURN = "Return"
    """Its replicas are replaced by those of the last good revision."""
    HALT = "Halt"
    """Nothing more is changed: what serves goes on serving, and the failed replicas stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """``spec.rollout`` as it was written; None is what is not set."""

    max_surge: Amount | None = None
    max_unavailable: Amount | None = None
    partition: Amount = 0
    deadline_seconds: float | None = None
    on_failure: OnFailure = OnFailure.RETURN
    retry: int = 0
    """Any other number tries a revision again that has failed."""
    fetch_ahead: bool = True
    """Whether what a successor needs is brought to its node before a replica leaves for it."""

    def bounds(self, replicas: int) -> "Bounds":
        """The same in replicas, of so many."""
        surge = 1 if self.max_surge is None else _of(self.max_surge, replicas, is_rounded_up=True)
        unavailable = None
        if self.max_unavailable is not None:
            unavailable = _of(self.max_unavailable, replicas, is_rounded_up=False)
        if not surge and not unavailable:
            unavailable = 1  # else nothing could be changed
        kept = min(replicas, _of(self.partition, replicas, is_rounded_up=True))
        return Bounds(surge=surge, unavailable=unavailable, kept=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many replicas of one deployment may be what, now."""

    surge: int
    unavailable: int | None
    """None: none where a surge fits, else one."""
    kept: int
    """Replicas that keep the revision before."""


NO_ROLLOUT = RolloutSpec()


def read_rollout(spec: Mapping[str, Any]) -> RolloutSpec:
    """Of a ModelDeployment's spec. Raises ``TypeError`` for what the schema refuses."""
    said = mapping(spec.get("rollout"))
    if not said:
        return NO_ROLLOUT
    deadline = said.get("progressDeadlineSeconds")
    return RolloutSpec(
        max_surge=_amount(said.get("maxSurge")),
        max_unavailable=_amount(said.get("maxUnavailable")),
        partition=_amount(said.get("partition")) or 0,
        deadline_seconds=None if deadline is None else float(_number(deadline)),
        on_failure=OnFailure(said.get("onFailure") or OnFailure.RETURN),
        retry=_number(said.get("retry") or 0),
        fetch_ahead=said.get("fetchAhead") is not False,
    )


def _amount(value: object) -> Amount | None:
    if isinstance(value, str):
        _percent(value)
        return value
    return None if value is None else _number(value)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        message = f"a number from 0, or a percentage such as 25%, was expected, not {value!r:.80}"
        raise TypeError(message)
    return value


def _percent(text: str) -> int:
    digits = text.removesuffix("%")
    if digits == text or not (digits.isascii() and digits.isdigit()):
        message = f"a percentage such as 25% was expected, not {text!r:.80}"
        raise TypeError(message)
    return int(digits)


def _of(amount: Amount, replicas: int, *, is_rounded_up: bool) -> int:
    if isinstance(amount, int):
        return amount
    hundredths = _percent(amount) * replicas
    return -(-hundredths // 100) if is_rounded_up else hundredths // 100
