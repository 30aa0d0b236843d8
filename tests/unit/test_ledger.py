import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.traffic.lengths import OutputLengths
from memroute.traffic.replica import RateMeter, ReplicaLedger, ReplicaReading
from memroute.traffic.request import RequestProfile


def profile(prompt=100, output=50, **facts):
    return RequestProfile(
        num_prompt_tokens=prompt,
        min_prompt_tokens=prompt // 4,
        max_output_tokens=None,
        assumed_output_tokens=output,
        **facts,
    )


def reading(ratio, at=0.0, capacity=1000, **facts):
    return ReplicaReading(
        taken_at_seconds=at,
        kv_cache_utilization_ratio=ratio,
        kv_capacity_tokens=capacity,
        **facts,
    )


def test_a_reservation_counts_before_any_scrape_sees_it():
    """Decisions come every millisecond, scrapes every second: without this, all pile up."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000)
    ledger.reserve(profile())
    assert ledger.projected_tokens() == 150


def test_a_scrape_takes_over_what_has_answered_and_leaves_the_growth():
    """Expected to hold 150 at its end; its prompt and its tokens so far are measured by then."""
    ledger = ReplicaLedger("a")
    lease = ledger.reserve(profile(), now_seconds=0.0)
    ledger.progress(lease, generated_tokens=1, now_seconds=1.0)
    for step in range(20):
        ledger.stepped(now_seconds=1.0 + 0.01 * step)
    ledger.progress(lease, generated_tokens=20, now_seconds=1.2)
    ledger.apply_reading(reading(0.12, at=1.2))
    assert ledger.foreign_tokens == 0
    assert ledger.projected_tokens() == 150


def test_what_was_sent_after_the_scrape_started_is_not_in_it():
    """The reading was on its way while the request was sent: it counts in full, beside it."""
    ledger = ReplicaLedger("a")
    ledger.reserve(profile(), now_seconds=5.0)
    ledger.apply_reading(reading(0.7, at=4.9))
    assert ledger.foreign_tokens == 700
    assert ledger.projected_tokens() == 700 + 150


def test_a_prompt_that_waits_may_or_may_not_be_in_a_scrape():
    """Sent before, not answered: 100 of the 700 may be its own, and are not counted twice."""
    ledger = ReplicaLedger("a")
    ledger.reserve(profile(), now_seconds=4.0)
    ledger.apply_reading(reading(0.7, at=4.9))
    assert ledger.foreign_tokens == 600


def test_what_ended_while_a_scrape_was_under_way_is_taken_off():
    ledger = ReplicaLedger("a")
    lease = ledger.reserve(profile(), now_seconds=0.0)
    ledger.progress(lease, generated_tokens=20, now_seconds=1.0)
    ledger.release(lease, now_seconds=2.1)
    ledger.apply_reading(reading(0.12, at=2.0))
    assert ledger.foreign_tokens == 0
    assert ledger.projected_tokens() == 0


def test_use_by_others_counts_too_so_a_router_that_restarts_knows_at_once():
    """Another router's requests, a client that goes to the engine directly, our former self's."""
    ledger = ReplicaLedger("a")
    ledger.apply_reading(reading(0.7, num_requests_running=9, num_requests_waiting=2))
    ledger.reserve(profile())
    assert ledger.projected_tokens() == 700 + 150
    assert (ledger.num_foreign_running, ledger.num_foreign_waiting) == (9, 2)


def test_shared_prefixes_are_counted_as_often_as_the_engine_does():
    """Two answers of 400 tokens share 300: the engine holds 500, and a third needs 100 more.

    Ours add up to 800; 300 of the 300 tokens that were hits are pinned by others too.
    """
    ledger = ReplicaLedger("a")
    for work in (400, 100):
        lease = ledger.reserve(profile(prompt=400, output=1), work_tokens=work, now_seconds=0.0)
        ledger.progress(lease, generated_tokens=0, now_seconds=1.0)
    ledger.apply_reading(reading(0.5, at=2.0))
    assert ledger.held_tokens == 500
    assert ledger.needed_tokens(400, work_tokens=100) == 100
    assert ledger.needed_tokens(400, work_tokens=400) == 400


def test_the_fullest_moment_is_before_an_end_not_at_the_sum_of_all_ends():
    """Two prompts of 100; one answer of 10 left, one of 50.

    After 10 steps 2 x 110 = 220 are held, then one gives 110 back; the other alone grows to 150.
    Prompts and whole answers would be 100 + 10 + 100 + 50 = 260.
    """
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000)
    for length in (10, 50):
        lease = ledger.reserve(profile(output=length), now_seconds=0.0)
        ledger.progress(lease, generated_tokens=0, now_seconds=0.1)
    assert ledger.projected_tokens() == 220
    # A third, of 60 tokens with 5 to come: after 5 steps 3 are there, 100 + 100 + 60 + 3 x 5.
    assert ledger.projected_with(60, 5) == 275


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 300)), max_size=12),
       st.integers(1, 500), st.integers(1, 300))  # fmt: skip
def test_the_projection_is_the_maximum_over_all_steps(answers, prompt, more):
    """Against the definition: every step is looked at."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    for size, length in answers:
        lease = ledger.reserve(profile(prompt=size, output=length), now_seconds=0.0)
        ledger.progress(lease, generated_tokens=0, now_seconds=0.1)

    def held(step, rows):
        return sum(size + step for size, length in rows if length >= step)

    steps = range(301)
    assert ledger.projected_tokens() == max(held(step, answers) for step in steps)
    rows = [*answers, (prompt, more)]
    assert ledger.projected_with(prompt, more) == max(held(step, rows) for step in steps)


