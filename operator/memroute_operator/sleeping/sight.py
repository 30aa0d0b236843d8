"""What the keeper has seen of an engine that is not awake, for the next step to go by."""

from dataclasses import dataclass

from memroute_operator.sleeping.mark import SleepMark


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSight:
    """One engine, as it answered last."""

    mark: SleepMark
    """What was written on its pod when it was asked: another mark is another question."""
    is_sleeping: bool | None = None
    """What it says itself; None where it has not said."""
    is_told: bool = False
    """Whether it has been told to fall asleep: then it finishes that before it wakes."""
    refuses: bool = False
    """Whether it does not fall asleep though it was told to."""
    trouble: str | None = None
    """What is in the way, as a sentence."""
    why: str | None = None
    """The same without what is done about it; None where nothing is."""
    num_failed: int = 0
    """Wakes that have failed since this was written, one after the other."""
