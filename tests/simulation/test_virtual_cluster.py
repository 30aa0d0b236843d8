import functools
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.footprint import Parallelism
from memroute_simulator.engine.spec import EngineKind, EngineSpec
from memroute_simulator.virtual.cluster import Cluster, Fleet, FleetChange, FleetEvent
from memroute_simulator.virtual.outcome import LatencyTarget, OutcomeStatus, summarize
from memroute_simulator.virtual.peer_network import PeerSettings
from memroute_simulator.virtual.router import MEMROUTE, ORACLE, POLICIES, RouterSettings
from memroute_simulator.workloads import workload_by_name
from memroute_simulator.workloads.request import Session, Workload, WorkloadRequest
from sizes import size, tries

H100 = accelerator_by_name("H100")
LLAMA = architecture_for_model("meta-llama/Llama-3.1-8B")


def engine(tokens=60_000, **facts):
    return EngineSpec(
        architecture=LLAMA, accelerator=H100, num_blocks=tokens // 16 + 1,
        max_context_tokens=16_384, **facts,
    )  # fmt: skip


def fleet(count=3, policy="least-request", spec=None, **facts):
    return Fleet(engines=((spec or engine(), count),), policy=policy, **facts)


def chats(count=200, rate=20.0, seed=1):
    return workload_by_name(
        "azure-conv", num_requests=count, rate_per_second=rate, seed=seed,
        max_context_tokens=16_000,
    )  # fmt: skip


def facts_of(outcomes):
    return [(o.status, o.first_token_seconds, o.ended_seconds, tuple(o.tried)) for o in outcomes]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_serves_an_easy_load(policy):
    outcomes = Cluster(fleet(policy=policy)).run(chats(size(50, 100), 8))
    assert {o.status for o in outcomes} == {OutcomeStatus.SERVED}
    assert summarize(outcomes, LatencyTarget()).attainment_ratio == 1.0


def test_memroute_knows_of_caches_what_a_real_router_could_know():
    """Four routers that share nothing: only an oracle sees what the others have sent."""
    assert found(None) < 0.9 * found(None, policy=ORACLE)


@functools.cache
def shared():
    return workload_by_name(
        "shared-prefix-small", num_requests=size(200, 300), rate_per_second=20.0, seed=1,
        max_context_tokens=16_000,
    )  # fmt: skip


def hits_of(cluster, load, events=()):
    outcomes = cluster.run(load, events)
    assert {outcome.status for outcome in outcomes} == {OutcomeStatus.SERVED}
    return summarize(outcomes, LatencyTarget()).prefix_hit_ratio


@functools.cache
def found(peers, *, num_routers=4, policy=MEMROUTE):
    """The share of prompts that four replicas have cached, behind so many routers."""
    facts = {"policy": policy, "num_routers": num_routers, "peers": peers}
    return hits_of(Cluster(fleet(count=4, **facts)), shared())


def test_routers_that_tell_each_other_find_as_much_cached_as_one():
    """Also while one datagram in twenty is lost; where all are, they agree without a word."""
    one, apart = found(None, num_routers=1), found(None)
    assert apart < 0.95 * one
    assert found(PeerSettings()) > 0.97 * one
    assert found(PeerSettings(loss_ratio=0.05)) > 0.97 * one
    assert found(PeerSettings(loss_ratio=1.0)) > 0.5 * (one + apart)


def test_routers_come_and_go_and_nobody_is_lost():
    """A new one knows nothing, and one that is gone is heard no more."""
    cluster = Cluster(fleet(count=4, policy=MEMROUTE, num_routers=3))
    events = [
        FleetEvent(at_seconds=at, change=change, replica=name)
        for at, change, name in (
            (3.0, FleetChange.ROUTER_LEAVES, "router-0"),
            (5.0, FleetChange.ROUTER_JOINS, "router-0"),
            (7.0, FleetChange.ROUTER_LEAVES, "router-1"),
            (9.0, FleetChange.ROUTER_JOINS, "router-3"),
        )
    ]
    assert hits_of(cluster, shared(), events) > 0.9 * found(None, num_routers=1)
    assert sorted(router.name for router in cluster.routers) == ["router-0", "router-2", "router-3"]
    for router in cluster.routers:
        others = {other.name for other in cluster.routers} - {router.name}
        assert set(router.peers.peers) == others
        assert router.peers.others.num_heard == 2
    ledgers = [b.ledger for r in cluster.routers for b in r.dispatcher.backends.values()]
    assert all(not ledger.leases for ledger in ledgers)


