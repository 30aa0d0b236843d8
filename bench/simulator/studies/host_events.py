"""What events of the host add to a router's guess: three reuse ratios, four situations.

Fleet and chats are those of ``host_tier``. A router that guesses takes what was sent to a replica
for what its host keeps, the longest unused first, as many tokens as it holds. That is wrong where
somebody else has sent there, where it was not there when it was sent, and where the host keeps
another order. KV events of the device replace the guess of the device; those of the host
(placeholders, as vLLM sends them unless asked otherwise) that of the host.
"""

from dataclasses import dataclass

from bench.simulator.studies import host_tier
from memroute.traffic.dispatch import DispatchSettings
from memroute_simulator.virtual.cluster import Cluster, Fleet, FleetChange, FleetEvent
from memroute_simulator.virtual.kv_events import Hears
from memroute_simulator.virtual.outcome import summarize
from memroute_simulator.virtual.peer_network import PeerSettings
from memroute_simulator.virtual.router import RouterSettings
from memroute_simulator.workloads import Workload

HOST_GIB = (32, 128)
NUM_REQUESTS, NUM_DROPPED = 600, 300
KNOWLEDGE = {
    "guessed": Hears.NOTHING, "device told": Hears.DEVICE, "both told": Hears.ALL,
}  # fmt: skip
ONE, PEERS, APART, RESTART = "one router", "four that hear each other", "four apart", "a restart"
SITUATIONS = (ONE, PEERS, APART, RESTART)
# Without --full: what isolates the host's events, where they may matter.
SHORT_SITUATIONS, SHORT_KNOWLEDGE = (ONE, APART, RESTART), ("device told", "both told")
NUM_ROUTERS = 4
# Requests after the restart that are judged: about 30 s of them, while what the new router has sent
# itself is little. Unit: requests. Source: chosen by hand.
NUM_JUDGED = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One situation, reuse ratio, size and knowledge."""

    situation: str
    knowledge: str
    reuse_ratio: float
    host_gib: int
    ttft_mean_seconds: float | None
    ttft_p90_seconds: float | None
    attainment_ratio: float
    hit_ratio: float


def run(
    situation: str, knowledge: str, chats: Workload, *, reuse_ratio: float, host_gib: int, seed: int
) -> Point:
    """One point; of a restart, the first requests after it."""
    count = NUM_ROUTERS if situation in {PEERS, APART} else 1
    fleet = Fleet(
        engines=((host_tier.engine(host_gib), host_tier.NUM_REPLICAS),),
        num_routers=count,
        peers=PeerSettings() if situation == PEERS else None,
        router=RouterSettings(
            hears=KNOWLEDGE[knowledge], dispatch=DispatchSettings(limits=host_tier.LIMITS)
        ),
    )
    cluster = Cluster(fleet, seed=seed, sample_seconds=None)
    first = NUM_DROPPED
    events, last = [], None
    if situation == RESTART:
        at = chats.sessions[first].start_seconds
        events = [
            FleetEvent(at_seconds=at, change=FleetChange.ROUTER_JOINS, replica="router-new"),
            FleetEvent(at_seconds=at, change=FleetChange.ROUTER_LEAVES, replica="router-0"),
        ]
        last = first + NUM_JUDGED
    outcomes = cluster.run(chats, events)[first:last]
    summary = summarize(outcomes, host_tier.TARGET)
    return Point(
        situation=situation,
        knowledge=knowledge,
        reuse_ratio=reuse_ratio,
        host_gib=host_gib,
        ttft_mean_seconds=summary.ttft.mean,
        ttft_p90_seconds=summary.ttft.p90,
        attainment_ratio=summary.attainment_ratio,
        hit_ratio=summary.prefix_hit_ratio,
    )
