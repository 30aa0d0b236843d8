"""One router against several of the same replicas: what they find cached, what they attain.

Everything is as it ships: the router's own index of prefixes (no oracle), readings once a second,
reports of the other routers over a network with 5.5 ms from one router's decision to another's
knowledge. ``apart``: routers that know nothing of each other. ``rendezvous``: they know that there
are others, and no datagram arrives. ``reports``: what a default install does; ``lossy``: the same,
one datagram in twenty lost at each receiver.

Routers that come and go: ten times in a run one of them leaves, and comes back empty after a third
of the time until the next one leaves.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from bench.routing.cases import CASES, Case, trace_case
from memroute_simulator.virtual.cluster import Cluster, Fleet, FleetChange, FleetEvent
from memroute_simulator.virtual.outcome import summarize
from memroute_simulator.virtual.peer_network import PeerSettings
from memroute_simulator.virtual.router import MEMROUTE, RouterSettings

NUM_ROUTERS = (1, 2, 4, 8)
NUM_REQUESTS = 1500
LOAD_RATIO = 0.85
# Of the rate near the capacity of one router: where room and time are scarce, and nothing is lost.
SCRAPE_SECONDS = 1.0
# The router's default.
NUM_RESTARTS = 10
AWAY_RATIO = 1 / 3
WAYS: Mapping[str, PeerSettings | None] = MappingProxyType(
    {
        "apart": None,
        "rendezvous": PeerSettings(loss_ratio=1.0),
        "reports": PeerSettings(),
        "lossy": PeerSettings(loss_ratio=0.05),
    }
)
"""How several routers hear each other."""
ROUTER_CASES: Mapping[str, Case] = MappingProxyType(
    {
        case.name: case
        for case in (
            CASES["shared-prefix"],
            CASES["multi-round-qa"],
            CASES["mooncake-conversation"],
            CASES["mooncake-toolagent"],
            trace_case("mooncake-synthetic", first_rate=8.5),
            trace_case("interactive-chat", first_rate=24.0),
            trace_case("shared-prefix-small", first_rate=40.0),
            trace_case("multi-lora", first_rate=30.0),
            CASES["azure-conv-4to1"],
        )
    }
)
"""Prompts that share, and at the end one case where memory alone is scarce."""


def run_routers(
    name: str, way: str, *, num_routers: int, seed: int, come_and_go: bool, times: float = 1.0
) -> dict[str, Any]:
    """One run of a case through so many routers, with ``times`` as many requests as usual."""
    case = ROUTER_CASES[name]
    rate = LOAD_RATIO * case.first_rate
    workload = case.generate(rate, seed, int(times * NUM_REQUESTS))
    fleet = Fleet(
        engines=case.engines,
        policy=MEMROUTE,
        num_routers=num_routers,
        router=RouterSettings(scrape_seconds=SCRAPE_SECONDS),
        peers=WAYS[way],
    )
    cluster = Cluster(fleet, seed=seed, sample_seconds=None)
    events = _restarts(workload.span_seconds, num_routers) if come_and_go else ()
    outcomes = cluster.run(workload, events)
    summary = summarize(outcomes[int(case.warm_up_ratio * len(outcomes)) :], case.target)
    network = cluster.network
    return {
        "case": name,
        "policy": way,
        "seed": seed,
        "num_routers": num_routers,
        "come_and_go": come_and_go,
        "prefix_hit_ratio": summary.prefix_hit_ratio,
        "attainment_ratio": summary.attainment_ratio,
        "ttft_p50_seconds": summary.ttft.p50,
        "ttft_p99_seconds": summary.ttft.p99,
        "num_preemptions": summary.num_preemptions,
        "num_shed": summary.num_shed,
        "told_bytes_per_request": network.num_bytes / len(outcomes) if network else 0.0,
    }


def _restarts(span_seconds: float, num_routers: int) -> list[FleetEvent]:
    """One router after the other leaves and comes back."""
    period = span_seconds / (NUM_RESTARTS + 1)
    events = []
    for number in range(NUM_RESTARTS):
        name, at = f"router-{number % num_routers}", period * (number + 1)
        events.append(FleetEvent(at_seconds=at, change=FleetChange.ROUTER_LEAVES, replica=name))
        events.append(
            FleetEvent(
                at_seconds=at + AWAY_RATIO * period,
                change=FleetChange.ROUTER_JOINS,
                replica=name,
            )
        )
    return events
