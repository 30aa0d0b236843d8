"""A replica that is slower for another reason than its work, told from one that has too much."""

import pytest

from memroute.traffic.replica import ReplicaLedger, ReplicaReading
from memroute.traffic.replica.slowdown import (
    NUM_CLASSES,
    RECOVERED_RATIO,
    SLOWED_RATIO,
    Slowdown,
    _class_of,
)
from memroute.traffic.replica.step_clock import StepClock

# What one step takes: weights, an answer's share of compute, and its part of the KV cache.
WEIGHTS, ANSWER, TOKEN = 0.030, 0.0005, 0.0000005


def step_seconds(num_streams, num_tokens):
    return WEIGHTS + ANSWER * num_streams + TOKEN * num_tokens


def show(slowdown, num_streams, *, slower=1.0, tokens_each=500, now=0.0, noise=1.0):
    """Two windows with so many answers there; the ratio that is believed then."""
    for _ in range(2):
        show_once(slowdown, num_streams, slower * noise, tokens_each=tokens_each, now=now)
    return slowdown.ratio


def show_once(slowdown, num_streams, slower=1.0, *, tokens_each=500, now=0.0):
    work = num_streams, num_streams * tokens_each
    slowdown.show(slower * step_seconds(*work), most=work, least=work, now_seconds=now)
    return slowdown.ratio


def known(*counts):
    slowdown = Slowdown()
    for count in counts:
        assert show(slowdown, count) == 1.0
    return slowdown


def test_nothing_is_slower_at_first():
    assert show(Slowdown(), 10, slower=8.0) == 1.0


@pytest.mark.parametrize("slower", [1.6, 2.26, 4.0])
def test_as_much_to_do_that_takes_longer_is_a_slowdown(slower):
    slowdown = known(1, 4, 12)
    assert show(slowdown, 12, slower=slower, now=100.0) == pytest.approx(slower, rel=0.02)
    assert show(slowdown, 3, slower=slower, now=101.0) == pytest.approx(slower, rel=0.1)


@pytest.mark.parametrize("tokens_each", [500, 8_000])
def test_a_batch_that_grows_is_none(tokens_each):
    """Whatever each answer holds: a step over twice as much takes at most twice as long."""
    slowdown = known(1, 2)
    for count in (1, 3, 8, 20, 60, 200, 1000):
        assert show(slowdown, count, tokens_each=tokens_each, now=float(count)) == 1.0


def test_answers_that_grow_are_none():
    """Their KV cache is read in every step."""
    slowdown = known(32)
    for tokens_each in (1_000, 4_000, 16_000, 64_000):
        assert show(slowdown, 32, tokens_each=tokens_each) == 1.0


def test_a_batch_that_grows_beyond_what_was_shown_does_not_hide_it():
    """A step over twelve times as much might take so long: what was proved is kept."""
    slowdown = known(1, 4)
    assert show(slowdown, 4, slower=2.26, now=100.0) == pytest.approx(2.26, rel=0.02)
    for count in (8, 20, 60, 30, 200):
        assert show(slowdown, count, slower=2.26, now=110.0) == pytest.approx(2.26, rel=0.15)
    # What was shown meanwhile is what it is without: when the neighbour rests, nothing is slower.
    for count in (200, 60, 4):
        assert show(slowdown, count, now=120.0) == 1.0


def test_what_was_shown_before_it_was_noticed_may_have_been_slowed():
    slowdown = known(1, 4)
    # More than ever before, so that nothing can be said of it.
    assert show(slowdown, 8, slower=2.0, now=100.0) == 1.0
    assert show(slowdown, 4, slower=2.0, now=110.0) == pytest.approx(2.0, rel=0.02)
    assert show(slowdown, 8, slower=2.0, now=120.0) == pytest.approx(2.0, rel=0.02)


def test_noise_is_none():
    slowdown = known(1, 4, 16)
    for number in range(200):
        noise = 1.0 + 0.3 * ((number * 7919) % 100) / 100
        assert show(slowdown, 1 + number % 16, now=float(number), noise=noise) == 1.0


def test_it_is_taken_back_when_the_neighbour_rests():
    slowdown = known(1, 4, 16)
    assert show(slowdown, 16, slower=3.0, now=100.0) == pytest.approx(3.0, rel=0.02)
    assert show(slowdown, 16, slower=2.0, now=100.0) == pytest.approx(2.0, rel=0.02)
    # Between the two it is kept, and what is less than the lower one is none.
    between = (RECOVERED_RATIO + SLOWED_RATIO) / 2
    assert show(slowdown, 16, slower=between, now=100.0) == pytest.approx(between, rel=0.02)
    assert show(slowdown, 16, slower=1.1, now=100.0) == 1.0
    assert show(slowdown, 16, slower=between, now=100.0) == 1.0


