"""vLLM's ``/metrics`` (0.9 to 0.32) to a reading.

Only the lines that matter are looked at: 95 % of the page are histogram buckets. Families stay
where they are from one page to the next, so each is looked for where it was. Under data
parallelism there is one series per rank (label ``engine``): counts add up, capacities add up, the
utilization is that of the fullest rank.
"""

import re
from collections.abc import Callable, Iterator

from memroute.traffic.replica import ReplicaReading

_LABEL = re.compile(rb'(\w+)="((?:[^"\\]|\\.)*)"')
_UTILIZATION = (b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc")
# The second is the name up to 0.11. Both are 0 to 1 in spite of their name.
_RUNNING = b"vllm:num_requests_running"
_WAITING = b"vllm:num_requests_waiting"
_PREEMPTIONS = b"vllm:num_preemptions_total"
_PROMPTS = b"vllm:prompt_tokens_total"
_GENERATED = b"vllm:generation_tokens_total"
_BY_REASON = b"vllm:num_requests_waiting_by_reason"
# From 0.31 on; {reason="capacity"} wait for KV blocks or a sequence slot.
_CONFIG = b"vllm:cache_config_info"
_ADAPTERS = b"vllm:lora_requests_info"
# One series per state that there ever was; the greatest value (a time) is the present one.
FULL_TARGET = b"/metrics"
NARROW_TARGET = b"/metrics/?" + b"&".join(
    b"name[]=" + name
    for name in (
        *_UTILIZATION,
        _RUNNING,
        _WAITING,
        _BY_REASON,
        _PREEMPTIONS,
        _PROMPTS,
        _GENERATED,
        _CONFIG,
        _ADAPTERS,
    )
)
"""Those families alone: 2 KB instead of 50, and a fifth of the engine's own time for them.

The slash matters: with it prometheus_client's application answers, which knows ``name[]`` (seen on
vLLM 0.32); without it a route of vLLM's that does not.
"""
# Above any count or number of tokens: a float holds whole numbers up to here.
_MAX_VALUE = 2.0**53
_NEAR_BYTES = 2048
# Values before a family grow by digits, and series come and go: it moves by some hundred bytes.


class LineHints:
    """What the last page of one engine looked like. Owned by whoever reads that engine."""

    __slots__ = ("_offsets", "capacity_tokens", "configs")

    def __init__(self) -> None:
        self._offsets: dict[bytes, int] = {}
        self.configs: list[bytes] = []
        """The labels that its capacity was read from, which hardly ever change."""
        self.capacity_tokens: int | None = None

    def lines(self, page: bytes, family: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Labels and value of each series of the family, which stand together."""
        start = self._find(page, family)
        opening = family + b"{"
        while start is not None and page.startswith(opening, start):
            end = page.find(b"\n", start)
            end = len(page) if end < 0 else end
            labels, _, value = page[start + len(opening) : end].rpartition(b"} ")
            yield labels, value.partition(b" ")[0]
            start = end + 1

    def _find(self, page: bytes, family: bytes) -> int | None:
        """Where the first series of the family begins."""
        wanted = b"\n%b{" % family
        found = -1
        near = self._offsets.get(family)
        if near is not None:
            found = page.find(wanted, max(0, near - _NEAR_BYTES), near + _NEAR_BYTES)
        if found < 0 and page.startswith(wanted[1:]):
            return 0
        if found < 0:
            found = page.find(wanted)
        if found < 0:
            self._offsets.pop(family, None)
            return None
        self._offsets[family] = found
        return found + 1


def mean_ratio(utilizations: list[float]) -> float | None:
    """What ranks of one size hold together, 0 to 1; None where there is one."""
    return sum(utilizations) / len(utilizations) if len(utilizations) > 1 else None


def parse_vllm_metrics(
    page: bytes,
    *,
    taken_at_seconds: float,
    report_missing: Callable[[str], None] | None = None,
    hints: LineHints | None = None,
) -> ReplicaReading:
    """The reading. ``report_missing`` is called with each family that the page lacks.

    ``hints``: of earlier pages of the same engine. Raises ``ValueError`` on a value that is none.
    """
    hints = hints or LineHints()
    utilizations = ratios(
        _values(hints, page, _UTILIZATION[0]) or _values(hints, page, _UTILIZATION[1])
    )
    adapters, max_adapters = _adapters(hints, page)
    generated = _values(hints, page, _GENERATED)
    reading = ReplicaReading(
        taken_at_seconds=taken_at_seconds,
        kv_cache_utilization_ratio=max(utilizations) if utilizations else None,
        kv_cache_mean_ratio=mean_ratio(utilizations),
        kv_capacity_tokens=_capacity_of(hints, page),
        num_requests_running=_total(_values(hints, page, _RUNNING)),
        num_requests_waiting=_total(_values(hints, page, _WAITING)),
        num_waiting_for_capacity=_waiting_for_capacity(hints, page),
        num_preemptions_total=_total(_values(hints, page, _PREEMPTIONS)),
        num_computed_tokens_total=_total([*_values(hints, page, _PROMPTS), *generated]),
        num_generated_tokens_total=_total(generated),
        num_ranks=max(1, len(utilizations)),
        adapters=adapters,
        max_adapters=max_adapters,
    )
    if report_missing is not None:
        for family, found in (
            (b"/".join(_UTILIZATION), reading.kv_cache_utilization_ratio),
            (_CONFIG, reading.kv_capacity_tokens),
            (_RUNNING, reading.num_requests_running),
            (_WAITING, reading.num_requests_waiting),
        ):
            if found is None:
                report_missing(family.decode())
    return reading


def is_vllm_page(page: bytes) -> bool:
    """Whether it holds at least one of vLLM's families."""
    return b"\nvllm:" in page or page.startswith(b"vllm:")


def known(values: list[float]) -> list[float]:
    """The values; none where one of them is no number that can be (NaN, infinite, below 0).

    Raised further down, such a value would leave a ledger half read.
    """
    return values if all(0.0 <= value < _MAX_VALUE for value in values) else []


def ratios(values: list[float]) -> list[float]:
    """The same of ratios, 0 to 1."""
    return values if all(0.0 <= value <= 1.0 for value in values) else []


def _values(hints: LineHints, page: bytes, family: bytes) -> list[float]:
    return known([float(value) for _, value in hints.lines(page, family)])


def _total(values: list[float]) -> int | None:
    return int(sum(values)) if values else None


def _waiting_for_capacity(hints: LineHints, page: bytes) -> int | None:
    return _total(
        known(
            [
                float(value)
                for labels, value in hints.lines(page, _BY_REASON)
                if b'reason="capacity"' in labels
            ]
        )
    )


def _adapters(hints: LineHints, page: bytes) -> tuple[frozenset[str] | None, int | None]:
    """LoRA adapters that are used or waited for now, and how many can be at once."""
    present, latest = b"", -1.0
    for labels, value in hints.lines(page, _ADAPTERS):
        if float(value) > latest:
            present, latest = labels, float(value)
    if latest < 0:
        return None, None
    told = {name.decode(): value.decode() for name, value in _LABEL.findall(present)}
    named = f"{told.get('running_lora_adapters', '')},{told.get('waiting_lora_adapters', '')}"
    return frozenset(name for name in named.split(",") if name), _integer(told.get("max_lora"))


def _capacity_of(hints: LineHints, page: bytes) -> int | None:
    configs = [labels for labels, _ in hints.lines(page, _CONFIG)]
    if configs != hints.configs:
        hints.configs = configs
        hints.capacity_tokens = _capacity(
            [
                {name.decode(): value.decode() for name, value in _LABEL.findall(labels)}
                for labels in configs
            ]
        )
    return hints.capacity_tokens


def _capacity(configs: list[dict[str, str]]) -> int | None:
    """Tokens that requests can hold, all ranks together; the null block is not among them."""
    if not configs:
        return None
    total = 0
    for config in configs:
        block_size = _integer(config.get("block_size"))
        size = _integer(config.get("kv_cache_size_tokens"))
        if size is None:
            # Before 0.25. num_gpu_blocks is the sum over all ranks, repeated on each series.
            blocks = _integer(config.get("num_gpu_blocks"))
            if blocks is None or block_size is None:
                return None
            size = blocks // len(configs) * block_size
        total += max(0, size - (block_size or 0))
    return total


def _integer(text: str | None) -> int | None:
    # A value that the engine does not have is the text "None".
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None  # noqa: PLR2004 - 64 bits
