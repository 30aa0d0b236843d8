"""Quantities as Kubernetes writes them: ``1k`` slices, ``80Gi`` of memory, ``500m`` of a core."""

import re
from decimal import Decimal

_NUMBER = re.compile(r"^([+-]?)(\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(.*)$", re.ASCII | re.DOTALL)
_EXPONENT = re.compile(r"^[eE]([+-]?\d{1,2})$", re.ASCII)
# k8s.io/apimachinery/pkg/api/resource/suffix.go; "m" is a thousandth, "M" a million.
_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal("1e3"), "M": Decimal("1e6"), "G": Decimal("1e9"), "T": Decimal("1e12"),
    "P": Decimal("1e15"), "E": Decimal("1e18"),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
# Kubernetes itself keeps quantities below 2^63 - 1 and caps larger ones to that.
MAX_QUANTITY = 2**63 - 1


def parse_quantity(value: object) -> int | None:
    """A quantity rounded up to a whole number, as Kubernetes' ``Value()`` rounds.

    None when ``value`` is no quantity. A number of JSON is taken too: the API server prints
    text, but files that people write hold numbers.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    match = _NUMBER.match(str(value).strip())
    if match is None:
        return None
    sign, digits, suffix = match.groups()
    scale = _SUFFIXES.get(suffix)
    if scale is None:
        exponent = _EXPONENT.match(suffix)
        if exponent is None:
            return None
        scale = Decimal(10) ** int(exponent[1])
    number = Decimal(digits) * scale
    capped = min(number, Decimal(MAX_QUANTITY))
    whole = int(
        capped.to_integral_value(rounding="ROUND_FLOOR" if sign == "-" else "ROUND_CEILING")
    )
    return -whole if sign == "-" else whole


def parse_count(value: object) -> int | None:
    """A quantity that counts things: not negative. None when it is no such number."""
    number = parse_quantity(value)
    return None if number is None or number < 0 else number
