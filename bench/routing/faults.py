"""What a replica that fails, hangs, hides or is new does to the others' requests.

Azure chats at two thirds of what four replicas of Llama-3.1-8B serve, unless the scenario says
otherwise. In each something happens to one of them; what is counted is how many requests touch it
afterwards, and what becomes of all.
"""

from dataclasses import dataclass
from typing import Any

from bench.routing.cases import LLAMA_8B, engine
from memroute_simulator.virtual.cluster import Cluster, Fleet, FleetChange, FleetEvent
from memroute_simulator.virtual.outcome import LatencyTarget, Outcome, OutcomeStatus, summarize
from memroute_simulator.virtual.router import RouterSettings
from memroute_simulator.workloads import workload_by_name

RATE = 40.0
NUM_REQUESTS = 2400
VICTIM = "0"
MAX_CONTEXT_TOKENS = 16_384
CLIENT_TIMEOUT_SECONDS = 60.0
# Times per token of two engines on time slices of one device, by what each has alone. Source:
# HAMi's published runs of pairs on an A100, 1 to 32 requests each.
SLICED_RATIO = 2.26


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens, and to whom."""

    about: str
    events: tuple[FleetEvent, ...]
    num_routers: int = 1
    num_replicas: int = 4
    victim: str = VICTIM
    """Whose requests are counted."""
    workload: str = "azure-conv"
    rate: float = RATE
    """Requests per second."""
    accelerator: str = "H100"
    kv_tokens: int = 430_000
    """What the KV cache of a replica holds."""

    @property
    def begins_at_seconds(self) -> float:
        """When the trouble starts."""
        return self.events[0].at_seconds


def _event(at_seconds: float, change: FleetChange, replica: str = VICTIM) -> FleetEvent:
    return FleetEvent(at_seconds=at_seconds, change=change, replica=replica)


def all_slower(
    at_seconds: float, *, num_replicas: int, slowdown_ratio: float = SLICED_RATIO
) -> tuple[FleetEvent, ...]:
    """All replicas become slower at one moment, whatever they have to do."""
    return tuple(
        FleetEvent(
            at_seconds=at_seconds,
            change=FleetChange.SLOW,
            replica=str(number),
            slowdown_ratio=slowdown_ratio,
        )
        for number in range(num_replicas)
    )


SCENARIOS = {
    "never-answered": Scenario(
        about="it takes requests and answers none, from the start; its metrics say idle",
        events=(_event(0.0, FleetChange.FREEZE),),
    ),
    "died-idle": Scenario(
        about="dead before the first request: its last metrics say idle for ever",
        events=(_event(0.0, FleetChange.FAIL),),
    ),
    "frozen": Scenario(
        about="it hangs in the middle, with answers under way; its metrics stand still",
        events=(_event(20.0, FleetChange.FREEZE),),
    ),
    "frozen-and-back": Scenario(
        about="it hangs for 15 s",
        events=(_event(20.0, FleetChange.FREEZE), _event(35.0, FleetChange.THAW)),
    ),
    "lost-and-back": Scenario(
        about="it dies, and comes back cold 15 s later",
        events=(_event(20.0, FleetChange.FAIL), _event(35.0, FleetChange.RECOVER)),
    ),
    "mute": Scenario(
        about="it serves, and answers no scrape",
        events=(_event(0.0, FleetChange.MUTE),),
    ),
    "slow": Scenario(
        about="it becomes four times slower",
        events=(
            FleetEvent(
                at_seconds=20.0, change=FleetChange.SLOW, replica=VICTIM, slowdown_ratio=4.0
            ),
        ),
    ),
    "neighbours": Scenario(
        about="engines beside all four, on A10Gs, become busy: time slices, 2.26 times slower",
        events=all_slower(20.0, num_replicas=4),
        rate=2.0,
        accelerator="A10G",
        kv_tokens=30_000,
    ),
    "scale-up": Scenario(
        about="three replicas have more than they can do; after 20 s there is a fourth, cold",
        events=(FleetEvent(at_seconds=20.0, change=FleetChange.ADD),),
        num_replicas=3,
        victim="3",
        rate=60.0,
    ),
    "cold-caches": Scenario(
        about="agents behind long shared prompts; every replica is restarted, one after the other",
        events=tuple(
            _event(at_seconds, change, str(number))
            for number in range(4)
            for at_seconds, change in (
                (20.0 + 15.0 * number, FleetChange.FAIL),
                (23.0 + 15.0 * number, FleetChange.RECOVER),
            )
        ),
        workload="mooncake-toolagent",
        rate=9.0,
    ),
    "four-routers": Scenario(
        about="it hangs in the middle, and four routers have to find out",
        events=(_event(20.0, FleetChange.FREEZE),),
        num_routers=4,
    ),
}


def run_scenario(name: str, policy: str, *, seed: int) -> dict[str, Any]:
    """One run: who touched the replica after it began, and what became of all."""
    scenario = SCENARIOS[name]
    context, count = MAX_CONTEXT_TOKENS, scenario.num_replicas
    fleet = Fleet(
        engines=(
            (
                engine(
                    LLAMA_8B, scenario.accelerator, scenario.kv_tokens, max_context_tokens=context
                ),
                count,
            ),
        ),
        policy=policy,
        num_routers=scenario.num_routers,
        router=RouterSettings(scrape_seconds=1.0),
        timeout_seconds=CLIENT_TIMEOUT_SECONDS,
    )
    workload = workload_by_name(
        scenario.workload, num_requests=int(NUM_REQUESTS * scenario.rate / RATE),
        rate_per_second=scenario.rate, seed=seed, max_context_tokens=context,
    )  # fmt: skip
    cluster = Cluster(fleet, seed=seed, sample_seconds=None)
    outcomes = cluster.run(workload, scenario.events)
    after = [o for o in outcomes if o.sent_seconds >= scenario.begins_at_seconds]
    summary = summarize(after, LatencyTarget())
    return {
        "case": name,
        "policy": policy,
        "seed": seed,
        "num_offered": len(after),
        "num_touched": sum(scenario.victim in o.tried for o in after),
        "num_lost": sum(_is_lost(o) for o in after),
        "attainment_ratio": summary.attainment_ratio,
        "ttft_p99_seconds": summary.ttft.p99,
    }


def _is_lost(outcome: Outcome) -> bool:
    """Sent after the trouble began, and not served."""
    return outcome.status in {OutcomeStatus.FAILED, OutcomeStatus.TIMED_OUT, OutcomeStatus.SHED}
