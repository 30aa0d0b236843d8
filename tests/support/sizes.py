"""How much a test tries: a part of it in ``make check`` and ``make slow``, all in ``make test``.

``make test`` sets ``MEMROUTE_FULL_SIZES``. The part is large enough to find what the test is for.
"""

import os

IS_FULL = bool(os.environ.get("MEMROUTE_FULL_SIZES"))
# Of each property, new random ones, where `make explore` asks for them; else 0.
EXPLORES = int(os.environ.get("MEMROUTE_EXPLORE") or 0)


def size(part, full):
    """The part, or all of it under ``make test``."""
    return full if IS_FULL else part


def tries(part, full=None):
    """Examples for Hypothesis: as ``size`` says, or as many as ``make explore`` wants."""
    return EXPLORES or size(part, full or part)


def examples():
    """Of odd objects and pages, for Hypothesis: ``make odd-objects`` tries 10,000 of each."""
    return int(os.environ.get("MEMROUTE_FUZZ_EXAMPLES") or tries(60, 200))
