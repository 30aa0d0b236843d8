"""What can be made to go wrong with a simulated engine, while it runs.

Set with ``--simulator-fault name=value`` or ``POST /simulator/faults``; ``GET`` shows them.
"""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


class FaultError(Exception):
    """No such fault, or a value that makes no sense; the message is for people."""


@dataclass(slots=True, kw_only=True)
class Faults:
    """The faults that are on. All off by default."""

    slowdown_ratio: float = 1.0
    """Steps take so many times longer (a throttled or shared GPU)."""
    is_hanging: bool = False
    """No step ends any more; requests are taken, nothing is answered."""
    error_ratio: float = 0.0
    """Share of generation requests that are refused with ``error_status``."""
    error_status: int = 500
    reset_ratio: float = 0.0
    """Share of streams whose connection is reset ..."""
    reset_after_tokens: int = 3
    """... after so many tokens."""
    is_metrics_frozen: bool = False
    """``/metrics`` repeats its last page."""
    are_metrics_failing: bool = False
    """``/metrics`` answers 500."""
    is_health_failing: bool = False
    """``/health`` answers 503."""
    is_out_of_memory: bool = False
    """The engine dies as after ``torch.OutOfMemoryError``: 500, then the process exits."""
    are_weights_missing: bool = False
    """The weights are noise, as after a sleep at level 2 without ``reload_weights``: every token
    is ``!``."""
    is_wake_failing: bool = False
    """``/wake_up`` answers 500, and the engine sleeps on."""
    rng: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    def update(self, values: Mapping[str, Any]) -> None:
        """Set some of them. Raises ``FaultError`` and changes nothing when one is wrong."""
        known = {f.name: f for f in fields(self) if f.name != "rng"}
        checked = {}
        for name, value in values.items():
            if name not in known:
                msg = f"no fault {name!r}; there are {', '.join(known)}"
                raise FaultError(msg)
            checked[name] = _converted(name, type(getattr(self, name)), value)
        for name, value in checked.items():
            setattr(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """Every fault and its value."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rng"}

    def refuses(self) -> bool:
        """Whether this request is one of those refused."""
        return self.error_ratio > 0 and self.rng.random() < self.error_ratio

    def resets(self) -> bool:
        """Whether this stream is one of those reset."""
        return self.reset_ratio > 0 and self.rng.random() < self.reset_ratio

    async def until_not_hanging(self) -> None:
        """Wait while the engine hangs."""
        while self.is_hanging:
            await asyncio.sleep(0.05)


def _converted(name: str, kind: type, value: Any) -> Any:
    if kind is bool:
        truth = {"true": True, "1": True, "false": False, "0": False}
        text = str(value).lower()
        if text not in truth:
            msg = f"{name} is true or false, not {value!r}"
            raise FaultError(msg)
        return truth[text]
    try:
        number = kind(value)
    except (TypeError, ValueError):
        msg = f"{name} is a number, not {value!r}"
        raise FaultError(msg) from None
    if number < 0 or (name.endswith("_ratio") and name != "slowdown_ratio" and number > 1):
        msg = f"{name} = {value} is out of range"
        raise FaultError(msg)
    return number