def test_ticks_with_prompts_take_it_back_and_prove_none():
    slowdown = known(1, 16)
    slowdown.bound(1.0, num_streams=16, num_tokens=8_000)
    assert slowdown.ratio == 1.0
    show(slowdown, 16, slower=3.0, now=100.0)
    usual = step_seconds(16, 8_000)
    slowdown.bound(5 * usual, num_streams=16, num_tokens=8_000)
    assert slowdown.ratio == pytest.approx(3.0, rel=0.02)
    slowdown.bound(2 * usual, num_streams=16, num_tokens=8_000)
    assert slowdown.ratio == pytest.approx(2.0, rel=0.02)
    # Of more than was shown it only says what is certain.
    slowdown.bound(2 * usual, num_streams=64, num_tokens=32_000)
    assert slowdown.ratio == pytest.approx(2.0, rel=0.02)
    slowdown.bound(1.1 * usual, num_streams=16, num_tokens=8_000)
    assert slowdown.ratio == 1.0


def test_an_engine_that_is_slower_for_good_is_believed_in_the_end():
    slowdown = known(8)
    ratios = [show(slowdown, 8, slower=2.0, now=60.0 * minute) for minute in range(1, 600)]
    assert ratios[0] == pytest.approx(2.0, rel=0.03)
    assert ratios[-1] == 1.0


def test_events_that_carry_more_tokens_change_what_was_shown():
    slowdown = known(4)
    slowdown.rescale(0.25)
    assert show(slowdown, 4, slower=0.25, now=1.0) == 1.0
    assert show(slowdown, 4, now=2.0) == pytest.approx(4.0, rel=0.01)


def test_what_the_counters_have_shown_stays_as_it_is():
    """They count tokens, however many an event carries."""
    slowdown, work = Slowdown(), (4, 2_000)
    for _ in range(2):
        slowdown.show(0.03, most=work, least=work, now_seconds=0.0, is_of_events=False)
    slowdown.rescale(0.25)
    assert slowdown.most_seconds(*work) == pytest.approx(0.03)


def test_events_that_turn_out_to_be_long_were_no_slowdown():
    slowdown = Slowdown()
    for seconds, is_of_events in ((0.03, False), (0.03, False), (0.12, True), (0.12, True)):
        work = 4, 2_000
        slowdown.show(seconds, most=work, least=work, now_seconds=0.0, is_of_events=is_of_events)
    assert slowdown.ratio == pytest.approx(4.0)
    slowdown.rescale(0.25)
    assert slowdown.ratio == 1.0


def test_one_window_proves_nothing():
    """It may hold a pause of the router's, or the last event of an answer, which is short."""
    slowdown = known(4)
    for number in range(40):
        late = 3.0 if number % 3 == 0 else 1.0
        assert show_once(slowdown, 4, late, now=float(number)) == 1.0
    for number in range(40):
        early = 0.5 if number % 3 == 0 else 1.0
        assert show_once(slowdown, 4, early, now=float(number)) == 1.0


def test_a_slowdown_does_not_feed_on_what_is_shown_meanwhile():
    """With less to do than was ever shown, nothing bounds it from above."""
    slowdown = known(8)
    for number in range(500):
        noise = 1.0 + 0.3 * ((number * 7919) % 100) / 100
        ratio = show(slowdown, 1 + number % 6, slower=2.26, noise=noise, now=float(number))
        assert ratio <= 1.3 * 2.26


def test_a_batch_that_grows_as_the_neighbour_rests_leaves_no_wrong_measure():
    slowdown = known(1, 4)
    assert show(slowdown, 4, slower=2.26, now=100.0) > 2.0
    for count in (32, 128, 128, 16, 4):
        show(slowdown, count, now=110.0)
    for count in (4, 16, 64, 128, 4, 128):
        assert show(slowdown, count, now=120.0) == 1.0


def test_an_hour_without_requests_makes_no_replica_slower():
    slowdown = known(8)
    assert show(slowdown, 8, slower=2.26, now=3600.0) == pytest.approx(2.26, rel=0.02)


def test_a_busy_hour_with_a_neighbour_that_comes_and_goes_is_noticed_each_time():
    slowdown, now = known(1, 4, 12), 0.0
    for _ in range(60):
        for slower in (1.0, 2.26):
            for count in (4, 12, 6, 1):
                now += 5.0
                ratio = show(slowdown, count, slower=slower, now=now)
            assert ratio == pytest.approx(slower, rel=0.1)


def test_long_answers_do_not_hide_a_slowdown():
    """What a token in the KV cache adds is known from what was shown of many."""
    slowdown = known(4)
    assert show(slowdown, 64, tokens_each=8_000) == 1.0
    assert show(slowdown, 4, tokens_each=1_500, slower=2.0, now=100.0) > 1.8


def test_a_slowdown_without_a_measure_left_ends_by_itself():
    """A replica that is slow for good from its first minute on."""
    slowdown = known(8)
    assert show(slowdown, 8, slower=2.0, now=30.0) == pytest.approx(2.0, rel=0.02)
    ratios = [show(slowdown, 8, slower=2.0, now=60.0 * minute) for minute in range(1, 600)]
    assert ratios[-1] == 1.0


