"""``/metrics`` as vLLM 0.32 prints it: names, labels and meaning."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from memroute_simulator.engine.scheduler import Scheduler, StepResult

_TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_ITL_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_COMMON = ("model_name", "engine")


class EngineMetrics:
    """The metric families of one engine. Owns its registry."""

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        model_name: str,
        max_model_len: int,
        cache_dtype: str,
        gpu_memory_utilization: float,
        kv_cache_memory_bytes: int | None,
    ) -> None:
        self._scheduler = scheduler
        self._registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": "0"}
        self._running = self._gauge(
            "num_requests_running", "Number of requests in model execution batches."
        )
        self._waiting = self._gauge(
            "num_requests_waiting", "Number of requests waiting to be processed."
        )
        self._by_reason = Gauge(
            "vllm:num_requests_waiting_by_reason",
            "Number of waiting requests by reason.",
            [*_COMMON, "reason"],
            registry=self._registry,
        )
        self._usage = self._gauge(
            "kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."
        )
        sleep = Gauge(
            "vllm:engine_sleep_state",
            "Engine sleep state; awake = 1 means engine is awake.",
            [*_COMMON, "sleep_state"],
            registry=self._registry,
        )
        for state, value in (("awake", 1), ("weights_offloaded", 0), ("discard_all", 0)):
            sleep.labels(**self._labels, sleep_state=state).set(value)
        self._preemptions = self._counter("num_preemptions", "Cumulative number of preemptions.")
        self._prompt_tokens = self._counter("prompt_tokens", "Number of prefill tokens processed.")
        self._generation_tokens = self._counter(
            "generation_tokens", "Number of generation tokens processed."
        )
        self._prefix_queries = self._counter(
            "prefix_cache_queries", "Prefix cache queries, in tokens."
        )
        self._prefix_hits = self._counter("prefix_cache_hits", "Prefix cache hits, in tokens.")
        self._success = Counter(
            "vllm:request_success",
            "Count of successfully processed requests.",
            [*_COMMON, "finished_reason"],
            registry=self._registry,
        )
        for reason in ("stop", "length", "abort", "error", "repetition"):
            self._success.labels(**self._labels, finished_reason=reason)
        self._ttft = self._histogram(
            "time_to_first_token_seconds", "Time to first token.", _TTFT_BUCKETS
        )
        self._itl = self._histogram(
            "inter_token_latency_seconds", "Inter-token latency.", _ITL_BUCKETS
        )
        self._e2e = self._histogram(
            "e2e_request_latency_seconds", "E2E request latency.", _REQUEST_BUCKETS
        )
        pool = scheduler.pool
        # vLLM counts the null block in: what requests can hold is one block less.
        concurrency = pool.num_blocks / pool.blocks_for(max_model_len)
        config = {
            "block_size": pool.layout.block_size_tokens,
            "cache_dtype": cache_dtype,
            "enable_prefix_caching": False,
            "gpu_memory_utilization": gpu_memory_utilization,
            "kv_cache_max_concurrency": concurrency,
            "kv_cache_memory_bytes": kv_cache_memory_bytes,
            "kv_cache_size_tokens": int(concurrency * max_model_len),
            "num_gpu_blocks": pool.num_blocks,
            "num_gpu_blocks_override": None,
            "sliding_window": None,
        }
        info = Gauge(
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            ["engine", *config],
            registry=self._registry,
        )
        info.labels(engine="0", **{key: str(value) for key, value in config.items()}).set(1)

    def _gauge(self, name: str, text: str) -> Gauge:
        family = Gauge(f"vllm:{name}", text, _COMMON, registry=self._registry)
        return family.labels(**self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        family = Counter(f"vllm:{name}", text, _COMMON, registry=self._registry)
        return family.labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(f"vllm:{name}", text, _COMMON, buckets=buckets, registry=self._registry)
        return family.labels(**self._labels)

    def on_step(self, result: StepResult) -> None:
        """Gauges move with every step, as the engine's do."""
        self._preemptions.inc(len(result.preempted))
        self._generation_tokens.inc(len(result.emitted))

    def on_first_token(self, *, ttft_seconds: float, num_prompt_tokens: int) -> None:
        """A request has produced its first token."""
        self._ttft.observe(ttft_seconds)
        self._prompt_tokens.inc(num_prompt_tokens)
        self._prefix_queries.inc(num_prompt_tokens)

    def on_token_gap(self, gap_seconds: float) -> None:
        """One gap between two tokens of a request."""
        self._itl.observe(gap_seconds)

    def on_finished(self, *, reason: str, e2e_seconds: float) -> None:
        """A request has ended."""
        self._success.labels(**self._labels, finished_reason=reason).inc()
        self._e2e.observe(e2e_seconds)

    def render(self) -> bytes:
        """The page."""
        scheduler = self._scheduler
        waiting = len(scheduler.waiting)
        self._running.set(len(scheduler.running))
        self._waiting.set(waiting)
        self._by_reason.labels(**self._labels, reason="capacity").set(waiting)
        self._by_reason.labels(**self._labels, reason="deferred").set(0)
        self._usage.set(scheduler.pool.utilization_ratio)
        return generate_latest(self._registry)