@pytest.mark.parametrize("policy", ["memroute", "lmetric", "gie-kv-queue"])
def test_the_same_seed_gives_the_same_run(policy):
    load = chats(size(100, 200), 60)
    runs = [facts_of(Cluster(fleet(policy=policy), seed=7).run(load)) for _ in range(2)]
    assert runs[0] == runs[1]


@settings(max_examples=tries(8, 15))
@given(
    st.sampled_from(["memroute", "lmetric", "gie-kv-queue", "round-robin"]),
    st.integers(1, 4), st.integers(1, 3), st.integers(0, 100),
    st.lists(st.tuples(st.floats(0, 6), st.sampled_from(["fail", "recover", "freeze", "thaw"]),
                       st.integers(0, 1)), max_size=4),
)  # fmt: skip
def test_no_request_is_lost_whatever_happens(policy, routers, speed, seed, changes):
    """Everything that was sent has one outcome, and nothing stays booked anywhere."""
    workload = chats(80, 20.0 * speed, seed)
    events = [
        FleetEvent(at_seconds=at, change=FleetChange(change), replica=str(replica))
        for at, change, replica in changes
    ]
    cluster = Cluster(fleet(count=2, policy=policy, num_routers=routers, timeout_seconds=60.0),
                      seed=seed)  # fmt: skip
    outcomes = cluster.run(workload, events)
    assert len(outcomes) == workload.num_requests
    assert all(o.status is not OutcomeStatus.OPEN and o.ended_seconds is not None
               for o in outcomes)  # fmt: skip
    for router in cluster.routers:
        assert router.dispatcher.num_held == 0
        for backend in router.dispatcher.backends.values():
            ledger = backend.ledger
            # What the others said last may be under way still.
            told = sum(r.work_tokens for r in ledger.peer_leases if r.is_pending)
            decode = sum(r.num_sequences for r in ledger.peer_leases if not r.is_pending)
            booked = (ledger.num_in_flight, ledger.pending_tokens, ledger.num_streams)
            assert booked == (0, told, decode)


def test_what_was_on_a_dead_replica_is_tried_elsewhere_before_its_first_token():
    """Frozen, then killed: requests that had no byte yet end on the other replica."""
    events = [
        FleetEvent(at_seconds=1.0, change=FleetChange.FREEZE, replica="0"),
        FleetEvent(at_seconds=3.0, change=FleetChange.FAIL, replica="0"),
    ]
    outcomes = Cluster(fleet(count=2, policy="round-robin")).run(chats(100, 20), events)
    moved = [o for o in outcomes if o.tried == ["0", "1"]]
    assert moved
    assert all(o.status is OutcomeStatus.SERVED for o in moved)
    broken = [o for o in outcomes if o.status is OutcomeStatus.FAILED]
    assert all(o.first_token_seconds is not None or len(o.tried) >= 2 for o in broken)


def test_a_hung_replica_makes_its_clients_give_up():
    events = [FleetEvent(at_seconds=0.0, change=FleetChange.FREEZE, replica="0")]
    cluster = Cluster(fleet(count=1, timeout_seconds=5.0))
    outcomes = cluster.run(chats(10, 10), events)
    assert {o.status for o in outcomes} == {OutcomeStatus.TIMED_OUT}
    assert all(o.ended_seconds - o.sent_seconds == pytest.approx(5.0) for o in outcomes)


def test_a_slow_replica_and_an_added_one_are_felt():
    slow = [FleetEvent(at_seconds=0.0, change=FleetChange.SLOW, replica="0", slowdown_ratio=3.0)]
    added = [FleetEvent(at_seconds=0.0, change=FleetChange.ADD)]
    load = chats(150, 15)
    plain, slowed, helped = (
        summarize(Cluster(fleet(count=1)).run(load, events), LatencyTarget())
        for events in ([], slow, added)
    )
    assert slowed.tpot.p50 > 2 * plain.tpot.p50
    assert helped.e2e.mean < plain.e2e.mean


def test_a_session_waits_for_its_answer_and_thinks():
    """Three turns, one second of thought: the second is sent a second after the first ended."""
    turns = tuple(
        WorkloadRequest(prompt=((1, 100),), num_output_tokens=20, output_id=10 + n)
        for n in range(3)
    )
    session = Session(start_seconds=2.0, requests=turns, think_seconds=(1.0, 1.0))
    outcomes = Cluster(fleet(count=1)).run(Workload(name="w", sessions=(session,)))
    assert outcomes[0].sent_seconds == 2.0
    for before, after in pairwise(outcomes):
        assert after.sent_seconds == pytest.approx(before.ended_seconds + 1.0, abs=0.01)
    assert outcomes[1].num_hit_tokens == 96


