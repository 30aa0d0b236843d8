"""vLLM 0.32's metric families: names, labels, buckets and when they move.

As ``v1/metrics/loggers.py`` has them; ``tests/unit/test_engine_metrics.py`` compares the page
with a scrape of a real server. Gauges and counters of the engine move with every step, those of
a request when it ends. Owns its registry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    Summary,
)

from memroute.units import GIB
from memroute_simulator.engine.metrics.host_tier import HostTierMetrics
from memroute_simulator.engine.model import Scheduler, StepPlan, StepResult
from memroute_simulator.engine.spec import EngineSpec

_LABELS = ("model_name", "engine")
_TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_ITL_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)  # fmt: skip
_LATENCY_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_ITERATION_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_N_BUCKETS = (1, 2, 5, 10, 20)
_PREEMPTION_BUCKETS = (1, 2, 3, 4, 5, 10, 20)
_HTTP_BUCKETS = (0.1, 0.5, 1.0)
_HTTP_FINE_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5,
    5.0, 7.5, 10.0, 30.0, 60.0,
)  # fmt: skip
_SLEEP_BUCKETS = (0.01, 0.1, 1.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
SLEEP_STATES = ("awake", "weights_offloaded", "discard_all")
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
REJECTION_REASONS = ("max_num_queued_reqs", "max_num_queued_tokens")
_PROMPT_SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
_CACHE_TIERS = ("device", "host", "p2p", "disk", "external_unspecified")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimes:
    """When what happened to a request, in seconds of one clock."""

    arrived: float
    queued: float
    scheduled: float
    first_token: float
    last_token: float


def token_buckets(max_tokens: int) -> tuple[int, ...]:
    """1, 2, 5, 10, … up to the context, as vLLM's ``build_1_2_5_buckets``."""
    buckets: list[int] = []
    scale = 1
    while True:
        for factor in (1, 2, 5):
            if factor * scale > max_tokens:
                return tuple(buckets)
            buckets.append(factor * scale)
        scale *= 10


class _RankMetrics:
    """The series of one data-parallel rank."""

    def __init__(self, families: "EngineMetrics", rank: int) -> None:
        labels = {"model_name": families.model_name, "engine": str(rank)}
        self._seen_hits = 0
        self._seen_queries = 0
        self._seen_host_hits = 0
        self._seen_host_queries = 0

        def of(name: str) -> Any:
            return families.family(name).labels(**labels)

        def each(name: str, label: str, values: Sequence[str]) -> dict[str, Any]:
            return {v: families.family(name).labels(**labels, **{label: v}) for v in values}

        self.running, self.waiting = of("num_requests_running"), of("num_requests_waiting")
        self.usage = of("kv_cache_usage_perc")
        self.by_reason = each("num_requests_waiting_by_reason", "reason", ("capacity", "deferred"))
        self.sleep = each("engine_sleep_state", "sleep_state", SLEEP_STATES)
        self.success = each("request_success", "finished_reason", FINISH_REASONS)
        self.by_source = each("prompt_tokens_by_source", "source", _PROMPT_SOURCES)
        self.by_tier = each("prompt_tokens_cached_by_source", "source", _CACHE_TIERS)
        self.queries, self.hits = of("prefix_cache_queries"), of("prefix_cache_hits")
        self.host_queries = of("external_prefix_cache_queries")
        self.host_hits = of("external_prefix_cache_hits")
        self.preemptions = of("num_preemptions")
        self.prompt_tokens, self.cached = of("prompt_tokens"), of("prompt_tokens_cached")
        self.generation_tokens = of("generation_tokens")
        self.iteration = of("iteration_tokens_total")
        self.ttft, self.itl = of("time_to_first_token_seconds"), of("inter_token_latency_seconds")
        self.tpot = of("request_time_per_output_token_seconds")
        self.e2e, self.queue = of("e2e_request_latency_seconds"), of("request_queue_time_seconds")
        self.inference = of("request_inference_time_seconds")
        self.prefill, self.decode = (
            of("request_prefill_time_seconds"), of("request_decode_time_seconds")
        )  # fmt: skip
        self.request_prompt = of("request_prompt_tokens")
        self.request_generation = of("request_generation_tokens")
        self.max_generation = of("request_max_num_generation_tokens")
        self.params_n, self.params_max = of("request_params_n"), of("request_params_max_tokens")
        self.request_preemptions = of("request_num_preemptions")
        self.computed = of("request_prefill_kv_computed_tokens")
        for name in (
            "mm_cache_queries", "mm_cache_hits", "estimated_flops_per_gpu",
            "estimated_read_bytes_per_gpu", "estimated_write_bytes_per_gpu",
        ):  # fmt: skip
            of(name)
        self.sleep["awake"].set(1)

    def on_step(self, scheduler: Scheduler, plan: StepPlan, result: StepResult) -> None:
        """A step has ended."""
        counts = scheduler.counts
        self.preemptions.inc(len(plan.preempted))
        self.generation_tokens.inc(result.num_emitted)
        self.iteration.observe(result.num_prefilled_tokens + plan.num_decodes)
        self.hits.inc(counts.prefix_hit_tokens - self._seen_hits)
        self.queries.inc(counts.prefix_query_tokens - self._seen_queries)
        self._seen_hits, self._seen_queries = counts.prefix_hit_tokens, counts.prefix_query_tokens
        self.host_queries.inc(counts.host_query_tokens - self._seen_host_queries)
        self.host_hits.inc(counts.host_hit_tokens - self._seen_host_hits)
        self._seen_host_queries = counts.host_query_tokens
        self._seen_host_hits = counts.host_hit_tokens

    def set_gauges(self, scheduler: Scheduler, num_inbox: int) -> None:
        """What the engine is at now."""
        waiting = scheduler.num_waiting + num_inbox
        self.running.set(scheduler.num_running)
        self.waiting.set(waiting)
        self.by_reason["capacity"].set(waiting - scheduler.num_deferred)
        self.by_reason["deferred"].set(scheduler.num_deferred)
        self.usage.set(scheduler.cache.utilization_ratio)


