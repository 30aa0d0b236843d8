"""The choice: memroute's own cost, and the published formulas against their definitions."""

import random

import pytest

from memroute.traffic.replica import ReplicaLedger, ReplicaReading
from memroute.traffic.request import RequestProfile
from memroute.traffic.routing import PUBLISHED, cost_seconds, published_policy, wait_seconds


def profile(prompt=1000, output=50):
    return RequestProfile(
        num_prompt_tokens=prompt,
        min_prompt_tokens=prompt,
        max_output_tokens=None,
        assumed_output_tokens=output,
    )


def ledger(name="a", *, kv=0.0, waiting=0, running=0, capacity=100_000, sent=(), at=0.0):
    """``sent``: prompts under way there, after the reading."""
    made = ReplicaLedger(name)
    made.apply_reading(
        ReplicaReading(
            taken_at_seconds=at,
            kv_cache_utilization_ratio=kv,
            kv_capacity_tokens=capacity,
            num_requests_running=running,
            num_requests_waiting=waiting,
        )
    )
    for tokens in sent:
        made.reserve(profile(prompt=tokens), now_seconds=at)
    return made


def pick(name, ledgers, hits=None, seed=1, prompt=1000):
    picker = published_policy(name)
    return picker.pick(profile(prompt), ledgers, hits or {}, random.Random(seed)).replica


def cost(replica, prompt=1000, work=None, output=50):
    return cost_seconds(
        replica,
        profile(prompt, output),
        work_tokens=prompt if work is None else work,
        output_tokens=output,
        max_age_seconds=5.0,
        now_seconds=0.0,
    )


def test_least_request_counts_what_we_have_there():
    assert pick("least-request", [ledger("a", sent=[1, 1]), ledger("b", sent=[9])]) == "b"


def test_least_kv_looks_at_the_last_scrape_alone():
    """Its defect, too: what was sent since does not count."""
    assert pick("least-kv", [ledger("a", kv=0.2, sent=[90_000]), ledger("b", kv=0.3)]) == "a"


def test_kv_in_flight_adds_what_is_under_way():
    """0.2 + 20,000 / 100,000 = 0.4 against 0.3."""
    rows = [ledger("a", kv=0.2, sent=[20_000]), ledger("b", kv=0.3)]
    assert pick("kv-in-flight", rows) == "b"


def test_headroom_adds_the_request_itself_in_the_replicas_own_size():
    """0.1 + 10,000 / 20,000 = 0.6 against 0.3 + 10,000 / 100,000 = 0.4; cached, 0.1."""
    rows = [ledger("a", kv=0.1, capacity=20_000), ledger("b", kv=0.3)]
    assert pick("headroom", rows, prompt=10_000) == "b"
    assert pick("headroom", rows, {"a": 10_000}, prompt=10_000) == "a"


def test_gie_adds_free_cache_and_a_short_queue():
    """(1 - 0.9) + 1 = 1.1 against (1 - 0.1) + 0 = 0.9: queues are compared by their range."""
    rows = [ledger("a", kv=0.9, waiting=2), ledger("b", kv=0.1, waiting=4)]
    assert pick("gie-kv-queue", rows) == "a"
    rows = [ledger("a", kv=0.9, waiting=2), ledger("b", kv=0.1, waiting=2)]
    assert pick("gie-kv-queue", rows) == "b", "equal queues all count 1"


def test_gie_with_prefixes_weighs_them_three_two_two():
    """3 x 0.8 + 2 x 0.2 + 2 x 1 = 4.8 against 2 x 1 + 2 x 1 = 4.0; of 0.5 cached 3.9."""
    rows = [ledger("a", kv=0.8), ledger("b", kv=0.0)]
    assert pick("gie-prefix-kv-queue", rows, {"a": 800}) == "a"
    assert pick("gie-prefix-kv-queue", rows, {"a": 500}) == "b"


def test_lmetric_multiplies_new_prefill_work_by_the_batch():
    """(500 + 1,000) x 2 = 3,000 against (0 + 1,000) x 1; cached on the first, (500 + 100) x 2."""
    rows = [ledger("a", sent=[500]), ledger("b")]
    assert pick("lmetric", rows) == "b"
    assert pick("lmetric", rows, {"a": 900}) == "b"
    assert pick("lmetric", rows, {"a": 901, "b": 0}, prompt=1600) == "b"
    assert pick("lmetric", [ledger("a", sent=[100]), ledger("b")], {"a": 900}) == "a"


def test_vllms_balancer_counts_a_waiting_request_four_times():
    rows = [ledger("a", running=10), ledger("b", waiting=3)]
    assert pick("vllm-dp", rows) == "a"
    assert pick("vllm-dp", [ledger("a", running=13), ledger("b", waiting=3)]) == "b"


def test_smgs_least_load_adds_drain_time_and_a_convex_barrier():
    """1,024 / 2,000 = 0.512 s of queue against 0.15 x 0.75 / 0.25 = 0.45 s of pressure."""
    rows = [ledger("a", waiting=1), ledger("b", kv=0.75)]
    assert pick("smg-least-load", rows) == "b"
    assert pick("smg-least-load", [ledger("a", waiting=1), ledger("b", kv=0.8)]) == "a"


