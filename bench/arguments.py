"""Values of the benches' flags, for argparse's ``type``."""

import argparse
import math


def whole_number(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) == 0:
        msg = f"{text!r} is not 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < math.inf:
        msg = f"{text!r} is not a number above 0"
        raise argparse.ArgumentTypeError(msg)
    return value