def test_stale_readings_hurt_those_who_trust_them_alone():
    """Unequal replicas under load: least-kv at 15 s loses most of what it attains at 50 ms."""
    spec = ((engine(200_000), 2), (engine(24_000), 2))
    load = chats(*size((500, 50), (1000, 38)), 2)
    attained = [
        summarize(
            Cluster(Fleet(engines=spec, policy="least-kv",
                          router=RouterSettings(scrape_seconds=period))).run(load),
            LatencyTarget(),
        ).attainment_ratio
        for period in (0.05, 15.0)
    ]  # fmt: skip
    assert attained[0] > 0.9
    assert attained[1] < 0.7 * attained[0]


def test_ranks_share_requests_and_each_has_its_own_cache():
    spec = engine(parallelism=Parallelism(data_parallel_size=2))
    cluster = Cluster(fleet(count=1, spec=spec))
    outcomes = cluster.run(chats(100, 20))
    assert {o.status for o in outcomes} == {OutcomeStatus.SERVED}
    first, second = (s.counts.prompt_tokens for s in cluster.replicas[0].schedulers)
    assert first > 0 < second


def test_ranks_of_a_mixture_step_together():
    spec = EngineSpec(
        architecture=architecture_for_model("Qwen/Qwen3-30B-A3B"), accelerator=H100,
        parallelism=Parallelism(data_parallel_size=2, expert_parallel=True), num_blocks=4000,
        max_context_tokens=16_384,
    )  # fmt: skip
    assert spec.steps_together
    outcomes = Cluster(fleet(count=1, spec=spec)).run(chats(40, 10))
    assert {o.status for o in outcomes} == {OutcomeStatus.SERVED}


def test_sglang_serves_the_same_load_by_its_own_rules():
    outcomes = Cluster(fleet(spec=engine(kind=EngineKind.SGLANG))).run(chats(100, 20))
    assert {o.status for o in outcomes} == {OutcomeStatus.SERVED}


def test_a_pool_that_is_computed_is_the_one_that_engines_report():
    """llm-d's pods: Qwen3-32B at tensor parallel 2 on H100 has 307,328 tokens; within 6 %."""
    spec = EngineSpec(
        architecture=architecture_for_model("Qwen/Qwen3-32B"), accelerator=H100,
        parallelism=Parallelism(tensor_parallel_size=2), max_context_tokens=16_384,
        utilization_ratio=0.9, max_num_batched_tokens=8192,
    )  # fmt: skip
    assert spec.capacity_tokens == pytest.approx(307_328, rel=0.06)


def test_shed_and_failed_requests_count_against_the_slo():
    cluster = Cluster(fleet(count=1, spec=engine(20_000), policy="memroute"))
    summary = summarize(cluster.run(chats(300, 80)), LatencyTarget())
    assert summary.num_shed > 0
    assert summary.num_served + summary.num_shed + summary.num_failed == summary.num_offered
    assert summary.attainment_ratio <= summary.num_served / summary.num_offered


@pytest.mark.parametrize("change", ["freeze", "fail"])
@pytest.mark.parametrize("at_seconds", [0.0, 3.0])
def test_a_replica_that_hangs_or_dies_gets_a_handful_and_nobody_is_lost(change, at_seconds):
    """llm-d's picker sends everything there: its last metrics say idle, and idle scores best."""
    events = [FleetEvent(at_seconds=at_seconds, change=FleetChange(change), replica="0")]
    cluster = Cluster(fleet(policy="memroute", timeout_seconds=60.0), seed=3)
    outcomes = [o for o in cluster.run(chats(300, 20.0), events) if o.sent_seconds >= at_seconds]
    touched = [o for o in outcomes if "0" in o.tried]
    assert len(touched) <= 10
    assert {o.status for o in outcomes} == {OutcomeStatus.SERVED}


def test_a_replica_that_serves_and_answers_no_scrape_is_used_last():
    events = [FleetEvent(at_seconds=0.0, change=FleetChange.MUTE, replica="0")]
    cluster = Cluster(fleet(policy="memroute"), seed=3)
    outcomes = cluster.run(chats(300, 20.0), events)
    assert {o.status for o in outcomes} == {OutcomeStatus.SERVED}
    assert sum("0" in o.tried for o in outcomes if o.sent_seconds > 6) < 10
