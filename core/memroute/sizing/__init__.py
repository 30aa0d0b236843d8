"""Which accelerators, how many, at which precision? What a person asks before deploying."""

from memroute.sizing.options import (
    NoOption,
    Option,
    Question,
    answer,
    options_for,
)

__all__ = ["NoOption", "Option", "Question", "answer", "options_for"]
