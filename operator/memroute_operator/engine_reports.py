"""What engines say of their own KV pool: read once from each, when it is ready.

vLLM's ``vllm:cache_config_info`` carries its whole cache configuration as labels. With
``--data-parallel-size`` there is one series per rank, and ``num_gpu_blocks`` is the sum over all
ranks in each of them, while ``kv_cache_size_tokens`` is one rank's (vLLM 0.32.0, measured).
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from memroute_kube import KubeObject
from memroute_kube.resources import ENGINE_PORT, LABEL_DEPLOYMENT, is_condition_true
from memroute_operator.backoff import Backoff
from memroute_operator.readings.pages import PageFailure, PageReader, read_spread
from memroute_operator.readings.samples import parse_samples
from memroute_operator.readings.sources import SourceLog

CACHE_CONFIG = "vllm:cache_config_info"
# What a label of that series may say and still be believed: far beyond any engine.
MAX_BLOCKS = 10**9
MAX_BLOCK_SIZE_TOKENS = 2**20
MAX_CACHE_TOKENS = 10**12
# How long an engine that could not be read is left alone, in seconds, doubling to the longest:
# asked every 15 s, 4,000 behind a NetworkPolicy took a tenth of a core. Chosen by hand.
FIRST_WAIT_SECONDS = 15.0
MAX_WAIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What one engine says of its KV pool."""

    num_blocks: int
    """Of one data-parallel rank, the null block included."""
    utilization_ratio: float
    block_size_tokens: int | None = None
    """Tokens of one block, as the engine resolved it; None when it does not say."""
    kv_cache_size_tokens: int | None = None
    """Tokens that the pool of one rank holds; None when it does not say."""


def parse_engine_page(text: str) -> EngineReport | None:
    """The report of a vLLM metrics page; None where the engine did not size its own pool.

    None as well where the numbers cannot be: an engine without a KV cache (encoder-only models)
    writes ``num_gpu_blocks="1"`` and ``kv_cache_size_tokens="None"``.
    """
    series = [sample.labels for sample in parse_samples(text, {CACHE_CONFIG})]
    if not series:
        return None
    labels = series[0]
    if labels.get("kv_cache_memory_bytes", "None") != "None":
        return None
    if labels.get("num_gpu_blocks_override", "None") != "None":
        return None
    num_ranks = max(1, len({one.get("engine") for one in series}))
    num_blocks = _whole(labels.get("num_gpu_blocks"), 2, MAX_BLOCKS)
    ratio = _ratio(labels.get("gpu_memory_utilization"))
    if num_blocks is None or ratio is None or labels.get("is_attention_free") == "True":
        return None
    return EngineReport(
        num_blocks=max(1, num_blocks // num_ranks),
        utilization_ratio=ratio,
        block_size_tokens=_whole(labels.get("block_size"), 1, MAX_BLOCK_SIZE_TOKENS),
        kv_cache_size_tokens=_whole(labels.get("kv_cache_size_tokens"), 1, MAX_CACHE_TOKENS),
    )


def _whole(text: str | None, least: int, most: int) -> int | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > len(str(most)):
        return None
    value = int(text)
    return value if least <= value <= most else None


def _ratio(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0.0 < value <= 1.0 else None


def find_engines(pods: Iterable[KubeObject]) -> list[KubeObject]:
    """The pods that are replicas."""
    return [pod for pod in pods if LABEL_DEPLOYMENT in (pod["metadata"].get("labels") or {})]


@dataclass(slots=True)
class EngineReports:
    """Reports by the pod's uid; None for an engine that has none to give."""

    by_pod: dict[str, EngineReport | None] = field(default_factory=dict)
    log: SourceLog = field(default_factory=lambda: SourceLog("engine"))
    _failures: Backoff[str] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_WAIT_SECONDS, max_seconds=MAX_WAIT_SECONDS
        )
    )

    def unread(self, engines: Sequence[KubeObject], now_seconds: float) -> list[KubeObject]:
        """Ready engines that are to be read now. Reports of those that are gone are dropped."""
        alive = {pod["metadata"]["uid"] for pod in engines}
        self._failures.forget_old(now_seconds)
        self.by_pod = {uid: report for uid, report in self.by_pod.items() if uid in alive}
        self.log.keep(_name(pod) for pod in engines)
        return [
            pod
            for pod in engines
            if pod["metadata"]["uid"] not in self.by_pod
            and is_condition_true(pod, "Ready")
            and self._failures.waiting(pod["metadata"]["uid"], now_seconds) is None
        ]

    async def scrape(
        self,
        reader: PageReader,
        unread: Sequence[KubeObject],
        clock: Callable[[], float],
        *,
        over_seconds: float = 0.0,
    ) -> None:
        """Read those of ``unread``; one that cannot be read waits longer each time."""

        async def read(pod: KubeObject) -> None:
            page = await reader.read(pod.get("status", {}).get("podIP"), ENGINE_PORT)
            if isinstance(page, PageFailure):
                self.log.report(_name(pod), page.reason.value, page.message)
                self._failures.failed(
                    pod["metadata"]["uid"],
                    reason=page.reason.value,
                    message=page.message,
                    now_seconds=clock(),
                    chance=random.random(),  # noqa: S311 - no secret
                )
                return
            self._failures.succeeded(pod["metadata"]["uid"])
            self.log.report(_name(pod), None)
            self.by_pod[pod["metadata"]["uid"]] = parse_engine_page(page)

        await read_spread(unread, read, over_seconds=over_seconds)


def _name(pod: KubeObject) -> str:
    metadata = pod["metadata"]
    return f"{metadata.get('namespace')}/{metadata['name']}"
