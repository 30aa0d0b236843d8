"""Who is served when not all can be, and when a first token is due that takes long by itself."""

import random

import pytest

from bench.routing.cases import LLAMA_8B, engine
from dispatch_rig import Asking, pool, read
from memroute.traffic.admission import AdmissionSettings, OverloadObjective
from memroute.traffic.dispatch import Backend, DispatchSettings
from memroute.traffic.dispatch.size_shares import SizeShares, size_class
from memroute.traffic.dispatch.token_yield import TokenYield
from memroute.traffic.replica import ReplicaLedger
from memroute.traffic.replica.backend import FastestReplica
from memroute_simulator.virtual.cluster import Cluster, Fleet
from memroute_simulator.virtual.outcome import LatencyTarget, OutcomeStatus
from memroute_simulator.virtual.router import RouterSettings
from memroute_simulator.workloads.request import WorkloadRequest, open_loop
from sizes import size

SMALL, LARGE = 500, 8000
TARGET = LatencyTarget()
NUM_REQUESTS = size(450, 900)


def request(num_prompt_tokens, num_output_tokens, *, number):
    """One that shares nothing with others."""
    return WorkloadRequest(
        prompt=((number, num_prompt_tokens),),
        num_output_tokens=num_output_tokens,
        output_id=10**6 + number,
    )


def served(objective, *, num_requests=NUM_REQUESTS, rate=30.0):
    """Attainment of small and of large requests, half of each, on one engine that is overloaded."""
    rng = random.Random(7)
    now, times, requests = 0.0, [], []
    for _ in range(num_requests):
        now += rng.expovariate(rate)
        times.append(now)
        requests.append(request(LARGE if rng.random() < 0.5 else SMALL, 100, number=len(times)))
    fleet = Fleet(
        engines=((engine(LLAMA_8B, "H100", 200_000), 2),),
        router=RouterSettings(
            dispatch=DispatchSettings(limits=AdmissionSettings(objective=objective))
        ),
    )
    outcomes = Cluster(fleet, seed=1, sample_seconds=None).run(open_loop("sizes", times, requests))[
        num_requests // 5 :
    ]
    ratios = []
    for tokens in (SMALL, LARGE):
        own = [o for o in outcomes if o.asked.num_prompt_tokens == tokens]
        ratios.append(sum(TARGET.is_met(o) for o in own) / len(own))
    return ratios


def test_every_size_has_the_same_chance_where_that_is_the_objective():
    """Otherwise a long-context user has no service at all on a fleet that is half as large."""
    small, large = served(OverloadObjective.REQUESTS)
    assert small > large + 0.3
    small, large = served(OverloadObjective.SIZES)
    assert abs(small - large) < 0.15
    assert large > 0.4


def test_a_size_is_over_its_chance_when_more_of_it_than_of_all_was_in_time():
    """8 of 10 small ones and 4 of 10 large ones: 12 of 20 in all."""
    shares = SizeShares()
    for number in range(10):
        for tokens, most in ((500, 8), (9000, 4)):
            shares.asked(size_class(tokens))
            if number < most:
                shares.in_time(size_class(tokens))
    assert shares.is_over(size_class(400))
    assert not shares.is_over(size_class(9000))
    assert not shares.is_over(size_class(100)), "none of that size has come"


def test_a_request_is_thin_when_it_brings_few_tokens_for_its_work():
    """Work is 333 + prompt + 4 x answer: 4,200 tokens for 5,133 (0.82), 500 for 2,033 (0.25)."""
    shares = TokenYield()
    for _ in range(10):
        shares.asked(4000, 200)
    assert shares.is_thin(100, 400)
    assert not shares.is_thin(4000, 200)
    assert not TokenYield().is_thin(100, 400), "nothing to compare with"


def learned(name, token_seconds, samples=20):
    """A ledger that has seen prompts of 10,000 and 30,000 tokens, one by one."""
    ledger = ReplicaLedger(name, promised_capacity_tokens=10**6)
    now = 0.0
    for number in range(samples):
        tokens = 10_000 if number % 2 else 30_000
        ledger.speed.sent(now_seconds=now)
        now += tokens * token_seconds
        ledger.speed.prefilled(tokens, num_left=0, now_seconds=now)
    return ledger


def test_the_fastest_replica_is_the_fastest_of_those_that_are_there():
    """By reading, when it becomes slow, and when it leaves; unknown while few prompts were seen."""
    slow, fast, new = learned("slow", 1e-4), learned("fast", 5e-5), learned("new", 1e-6, samples=2)
    backends = [Backend(ledger) for ledger in (slow, fast, new)]
    fastest = FastestReplica()
    fastest.learned(new, backends)
    assert fastest.prefill_seconds(10_000) is None
    for ledger in (slow, fast, new):
        fastest.learned(ledger, backends)
    assert fastest.prefill_seconds(10_000) == pytest.approx(0.5, rel=0.05)
    fast.speed.assume(prompt_seconds=0.0, token_seconds=3e-4)
    fastest.learned(fast, backends)
    assert fastest.prefill_seconds(10_000) == pytest.approx(1.0, rel=0.05)
    fastest.gone(slow, backends[1:])
    assert fastest.prefill_seconds(10_000) == pytest.approx(3.0, rel=0.05)
    fastest.gone(fast, backends[2:])
    assert fastest.prefill_seconds(10_000) is None


def due(made, prompt, **facts):
    """When the first token of a request that comes at 100 s is due."""
    return made._selection.ask(Asking(prompt=prompt, **facts), now_seconds=100.0).deadline_seconds


def test_a_prompt_that_takes_longer_than_the_target_is_due_when_it_can_be_there():
    """1e-4 s a token: 30,000 tokens take 3 s alone and are due after 4.5, 1,000 after 1."""
    made = pool(replicas=2, capacity=10**6)
    assert due(made, 30_000) == 101.0, "nobody knows yet how fast the replicas are"
    made.add(Backend(learned("slow", 1e-4)))
    read(made, "slow")
    assert due(made, 30_000) == pytest.approx(104.5, rel=0.005)
    assert due(made, 1000) == 101.0
    assert due(made, 30_000, deadline_seconds=100.2) == 100.2, "its client has said when"
    made.add(Backend(learned("fast", 5e-5)))
    read(made, "fast")
    assert due(made, 30_000) == pytest.approx(102.25, rel=0.005)
    made.remove("fast")
    assert due(made, 30_000) == pytest.approx(104.5, rel=0.005)


def test_long_prompts_on_slow_engines_are_not_refused_at_low_load():
    """30,000 tokens take eight seconds on an L4; at a third of what two of them carry."""
    rng = random.Random(3)
    requests = [request(30_000 if n % 4 == 0 else 500, 20, number=n) for n in range(60)]
    times, now = [], 0.0
    for _ in requests:
        now += rng.expovariate(0.3)
        times.append(now)
    fleet = Fleet(engines=((engine(LLAMA_8B, "L4", 60_000, max_context_tokens=32_768), 2),))
    outcomes = Cluster(fleet, seed=1, sample_seconds=None).run(open_loop("long", times, requests))
    assert {o.status for o in outcomes} == {OutcomeStatus.SERVED}
    long = [o for o in outcomes if o.asked.num_prompt_tokens == 30_000]
    assert min(o.idle_prefill_seconds for o in long) > TARGET.ttft_seconds
    in_time = sum(o.ttft_seconds <= TARGET.ttft_of(o) for o in long)
    assert in_time >= 0.8 * len(long)
