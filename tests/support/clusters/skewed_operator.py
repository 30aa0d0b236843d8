"""``skewed_operator.py SECONDS FLAGS``: the operator, with a wall clock that is off by so much.

The monotonic clocks are left alone: those of two machines differ anyway.
"""

import datetime as dt
import sys
import time

OFFSET_SECONDS = float(sys.argv.pop(1))
_real_time = time.time


class SkewedDatetime(dt.datetime):
    """A ``datetime`` whose ``now`` is off."""

    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(_real_time() + OFFSET_SECONDS, tz)


time.time = lambda: _real_time() + OFFSET_SECONDS
dt.datetime = SkewedDatetime

from memroute_operator.__main__ import main  # noqa: E402 - after the clock has been set

main()
