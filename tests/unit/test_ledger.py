import random

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
    ledger.streamed(lease, num_events=1, now_seconds=1.0)
    for step in range(1, 20):
        ledger.streamed(lease, num_events=1 + step, now_seconds=1.0 + 0.01 * step)
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
    ledger.streamed(lease, num_events=20, now_seconds=1.0)
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
        ledger.streamed(lease, num_events=1, now_seconds=1.0)
    ledger.apply_reading(reading(0.5, at=2.0))
    assert ledger.held_tokens == pytest.approx(500, abs=2)
    assert ledger.needed_tokens(400, work_tokens=100) == pytest.approx(100, abs=2)
    assert ledger.needed_tokens(400, work_tokens=400) == 400


def test_the_fullest_moment_is_before_an_end_not_at_the_sum_of_all_ends():
    """Two prompts of 100; one answer of 10 left, one of 50.

    After 10 steps 2 x 110 = 220 are held, then one gives 110 back; the other alone grows to 150.
    Prompts and whole answers would be 100 + 10 + 100 + 50 = 260.
    """
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000)
    for length in (10, 50):
        lease = ledger.reserve(profile(output=length), now_seconds=0.0)
        ledger.streamed(lease, num_events=1, now_seconds=0.1)
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
        ledger.streamed(lease, num_events=1, now_seconds=0.1)

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
    ledger.streamed(lease, num_events=1, now_seconds=0.1)
    for step in range(1, 12):
        ledger.streamed(lease, num_events=1 + step, now_seconds=0.1 + 0.01 * step)
    assert ledger.projected_tokens() == pytest.approx(140, abs=5)


def test_preemptions_lower_the_ceiling_and_quiet_raises_it():
    """5 % down for each reading with preemptions, one point up for each without."""
    ledger = ReplicaLedger("a")
    for count in (0, 3, 7):
        ledger.apply_reading(reading(0.9, num_preemptions_total=count))
    assert ledger.limits.ceiling_ratio == pytest.approx(0.95 * 0.95)
    ledger.apply_reading(reading(0.9, num_preemptions_total=7))
    assert ledger.limits.ceiling_ratio == pytest.approx(0.95 * 0.95 + 0.01)
    for _ in range(100):
        ledger.apply_reading(reading(0.9, num_preemptions_total=7))
    assert ledger.limits.ceiling_ratio == 1.0


def waits(at, *, running, waiting=3, ratio=0.5):
    return reading(ratio, at=at, num_requests_running=running, num_requests_waiting=waiting)


def test_as_many_twice_while_others_wait_is_what_an_engine_runs_at_once():
    ledger = ReplicaLedger("a")
    ledger.apply_reading(waits(1.0, running=200))
    ledger.apply_reading(waits(2.0, running=256))
    assert ledger.limits.running_limit is None
    ledger.apply_reading(waits(3.0, running=256))
    assert ledger.limits.running_limit == 256
    ledger.apply_reading(waits(4.0, running=120, waiting=0))
    assert ledger.limits.running_limit == 256


def test_a_number_that_stood_still_by_chance_is_found_out():
    ledger = ReplicaLedger("a")
    for at in (1.0, 2.0):
        ledger.apply_reading(waits(at, running=40))
    ledger.apply_reading(waits(3.0, running=40, waiting=0))
    assert ledger.limits.running_limit == 41
    ledger.apply_reading(waits(4.0, running=90))
    assert ledger.limits.running_limit == 90