def test_smgs_least_load_forgets_what_it_sent_when_a_report_comes():
    busy = ledger("a", sent=[4000])
    assert pick("smg-least-load", [busy, ledger("b", waiting=1)]) == "b"
    busy.apply_reading(ReplicaReading(taken_at_seconds=1.0, num_requests_waiting=0))
    assert pick("smg-least-load", [busy, ledger("b", waiting=1)]) == "a"


def test_llm_d_stays_with_a_cached_prefix_until_it_is_eighteen_seconds_behind():
    """18 s x 15,928 tokens/s = 286,704 uncached tokens more than the other has; then least load."""
    cached = {"a": 800}
    behind = [ledger("a", sent=[286_000], capacity=10**7), ledger("b", capacity=10**7)]
    assert pick("llm-d", behind, cached) == "a"
    too_far = [ledger("a", sent=[287_000], capacity=10**7), ledger("b", capacity=10**7)]
    assert pick("llm-d", too_far, cached) == "b"
    assert pick("llm-d", behind, {"a": 799}) == "b", "less than 80 % is no affinity"


def test_llm_d_counts_what_a_request_adds_where_nobody_is_sticky():
    """300 + 1,000 - 500 = 800 against 0 + 1,000; the sticky ones are compared likewise."""
    assert pick("llm-d", [ledger("a", sent=[300]), ledger("b")], {"a": 500}) == "a"
    both = {"a": 900, "b": 850, "c": 0}
    rows = [ledger("a", sent=[100]), ledger("b"), ledger("c")]
    assert pick("llm-d", rows, both) == "b"


def test_llm_ds_patience_is_in_tokens_of_the_rate_that_it_is_told():
    slow = published_policy("llm-d", prefill_tokens_per_second=100.0)
    rows = [ledger("a", sent=[1900]), ledger("b")]
    assert slow.pick(profile(), rows, {"a": 900}, random.Random(1)).replica == "b"


def test_round_robin_takes_turns():
    picker, rows = published_policy("round-robin"), [ledger("a"), ledger("b"), ledger("c")]
    turns = []
    for _ in range(6):
        turns.append(picker.pick(profile(), rows, {}, random.Random(1)).replica)
        assert picker.pick(profile(), rows, {}, random.Random(1)).replica == turns[-1], "not sent"
        picker.sent()
    assert sorted(turns[:3]) == ["a", "b", "c"]
    assert turns[:3] == turns[3:]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_ties_favour_nobody(name):
    picker, rng = published_policy(name), random.Random(7)
    rows = [ledger("a"), ledger("b")]
    chosen = []
    for _ in range(200):
        chosen.append(picker.pick(profile(), rows, {}, rng).replica)
        picker.sent()
    assert 60 < chosen.count("a") < 140


def test_power_of_two_mostly_finds_the_shorter_and_not_always():
    picker, rng = published_policy("power-of-two"), random.Random(7)
    rows = [ledger("a", sent=[1]), ledger("b")]
    chosen = [picker.pick(profile(), rows, {}, rng).replica for _ in range(200)]
    assert 130 < chosen.count("b") < 170, "three draws in four see it"


def test_waiting_is_priced_by_what_waits_there_and_by_what_has_been_done_since():
    """Two prompts of 1,000: 2 x (10 ms + 30 ms) at the speed that learning starts from."""
    replica = ledger(sent=[1000, 1000])
    assert wait_seconds(replica, now_seconds=0.0) == pytest.approx(0.08)
    assert wait_seconds(replica, now_seconds=0.05) == pytest.approx(0.03)
    assert wait_seconds(replica, now_seconds=1.0) == 0.0


def test_what_others_have_waiting_there_is_waited_for_too():
    """Several routers share no state: they see each other in the engines' queues."""
    assert cost(ledger(waiting=5)) > cost(ledger())


def test_a_cached_prompt_costs_less_and_a_faster_replica_too():
    assert cost(ledger(), work=100) < cost(ledger())
    fast = ledger("b")
    fast.speed.token_seconds /= 3
    assert cost(fast) < cost(ledger())


def test_replicas_of_different_size_are_compared_by_what_the_request_does_to_them():
    """20,000 tokens fill a pool of 24,000 to 0.85 and one of 400,000 at a half to 0.55."""
    small, large = ledger("a", capacity=24_000), ledger("b", kv=0.5, capacity=400_000)
    assert cost(large, prompt=20_000) < cost(small, prompt=20_000)


def test_memory_costs_nothing_until_it_fills():
    """The barrier is convex: from 0.90 to 0.95 it rises more than from 0.10 to 0.60."""
    costs = {kv: cost(ledger(kv=kv)) for kv in (0.1, 0.6, 0.88, 0.93)}
    assert costs[0.93] - costs[0.88] > costs[0.6] - costs[0.1]
