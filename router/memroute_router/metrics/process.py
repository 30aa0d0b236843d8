"""What is told of the process: its clients, keys and peers, and what it does not go by."""

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memroute.traffic.peers.group import Dropped
from memroute_router.access.gate import Gate
from memroute_router.access.quotas import TenantUse
from memroute_router.access.words import REASONS
from memroute_router.discovery.belief import Disbelief
from memroute_router.discovery.doubts import Doubts
from memroute_router.http.budget import BodyBudget
from memroute_router.http.clients import Clients, LimitKind
from memroute_router.metrics.families import gauge, with_zeros
from memroute_router.peers import PeerLink

# Tenants that have series of their own: those that the file of keys names first. A file can name
# any number. Unit: tenants. Source: chosen by hand.
MAX_TENANTS: Final = 500
# The label of all others together; a tenant's name has no parentheses.
OTHER_TENANTS: Final = "(others)"


class Listening(Protocol):
    """Where clients come, as its series need it."""

    budget: BodyBudget
    clients: Clients

    @property
    def num_connections(self) -> int:
        """Connections that are open."""
        ...


class ProcessCollector(Collector):
    """Gauges of the router process."""

    def __init__(self) -> None:
        self.loop_lag_seconds = 0.0
        """The latest: how late the event loop ran what was due."""
        self.server: Listening | None = None
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
            counts = server.clients.refused
            for kind in LimitKind:
                refused.add_metric((kind.value,), counts.get(kind, 0))
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
        turned_away = CounterMetricFamily(
            "memroute_router_tenant_refused",
            "Requests of the tenant that its quotas have refused.",
            labels=("tenant",),
        )
        in_flight = gauge(
            "tenant_requests_in_flight", "Requests of the tenant under way.", ("tenant",)
        )
        gate = self._gate
        if gate is not None:
            keys.add_metric((), gate.num_keys)
            for reason, count in with_zeros(gate.refused, REASONS).items():
                refused.add_metric((reason,), count)
            for name, counts in _by_tenant(gate.quotas.by_tenant).items():
                requests.add_metric((name,), counts[0])
                tokens.add_metric((name,), counts[1])
                turned_away.add_metric((name,), counts[2])
                in_flight.add_metric((name,), counts[3])
        yield from (keys, refused, requests, tokens, turned_away, in_flight)


def _by_tenant(uses: Mapping[str, TenantUse]) -> dict[str, list[int]]:
    """Requests, tokens, refusals and requests under way of each; from a bound on, of the rest."""
    found: dict[str, list[int]] = {}
    for name, use in uses.items():
        shown = name if len(found) < MAX_TENANTS or name in found else OTHER_TENANTS
        counts = found.setdefault(shown, [0, 0, 0, 0])
        counts[0] += use.settled_requests
        counts[1] += use.settled_tokens
        counts[2] += use.num_refused
        counts[3] += use.num_requests
    return found


class PeerCollector(Collector):
    """What this router and the others say to each other."""

    def __init__(self, link: PeerLink) -> None:
        self._link = link

    def collect(self) -> Iterator[Metric]:
        """The families."""
        link, group = self._link, self._link.group
        outbox = group.outbox
        known = gauge("peers", "Other routers and pickers that are known.", ())
        known.add_metric((), group.others.num)
        heard = gauge(
            "peers_heard", "Other routers and pickers that were heard in the last 3 s.", ()
        )
        heard.add_metric((), group.others.num_heard)
        yield from (known, heard)
        dropped = CounterMetricFamily(
            "memroute_router_peer_datagrams_dropped",
            "Datagrams that counted for nothing, by why.",
            labels=("reason",),
        )
        for reason in Dropped:
            dropped.add_metric((reason.value,), group.dropped.get(reason, 0))
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
        counts = self._doubts.counts()
        for kind in ("ModelDeployment", "Pod"):
            for reason in Disbelief:
                family.add_metric((kind, reason.value), counts.get((kind, reason), 0))
        yield family
