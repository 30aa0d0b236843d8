"""SGLang's, TensorRT-LLM's, TGI's, LMDeploy's and llama.cpp's ``/metrics`` to a reading.

| | KV use | KV capacity | preemptions |
| --- | --- | --- | --- |
| SGLang | ``token_usage`` | ``max_total_num_tokens`` | retracted requests |
| TensorRT-LLM | ``kv_cache_utilization`` | blocks x tokens of a block | |
| TGI | current over total tokens | ``batch_max_total_tokens`` | it never preempts |
| LMDeploy | ``gpu_cache_usage_perc`` | | |
| llama.cpp | | | it never preempts |

All utilizations are 0 to 1, whatever their names say; one above 1 is of another scale and so
unknown. What an engine does not have is None. Series of one family are of data-parallel ranks:
counts add up, the utilization is that of the fullest; what tensor- and pipeline-parallel ranks
repeat is counted once.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

from memroute.traffic.replica import ReplicaReading
from memroute_router.engines.vllm import known, mean_ratio

Report = Callable[[str], None]
_RANK = re.compile(rb'(?:dp_rank|engine)="(\d+)"')
TRTLLM_TARGET = b"/prometheus/metrics"


class Dialect:
    """The names of one engine. What it does not have is empty."""

    __slots__ = (
        "capacity", "generated", "marker", "most_running", "name", "preemptions", "prompts",
        "running", "total", "used", "utilization", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        marker: bytes,
        *,
        running: bytes,
        waiting: bytes,
        utilization: bytes = b"",
        used: bytes = b"",
        total: bytes = b"",
        capacity: tuple[bytes, ...] = (),
        preemptions: bytes = b"",
        prompts: bytes = b"",
        generated: bytes = b"",
        most_running: bytes = b"",
    ) -> None:
        self.name = name
        self.marker = marker
        """What its families begin with."""
        self.running = running
        self.waiting = waiting
        self.utilization = utilization
        self.used = used
        """Tokens in use, where there is no utilization: over ``total``."""
        self.total = total
        self.capacity = capacity
        """Families whose product it is."""
        self.preemptions = preemptions
        self.prompts = prompts
        self.generated = generated
        """Counters of prompt and of output tokens."""
        self.most_running = most_running


DIALECTS: Final = (
    Dialect(
        "sglang", b"sglang:",
        utilization=b"token_usage", capacity=(b"max_total_num_tokens",),
        running=b"num_running_reqs", waiting=b"num_queue_reqs",
        preemptions=b"num_retracted_requests_total",
        prompts=b"prompt_tokens_total", generated=b"generation_tokens_total",
    ),
    Dialect(
        "tensorrt-llm", b"trtllm_",
        utilization=b"kv_cache_utilization",
        capacity=(b"kv_cache_max_blocks", b"kv_cache_tokens_per_block"),
        running=b"num_requests_running", waiting=b"num_requests_waiting",
        most_running=b"max_num_active_requests",
    ),
    Dialect(
        "tgi", b"tgi_",
        used=b"batch_current_max_tokens", total=b"batch_max_total_tokens",
        capacity=(b"batch_max_total_tokens",),
        running=b"batch_current_size", waiting=b"queue_size",
    ),
    Dialect(
        "lmdeploy", b"lmdeploy:",
        utilization=b"gpu_cache_usage_perc",
        running=b"num_requests_running", waiting=b"num_requests_waiting",
    ),
    Dialect(
        "llama.cpp", b"llamacpp:",
        running=b"requests_processing", waiting=b"requests_deferred",
        prompts=b"prompt_tokens_total", generated=b"tokens_predicted_total",
    ),
)  # fmt: skip


def dialect_of(page: bytes) -> Dialect | None:
    """Whose page it is; None when it is nobody's that is known here."""
    for dialect in DIALECTS:
        if page.startswith(dialect.marker) or b"\n" + dialect.marker in page:
            return dialect
    return None


def is_sglang_page(page: bytes) -> bool:
    """Whether it is SGLang's, which has a snapshot beside it."""
    dialect = dialect_of(page)
    return dialect is not None and dialect.name == "sglang"


def parse_other_metrics(
    page: bytes,
    dialect: Dialect,
    *,
    taken_at_seconds: float,
    report_missing: Report | None = None,
) -> ReplicaReading:
    """The reading. Raises ``ValueError`` on a value that is none."""

    def values(family: bytes) -> list[float]:
        found = known([value for _, value in _by_rank(page, dialect.marker + family)])
        if not found and report_missing is not None:
            report_missing((dialect.marker + family).decode())
        return found

    capacity = _product([values(family) for family in dialect.capacity])
    utilization, mean, num_ranks = None, None, 1
    if dialect.utilization:
        ranks = values(dialect.utilization)
        num_ranks = max(1, len(ranks))
        utilization, mean = max(ranks, default=None), mean_ratio(ranks)
    elif dialect.used:
        used, total = _total(values(dialect.used)), _total(values(dialect.total))
        utilization = used / total if used is not None and total else None
    if utilization is not None and not 0.0 <= utilization <= 1.0:
        if report_missing is not None:
            report_missing(f"{(dialect.marker + dialect.utilization).decode()} (0 to 1)")
        utilization = mean = None
    generated = values(dialect.generated) if dialect.generated else []
    prompts = values(dialect.prompts) if dialect.prompts else []
    preemptions = _total(values(dialect.preemptions)) if dialect.preemptions else None
    most_running = None
    if dialect.most_running:
        # Older ones do not have it, and nobody misses it.
        most = known([value for _, value in _by_rank(page, dialect.marker + dialect.most_running)])
        most_running = _total(most)
    return ReplicaReading(
        taken_at_seconds=taken_at_seconds,
        kv_cache_utilization_ratio=utilization,
        kv_cache_mean_ratio=mean,
        kv_capacity_tokens=capacity,
        num_requests_running=_total(values(dialect.running)),
        num_requests_waiting=_total(values(dialect.waiting)),
        max_running=most_running,
        num_preemptions_total=preemptions,
        num_computed_tokens_total=_total([*prompts, *generated]),
        num_generated_tokens_total=_total(generated),
        num_ranks=num_ranks,
    )


def _by_rank(page: bytes, family: bytes) -> Iterator[tuple[bytes, float]]:
    """The first value of each data-parallel rank."""
    seen: set[bytes] = set()
    start = 0 if page.startswith(family) else page.find(b"\n" + family) + 1
    while start or page.startswith(family):
        end = page.find(b"\n", start)
        line = page[start : end if end >= 0 else len(page)]
        rest = line[len(family) :]
        if rest[:1] in {b"{", b" "}:
            labels, _, value = rest.rpartition(b"} ") if rest[:1] == b"{" else (b"", b"", rest[1:])
            match = _RANK.search(labels)
            rank = match[1] if match else b""
            if rank not in seen:
                seen.add(rank)
                yield rank, float(value.partition(b" ")[0])
        following = page.find(b"\n" + family, end) if end >= 0 else -1
        if following < 0:
            return
        start = following + 1


def _total(values: list[float]) -> int | None:
    return int(sum(values, start=0.0)) if values else None


def _product(factors: list[list[float]]) -> int | None:
    """Capacity of all ranks: the sum over ranks of the product of their factors."""
    if not factors or not all(factors):
        return None
    total = 0.0
    for rank in range(len(factors[0])):
        product = 1.0
        for values in factors:
            product *= values[min(rank, len(values) - 1)]
        total += product
    return int(total)