def test_an_answer_that_outlives_its_expectation_gets_a_new_one():
    """Half of the answers that got to 10 tokens end by 40: expected anew, not forgotten."""
    lengths = OutputLengths()
    for length in [10] * 30 + [40] * 30:
        lengths.observe(length, tenant="", num_prompt_tokens=100, max_output_tokens=None)
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000, lengths=lengths)
    lease = ledger.reserve(profile(), now_seconds=0.0, expected_output_tokens=10)
    ledger.progress(lease, generated_tokens=1, now_seconds=0.1)
    for step in range(12):
        ledger.stepped(now_seconds=0.1 + 0.01 * step)
    assert ledger.projected_tokens() == pytest.approx(140, abs=5)


def test_preemptions_lower_the_ceiling_and_quiet_raises_it():
    """5 % down for each reading with preemptions, one point up for each without."""
    ledger = ReplicaLedger("a")
    for count in (0, 3, 7):
        ledger.apply_reading(reading(0.9, num_preemptions_total=count))
    assert ledger.ceiling_ratio == pytest.approx(0.95 * 0.95)
    ledger.apply_reading(reading(0.9, num_preemptions_total=7))
    assert ledger.ceiling_ratio == pytest.approx(0.95 * 0.95 + 0.01)
    for _ in range(100):
        ledger.apply_reading(reading(0.9, num_preemptions_total=7))
    assert ledger.ceiling_ratio == 1.0


def waits(at, *, running, waiting=3, ratio=0.5):
    return reading(ratio, at=at, num_requests_running=running, num_requests_waiting=waiting)


def test_as_many_twice_while_others_wait_is_what_an_engine_runs_at_once():
    ledger = ReplicaLedger("a")
    ledger.apply_reading(waits(1.0, running=200))
    ledger.apply_reading(waits(2.0, running=256))
    assert ledger.running_limit is None
    ledger.apply_reading(waits(3.0, running=256))
    assert ledger.running_limit == 256
    ledger.apply_reading(waits(4.0, running=120, waiting=0))
    assert ledger.running_limit == 256


def test_a_number_that_stood_still_by_chance_is_found_out():
    ledger = ReplicaLedger("a")
    for at in (1.0, 2.0):
        ledger.apply_reading(waits(at, running=40))
    ledger.apply_reading(waits(3.0, running=40, waiting=0))
    assert ledger.running_limit == 41
    ledger.apply_reading(waits(4.0, running=90))
    assert ledger.running_limit == 90


def test_who_waits_at_a_cache_that_is_not_full_does_not_wait_for_blocks():
    """For its turn in a step, or for a slot: the ceiling of the memory is not the cause."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000)
    ledger.reserve(profile())
    for ratio, expected in ((0.5, 1.0), (0.9, 0.95)):
        for at in (1.0, 2.0):
            ledger.apply_reading(
                reading(ratio, at=at, num_preemptions_total=0, num_waiting_for_capacity=2)
            )
        assert ledger.ceiling_ratio <= expected
        assert ledger.ceiling_ratio > expected - 0.1


def test_without_a_reading_of_its_use_nothing_is_taken_to_be_shared():
    ledger = ReplicaLedger("a")
    lease = ledger.reserve(profile(prompt=1000), now_seconds=0.0, work_tokens=10)
    ledger.progress(lease, generated_tokens=1, now_seconds=1.0)
    ledger.apply_reading(reading(0.1, at=2.0, capacity=10_000))
    ledger.apply_reading(reading(0.05, at=3.0, capacity=10_000))
    assert ledger.pinned_ratio > 0
    ledger.apply_reading(reading(None, at=4.0))
    assert ledger.needed_tokens(1000, 10) == 1000


def test_an_engine_that_reports_no_preemptions_keeps_its_ceiling():
    ledger = ReplicaLedger("a")
    for _ in range(3):
        ledger.apply_reading(reading(0.9))
    assert ledger.ceiling_ratio == 1.0


def test_an_answer_that_is_not_streamed_begins_when_it_should_have():
    """Nobody sees its first token: its prompt does not wait for ever."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000)
    lease = ledger.reserve(profile(is_stream=False), now_seconds=0.0)
    ledger.settle(now_seconds=0.001)
    assert ledger.num_pending == 1
    ledger.settle(now_seconds=5.0)
    assert (ledger.num_pending, ledger.pending_tokens, ledger.num_streams) == (0, 0, 1)
    ledger.release(lease, now_seconds=6.0)
    assert ledger.projected_tokens() == 0


