"""What the router exports.

Requests are counted in plain numbers, which become families when somebody asks: a request costs a
microsecond of counting, not ten. Values of replicas are read from the ledgers when asked.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from memroute.traffic.replica.predictions import RATIO_BUCKETS, Prediction
from memroute_router.access.gate import Gate
from memroute_router.doubts import Doubts
from memroute_router.exposition import family_pieces
from memroute_router.http.listening import Server
from memroute_router.journal import Record
from memroute_router.outcomes import Outcome
from memroute_router.peers import PeerLink
from memroute_router.pools import Pool, Pools, Replica

LOGGER = logging.getLogger(__name__)
_REPLICA = ("namespace", "model_deployment", "pod")
_DEPLOYMENT = ("namespace", "model_deployment")
_NOBODY: Final = "", ""
"""Label values of requests for models that nobody serves."""
_SERVED: Final = Outcome.SERVED
"""Looked up once, not for every request."""
_LATENCY_BUCKETS: Final = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
]  # fmt: skip
_NUM_BUCKETS: Final = len(_LATENCY_BUCKETS)
# Replicas that are read before a page may pause. Unit: replicas. Source: chosen by hand; 8 take
# about 0.1 ms.
_PAUSE_REPLICAS: Final = 8


class LatencyHistogram:
    """Counts by bucket. Owns them."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(_LATENCY_BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        bucket = 0
        while bucket < _NUM_BUCKETS and seconds > _LATENCY_BUCKETS[bucket]:
            bucket += 1
        self._counts[bucket] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """Write it out, cumulated as the format wants it."""
        total = 0
        buckets = []
        for bound, count in zip((*_LATENCY_BUCKETS, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        family.add_metric(labels, buckets, self._sum)


class PoolStatistics:
    """What happened to the requests of one pool. Owns its counts."""

    __slots__ = (
        "admitted_tokens", "cached_tokens", "first_byte", "output_tokens", "prompt_tokens",
        "queue", "requests", "retries", "seconds", "shed_tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests: dict[Outcome, int] = {}
        self.shed_tokens: dict[str, int] = {}
        self.retries: dict[str, int] = {}
        self.admitted_tokens = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.first_byte = LatencyHistogram()
        self.seconds = LatencyHistogram()
        self.queue = LatencyHistogram()

    def ended(self, record: Record) -> None:
        """A request has ended."""
        outcome = record.outcome
        self.requests[outcome] = self.requests.get(outcome, 0) + 1
        if record.queue_seconds is not None:
            self.queue.observe(record.queue_seconds)
        if outcome is _SERVED:
            self.admitted_tokens += record.expected_tokens
            self.seconds.observe(record.seconds)
            if record.first_byte_seconds is not None:
                self.first_byte.observe(record.first_byte_seconds)
            self.prompt_tokens += record.prompt_tokens or 0
            self.cached_tokens += record.cached_tokens or 0
            self.output_tokens += record.output_tokens or 0

    def shed(self, reason: str, expected_tokens: int) -> None:
        """A request was refused."""
        self.shed_tokens[reason] = self.shed_tokens.get(reason, 0) + expected_tokens

    def retried(self, cause: str) -> None:
        """A request goes to another replica."""
        self.retries[cause] = self.retries.get(cause, 0) + 1


class RouterMetrics:
    """The router's metric families. Owns its registry and the statistics of every pool."""

    def __init__(
        self, pools: Pools, peers: PeerLink | None = None, gate: Gate | None = None
    ) -> None:
        """``peers``: how other routers are heard; None: of a router that hears none.

        ``gate``: who may ask; None: everybody.
        """
        self._by_labels: dict[tuple[str, str], PoolStatistics] = {}
        self.loop_lag_seconds = 0.0
        """The latest: how late the event loop ran what was due."""
        self.server: Server | None = None
        """Where clients come; set once it is there."""
        self.registry = _Registry()
        self.registry.register(_LedgerCollector(pools))
        self.registry.register(_DispatchCollector(pools))
        self.registry.register(_TargetsCollector(pools))
        self.registry.register(_PredictionsCollector(pools))
        self.registry.register(_StatisticsCollector(self._by_labels))
        self.registry.register(_ProcessCollector(self))
        self.doubts = Doubts()
        self.registry.register(_DoubtsCollector(self.doubts))
        self.registry.register(_PeerCollector(peers or PeerLink(pools.peers)))
        self.registry.register(_GateCollector(gate))
        self.access_reloads = Counter(
            "memroute_router_access_reloads",
            "Readings of the files of keys and of the engines' key.",
            ("file", "result"),
            registry=self.registry,
        )
        self.scrape_errors = Counter(
            "memroute_router_scrape_errors", "Failed readings.", _REPLICA, registry=self.registry
        )
        self.scrape_seconds = Counter(
            "memroute_router_scrape_cpu_seconds",
            "CPU time spent on parsing readings.",
            registry=self.registry,
        )
        self.kv_event_gaps = Counter(
            "memroute_router_kv_event_gaps",
            "Times when KV events of the replica were lost on the way.",
            _REPLICA,
            registry=self.registry,
        )
        self.internal_errors = Counter(
            "memroute_router_internal_errors",
            "Exceptions that are bugs of the router, by where they were caught.",
            ("place",),
            registry=self.registry,
        )
        self.traces = Counter(
            "memroute_router_traces",
            "Traces given to the exporting process, or dropped because it is behind or gone.",
            ("result",),
            registry=self.registry,
        )
        self.config_reloads = Counter(
            "memroute_router_config_reloads",
            "Readings of the configuration file.",
            ("result",),
            registry=self.registry,
        )

    def of(self, pool: Pool | None) -> PoolStatistics:
        """The statistics of a pool; requests for models that nobody serves share one."""
        labels = _NOBODY if pool is None else pool.labels
        found = self._by_labels.get(labels)
        if found is None:
            found = self._by_labels[labels] = PoolStatistics()
        return found

    @staticmethod
    def replica_labels(replica: Replica) -> tuple[str, str, str]:
        """The label values of a replica's series."""
        return replica.info.namespace, replica.info.deployment, replica.info.pod

    def pieces(self) -> Iterator[bytes]:
        """The page, piece by piece; an empty one is a place to pause.

        A collector that raises loses its own families, not the page: it is told and counted.
        """
        for collector in list(self.registry.collectors):
            try:
                for family in _steps_of(collector):
                    if family is None:
                        yield b""
                        continue
                    for piece in family_pieces(family):
                        yield piece.encode("utf-8", "replace")
            except Exception:
                LOGGER.exception("metrics lost collector=%s", type(collector).__name__)
                self.internal_errors.labels("operations").inc()

    def render(self) -> bytes:
        """The page, at once."""
        return b"".join(self.pieces())


class _DoubtsCollector(Collector):
    """What discovery does not go by."""

    def __init__(self, doubts: Doubts) -> None:
        self._doubts = doubts

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "memroute_router_doubted_objects",
            "Pods and ModelDeployments that the router does not go by, or not wholly.",
            labels=("kind", "reason"),
        )
        for (kind, reason), count in sorted(self._doubts.counts().items()):
            family.add_metric((kind, reason.value), count)
        yield family


class _Registry(CollectorRegistry):
    """Knows its collectors, in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self.collectors.append(collector)


class _SteppedCollector(Collector):
    """Reads the values of many replicas, and can pause in between."""

    def steps(self) -> Iterator[Metric | None]:
        """The families; None is a place to pause."""
        raise NotImplementedError

    def collect(self) -> Iterator[Metric]:
        for family in self.steps():
            if family is not None:
                yield family


def _steps_of(collector: Collector) -> Iterable[Metric | None]:
    return collector.steps() if isinstance(collector, _SteppedCollector) else collector.collect()


class _StatisticsCollector(_SteppedCollector):
    """Counters and histograms of every pool."""

    def __init__(self, by_labels: dict[tuple[str, str], PoolStatistics]) -> None:
        self._by_labels = by_labels

    def steps(self) -> Iterator[Metric | None]:
        requests = _counter("requests", "Requests by how they ended.", "outcome")
        shed = _counter("shed_tokens", "Expected tokens of refused requests.", "reason")
        retries = _counter("retries", "Requests sent to another replica.", "cause")
        admitted = _counter("admitted_tokens", "Expected tokens of served requests.")
        prompt = _counter("prompt_tokens", "Prompt tokens, where engines reported their usage.")
        cached = _counter(
            "cached_prompt_tokens", "Prompt tokens that engines reported as cached by themselves."
        )
        output = _counter("output_tokens", "Output tokens, where engines reported their usage.")
        first_byte = _histogram(
            "first_byte_seconds", "From the whole request to the first byte of the answer."
        )
        seconds = _histogram("request_seconds", "From the whole request to the end of the answer.")
        queue = _histogram("queue_seconds", "How long requests were held before their turn.")
        for labels, statistics in list(self._by_labels.items()):
            yield None
            for outcome, count in statistics.requests.items():
                requests.add_metric((*labels, outcome.value), count)
            for reason, count in statistics.shed_tokens.items():
                shed.add_metric((*labels, reason), count)
            for cause, count in statistics.retries.items():
                retries.add_metric((*labels, cause), count)
            admitted.add_metric(labels, statistics.admitted_tokens)
            prompt.add_metric(labels, statistics.prompt_tokens)
            cached.add_metric(labels, statistics.cached_tokens)
            output.add_metric(labels, statistics.output_tokens)
            statistics.first_byte.add_to(first_byte, labels)
            statistics.seconds.add_to(seconds, labels)
            statistics.queue.add_to(queue, labels)
        yield from (requests, shed, retries, admitted, prompt, cached, output)
        yield from (first_byte, seconds, queue)


class _LedgerCollector(_SteppedCollector):
    """Gauges of every replica: no series outlives it."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def steps(self) -> Iterator[Metric | None]:
        in_flight = _gauge("requests_in_flight", "Requests that this router has at the replica.")
        reserved = _gauge("reserved_tokens", "Tokens that this router has reserved on the replica.")
        projected = _gauge("kv_projected_ratio", "Projected KV cache use, 0 to 1 and above.")
        capacity = _gauge("kv_capacity_tokens", "Tokens that the replica's KV cache holds.")
        used = _gauge("kv_utilization_ratio", "KV cache use at the last reading, 0 to 1.")
        age = _gauge("reading_age_seconds", "Age of the last reading of the replica.")
        routable = _gauge("replica_routable", "1 if requests may be sent to the replica.")
        missing = _gauge("metrics_incompatible", "Metrics that the engine should have and lacks.")
        pending = _gauge("pending_tokens", "Uncached prompt tokens that wait at the replica.")
        foreign = _gauge("foreign_tokens", "Tokens there that no router's requests explain.")
        ceiling = _gauge("kv_ceiling_ratio", "How full it is planned at the most: preemptions.")
        rate = _gauge("prefill_tokens_per_second", "How fast it computes prompts, as learned.")
        step = _gauge("step_seconds", "Time per token of the answers there, of late.")
        blocks = _gauge("kv_event_blocks", "Cached blocks that the replica has told of.")
        now = self._pools.now_seconds()
        for pool in list(self._pools.by_model.values()):
            yield None
            for number, replica in enumerate(list(pool.replicas.values())):
                if not number % _PAUSE_REPLICAS:
                    yield None
                ledger = replica.ledger
                labels = RouterMetrics.replica_labels(replica)
                in_flight.add_metric(labels, ledger.num_in_flight)
                reserved.add_metric(labels, ledger.reserved_tokens)
                can_route = replica.info.is_routable and not replica.health.is_out
                routable.add_metric(labels, 1 if can_route else 0)
                missing.add_metric(labels, len(replica.missing_metrics))
                if pool.dispatcher.cached.blocks.follows(replica.info.key):
                    told = pool.dispatcher.cached.blocks.num_blocks(replica.info.key)
                    blocks.add_metric(labels, told)
                pending.add_metric(labels, ledger.pending_tokens)
                foreign.add_metric(labels, ledger.foreign_tokens)
                ceiling.add_metric(labels, ledger.limits.ceiling_ratio)
                rate.add_metric(labels, 1 / ledger.speed.token_seconds)
                step.add_metric(labels, ledger.steps.mean_seconds)
                ratio = ledger.projected_ratio()
                if ratio is not None:
                    projected.add_metric(labels, ratio)
                if ledger.capacity_tokens is not None:
                    capacity.add_metric(labels, ledger.capacity_tokens)
                if ledger.read_at_seconds >= 0:
                    age.add_metric(labels, now - ledger.read_at_seconds)
                reading = ledger.reading
                if reading is not None and reading.kv_cache_utilization_ratio is not None:
                    used.add_metric(labels, reading.kv_cache_utilization_ratio)
        yield from (in_flight, reserved, projected, capacity, used, age, routable, missing)
        yield from (pending, foreign, ceiling, rate, step, blocks)


class _DispatchCollector(_SteppedCollector):
    """What every pool has decided, and who waits for it."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def steps(self) -> Iterator[Metric | None]:
        held = _gauge("queue_requests", "Requests that are held for their turn.", _DEPLOYMENT)
        held_tokens = _gauge("queue_tokens", "Expected tokens of held requests.", _DEPLOYMENT)
        orphans = _counter("kv_event_orphans", "Blocks told of whose parents were not known.")
        stale = _gauge("stale_replicas", "Replicas whose reading is out of date.", _DEPLOYMENT)
        closed = _counter("closed", "Replicas that were closed to a request as it came.", "reason")
        would_hold = _counter("would_hold", "Requests that would have been held, observing.")
        now = self._pools.now_seconds()
        for pool in list(self._pools.by_model.values()):
            yield None
            pool_labels = pool.labels
            for why, count in pool.dispatcher.closed_counts.items():
                closed.add_metric((*pool_labels, why.value), count)
            orphans.add_metric(pool_labels, pool.dispatcher.cached.blocks.num_orphans)
            would_hold.add_metric(pool_labels, pool.dispatcher.num_would_hold)
            held.add_metric(pool_labels, pool.num_held)
            held_tokens.add_metric(pool_labels, pool.held_tokens)
            stale.add_metric(pool_labels, pool.num_stale(now_seconds=now))
        yield from (held, held_tokens, stale, closed, would_hold, orphans)


class _TargetsCollector(_SteppedCollector):
    """Every pool's latency targets beside what its best replica needs with one request.

    What nobody knows yet has no series: 0 would read as "met".
    """

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def steps(self) -> Iterator[Metric | None]:
        tpot_target = _gauge("tpot_target_seconds", "Time per output token asked.", _DEPLOYMENT)
        ttft_target = _gauge("ttft_target_seconds", "Time to the first token asked.", _DEPLOYMENT)
        tpot = _gauge(
            "tpot_alone_seconds",
            "Time per output token of the fastest replica with one request, as learned.",
            _DEPLOYMENT,
        )
        ttft = _gauge(
            "ttft_alone_seconds",
            "Prefill of a typical prompt on the fastest replica, as learned.",
            _DEPLOYMENT,
        )
        unmet = _gauge(
            "targets_unmet", "1 if no replica meets the targets even with one request.", _DEPLOYMENT
        )
        for pool in list(self._pools.by_model.values()):
            yield None
            labels, limits = pool.labels, pool.dispatcher.settings.limits
            tpot_target.add_metric(labels, limits.tpot_target_seconds)
            ttft_target.add_metric(labels, limits.ttft_target_seconds)
            alone = pool.targets.alone
            if alone.tpot_seconds is not None:
                tpot.add_metric(labels, alone.tpot_seconds)
            if alone.ttft_seconds is not None:
                ttft.add_metric(labels, alone.ttft_seconds)
            if pool.targets.are_met is not None:
                unmet.add_metric(labels, 0 if pool.targets.are_met else 1)
        yield from (tpot_target, ttft_target, tpot, ttft, unmet)


class _PredictionsCollector(_SteppedCollector):
    """Every pool's predictions compared with what happened, and whether it trusts them."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def steps(self) -> Iterator[Metric | None]:
        ratios = HistogramMetricFamily(
            "memroute_router_prediction_ratio",
            "What happened over what was predicted, by what was predicted.",
            labels=(*_DEPLOYMENT, "what"),
        )
        safe = _gauge(
            "safe_mode",
            "1 while predictions are threefold off: routed by least request within memory.",
            _DEPLOYMENT,
        )
        for pool in list(self._pools.by_model.values()):
            yield None
            predictions = pool.dispatcher.predictions
            safe.add_metric(pool.labels, 0 if predictions.distrusted is None else 1)
            for which in Prediction:
                counts, total = predictions.histogram(which)
                running, buckets = 0, []
                bounds = (*(str(bound) for bound in RATIO_BUCKETS), "+Inf")
                for bound, count in zip(bounds, counts, strict=True):
                    running += count
                    buckets.append((bound, running))
                ratios.add_metric((*pool.labels, which.value), buckets, total)
        yield from (ratios, safe)


class _ProcessCollector(Collector):
    """Gauges of the router process."""

    def __init__(self, metrics: RouterMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        lag = _gauge("loop_lag_seconds", "How late the event loop last ran what was due.", ())
        lag.add_metric((), self._metrics.loop_lag_seconds)
        clients = _gauge("client_connections", "Client connections that are open.", ())
        refused = CounterMetricFamily(
            "memroute_router_clients_refused",
            "Connections and requests of clients that a bound has met.",
            labels=("reason",),
        )
        bodies = CounterMetricFamily(
            "memroute_router_bodies_refused",
            "Requests whose bodies did not fit beside the others'.",
        )
        held = _gauge("bodies_bytes", "What bodies of requests hold of --max-memory now.", ())
        server = self._metrics.server
        bodies.add_metric((), 0 if server is None else server.budget.num_refused)
        bodies_bytes = (
            0 if server is None else server.budget.held_bytes - server.budget.unsent_bytes
        )
        held.add_metric((), bodies_bytes)
        unsent = _gauge("unsent_bytes", "Of answers, what waits for clients that are slow.", ())
        unsent.add_metric((), 0 if server is None else server.budget.unsent_bytes)
        clients.add_metric((), 0 if server is None else server.num_connections)
        if server is not None:
            for kind, count in server.clients.refused.items():
                refused.add_metric((kind.value,), count)
        yield from (lag, clients, refused, bodies, held, unsent)


class _GateCollector(Collector):
    """Who was refused, and what each tenant has had. Labels are the file's words, not clients'."""

    def __init__(self, gate: Gate | None) -> None:
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        keys = _gauge("keys", "Keys that are in force.", ())
        refused = CounterMetricFamily(
            "memroute_router_access_refused",
            "Requests refused by their key, or by its tenant's quotas.",
            labels=("reason",),
        )
        requests = CounterMetricFamily(
            "memroute_router_tenant_requests",
            "Requests of the tenant that have ended.",
            labels=("tenant",),
        )
        tokens = CounterMetricFamily(
            "memroute_router_tenant_tokens",
            "Tokens of those, as engines counted them; estimated where they did not.",
            labels=("tenant",),
        )
        gate = self._gate
        if gate is not None:
            keys.add_metric((), gate.num_keys)
            for reason, count in gate.refused.items():
                refused.add_metric((reason,), count)
            for name, use in gate.quotas.by_tenant.items():
                if use.settled_requests:
                    requests.add_metric((name,), use.settled_requests)
                    tokens.add_metric((name,), use.settled_tokens)
        yield from (keys, refused, requests, tokens)


class _PeerCollector(Collector):
    """What this router and the others say to each other."""

    def __init__(self, link: PeerLink) -> None:
        self._link = link

    def collect(self) -> Iterator[Metric]:
        link, group = self._link, self._link.group
        outbox = group.outbox
        known = _gauge("peers", "Other routers that are known.", ())
        known.add_metric((), group.others.num)
        heard = _gauge("peers_heard", "Other routers that were heard in the last 3 s.", ())
        heard.add_metric((), group.others.num_heard)
        yield from (known, heard)
        dropped = CounterMetricFamily(
            "memroute_router_peer_datagrams_dropped",
            "Datagrams that counted for nothing, by why.",
            labels=("reason",),
        )
        for reason, count in group.dropped.items():
            dropped.add_metric((reason.value,), count)
        yield dropped
        for name, text, value in (
            ("datagrams_sent", "Datagrams sent to other routers.", link.num_datagrams_sent),
            ("bytes_sent", "Bytes of those.", link.num_bytes_sent),
            ("send_errors", "Datagrams that could not be sent.", link.num_send_errors),
            ("datagrams_received", "Datagrams that came, from whomever.", group.num_received),
            ("datagrams_missed", "Other routers' datagrams that did not come.", group.num_missed),
            ("keys_withheld", "Requests told without all of their prompts' keys: over the budget.",
             outbox.num_without_keys),
            ("reports_withheld", "Reports not told at all: over the budget.", outbox.num_withheld),
        ):  # fmt: skip
            family = CounterMetricFamily(f"memroute_router_peer_{name}", text)
            family.add_metric((), value)
            yield family


def _gauge(name: str, text: str, labels: tuple[str, ...] = _REPLICA) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"memroute_router_{name}", text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"memroute_router_{name}", text, labels=(*_DEPLOYMENT, *labels))


def _histogram(name: str, text: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"memroute_router_{name}", text, labels=_DEPLOYMENT)
