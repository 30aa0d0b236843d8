"""Quantiles of answer lengths in tokens, learned from answers that have ended.

A client says at most how long its answer may be, never how long it will be. Answers of one tenant
to prompts of one size under one limit resemble each other. So lengths are counted by (tenant,
prompt bucket, limit bucket), in bins of an eighth of an octave. With too few answers in a group,
all answers of the model count; with too few of those the length is unknown (None). Counts are
halved as they grow, so that old traffic is forgotten. Groups are bounded, and a tenant that makes
many pushes out its own: what is learned of the others stays.
"""

import math
from collections import OrderedDict
from typing import Final

# Bins of the histogram of lengths for each factor of two: lengths are known within 9 %.
# Unit: bins. Source: chosen by hand.
BINS_PER_OCTAVE: Final = 8
# Bins in all: lengths up to a million tokens.
# Unit: bins. Source: 20 octaves; longer than any context.
NUM_BINS: Final = 20 * BINS_PER_OCTAVE
# Answers that make a quantile; with fewer, all answers of the model are asked, then nobody.
# Unit: answers. Source: chosen by hand.
MIN_ANSWERS: Final = 20
# Count at which all counts are halved, so that old traffic is forgotten: some minutes of usual
# traffic.
# Unit: answers. Source: chosen by hand.
MAX_ANSWERS: Final = 1000
# Answers after which a quantile of all of them is worked out anew: every request asks for it.
# Unit: answers. Source: a bound of the work, chosen by hand.
TELL_ANEW_ANSWERS: Final = 8
# Groups of answers (by tenant, size and limit) that are remembered. Beyond, the tenant with most
# groups forgets the one that it used longest ago.
# Unit: groups. Source: a bound of memory, chosen by hand.
MAX_GROUPS: Final = 1000
# Found once: to look for it in its module costs as much as the call.
_log2: Final = math.log2


class _Histogram:
    """Owns decaying counts of lengths."""

    __slots__ = ("_end", "_told", "counts", "total")

    def __init__(self) -> None:
        self.counts = [0.0] * NUM_BINS
        self.total = 0.0
        self._end = 0
        """Bins from here on have never counted an answer."""
        self._told: dict[float, float] = {}

    def add(self, index: int) -> None:
        """Count one answer, in its bin."""
        if self._told and int(self.total) % TELL_ANEW_ANSWERS == 0:
            self._told.clear()
        self.counts[index] += 1.0
        if index >= self._end:
            self._end = index + 1
        self.total += 1.0
        if self.total >= MAX_ANSWERS:
            self.counts = [count / 2 for count in self.counts]
            self.total /= 2

    def quantile(self, ratio: float, after_tokens: int) -> float | None:
        """The length that ``ratio`` of the answers longer than ``after_tokens`` stay under."""
        if after_tokens > 0:
            return self._worked_out(ratio, after_tokens)
        told = self._told.get(ratio)
        if told is None:
            told = self._worked_out(ratio, 0)
            if told is not None:
                self._told[ratio] = told
        return told

    def _worked_out(self, ratio: float, after_tokens: int) -> float | None:
        first = 0 if after_tokens <= 0 else _bin(after_tokens) + 1
        counts, end = self.counts, self._end
        total = self.total if first == 0 else sum(counts[first:end], start=0.0)
        if total < 1.0:
            return None
        wanted = ratio * total
        for index in range(first, end):
            wanted -= counts[index]
            if wanted <= 0 and counts[index] > 0:
                return float(2.0 ** ((index + 0.5) / BINS_PER_OCTAVE))
        return None


class OutputLengths:
    """Owns the counts of one model's answers; the same calls give the same quantiles."""

    def __init__(self) -> None:
        self._all = _Histogram()
        self._tenants: dict[str, OrderedDict[tuple[int, int], _Histogram]] = {}
        """Groups of each tenant, the one used longest ago first."""
        self._num_groups = 0

    def observe(
        self,
        num_tokens: int,
        *,
        tenant: str,
        num_prompt_tokens: int,
        max_output_tokens: int | None,
    ) -> None:
        """An answer of ``num_tokens`` has ended by itself or by its limit."""
        if num_tokens <= 0:
            return
        index = _bin(num_tokens)
        self._all.add(index)
        groups = self._tenants.get(tenant)
        if groups is None:
            groups = self._tenants[tenant] = OrderedDict()
        key = _group(num_prompt_tokens, max_output_tokens)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Histogram()
            self._num_groups += 1
            if self._num_groups > MAX_GROUPS:
                self._forget_one()
        else:
            groups.move_to_end(key)
        group.add(index)

    def quantile(
        self,
        ratio: float,
        *,
        tenant: str,
        num_prompt_tokens: int,
        max_output_tokens: int | None,
        after_tokens: int = 0,
    ) -> int | None:
        """The length in tokens that ``ratio`` (0 to 1) of comparable answers stay under.

        ``after_tokens``: only answers longer than that count. At most ``max_output_tokens``; None
        when too few answers have ended.
        """
        groups = self._tenants.get(tenant)
        group = None
        if groups is not None:
            group = groups.get(_group(num_prompt_tokens, max_output_tokens))
        told = None
        if group is not None and group.total >= MIN_ANSWERS:
            told = group.quantile(ratio, after_tokens)
        if told is None and self._all.total >= MIN_ANSWERS:
            told = self._all.quantile(ratio, after_tokens)
        if told is None:
            return None
        length = max(1, int(told + 0.5))
        return length if max_output_tokens is None else min(length, max_output_tokens)

    @property
    def num_groups(self) -> int:
        """Groups that have counts of their own."""
        return self._num_groups

    def _forget_one(self) -> None:
        """Of the tenant that has most groups; of several, the one that came first."""
        tenant = max(self._tenants, key=lambda name: len(self._tenants[name]))
        groups = self._tenants[tenant]
        groups.popitem(last=False)
        self._num_groups -= 1
        if not groups:
            del self._tenants[tenant]


def _bin(num_tokens: int) -> int:
    if num_tokens <= 1:
        return 0
    return min(NUM_BINS - 1, int(_log2(num_tokens) * BINS_PER_OCTAVE))


def _group(num_prompt_tokens: int, max_output_tokens: int | None) -> tuple[int, int]:
    """Prompts by factors of four, limits by factors of two; -1 for no limit."""
    limit = -1 if max_output_tokens is None else max_output_tokens.bit_length()
    return num_prompt_tokens.bit_length() // 2, limit