def test_one_of_the_answers_tells_the_steps_and_another_when_it_has_ended():
    """Three answers, ten tokens each, 10 ms apart: ten steps, not thirty."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10_000)
    leases = [ledger.reserve(profile(), now_seconds=0.0) for _ in range(3)]
    for step in range(11):
        for number, lease in enumerate(leases):
            now = 0.01 * step + 1e-4 * number
            ledger.streamed(lease, generated_tokens=step + 1, now_seconds=now)
    assert ledger.speed.num_steps == 10
    assert ledger.speed.mean_step_seconds == pytest.approx(0.01, rel=0.3)
    ledger.release(leases[0], now_seconds=0.11)
    for step in range(11, 21):
        ledger.streamed(leases[1], generated_tokens=step + 1, now_seconds=0.01 * step)
    assert ledger.speed.num_steps == 10 + 9


def test_a_whole_answer_teaches_nothing_of_how_fast_prompts_are():
    """100 tokens that took 8 s, most of it decoding: prompts are as fast as before."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000)
    before = ledger.speed.prefill_seconds(1, 100)
    lease = ledger.reserve(profile(is_stream=False), now_seconds=0.0)
    ledger.progress(lease, generated_tokens=50, now_seconds=8.0)
    ledger.release(lease, now_seconds=8.0)
    assert ledger.speed.prefill_seconds(1, 100) == before


def test_a_lease_cannot_be_released_twice():
    ledger = ReplicaLedger("a")
    lease = ledger.reserve(profile())
    ledger.release(lease)
    with pytest.raises(KeyError):
        ledger.release(lease)


@given(st.lists(st.tuples(st.sampled_from("rqpsetn"), st.integers(0, 400)), max_size=80))
def test_the_ledger_returns_to_zero_whatever_happened(steps):
    """Reserve, answer, step, scrape and end in any order; then end everything."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10_000)
    held = []
    now = 0.0
    for kind, number in steps:
        now += 0.01
        if kind in "rq":
            asked = profile(prompt=number, is_stream=kind == "r")
            held.append(ledger.reserve(asked, now_seconds=now, work_tokens=number // 2))
        elif kind == "p" and held:
            lease = held[number % len(held)]
            ledger.progress(lease, generated_tokens=number, now_seconds=now)
        elif kind == "s":
            told = reading(number / 400, at=now - number / 1000, capacity=10_000)
            ledger.apply_reading(told)
        elif kind == "t":
            ledger.stepped(now_seconds=now)
        elif kind == "n":
            ledger.settle(now_seconds=now + number / 100)
        elif kind == "e" and held:
            ledger.release(held.pop(number % len(held)), now_seconds=now)
        assert ledger.projected_tokens() >= 0
        assert ledger.num_pending + ledger.num_streams == len(held)
    for lease in held:
        ledger.release(lease, now_seconds=now)
    assert ledger.reserved_tokens == 0
    ledger.apply_reading(reading(0.0, at=now + 1, capacity=10_000))
    assert ledger.projected_tokens() == 0
    assert (ledger.num_pending, ledger.pending_tokens, ledger.num_streams) == (0, 0, 0)
    assert ledger.sum_inverse_expected_lengths == 0.0


def test_a_rate_is_learned_quickly_and_forgotten():
    """100 tokens each second for a minute, then silence."""
    meter = RateMeter()
    assert meter.per_second(now_seconds=0) is None
    for second in range(60):
        meter.add(100, now_seconds=second)
    assert meter.per_second(now_seconds=59) == pytest.approx(100, rel=0.1)
    assert meter.per_second(now_seconds=159) < 1
