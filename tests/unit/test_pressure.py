import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.admission import (
    Admit,
    Hold,
    HoldingQueue,
    QueueLimits,
    QueueRefusal,
    RejectReason,
    decide,
)
from memroute.footprint import RequestProfile
from memroute.pressure import (
    RateMeter,
    ReplicaHealth,
    ReplicaLedger,
    ReplicaReading,
    ReplicaSnapshot,
)
from memroute.routing import choose


def profile(prompt=100, output=50, limit=None, at_least=None):
    return RequestProfile(
        num_prompt_tokens=prompt,
        min_prompt_tokens=prompt // 4 if at_least is None else at_least,
        max_output_tokens=limit,
        assumed_output_tokens=output,
    )


def reading(ratio, at=0.0, capacity=1000):
    return ReplicaReading(
        taken_at_seconds=at, kv_cache_utilization_ratio=ratio, kv_capacity_tokens=capacity
    )


def snapshot(name="a", projected=0, capacity=1000, context=None, age=0.5):
    return ReplicaSnapshot(
        replica=name,
        capacity_tokens=capacity,
        max_context_tokens=context,
        projected_tokens=projected,
        num_in_flight=0,
        read_at_seconds=-age,
    )


def test_a_reservation_counts_before_any_scrape_sees_it():
    """Decisions come every millisecond, scrapes every second: without this, all pile up."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000)
    ledger.reserve(profile())
    assert ledger.projected_tokens() == 150


def test_a_scrape_takes_over_what_has_answered_and_leaves_the_growth():
    """Reserved 150; at the scrape 100 + 20 are held and measured: 30 are still to come."""
    ledger = ReplicaLedger("a")
    lease = ledger.reserve(profile())
    ledger.progress(lease, generated_tokens=20)
    ledger.apply_reading(reading(0.12))
    assert ledger.projected_tokens() == 120 + 30


def test_what_ends_after_the_scrape_is_taken_off_at_once():
    ledger = ReplicaLedger("a")
    lease = ledger.reserve(profile())
    ledger.progress(lease, generated_tokens=20)
    ledger.apply_reading(reading(0.12))
    ledger.release(lease)
    assert ledger.projected_tokens() == 0


def test_an_answer_longer_than_assumed_grows_its_lease():
    ledger = ReplicaLedger("a")
    lease = ledger.reserve(profile(output=50))
    ledger.progress(lease, generated_tokens=90)
    assert ledger.projected_tokens() == 190


def test_use_by_others_counts_too():
    """Another router's requests, or a client that goes to the engine directly."""
    ledger = ReplicaLedger("a")
    ledger.apply_reading(reading(0.7))
    ledger.reserve(profile())
    assert ledger.projected_tokens() == 700 + 150


def test_a_lease_cannot_be_released_twice():
    ledger = ReplicaLedger("a")
    lease = ledger.reserve(profile())
    ledger.release(lease)
    with pytest.raises(KeyError):
        ledger.release(lease)


@given(st.lists(st.tuples(st.sampled_from("rpse"), st.integers(0, 400)), max_size=80))
def test_the_ledger_returns_to_zero_whatever_happened(steps):
    """Reserve, progress, scrape and end in any order; then end everything."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10_000)
    held = []
    for kind, number in steps:
        if kind == "r":
            held.append(ledger.reserve(profile(prompt=number)))
        elif kind == "p" and held:
            ledger.progress(held[number % len(held)], generated_tokens=number)
        elif kind == "s":
            ledger.apply_reading(reading(number / 400, capacity=10_000))
        elif kind == "e" and held:
            ledger.release(held.pop(number % len(held)))
        assert ledger.projected_tokens() >= 0
    for lease in held:
        ledger.release(lease)
    assert ledger.reserved_tokens == 0
    ledger.apply_reading(reading(0.0, capacity=10_000))
    assert ledger.projected_tokens() == 0


def test_a_rate_is_learned_quickly_and_forgotten():
    """100 tokens each second for a minute, then silence."""
    meter = RateMeter()
    assert meter.per_second(now_seconds=0) is None
    for second in range(60):
        meter.add(100, now_seconds=second)
    assert meter.per_second(now_seconds=59) == pytest.approx(100, rel=0.1)
    assert meter.per_second(now_seconds=159) < 1


def test_nobody_ready_is_not_the_same_as_nobody_free():
    verdict = decide(profile(), [], watermark_ratio=0.9, freed=RateMeter(), now_seconds=0.0)
    assert verdict.reason is RejectReason.NO_READY_REPLICA


def test_what_can_never_fit_is_refused_with_numbers_and_without_a_time():
    verdict = decide(
        profile(at_least=900, limit=200),
        [snapshot(capacity=1000), snapshot("b", capacity=800)],
        watermark_ratio=0.9,
        freed=RateMeter(),
        now_seconds=0.0,
    )
    assert verdict.reason is RejectReason.NEVER_FITS
    assert "900 prompt and 200 output" in verdict.message
    assert "1000" in verdict.message
    assert verdict.retry_after_seconds is None


def test_a_saturated_pool_says_when_to_come_back():
    """850 projected + 150 wanted = 1000, watermark 900: 100 short, freed at 20/s: 5 seconds."""
    freed = RateMeter()
    freed.add(21, now_seconds=-1.0)
    verdict = decide(
        profile(),
        [snapshot(projected=850)],
        watermark_ratio=0.9,
        freed=freed,
        now_seconds=0.0,
    )
    assert isinstance(verdict, Hold)
    assert verdict.expected_wait_seconds == pytest.approx(5, rel=0.05)
    reject = verdict.reject(because="too many requests wait")
    assert (reject.reason, reject.retry_after_seconds) == (RejectReason.SATURATED, 5)
    assert "100 tokens short" in reject.message


def test_one_full_replica_does_not_refuse_for_another_that_has_room():
    """Judged per replica: the pool's average would be 50 % either way."""
    verdict = decide(
        profile(),
        [snapshot("full", projected=1000), snapshot("idle", projected=0)],
        watermark_ratio=0.9,
        freed=RateMeter(),
        now_seconds=0.0,
    )
    assert isinstance(verdict, Admit)
    assert [c.replica for c in verdict.candidates] == ["idle"]


