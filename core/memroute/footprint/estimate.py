"""A number of bytes that is not known to the byte: what is expected, and how far off it may be."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes between ``low`` and ``high``, most likely ``expected``."""

    low: int
    expected: int
    high: int

    def __post_init__(self) -> None:
        """Raise ``ValueError`` unless 0 <= low <= expected <= high: a bug, not an input."""
        if not 0 <= self.low <= self.expected <= self.high:
            msg = f"not a range of bytes: {self.low}, {self.expected}, {self.high}"
            raise ValueError(msg)

    @classmethod
    def exactly(cls, num_bytes: int) -> "Estimate":
        """Bytes that are known."""
        return cls(low=num_bytes, expected=num_bytes, high=num_bytes)

    def __add__(self, other: "Estimate") -> "Estimate":
        """The sum, end by end: errors are taken to go the same way."""
        return Estimate(
            low=self.low + other.low,
            expected=self.expected + other.expected,
            high=self.high + other.high,
        )
