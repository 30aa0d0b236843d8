"""Which accelerators, how many, at which precision? What a person asks before deploying."""

from memroute.sizing.offloading import Offloading, offloading_on
from memroute.sizing.options import (
    NoOption,
    Option,
    Question,
    answer,
    options_for,
)

__all__ = [
    "NoOption",
    "Offloading",
    "Option",
    "Question",
    "answer",
    "offloading_on",
    "options_for",
]