class EngineMetrics:
    """All families of one API server. ``ranks`` hold the series of its engines."""

    def __init__(
        self,
        spec: EngineSpec,
        schedulers: Sequence[Scheduler],
        *,
        model_name: str,
        utilization_ratio: float,
        kv_cache_memory_bytes: int | None,
        shows_host_size: bool = True,
    ) -> None:
        """``shows_host_size``: whether the host's tier was asked for by the flag that is shown."""
        self.model_name = model_name
        self.registry = CollectorRegistry()
        self._families: dict[str, Any] = {}
        GCCollector(self.registry)
        PlatformCollector(self.registry)
        ProcessCollector(registry=self.registry)
        self._make_families(spec)
        self.ranks = [_RankMetrics(self, rank) for rank in range(len(schedulers))]
        self.rejections = {
            reason: self.family("admission_rejections").labels(model_name=model_name, reason=reason)
            for reason in REJECTION_REASONS
        }
        self._cache_config(
            spec, schedulers, utilization_ratio, kv_cache_memory_bytes, shows_host_size
        )
        tiers = [scheduler.host for scheduler in schedulers if scheduler.host is not None]
        self.host: HostTierMetrics | None = None
        if tiers:
            parallelism = spec.parallelism
            ranks = parallelism.tensor_parallel_size * parallelism.pipeline_parallel_size
            self.host = HostTierMetrics(self.registry, model_name, tiers, ranks)
        self._make_http_families()

    def family(self, name: str) -> Any:
        """A family by its name without ``vllm:``."""
        return self._families[name]

    def on_first_token(
        self, rank: int, ttft_seconds: float, prompt: int, cached: int, host_cached: int = 0
    ) -> None:
        """A request has produced its first token; ``host_cached`` of ``cached`` were fetched."""
        series = self.ranks[rank]
        series.ttft.observe(ttft_seconds)
        series.prompt_tokens.inc(prompt)
        series.cached.inc(cached)
        series.by_source["local_compute"].inc(prompt - cached)
        series.by_source["local_cache_hit"].inc(cached - host_cached)
        series.by_source["external_kv_transfer"].inc(host_cached)
        series.by_tier["device"].inc(cached - host_cached)
        series.by_tier["host"].inc(host_cached)

    def on_finished(
        self,
        rank: int,
        reason: str,
        times: RequestTimes | None,
        *,
        num_prompt_tokens: int,
        num_hit_tokens: int,
        num_generated_tokens: int,
        max_tokens: int,
        num_preemptions: int,
        n: int,
    ) -> None:
        """A request has ended; ``times`` is None where it never produced a token."""
        series = self.ranks[rank]
        series.success[reason].inc()
        series.request_prompt.observe(num_prompt_tokens)
        series.request_generation.observe(num_generated_tokens)
        series.max_generation.observe(num_generated_tokens)
        series.params_n.observe(n)
        series.params_max.observe(max_tokens)
        series.request_preemptions.observe(num_preemptions)
        series.computed.observe(num_prompt_tokens - num_hit_tokens)
        if times is None:
            return
        decode = times.last_token - times.first_token
        series.e2e.observe(times.last_token - times.arrived)
        series.queue.observe(max(0.0, times.scheduled - times.queued))
        series.prefill.observe(max(0.0, times.first_token - times.scheduled))
        series.decode.observe(decode)
        series.inference.observe(max(0.0, times.last_token - times.scheduled))
        if num_generated_tokens > 1:
            series.tpot.observe(decode / (num_generated_tokens - 1))

    def set_sleep_state(self, state: str) -> None:
        """``awake``, ``weights_offloaded`` (level 1) or ``discard_all`` (level 2)."""
        for series in self.ranks:
            for name, gauge in series.sleep.items():
                gauge.set(int(name == state))

    def on_sleep_operation(self, operation: str, seconds: float) -> None:
        """``sleep`` or ``wake_up`` has ended: the families exist from the first one on."""
        if "sleep_mode_operation_duration_seconds" not in self._families:
            self._families["sleep_mode_operation_duration_seconds"] = Histogram(
                "vllm:sleep_mode_operation_duration_seconds",
                "Duration of one sleep-mode operation.",
                ("operation",),
                buckets=_SLEEP_BUCKETS,
                registry=self.registry,
            )
            self._families["sleep_mode_operations_in_flight"] = Gauge(
                "vllm:sleep_mode_operations_in_flight",
                "Sleep-mode operations currently awaited.",
                ("operation",),
                registry=self.registry,
            )
        duration = self.family("sleep_mode_operation_duration_seconds")
        duration.labels(operation=operation).observe(seconds)
        self.family("sleep_mode_operations_in_flight").labels(operation=operation).set(0)

    def on_http(
        self, handler: str, method: str, status: int, seconds: float, request_bytes: int,
        response_bytes: int,
    ) -> None:  # fmt: skip
        """A request was answered, as prometheus-fastapi-instrumentator counts it."""
        self.http_requests.labels(handler=handler, method=method, status=f"{status // 100}xx").inc()
        self.http_request_bytes.labels(handler=handler).observe(request_bytes)
        self.http_response_bytes.labels(handler=handler).observe(response_bytes)
        self.http_seconds.labels(handler=handler, method=method).observe(seconds)
        self.http_seconds_fine.observe(seconds)

    # Inside.

    def _make_families(self, spec: EngineSpec) -> None:
        tokens = token_buckets(spec.context_tokens)
        for name, text in _COUNTERS.items():
            self._add(Counter, name, text, ())
        for name, text in _GAUGES.items():
            self._add(Gauge, name, text, ())
        self._add(Gauge, "num_requests_waiting_by_reason", "Number of waiting requests by reason. "
                  "Reason labels: 'capacity' = waiting for scheduling capacity; 'deferred' = "
                  "deferred by transient constraints.", ("reason",))  # fmt: skip
        self._add(Gauge, "engine_sleep_state", "Engine sleep state; awake = 0 means engine is "
                  "sleeping; awake = 1 means engine is awake.", ("sleep_state",))  # fmt: skip
        self._add(Counter, "prompt_tokens_by_source", "Number of prompt tokens by source.",
                  ("source",))  # fmt: skip
        self._add(Counter, "prompt_tokens_cached_by_source", "Prefix-cache hit tokens by the "
                  "cache tier that supplied them.", ("source",))  # fmt: skip
        self._add(Counter, "request_success", "Count of successfully processed requests.",
                  ("finished_reason",))  # fmt: skip
        self._families["admission_rejections"] = Counter(
            "vllm:admission_rejections",
            "Number of admission attempts rejected by a queue limit, by reason.",
            ("model_name", "reason"), registry=self.registry,
        )  # fmt: skip
        for name, (text, buckets) in _histograms(tokens).items():
            self._families[name] = Histogram(
                f"vllm:{name}", text, _LABELS, buckets=buckets, registry=self.registry
            )
        if spec.max_adapters:
            self._families["lora_requests_info"] = Gauge(
                "vllm:lora_requests_info", "Running stats on lora requests.",
                ("max_lora", "waiting_lora_adapters", "running_lora_adapters"),
                registry=self.registry,
            )  # fmt: skip

    def _add(self, kind: Any, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._families[name] = kind(
            f"vllm:{name}", text, (*_LABELS, *labels), registry=self.registry
        )

    def _make_http_families(self) -> None:
        self.http_requests = Counter(
            "http_requests", "Total number of requests by method, status and handler.",
            ("method", "status", "handler"), registry=self.registry,
        )  # fmt: skip
        self.http_request_bytes = Summary(
            "http_request_size_bytes", "Content length of incoming requests by handler.",
            ("handler",), registry=self.registry,
        )  # fmt: skip
        self.http_response_bytes = Summary(
            "http_response_size_bytes", "Content length of outgoing responses by handler.",
            ("handler",), registry=self.registry,
        )  # fmt: skip
        self.http_seconds_fine = Histogram(
            "http_request_duration_highr_seconds",
            "Latency with many buckets but no API specific labels.",
            buckets=_HTTP_FINE_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.http_seconds = Histogram(
            "http_request_duration_seconds", "Latency with only few buckets by handler.",
            ("method", "handler"), buckets=_HTTP_BUCKETS, registry=self.registry,
        )  # fmt: skip

    def _cache_config(
        self,
        spec: EngineSpec,
        schedulers: Sequence[Scheduler],
        utilization_ratio: float,
        kv_cache_memory_bytes: int | None,
        shows_host_size: bool,
    ) -> None:
        facts = cache_config(
            spec, schedulers, utilization_ratio=utilization_ratio,
            kv_cache_memory_bytes=kv_cache_memory_bytes, shows_host_size=shows_host_size,
        )  # fmt: skip
        info = Gauge(
            "vllm:cache_config_info", "Information of the LLMEngine CacheConfig",
            ("engine", *facts), registry=self.registry,
        )  # fmt: skip
        for rank in range(len(schedulers)):
            info.labels(engine=str(rank), **{k: str(v) for k, v in facts.items()}).set(1)


def cache_config(
    spec: EngineSpec,
    schedulers: Sequence[Scheduler],
    *,
    utilization_ratio: float,
    kv_cache_memory_bytes: int | None,
    shows_host_size: bool = True,
) -> Mapping[str, object]:
    """The labels of ``cache_config_info``: every field of the engine's configuration.

    ``num_gpu_blocks`` is the sum over data-parallel ranks, the tokens are those of one.
    """
    layout = spec.layout
    needed = layout.blocks_for(spec.context_tokens)
    # vLLM counts the null block in: what requests can hold is one block less.
    concurrency = spec.total_blocks / needed if needed else 0.0
    block = layout.block_size_tokens
    return {
        "_block_size_resolved": True,
        "block_size": block,
        "cache_dtype": spec.kv_cache_dtype.value,
        "cache_hit_alignment_tokens": None,
        "effective_attention_block_size": block,
        "enable_mamba_shared_prefix_checkpoint": False,
        "enable_prefix_caching": spec.caches_prefixes,
        "gpu_memory_utilization": utilization_ratio,
        "hash_block_size": None,
        "is_attention_free": False,
        "kv_cache_dtype_skip_layers": [],
        "kv_cache_layout": None,
        "kv_cache_max_concurrency": concurrency,
        "kv_cache_memory_bytes": kv_cache_memory_bytes,
        "kv_cache_size_tokens": int(concurrency * spec.context_tokens),
        "kv_offloading_backend": "native",
        "kv_offloading_size": (
            spec.host_kv_bytes / GIB if spec.host_kv_bytes and shows_host_size else None
        ),
        "kv_sharing_fast_prefill": False,
        "mamba_block_size": None,
        "mamba_cache_dtype": "auto",
        "mamba_cache_mode": "none",
        "mamba_page_size_padded": None,
        "mamba_ssm_cache_dtype": "auto",
        "num_cpu_blocks": None,
        "num_gpu_blocks": spec.total_blocks * len(schedulers),
        "num_gpu_blocks_override": None,
        "prefix_cache_retention_interval": 0,
        "prefix_caching_hash_algo": "sha256",
        "prefix_match_unit": None,
        "replayssm_buffer_len": 16,
        "skip_page_size_padded": None,
        "sliding_window": None,
        "swa_bounded_replay": True,
        "use_kda_recoverssm": False,
        "use_replayssm": False,
        "user_specified_block_size": spec.block_size_tokens is not None,
    }


_GAUGES = {
    "num_requests_running": "Number of requests in model execution batches.",
    "num_requests_waiting": "Number of requests waiting to be processed.",
    "kv_cache_usage_perc": "KV-cache usage. 1 means 100 percent usage.",
}
_COUNTERS = {
    "estimated_flops_per_gpu": "Estimated number of floating point operations per GPU.",
    "estimated_read_bytes_per_gpu": "Estimated number of bytes read from memory per GPU.",
    "estimated_write_bytes_per_gpu": "Estimated number of bytes written to memory per GPU.",
    "prefix_cache_queries": "Prefix cache queries, in terms of number of queried tokens.",
    "prefix_cache_hits": "Prefix cache hits, in terms of number of cached tokens.",
    "external_prefix_cache_queries": "External prefix cache queries from KV connector.",
    "external_prefix_cache_hits": "External prefix cache hits from KV connector.",
    "mm_cache_queries": "Multi-modal cache queries, in terms of number of queried items.",
    "mm_cache_hits": "Multi-modal cache hits, in terms of number of cached items.",
    "num_preemptions": "Cumulative number of preemption from the engine.",
    "prompt_tokens": "Number of prefill tokens processed.",
    "prompt_tokens_cached": "Number of cached prompt tokens (local + external).",
    "generation_tokens": "Number of generation tokens processed.",
}


def _histograms(tokens: tuple[int, ...]) -> dict[str, tuple[str, Sequence[float]]]:
    return {
        "request_prompt_tokens": ("Number of prefill tokens processed.", tokens),
        "request_generation_tokens": ("Number of generation tokens processed.", tokens),
        "iteration_tokens_total": (
            "Histogram of number of tokens per engine_step.", _ITERATION_BUCKETS,
        ),
        "request_max_num_generation_tokens": (
            "Histogram of maximum number of requested generation tokens.", tokens,
        ),
        "request_params_n": ("Histogram of the n request parameter.", _N_BUCKETS),
        "request_params_max_tokens": ("Histogram of the max_tokens request parameter.", tokens),
        "time_to_first_token_seconds": (
            "Histogram of time to first token in seconds.", _TTFT_BUCKETS,
        ),
        "inter_token_latency_seconds": (
            "Histogram of inter-token latency in seconds.", _ITL_BUCKETS,
        ),
        "request_time_per_output_token_seconds": (
            "Histogram of time_per_output_token_seconds per request.", _ITL_BUCKETS,
        ),
        "e2e_request_latency_seconds": (
            "Histogram of e2e request latency in seconds.", _LATENCY_BUCKETS,
        ),
        "request_queue_time_seconds": (
            "Histogram of time spent in WAITING phase for request.", _LATENCY_BUCKETS,
        ),
        "request_inference_time_seconds": (
            "Histogram of time spent in RUNNING phase for request.", _LATENCY_BUCKETS,
        ),
        "request_prefill_time_seconds": (
            "Histogram of time spent in PREFILL phase for request.", _LATENCY_BUCKETS,
        ),
        "request_decode_time_seconds": (
            "Histogram of time spent in DECODE phase for request.", _LATENCY_BUCKETS,
        ),
        "request_num_preemptions": (
            "Histogram of the number of times a request was preempted.", _PREEMPTION_BUCKETS,
        ),
        "request_prefill_kv_computed_tokens": (
            "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
            tokens,
        ),
    }  # fmt: skip
