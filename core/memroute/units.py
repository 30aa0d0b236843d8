"""Bytes, and how people read them. All sizes in memroute are integers of bytes."""

MIB = 1024**2
GIB = 1024**3


def format_gib(num_bytes: int) -> str:
    """``num_bytes`` in GiB with one decimal: ``41.3 GiB``.

    One decimal is 0.05 GiB of rounding: under the uncertainty of any footprint we compute.
    """
    return f"{num_bytes / GIB:.1f} GiB"


def ceil_div(numerator: int, denominator: int) -> int:
    """The smallest integer that is at least ``numerator / denominator``."""
    return -(-numerator // denominator)