def test_an_idle_replica_takes_a_request_larger_than_its_watermark():
    """Nothing will ever make more room than an idle replica has."""
    verdict = decide(
        profile(prompt=950, output=40),
        [snapshot(projected=0)],
        watermark_ratio=0.9,
        freed=RateMeter(),
        now_seconds=0.0,
    )
    assert isinstance(verdict, Admit)


def test_a_replica_that_stopped_reporting_is_the_last_resort():
    """A hung engine's last reading may well say idle."""
    hung, busy = snapshot("hung", age=60.0), snapshot("busy", projected=500)
    verdict = decide(
        profile(), [hung, busy], watermark_ratio=0.9, freed=RateMeter(), now_seconds=0.0
    )
    assert [c.replica for c in verdict.candidates] == ["busy"]
    verdict = decide(profile(), [hung], watermark_ratio=0.9, freed=RateMeter(), now_seconds=0.0)
    assert [c.replica for c in verdict.candidates] == ["hung"]


def test_replicas_of_different_size_are_compared_by_what_the_request_does_to_them():
    """300 tokens fill a pool of 1,000 to 0.3, one of 10,000 at 2,000 only to 0.23."""
    choice = choose(
        profile(prompt=200, output=100),
        [snapshot("small", capacity=1000), snapshot("large", projected=2000, capacity=10_000)],
        rng=random.Random(1),
    )
    assert choice.replica == "large"


def test_ties_favour_nobody():
    rng = random.Random(7)
    replicas = [snapshot("a"), snapshot("b")]
    chosen = [choose(profile(), replicas, rng=rng).replica for _ in range(200)]
    assert 60 < chosen.count("a") < 140


def test_unknown_capacity_comes_after_known():
    choice = choose(
        profile(),
        [snapshot("x", capacity=None), snapshot("y", projected=900)],
        rng=random.Random(1),
    )
    assert choice.replica == "y"


def test_a_queue_is_first_come_first_served_and_bounded():
    """Two of 100 tokens fit into 250; the third is one too many, whatever its place."""
    queue = HoldingQueue(QueueLimits(max_requests=3, max_tokens=250, max_seconds=10))
    for name in ("first", "second"):
        assert queue.refusal(100, expected_wait_seconds=None) is None
        queue.hold(name, 100, now_seconds=0)
    assert queue.refusal(100, expected_wait_seconds=1) is QueueRefusal.TOKENS
    assert queue.refusal(10, expected_wait_seconds=11) is QueueRefusal.TIME
    queue.hold("third", 10, now_seconds=5)
    assert queue.refusal(10, expected_wait_seconds=None) is QueueRefusal.REQUESTS
    assert queue.first() == "first"
    assert queue.remove("first")
    assert not queue.remove("first")
    assert (queue.first(), len(queue), queue.held_tokens) == ("second", 2, 110)
    assert queue.expired(now_seconds=9.9) == []
    assert queue.expired(now_seconds=10) == ["second"]


def test_a_request_larger_than_the_queue_may_wait_alone():
    queue = HoldingQueue(QueueLimits(max_requests=3, max_tokens=250, max_seconds=10))
    assert queue.refusal(1000, expected_wait_seconds=None) is None


def test_a_fault_takes_a_replica_out_and_one_trial_brings_it_back():
    health = ReplicaHealth()
    assert health.may_try(now_seconds=0)
    assert health.fault(now_seconds=0)
    assert not health.fault(now_seconds=1), "others that were under way say nothing new"
    assert not health.may_try(now_seconds=4.9)
    assert health.may_try(now_seconds=5)
    health.trying(now_seconds=5)
    assert not health.may_try(now_seconds=5.1), "one request at a time is on trial"
    health.answered()
    assert health.may_try(now_seconds=5.2)
    assert not health.is_out


def test_a_replica_that_fails_its_trial_is_out_for_twice_as_long():
    """5, 10, 20, 40, 60, 60 seconds."""
    health = ReplicaHealth()
    now, outs = 0.0, []
    health.fault(now_seconds=now)
    for _ in range(6):
        begun = now
        while not health.may_try(now_seconds=now):
            now += 0.5
        outs.append(now - begun)
        health.trying(now_seconds=now)
        health.fault(now_seconds=now)
    assert outs == [5, 10, 20, 40, 60, 60]


def test_one_poisonous_request_does_not_take_a_replica_out():
    """Five errors in a row do; an answer between them starts the count anew."""
    health = ReplicaHealth()
    for _ in range(4):
        assert not health.error(now_seconds=0)
    health.answered()
    for _ in range(4):
        assert not health.error(now_seconds=0)
    assert health.error(now_seconds=0)
    assert health.is_out


def test_a_snapshot_is_made_anew_when_something_changed_and_only_then():
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000)
    first = ledger.snapshot()
    assert ledger.snapshot() is first
    lease = ledger.reserve(profile())
    assert ledger.snapshot().projected_tokens == 150
    ledger.release(lease)
    assert ledger.snapshot().projected_tokens == first.projected_tokens
    ledger.promise(capacity_tokens=2000, max_context_tokens=None)
    assert ledger.snapshot().capacity_tokens == 2000
