"""Numbers with their units, as a panel shows them."""

import math

from monitoring.panels import Unit

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DECIMAL = ("", "k", "M", "G")
_PER_SECOND = {Unit.PER_SECOND: " req/s", Unit.EVENTS_PER_SECOND: " /s"}


def worded(value: float, unit: str) -> str:
    """A value in three digits or so, with its unit; "-" where there is none."""
    if not math.isfinite(value):
        return "-"
    if unit in (Unit.BYTES, Unit.BYTES_PER_SECOND):
        return _scaled(value, 1024, _BINARY) + ("/s" if unit == Unit.BYTES_PER_SECOND else "")
    if unit == Unit.SECONDS:
        return _seconds(value)
    if unit == Unit.RATIO:
        return f"{value * 100:.3g} %"
    if unit == Unit.YES_NO:
        return "yes" if value else "no"
    return _scaled(value, 1000, _DECIMAL).rstrip() + _PER_SECOND.get(Unit(unit), "")


def _scaled(value: float, base: int, names: tuple[str, ...]) -> str:
    place = 0
    while abs(value) >= base and place + 1 < len(names):
        value, place = value / base, place + 1
    return f"{_short(value)} {names[place]}"


def _seconds(value: float) -> str:
    minute = 60
    if abs(value) >= 2 * minute:
        return f"{value / minute:.3g} min"
    return f"{value:.3g} s" if abs(value) >= 1 or value == 0 else f"{value * 1000:.3g} ms"


def _short(value: float) -> str:
    whole = 1000
    return f"{value:.0f}" if abs(value) >= whole else f"{value:.3g}"


def tick(span: float, unit: str) -> float:
    """The distance of the marks on an axis of this span: about four, at round numbers."""
    base = 1024 if unit in (Unit.BYTES, Unit.BYTES_PER_SECOND) else 1000
    scale = 1.0
    while span / 4 >= base * scale and scale < base**4:
        scale *= base
    wanted = span / 4 / scale
    decade = 10.0 ** math.floor(math.log10(wanted))
    return next(step * decade for step in (1, 2, 5, 10) if step * decade >= wanted) * scale
