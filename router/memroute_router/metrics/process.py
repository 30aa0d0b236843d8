"""What is told of the process: its clients, keys and peers, and what it does not go by."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memroute_router.access.gate import Gate
from memroute_router.discovery.doubts import Doubts
from memroute_router.http.listening import Server
from memroute_router.metrics.families import gauge
from memroute_router.peers import PeerLink


class ProcessCollector(Collector):
    """Gauges of the router process."""

    def __init__(self) -> None:
        self.loop_lag_seconds = 0.0
        """The latest: how late the event loop ran what was due."""
        self.server: Server | None = None
        """Where clients come; set once it is there."""

    def collect(self) -> Iterator[Metric]:
        """The families."""
        lag = gauge("loop_lag_seconds", "How late the event loop last ran what was due.", ())
        lag.add_metric((), self.loop_lag_seconds)
        clients = gauge("client_connections", "Client connections that are open.", ())
        refused = CounterMetricFamily(
            "memroute_router_clients_refused",
            "Connections and requests of clients that a bound has met.",
            labels=("reason",),
        )
        bodies = CounterMetricFamily(
            "memroute_router_bodies_refused",
            "Requests whose bodies did not fit beside the others'.",
        )
        held = gauge("bodies_bytes", "What bodies of requests hold of --max-memory now.", ())
        server = self.server
        bodies.add_metric((), 0 if server is None else server.budget.num_refused)
        bodies_bytes = (
            0 if server is None else server.budget.held_bytes - server.budget.unsent_bytes
        )
        held.add_metric((), bodies_bytes)
        unsent = gauge("unsent_bytes", "Of answers, what waits for clients that are slow.", ())
        unsent.add_metric((), 0 if server is None else server.budget.unsent_bytes)
        clients.add_metric((), 0 if server is None else server.num_connections)
        if server is not None:
            for kind, count in server.clients.refused.items():
                refused.add_metric((kind.value,), count)
        yield from (lag, clients, refused, bodies, held, unsent)


class GateCollector(Collector):
    """Who was refused, and what each tenant has had. Labels are the file's words, not clients'."""

    def __init__(self, gate: Gate | None) -> None:
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        """The families."""
        keys = gauge("keys", "Keys that are in force.", ())
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


class PeerCollector(Collector):
    """What this router and the others say to each other."""

    def __init__(self, link: PeerLink) -> None:
        self._link = link

    def collect(self) -> Iterator[Metric]:
        """The families."""
        link, group = self._link, self._link.group
        outbox = group.outbox
        known = gauge("peers", "Other routers that are known.", ())
        known.add_metric((), group.others.num)
        heard = gauge("peers_heard", "Other routers that were heard in the last 3 s.", ())
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


class DoubtsCollector(Collector):
    """What discovery does not go by."""

    def __init__(self, doubts: Doubts) -> None:
        self._doubts = doubts

    def collect(self) -> Iterator[Metric]:
        """The families."""
        family = GaugeMetricFamily(
            "memroute_router_doubted_objects",
            "Pods and ModelDeployments that the router does not go by, or not wholly.",
            labels=("kind", "reason"),
        )
        for (kind, reason), count in sorted(self._doubts.counts().items()):
            family.add_metric((kind, reason.value), count)
        yield family