def test_who_waits_at_a_cache_that_is_not_full_does_not_wait_for_blocks():
    """For its turn in a step, or for a slot: the ceiling of the memory is not the cause."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000)
    ledger.reserve(profile())
    for ratio, expected in ((0.5, 1.0), (0.9, 0.95)):
        for at in (1.0, 2.0):
            ledger.apply_reading(
                reading(ratio, at=at, num_preemptions_total=0, num_waiting_for_capacity=2)
            )
        assert ledger.limits.ceiling_ratio <= expected
        assert ledger.limits.ceiling_ratio > expected - 0.1


def test_without_a_reading_of_its_use_nothing_is_taken_to_be_shared():
    ledger = ReplicaLedger("a")
    lease = ledger.reserve(profile(prompt=1000), now_seconds=0.0, work_tokens=10)
    ledger.streamed(lease, num_events=1, now_seconds=1.0)
    ledger.apply_reading(reading(0.1, at=2.0, capacity=10_000))
    ledger.apply_reading(reading(0.05, at=3.0, capacity=10_000))
    assert ledger.pinned_ratio > 0
    ledger.apply_reading(reading(None, at=4.0))
    assert ledger.needed_tokens(1000, 10) == 1000


def test_an_engine_that_reports_no_preemptions_keeps_its_ceiling():
    ledger = ReplicaLedger("a")
    for _ in range(3):
        ledger.apply_reading(reading(0.9))
    assert ledger.limits.ceiling_ratio == 1.0


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
            ledger.streamed(lease, num_events=step + 1, now_seconds=now)
    assert ledger.steps.num_ticks == 10
    assert ledger.steps.mean_seconds == pytest.approx(0.01, rel=0.3)
    ledger.release(leases[0], now_seconds=0.11)
    for step in range(11, 21):
        ledger.streamed(leases[1], num_events=step + 1, now_seconds=0.01 * step)
    assert ledger.steps.num_ticks == 10 + 9


def test_a_whole_answer_teaches_nothing_of_how_fast_prompts_are():
    """100 tokens that took 8 s, most of it decoding: prompts are as fast as before."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000)
    before = ledger.speed.prefill_seconds(1, 100)
    lease = ledger.reserve(profile(is_stream=False), now_seconds=0.0)
    ledger.completed(lease, generated_tokens=50, now_seconds=8.0)
    ledger.release(lease, now_seconds=8.0)
    assert ledger.speed.prefill_seconds(1, 100) == before


def test_a_lease_cannot_be_released_twice():
    ledger = ReplicaLedger("a")
    lease = ledger.reserve(profile())
    ledger.release(lease)
    with pytest.raises(KeyError):
        ledger.release(lease)


