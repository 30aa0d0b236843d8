"""What others published or measured, as the studies show it beside our own."""

LADDER_73 = {
    # llm-d, benchmarking/73-capacity: 8 x Qwen3-32B TP2 on 16 H100, 307,328 KV tokens a pod.
    "gie-prefix-kv-queue": {"out_tokens_per_second": 8730, "ttft_p90_seconds": 0.54},
    "random": {"out_tokens_per_second": 4429, "ttft_p90_seconds": 92.6},
    "gie-kv-queue": {"out_tokens_per_second": 4266, "ttft_p90_seconds": 94.9},
}
LADDER_BASELINE = "llm-d optimized-baseline, same prompts: a Service plateaus at 6.2-7.0k tok/s "
LADDER_BASELINE += (
    "from 15/s on (TTFT p90 154 s at 60/s), prefix-aware routing reaches 14.9k (0.9 s)"
)
HETEROGENEOUS = {
    # A prototype engine's goodput at x14, scrape 50 ms: the shape to come out again.
    "random": 0.505, "round-robin": 0.500, "least-request": 0.629, "least-kv": 0.995,
    "gie-kv-queue": 0.993, "kv-in-flight": 0.985, "lmetric": 0.991,
}  # fmt: skip
GIE_CHART = {
    # Read off the picture: p90 of latency per output token, ms, by QPS: (EPP, Service).
    180: (33, 40), 185: (40, 100), 190: (45, 104), 195: (150, 517), 200: (393, 540),
}  # fmt: skip