def tick(clock, now, seconds, count, *, is_between_prompts=True, num_streams=4):
    """So many ticks of four answers; when the last one is over."""
    for _ in range(count):
        now += seconds
        clock.advance(
            1.0,
            window_ticks=64.0,
            now_seconds=now,
            is_between_prompts=is_between_prompts,
            num_streams=num_streams,
            num_tokens=500 * num_streams,
        )
    return now


def slowed_clock(ratio):
    clock = StepClock()
    now = tick(clock, 0.0, 0.035, 4000)
    while clock.slowdown.ratio == 1.0 and now < 1000.0:
        now = tick(clock, now, ratio * 0.035, 1)
    # However little of the first window was slow.
    assert clock.slowdown.ratio == pytest.approx(ratio, rel=0.1)
    return clock, now


@pytest.mark.parametrize("ratio", [1.6, 2.26, 10.0])
def test_the_mean_from_before_takes_nothing_back(ratio):
    """The first prompt after the gate has opened: the mean has ticks from before in it."""
    clock, now = slowed_clock(ratio)
    tick(clock, now, 1.1 * ratio * 0.035, 100, is_between_prompts=False)
    assert clock.slowdown.ratio == pytest.approx(ratio, rel=0.1)


def test_ticks_with_prompts_show_that_the_neighbour_rests():
    clock, now = slowed_clock(2.26)
    now = tick(clock, now, 1.2 * 0.035, 40, is_between_prompts=False)
    assert clock.slowdown.ratio == 1.0


def test_fewer_answers_than_ever_show_that_the_neighbour_rests():
    """A step over half as much takes at least half as long."""
    slowdown = known(8)
    assert show(slowdown, 8, slower=2.26, now=100.0) > 2.0
    assert show(slowdown, 7, now=110.0) == 1.0


def test_what_others_run_there_is_work():
    """Requests that no router reports, by the engine's readings."""
    clock = StepClock()
    now = tick(clock, 0.0, 0.035, 4000)
    clock.foreign_streams, clock.foreign_tokens = 12, 6_000
    now = tick(clock, now, 3.0 * 0.035, 100)
    assert clock.slowdown.ratio == 1.0
    clock.foreign_streams = clock.foreign_tokens = 0
    tick(clock, now, 3.0 * 0.035, 100)
    assert clock.slowdown.ratio == pytest.approx(3.0, rel=0.1)


def test_what_others_run_there_counts_from_one_reading_to_the_one_after_the_next():
    """It may have ended just after the reading, or begun just before."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10_000)
    seen = []
    for number, running in enumerate((0, 5, 0, 0)):
        ledger.apply_reading(
            ReplicaReading(
                taken_at_seconds=float(number),
                kv_cache_utilization_ratio=0.1 * running,
                kv_capacity_tokens=10_000,
                num_requests_running=running,
                num_requests_waiting=0,
            )
        )
        seen.append((ledger.steps.foreign_streams, ledger.steps.foreign_tokens))
    assert seen == [(0, 0), (5, 5_000), (5, 5_000), (0, 0)]


@pytest.mark.parametrize(
    ("ran", "running", "waiting", "prompt_tokens", "is_heard"),
    [
        (10, 10, 0, 0, True),
        (10, 9, 0, 0, True),
        (10, 4, 0, 0, False),
        (10, 10, 1, 0, False),
        (10, 10, 0, 400, False),
    ],
)
def test_counters_show_a_slowdown_only_where_the_work_stayed_the_same(
    ran, running, waiting, prompt_tokens, is_heard
):
    """Running requests that left, and prompts that others sent, make tokens rarer, too."""
    ledger = ReplicaLedger("a")
    generated = prompts = 0
    for number in range(300):
        is_late = number >= 290
        generated += 10 * (10 if is_late else 30)
        prompts += prompt_tokens if is_late else 0
        ledger.apply_reading(
            ReplicaReading(
                taken_at_seconds=float(number),
                kv_cache_utilization_ratio=None,
                num_requests_running=running if is_late and number % 2 else ran,
                num_requests_waiting=waiting if is_late else 0,
                num_computed_tokens_total=generated + prompts,
                num_generated_tokens_total=generated,
            )
        )
    assert (ledger.steps.slowdown.ratio > 1.0) is is_heard


def test_what_few_have_shown_does_not_replace_what_many_have():
    """Two say less of eight than seven do: 4 times as much to do, against 8 / 7."""
    slowdown = Slowdown()
    for count in (7, 7, 5, 5, 2, 2, 3, 3):
        show(slowdown, count)
    bound = slowdown.most_seconds(8, 4_000)
    assert bound is not None
    assert bound < 1.5 * step_seconds(8, 4_000)


def test_every_number_of_sequences_has_a_class():
    """In order, and none beyond what is kept."""
    classes = [_class_of(number) for number in (*range(1, 2000), 2**16 - 1, 2**16, 10**9)]
    assert classes == sorted(classes)
    assert classes[:15] == list(range(1, 16))
    assert 0 <= min(classes) <= max(classes) < NUM_CLASSES
    assert len({_class_of(number) for number in range(16, 32)}) == 4