def happen(ledger, held, kind, number, now):
    """One thing that can happen to a ledger, by its letter."""
    lease = held[number % len(held)] if held else None
    match kind:
        case "r" | "q":
            asked = profile(prompt=number, is_stream=kind == "r", num_choices=1 + number % 3)
            held.append(ledger.reserve(asked, now_seconds=now, work_tokens=number // 2))
        case "s":
            ledger.apply_reading(reading(number / 400, at=now - number / 1000, capacity=10_000))
        case "n":
            ledger.settle(now_seconds=now + number / 100)
        case "p" if lease:
            ledger.streamed(lease, num_events=number, now_seconds=now)
        case "t" if lease:
            ledger.completed(lease, generated_tokens=number, now_seconds=now)
        case "z" if lease:
            ledger.paused(lease, now_seconds=now)
        case "w" if lease:
            ledger.resumed(lease)
        case "e" if lease:
            held.remove(lease)
            ledger.release(lease, now_seconds=now)


@given(st.lists(st.tuples(st.sampled_from("rqpsetnzw"), st.integers(0, 400)), max_size=80))
def test_the_ledger_returns_to_zero_whatever_happened(steps):
    """Reserve, show, pause, settle, scrape and end in any order; then end everything."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10_000)
    held = []
    now = 0.0
    for kind, number in steps:
        now += 0.01
        happen(ledger, held, kind, number, now)
        assert ledger.projected_tokens() >= 0
        pending = sum(lease.is_pending for lease in held)
        decoding = sum(lease.num_sequences for lease in held if not lease.is_pending)
        assert (ledger.num_pending, ledger.num_streams) == (pending, decoding)
    for lease in held:
        ledger.release(lease, now_seconds=now)
    assert ledger.reserved_tokens == 0
    ledger.apply_reading(reading(0.0, at=now + 1, capacity=10_000))
    assert ledger.projected_tokens() == 0
    assert (ledger.num_pending, ledger.pending_tokens, ledger.num_streams) == (0, 0, 0)
    assert ledger.sum_inverse_expected_lengths == 0.0
    assert ledger.num_shown == 0


def test_a_rate_is_learned_quickly_and_forgotten():
    """100 tokens each second for a minute, then silence."""
    meter = RateMeter()
    assert meter.per_second(now_seconds=0) is None
    for second in range(60):
        meter.add(100, now_seconds=second)
    assert meter.per_second(now_seconds=59) == pytest.approx(100, rel=0.1)
    assert meter.per_second(now_seconds=159) < 1


def whole(prompt=1000, **facts):
    return profile(prompt=prompt, is_stream=False, **facts)


@pytest.mark.parametrize("share", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("belief", [0.2, 1.0, 10.0])
def test_the_prefill_law_is_learned_whatever_share_of_the_answers_is_whole(share, belief):
    """30 ms a prompt, ten a second, one after another. A law that starts off tenfold is mended."""
    rng = random.Random(7)
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**9)
    ledger.speed.assume(prompt_seconds=0.0, token_seconds=belief * 3e-5)
    free_at, now, waiting = 0.0, 0.0, []
    for _ in range(1500):
        now += rng.expovariate(10.0)
        while waiting and waiting[0][0] <= now:
            at, lease = waiting.pop(0)
            if lease.profile.is_stream:
                ledger.streamed(lease, num_events=1, now_seconds=at)
                ledger.release(lease, now_seconds=at)
        ledger.settle(now_seconds=now)
        asked = whole() if rng.random() < share else profile(prompt=1000)
        lease = ledger.reserve(asked, now_seconds=now)
        free_at = max(free_at, now) + 0.030
        waiting.append((free_at, lease))
    assert ledger.speed.prefill_seconds(1, 1000) == pytest.approx(0.030, rel=0.25)


def test_an_event_of_twenty_tokens_is_twenty_tokens_once_usage_has_said_so():
    """A token each 20 ms, an event each 400: the clock says 20, not 400."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    for number in range(8):
        start = 10.0 * number
        lease = ledger.reserve(profile(), now_seconds=start)
        for event in range(11):
            ledger.streamed(lease, num_events=1 + event, now_seconds=start + 0.1 + 0.4 * event)
        if number < 7:
            ledger.completed(lease, generated_tokens=201, now_seconds=start + 4.2)
            ledger.release(lease, now_seconds=start + 4.2)
    assert lease.generated_tokens == pytest.approx(201, rel=0.15)
    assert ledger.steps.mean_seconds == pytest.approx(0.020, rel=0.15)


def test_counters_say_how_many_tokens_an_event_has_where_no_client_asks_for_usage():
    """Two requests run and get 50 tokens per second each; a stream shows 2.5 events per second."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    lease = ledger.reserve(profile(), now_seconds=0.0)
    for tenth in range(400):
        now = 0.1 * tenth
        if tenth % 4 == 0:
            ledger.streamed(lease, num_events=1 + tenth // 4, now_seconds=now)
        if tenth % 10 == 5:
            ledger.apply_reading(
                reading(
                    0.1,
                    at=now,
                    capacity=10**6,
                    num_requests_running=2,
                    num_generated_tokens_total=int(100 * now),
                )
            )
    assert ledger.event_seconds == pytest.approx(0.4, rel=0.05)
    assert ledger.steps.mean_seconds == pytest.approx(0.020, rel=0.15)


def test_four_choices_are_four_answers_that_grow_with_one_clock():
    """N = 4: four events a step. 40 steps of 20 ms: 100 + 4 x 40 tokens, and no step of 5 ms."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    asked = profile(output=400, num_choices=4)
    lease = ledger.reserve(asked, now_seconds=0.0, expected_output_tokens=400)
    for step in range(41):
        for choice in range(4):
            ledger.streamed(lease, num_events=4 * step + choice + 1, now_seconds=0.02 * step)
    assert ledger.steps.num_ticks == pytest.approx(40, abs=1)
    assert ledger.steps.mean_seconds == pytest.approx(0.02, rel=0.05)
    assert ledger.num_streams == 4
    assert ledger.held_tokens == pytest.approx(100 + 4 * 40, abs=4)
    assert ledger.projected_tokens() == 100 + 400


def test_whole_answers_keep_the_clock_going_and_teach_it():
    """No stream at all: answers of 100 tokens in 2 s after 40 ms of prefill are 20 ms a token."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    for number in range(6):
        start = 10.0 * number
        lease = ledger.reserve(whole(), now_seconds=start)
        for tenth in range(1, 21):
            ledger.settle(now_seconds=start + 0.1 * tenth)
        if number < 5:
            ledger.completed(lease, generated_tokens=100, now_seconds=start + 2.04)
            ledger.release(lease, now_seconds=start + 2.04)
    assert ledger.alone_tpot_seconds == pytest.approx(0.02, rel=0.05)
    assert ledger.held_tokens == pytest.approx(1000 + 100, rel=0.02)


def test_a_client_that_reads_slowly_does_not_stop_the_clock_of_the_others():
    """D34: the leader is paused for 2 s; a whole answer beside it goes on growing meanwhile."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    slow = ledger.reserve(profile(output=1000), now_seconds=0.0)
    ledger.reserve(whole(), now_seconds=0.0)
    for step in range(50):
        ledger.streamed(slow, num_events=1 + step, now_seconds=0.02 * step)
    before = ledger.steps.num_ticks
    ledger.paused(slow, now_seconds=1.0)
    assert (ledger.leader, ledger.num_shown) == (None, 0)
    for tenth in range(10, 31):
        ledger.settle(now_seconds=0.1 * tenth)
    assert ledger.steps.num_ticks - before == pytest.approx(100, rel=0.1)
    ledger.resumed(slow)
    ledger.streamed(slow, num_events=150, now_seconds=3.0)
    ledger.streamed(slow, num_events=151, now_seconds=3.02)
    assert ledger.leader is slow
    assert ledger.alone_tpot_seconds == pytest.approx(0.02, rel=0.05)


def test_where_events_are_large_every_stream_tells_how_slow_tokens_have_become():
    """Twenty streams, an event of twenty tokens each second or so: the leader alone tells too late.

    Steps of 20 ms become steps of 60. Within a second, before the leader's own second event under
    the slow steps, the mean has risen by most of that.
    """
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    teacher = ledger.reserve(profile(), now_seconds=0.0)
    for event in range(21):
        ledger.streamed(teacher, num_events=1 + event, now_seconds=0.4 * event)
    ledger.completed(teacher, generated_tokens=401, now_seconds=8.0)
    ledger.release(teacher, now_seconds=8.0)
    leases = [ledger.reserve(profile(), now_seconds=10.0) for _ in range(20)]
    for number, lease in enumerate(leases):
        ledger.streamed(lease, num_events=1, now_seconds=10.0 + 0.02 * number)
    now = 10.0
    for event in range(2, 6):
        for number, lease in enumerate(leases):
            now = 10.0 + 0.4 * (event - 1) + 0.02 * number
            ledger.streamed(lease, num_events=event, now_seconds=now)
    assert ledger.steps.mean_seconds == pytest.approx(0.02, rel=0.25)
    for event in range(6, 8):
        for number, lease in enumerate(leases):
            ledger.streamed(
                lease, num_events=event, now_seconds=now + 1.2 * (event - 5) + 0.06 * number
            )
    assert ledger.steps.mean_seconds > 0.04


def test_a_prompt_that_was_computed_since_the_last_event_is_not_forgotten():
    """Its time is in no event yet: the answers there pay for it all the same."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    leader = ledger.reserve(profile(), now_seconds=0.0)
    ledger.streamed(leader, num_events=1, now_seconds=0.1)
    late = ledger.reserve(profile(prompt=5000), now_seconds=0.2)
    ledger.streamed(late, num_events=1, now_seconds=0.4)
    assert (ledger.pending_tokens, ledger.unshown_tokens) == (0, 5000)
    ledger.streamed(leader, num_events=2, now_seconds=0.5)
    assert ledger.unshown_tokens == 0


def test_what_answers_have_waited_for_prompts_counts_before_their_clock_shows_it():
    """A burst of short answers is over before any clock tells how slow it was.

    Two answers of 10 tokens. The first has waited for the second's prompt of 5,000 tokens, the
    second for nothing: (5,000 / 10 + 0) / 2 = 250 prompt tokens per token, at 40 microseconds each
    10 ms, on top of 8 ms that one answer alone takes.
    """
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    ledger.speed.assume(prompt_seconds=0.0, token_seconds=40e-6)
    ledger.steps.alone_seconds = 0.008
    first = ledger.reserve(profile(prompt=3000, output=10, is_stream=False), now_seconds=0.0)
    ledger.settle(now_seconds=0.12)
    assert ledger.stalling_tokens == 0, "its own prompt is not what an answer waits for"
    second = ledger.reserve(profile(prompt=5000, output=10, is_stream=False), now_seconds=0.12)
    ledger.settle(now_seconds=0.3201)
    assert ledger.num_streams == 2
    assert ledger.stalling_tokens == pytest.approx(250)
    assert ledger.tick_seconds == pytest.approx(0.018)
    ledger.release(first, now_seconds=0.5)
    assert ledger.stalling_tokens == pytest.approx(0)
    ledger.release(second, now_seconds=0.6)
    assert ledger.stalling_tokens == 0


def test_a_clock_that_nothing_shows_goes_as_slowly_as_steps_with_prompts_in_them():
    """Alone a token takes 8 ms, with 8,192 prompt tokens at 30 microseconds in each step 0.25 s.

    In a second four tokens come, not 125: else all short answers would seem to outlive what was
    expected of them, and be expected to become long.
    """
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    ledger.speed.assume(prompt_seconds=0.0, token_seconds=30e-6)
    ledger.steps.alone_seconds = 0.008
    ledger.reserve(profile(prompt=100, output=10, is_stream=False), now_seconds=0.0)
    ledger.settle(now_seconds=0.01)
    for _ in range(4):
        ledger.reserve(profile(prompt=10_000, output=10), now_seconds=0.01)
    for hundredth in range(2, 102):
        ledger.settle(now_seconds=0.01 * hundredth)
    assert 3 <= ledger.steps.num_ticks <= 4


def test_a_whole_answer_never_makes_a_replica_look_faster_than_it_is_alone():
    """Its prompt took 0.5 s longer than expected: 20 tokens in what was left of it prove nothing.

    16 tokens or more, 0.9 s after they were sent: 45 ms each at the most.
    """
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    ledger.speed.assume(prompt_seconds=0.0, token_seconds=1e-3)
    lease = ledger.reserve(profile(prompt=890, output=20, is_stream=False), now_seconds=0.0)
    ledger.settle(now_seconds=0.895)
    ledger.completed(lease, generated_tokens=20, now_seconds=0.9)
    assert ledger.alone_tpot_seconds == pytest.approx(0.045)


def test_the_only_answer_keeps_what_it_has_waited_for_when_it_is_expected_anew():
    """It outlives its 4 tokens, and a prompt of 6,000 is computed beside it afterwards.

    Expected to get at least 8 by then: 6,000 / 8 = 750 tokens per token of its own at the most, and
    half of that as the mean with the new answer, which has waited for nothing.
    """
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    first = ledger.reserve(profile(prompt=20_000, output=4), now_seconds=0.0)
    for event in range(8):
        ledger.streamed(first, num_events=1 + event, now_seconds=0.5 + 0.02 * event)
    second = ledger.reserve(profile(prompt=6000, output=4), now_seconds=0.7)
    ledger.streamed(second, num_events=1, now_seconds=0.9)
    expected = first.expected_output_tokens
    assert expected >= 8
    assert ledger.stalling_tokens == pytest.approx(6000 / expected / 2)


def test_an_answer_that_shows_nothing_does_not_lead_while_another_shows_its_tokens():
    """The leader is preempted after a token: with it the clock would stand until it ends."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    silent = ledger.reserve(profile(), now_seconds=0.0)
    ledger.streamed(silent, num_events=1, now_seconds=0.1)
    shown = ledger.reserve(profile(), now_seconds=0.1)
    for event in range(100):
        ledger.streamed(shown, num_events=1 + event, now_seconds=0.2 + 0.02 * event)
    assert ledger.leader is shown
    assert ledger.alone_tpot_seconds == pytest.approx(0.02)
    assert ledger.steps.num_ticks > 40


def test_a_clock_that_nothing_shows_charges_each_stretch_of_time_by_what_was_computed_in_it():
    """Prompts of 246 ms are pending all the time but for a moment between two of them.

    Looked at every 10 ms. In 2.5 s ten tokens come at most, not the 125 without prompts.
    """
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6)
    ledger.speed.assume(prompt_seconds=0.0, token_seconds=30e-6)
    ledger.steps.alone_seconds = 0.02
    ledger.reserve(profile(prompt=100, output=500, is_stream=False), now_seconds=0.0)
    ledger.settle(now_seconds=0.01)
    for number in range(10):
        start = 0.01 + 0.25 * number
        lease = ledger.reserve(profile(prompt=8192, output=1), now_seconds=start)
        for look in range(1, 25):
            ledger.settle(now_seconds=start + 0.01 * look)
        ledger.streamed(lease, num_events=1, now_seconds=start + 0.246)
        ledger.release(lease, now_seconds=start + 0.246)
        ledger.settle(now_seconds=start + 0.249)
    assert ledger.steps.num_ticks <= 13
