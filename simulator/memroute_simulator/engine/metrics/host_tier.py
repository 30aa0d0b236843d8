"""vLLM 0.32's metrics of KV cache on the host (``vllm:kv_offload_…``), where there is any.

As its ``offloading/metrics.py`` and ``kv_offload/cpu/spec.py`` have them; a series appears with the
first value. Seconds are of the link, all ranks together. The two delays of lookups are left out:
what a lookup takes is not simulated. ``…_usage_perc`` is what copies under way hold, not how full
the tier is.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from memroute_simulator.engine.model import HostTier, HostTierLog

_LABELS = ("model_name", "engine")
_SIZE_BUCKETS = (1e6, 5e6, 10e6, 20e6, 40e6, 60e6, 80e6, 100e6, 150e6, 200e6)
_OFFER_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
_WAYS = (("load", "CPU_to_GPU"), ("store", "GPU_to_CPU"))


class HostTierMetrics:
    """All families, of all ranks. Takes and empties the tiers' logs."""

    def __init__(
        self, registry: CollectorRegistry, model_name: str, tiers: list[HostTier], num_ranks: int
    ) -> None:
        """``tiers``: by data-parallel rank; ``num_ranks``: that each of them is spread over."""
        self._model_name = model_name
        self._tiers = tiers
        self._num_ranks = num_ranks
        self._num_refused = [0] * len(tiers)
        for tier in tiers:
            tier.log = HostTierLog()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"vllm:kv_offload_{name}", text, (*_LABELS, *labels), registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"vllm:kv_offload_{name}", text, _LABELS, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(
                f"vllm:kv_offload_{name}", text, (*_LABELS, *labels), buckets=buckets,
                registry=registry,
            )  # fmt: skip

        self._bytes = {
            "load": counter("load_bytes", "Total bytes loaded from offload storage to GPU."),
            "store": counter("store_bytes", "Total bytes stored from GPU to offload storage."),
        }
        self._time = {
            "load": counter(
                "load_time", "Total load time from offload storage to GPU, in seconds."
            ),
            "store": counter(
                "store_time", "Total store time from GPU to offload storage, in seconds."
            ),
        }
        self._size = {
            way: histogram(
                f"{way}_size", f"Histogram of KV offload {way} operation size, in bytes.",
                _SIZE_BUCKETS,
            )
            for way, _ in _WAYS
        }  # fmt: skip
        self._refused = counter(
            "allocation_failure", "Number of KV offload store allocation attempts that failed."
        )
        self._offers = histogram(
            "cpu_allocation_size",
            "Histogram of the number of CPU chunks requested by each KV offload prepare_store "
            "call.",
            _OFFER_BUCKETS,
        )
        pinned = "Fraction of CPU KV-cache space currently pinned by"
        self._pinned = gauge(
            "cpu_cache_usage_perc",
            f"{pinned} in-flight transfers (0.0 = idle, 1.0 = saturated).",
        )
        self._write_pinned = gauge(
            "cpu_cache_write_usage_perc",
            f"{pinned} in-flight stores that have not yet completed (0.0 = idle, 1.0 = saturated).",
        )
        self._read_pinned = gauge(
            "cpu_cache_read_usage_perc",
            f"{pinned} in-flight loads that have not yet completed (0.0 = idle, 1.0 = saturated).",
        )
        # Deprecated there, and still told.
        self._old_bytes = counter(
            "total_bytes", "Number of bytes offloaded by KV connector", "transfer_type"
        )
        self._old_time = counter(
            "total_time", "Total time measured by all KV offloading operations", "transfer_type"
        )
        self._old_size = histogram(
            "size", "Histogram of KV offload transfer size, in bytes.", _SIZE_BUCKETS,
            "transfer_type",
        )  # fmt: skip

    def on_step(self, rank: int) -> None:
        """A step of the rank has ended: what its tier has done by now."""
        tier = self._tiers[rank]
        log = tier.log
        labels = {"model_name": self._model_name, "engine": str(rank)}
        if log is None:
            return
        for (way, old_name), jobs in zip(_WAYS, (log.loads, log.stores), strict=True):
            old = labels | {"transfer_type": old_name}
            for num_chunks, seconds in jobs:
                size, summed = num_chunks * tier.limits.chunk_bytes, seconds * self._num_ranks
                self._bytes[way].labels(**labels).inc(size)
                self._time[way].labels(**labels).inc(summed)
                self._size[way].labels(**labels).observe(size)
                self._old_bytes.labels(**old).inc(size)
                self._old_time.labels(**old).inc(summed)
                self._old_size.labels(**old).observe(size)
            jobs.clear()
        for num_chunks in log.offers:
            self._offers.labels(**labels).observe(num_chunks)
        log.offers.clear()
        refused = tier.counts.num_refused_offers - self._num_refused[rank]
        if refused:
            self._refused.labels(**labels).inc(refused)
            self._num_refused[rank] += refused
        writes, reads = tier.pinned_ratios
        self._write_pinned.labels(**labels).set(writes)
        self._read_pinned.labels(**labels).set(reads)
        self._pinned.labels(**labels).set(writes + reads)
