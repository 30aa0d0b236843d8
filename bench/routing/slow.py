"""Engines that are slower than the default targets, or become so: does the service go on?

Each case is a model on hardware that people give it, whose time per token alone is over the default
``tpotTargetMilliseconds`` of 50, or so little under it that a few requests together pass it.
Targets stay at their defaults, as in an installation that nobody has tuned; all is as shipped:
memroute guesses prefixes, and replicas are read once a second. In some cases all replicas become
slower while requests come: engines beside them, on devices that they share, have become busy.

Rates are shares of what least-request carries: the highest rate at which 95 % of its first tokens
are there within the target for them. Time per token is not judged: nobody could meet it.
"""

import math
from dataclasses import dataclass

from bench.routing.capacity import Point, run, search
from bench.routing.cases import Case, Generate, named
from bench.routing.faults import SLICED_RATIO, all_slower
from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.footprint import Parallelism, Quantization
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.cluster import FleetEvent
from memroute_simulator.virtual.outcome import LatencyTarget
from memroute_simulator.virtual.router import MEMROUTE, RouterSettings

LEAST_REQUEST = "least-request"
POLICIES = (MEMROUTE, LEAST_REQUEST)
LOADS = (0.1, 0.3, 0.5, 0.7, 1.0)
SCRAPE_SECONDS = RouterSettings().scrape_seconds
CONTEXT_TOKENS = 8192
# Of sending, at every rate: answers last up to a minute on such engines, and replicas are empty at
# first. A shorter run would find rates that nobody could go on with.
SENDING_SECONDS = 180.0
MIN_REQUESTS = 200
# When all replicas become slower, in the cases in which they do.
SLOWER_AT_SECONDS = 60.0
# Of the request whose time per token alone is told, tokens: a usual chat.
ALONE_TOKENS = 1024
TARGET = LatencyTarget(tpot_seconds=math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowCase:
    """A model on slow hardware."""

    about: str
    model: str
    accelerator: str
    num_replicas: int
    first_rate: float
    """Requests per second, near what least-request carries: where the search begins."""
    tensor_parallel_size: int = 1
    quantization: Quantization = Quantization.NONE
    workload: str = "sharegpt"
    slowdown_ratio: float = 1.0
    """How many times slower all replicas become, whatever they have to do."""

    @property
    def events(self) -> tuple[FleetEvent, ...]:
        """What happens to the fleet."""
        if self.slowdown_ratio <= 1.0:
            return ()
        return all_slower(
            SLOWER_AT_SECONDS,
            num_replicas=self.num_replicas,
            slowdown_ratio=self.slowdown_ratio,
        )

    def engine(self) -> EngineSpec:
        """One replica; its KV cache is what the weights leave."""
        accelerator = accelerator_by_name(self.accelerator)
        if accelerator is None:
            msg = f"no accelerator {self.accelerator!r} in the catalogue"
            raise LookupError(msg)
        return EngineSpec(
            architecture=architecture_for_model(self.model),
            accelerator=accelerator,
            quantization=self.quantization,
            parallelism=Parallelism(tensor_parallel_size=self.tensor_parallel_size),
            max_context_tokens=CONTEXT_TOKENS,
            link=None if accelerator.name not in PCIE_CARDS else "pcie4-peer",
        )

    @property
    def tpot_alone_seconds(self) -> float:
        """Seconds per token of one request alone."""
        return self.engine().step_time.decode_seconds(1, ALONE_TOKENS)

    def case(self, name: str) -> Case:
        """The same, as the other studies run it."""
        generate: Generate = named(self.workload, CONTEXT_TOKENS)
        return Case(
            name=name,
            about=self.about,
            engines=((self.engine(), self.num_replicas),),
            generate=generate,
            num_requests=MIN_REQUESTS,
            first_rate=self.first_rate,
            target=TARGET,
        )


# Cards without NVLink: their hosts have peer access here, as the figures were taken.
PCIE_CARDS = ("L4", "L40S")
SLOW_CASES = {
    "llama-8b-l4": SlowCase(
        about="4 x Llama-3.1-8B on an L4 each: 68 ms",
        model="meta-llama/Llama-3.1-8B-Instruct", accelerator="L4", num_replicas=4,
        first_rate=4.0,
    ),
    "llama-8b-l4-azure": SlowCase(
        about="the same, Azure chats: longer prompts",
        model="meta-llama/Llama-3.1-8B-Instruct", accelerator="L4", num_replicas=4,
        first_rate=3.0, workload="azure-conv",
    ),
    "qwen-32b-a100": SlowCase(
        about="4 x Qwen3-32B on an A100-80 each: 50 ms",
        model="Qwen/Qwen3-32B", accelerator="A100-80", num_replicas=4, first_rate=9.0,
    ),
    "llama-70b-l40s": SlowCase(
        about="2 x Llama-3.3-70B on 4 x L40S: 57 ms",
        model="meta-llama/Llama-3.3-70B-Instruct", accelerator="L40S", num_replicas=2,
        tensor_parallel_size=4, first_rate=4.0,
    ),
    "llama-70b-a100": SlowCase(
        about="2 x Llama-3.3-70B on 2 x A100-80 (DeepSeek-R1-Distill-Llama is as large): 55 ms",
        model="meta-llama/Llama-3.3-70B-Instruct", accelerator="A100-80", num_replicas=2,
        tensor_parallel_size=2, first_rate=4.0,
    ),
    "llama-70b-int4-l4": SlowCase(
        about="2 x Llama-3.3-70B in 4 bit on 4 x L4: 48 ms, just under the target",
        model="meta-llama/Llama-3.3-70B-Instruct", accelerator="L4", num_replicas=2,
        tensor_parallel_size=4, quantization=Quantization.AWQ, first_rate=2.0,
    ),
    "qwen-14b-l4": SlowCase(
        about="4 x Qwen3-14B on 2 x L4: 66 ms",
        model="Qwen/Qwen3-14B", accelerator="L4", num_replicas=4, tensor_parallel_size=2,
        first_rate=6.0,
    ),
    "qwen-8b-a10g": SlowCase(
        about="4 x Qwen3-8B on an A10G each: 35 ms, which a dozen requests bring over the target",
        model="Qwen/Qwen3-8B", accelerator="A10G", num_replicas=4, first_rate=6.0,
    ),
    "qwen-8b-a10g-shared": SlowCase(
        about="the same; after a minute an engine beside each is busy: 2.26 times slower",
        model="Qwen/Qwen3-8B", accelerator="A10G", num_replicas=4, first_rate=5.0,
        slowdown_ratio=SLICED_RATIO,
    ),
    "llama-8b-l4-shared": SlowCase(
        about="4 x Llama-3.1-8B on an L4 each, the same happens to them",
        model="meta-llama/Llama-3.1-8B-Instruct", accelerator="L4", num_replicas=4,
        first_rate=4.0, slowdown_ratio=SLICED_RATIO,
    ),
}  # fmt: skip
"""By name."""


def carried_per_second(name: str, seed: int) -> float:
    """The highest rate at which least-request has 95 % of the first tokens in time."""
    slow = SLOW_CASES[name]
    rate, _ = search(lambda rate: _at(slow, name, LEAST_REQUEST, rate, seed), slow.first_rate)
    return rate


def run_slow(name: str, policy: str, *, rate: float, seed: int) -> Point:
    """One run at one rate."""
    return _at(SLOW_CASES[name], name, policy, rate, seed)


def _at(slow: SlowCase, name: str, policy: str, rate: float, seed: int) -> Point:
    case = slow.case(name)
    times = max(1.0, rate * SENDING_SECONDS / case.num_requests)
    return run(
        case,
        policy,
        rate=rate,
        seed=seed,
        scrape_seconds=SCRAPE_SECONDS,
        times=times,
        events=slow.events,
    )
