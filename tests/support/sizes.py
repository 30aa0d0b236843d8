"""How much a test tries: a part of it in ``make check``, all of it in ``make test``.

``make test`` sets ``MEMROUTE_FULL_SIZES``. The part is large enough to find what the test is for.
"""

import os

IS_FULL = bool(os.environ.get("MEMROUTE_FULL_SIZES"))


def size(part, full):
    """The part, or all of it under ``make test``."""
    return full if IS_FULL else part


def examples():
    """Of odd objects and pages, for Hypothesis: ``make odd-objects`` tries 10,000 of each."""
    return int(os.environ.get("MEMROUTE_FUZZ_EXAMPLES") or size(100, 500))
