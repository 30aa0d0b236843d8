"""What is learned from traffic: how long answers are, how fast a replica is."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.traffic.lengths import OutputLengths, TokensPerEvent
from memroute.traffic.lengths.output import MAX_GROUPS
from memroute.traffic.replica import PrefillLaw, StepClock

ASK = {"tenant": "a", "num_prompt_tokens": 100, "max_output_tokens": None}


def test_nobody_knows_how_long_answers_are_before_some_have_ended():
    lengths = OutputLengths()
    for _ in range(19):
        lengths.observe(100, **ASK)
    assert lengths.quantile(0.5, **ASK) is None
    lengths.observe(100, **ASK)
    assert lengths.quantile(0.5, **ASK) == pytest.approx(100, rel=0.05)


@given(st.lists(st.integers(1, 50_000), min_size=20, max_size=200), st.floats(0.05, 0.95))
def test_a_quantile_is_within_a_bin_of_the_true_one(values, ratio):
    """Bins are an eighth of an octave: 9 % wide."""
    lengths = OutputLengths()
    for value in values:
        lengths.observe(value, **ASK)
    told = lengths.quantile(ratio, **ASK)
    ordered = sorted(values)
    low = ordered[max(0, int(ratio * len(values)) - 1)]
    high = ordered[min(len(values) - 1, int(ratio * len(values)) + 1)]
    assert low / 1.1 - 1 <= told <= high * 1.1 + 1


@given(st.lists(st.integers(1, 50_000), min_size=20, max_size=60), st.integers(1, 60_000))
def test_answers_are_told_apart_from_none_past_the_longest(values, after_tokens):
    """An answer longer than all before is asked about with each step: nothing longer is known."""
    lengths = OutputLengths()
    for value in values:
        lengths.observe(value, **ASK)
    told = lengths.quantile(0.5, after_tokens=after_tokens, **ASK)
    if after_tokens >= max(values):
        assert told is None
    elif after_tokens < min(values) / 1.2:
        assert told == lengths.quantile(0.5, **ASK)


def test_one_that_got_long_is_expected_to_get_longer():
    """Of 20 and 1,000 the survivor past 20 is a long one."""
    lengths = OutputLengths()
    for value in [20] * 30 + [1000] * 10:
        lengths.observe(value, **ASK)
    assert lengths.quantile(0.5, **ASK) == pytest.approx(20, rel=0.1)
    assert lengths.quantile(0.5, **ASK, after_tokens=30) == pytest.approx(1000, rel=0.1)


def test_tenants_are_told_apart_and_never_expected_beyond_their_limit():
    lengths = OutputLengths()
    for _ in range(30):
        lengths.observe(10, **ASK)
        lengths.observe(800, **ASK | {"tenant": "b"})
    assert lengths.quantile(0.5, **ASK) == pytest.approx(10, rel=0.1)
    assert lengths.quantile(0.5, **ASK | {"tenant": "b"}) == pytest.approx(800, rel=0.1)
    stranger = ASK | {"tenant": "c", "max_output_tokens": 64}
    assert lengths.quantile(0.9, **stranger) == 64


@pytest.mark.slow
def test_old_traffic_is_forgotten_and_tenants_are_bounded():
    lengths = OutputLengths()
    for _ in range(2000):
        lengths.observe(10, **ASK)
    for _ in range(2000):
        lengths.observe(500, **ASK)
    assert lengths.quantile(0.3, **ASK) == pytest.approx(500, rel=0.1)
    for number in range(2 * MAX_GROUPS):
        lengths.observe(10, **ASK | {"tenant": str(number)})
    assert lengths.num_groups == MAX_GROUPS


def test_the_prefill_law_is_learned_from_first_tokens():
    """20 ms a prompt and 50 us a token: told by prompts of different length, one at a time."""
    speed, rng, now = PrefillLaw(), random.Random(1), 0.0
    for _ in range(200):
        tokens = rng.randrange(100, 8000)
        speed.sent(now_seconds=now)
        now += 0.02 + 5e-5 * tokens
        speed.prefilled(tokens, num_left=0, now_seconds=now)
        now += 0.5
    assert speed.prompt_seconds == pytest.approx(0.02, rel=0.05)
    assert speed.token_seconds == pytest.approx(5e-5, rel=0.05)
    assert speed.busy_since_seconds < 0


def test_prompts_that_are_all_alike_still_tell_what_they_take():
    """The split is anybody's guess, the sum is not: 1,000 tokens in 0.1 s."""
    speed, now = PrefillLaw(), 0.0
    for _ in range(300):
        speed.sent(now_seconds=now)
        now += 0.1
        speed.prefilled(1000, num_left=0, now_seconds=now)
    assert speed.prefill_seconds(1, 1000) == pytest.approx(0.1, rel=0.05)


def test_steps_are_counted_whether_their_tokens_come_one_by_one_or_together():
    """10 ms a step; every other time two tokens come in one piece."""
    clock, step = StepClock(), 0
    clock.advance(1, window_ticks=20, now_seconds=0.0)
    while step < 99:
        num_steps = 1 + step % 3 % 2
        step += num_steps
        clock.advance(num_steps, window_ticks=20, now_seconds=0.01 * step)
    assert clock.num_ticks == step
    assert clock.mean_seconds == pytest.approx(0.01, rel=0.01)


def test_a_prefill_lengthens_the_mean():
    """Every fifth step takes 110 ms: 30 ms on average."""
    clock, now = StepClock(), 0.0
    for step in range(400):
        clock.advance(1, window_ticks=64, now_seconds=now)
        now += 0.11 if step % 5 == 0 else 0.01
    assert clock.mean_seconds == pytest.approx(0.03, rel=0.25)
    clock.idle()
    assert clock.mean_seconds == 0.0


def test_answers_that_nobody_reads_grow_as_fast_as_one_alone_where_nothing_else_is_known():
    """20 ms a token were seen; idle since; then a whole answer decodes: 50 tokens in a second."""
    clock = StepClock()
    for number in range(40):
        clock.advance(1, window_ticks=20.0, now_seconds=0.02 * number)
    clock.idle()
    before = clock.num_ticks
    clock.pass_time(now_seconds=10.0)
    assert clock.pass_time(now_seconds=11.0)
    assert clock.num_ticks - before == pytest.approx(50, abs=1)


def test_a_replica_that_was_idle_shows_at_once_what_its_steps_are_like():
    """Three steps of 90 ms: their mean, not a sixty-fourth of the way there."""
    clock = StepClock()
    for number in range(4):
        clock.advance(1, window_ticks=200.0, now_seconds=0.09 * number)
    assert clock.mean_seconds == pytest.approx(0.09)
    clock.idle()
    for number in range(3):
        clock.advance(1, window_ticks=200.0, now_seconds=10 + 0.02 * number)
    assert clock.mean_seconds == pytest.approx(0.02)


def test_a_first_guess_of_what_one_gets_alone_gives_way_to_a_whole_window():
    """Two events that came together looked like 1 ms a token; 16 ticks of 68 ms say better."""
    clock = StepClock()
    clock.advance(1, window_ticks=20.0, now_seconds=0.0)
    clock.advance(1, window_ticks=20.0, now_seconds=0.001)
    assert clock.alone_seconds == pytest.approx(0.001)
    for number in range(1, 17):
        clock.advance(1, window_ticks=20.0, now_seconds=0.001 + 0.068 * number)
    assert clock.alone_seconds == pytest.approx((0.001 + 15 * 0.068) / 16)


def test_ticks_are_told_anew_when_events_turn_out_to_carry_more_tokens():
    """Events 80 ms apart, taken for single tokens, then known to carry eight: 10 ms a token."""
    clock = StepClock()
    for number in range(20):
        clock.advance(1, window_ticks=20.0, now_seconds=0.08 * number)
    assert clock.mean_seconds == pytest.approx(0.08)
    assert clock.alone_seconds == pytest.approx(0.08)
    clock.rescale(1 / 8)
    assert clock.mean_seconds == pytest.approx(0.01)
    assert clock.alone_seconds == pytest.approx(0.01)


def test_what_whole_answers_say_of_a_token_does_not_depend_on_what_an_event_carries():
    """100 tokens in 6.8 s are 68 ms a token, whatever an event is."""
    clock = StepClock()
    clock.report(0.068)
    clock.report_alone(6.8, 100.0, now_seconds=6.8)
    clock.rescale(1 / 8)
    assert clock.alone_seconds == clock.mean_seconds == pytest.approx(0.068)


def test_until_the_leader_shows_a_tick_the_counters_say_how_long_it_takes():
    """Twenty tokens of 40 ms are 0.8 s to the leader's first event; the counters said 60 meanwhile.

    From then on the leader's word counts, and the counters' does not.
    """
    clock = StepClock()
    clock.restart(now_seconds=0.0)
    clock.report(0.06)
    assert clock.mean_seconds == pytest.approx(0.06)
    clock.advance(20, window_ticks=20.0, now_seconds=0.8, weight=0.1)
    assert clock.mean_seconds == pytest.approx(0.04)
    clock.report(0.06)
    assert clock.mean_seconds == pytest.approx(0.04)


def test_the_first_stream_that_shows_a_tick_is_believed_whole():
    """Forty streams, events of eight: the first of them says 40 ms, not a fortieth of it."""
    clock = StepClock()
    clock.restart(now_seconds=0.0)
    clock.glimpse(0.04, 8.0, window_ticks=20.0, weight=1 / 40)
    assert clock.mean_seconds == pytest.approx(0.04)


def meter_of(*, prompt, token, rng, noise=0.0):
    """A replica that takes so long, seen with noise, on prompts of about 1,000 tokens."""
    meter, now = PrefillLaw(), 0.0
    for _ in range(60):
        tokens = rng.randrange(800, 1200)
        meter.sent(now_seconds=now)
        now += (prompt + token * tokens) * (1 + noise * (2 * rng.random() - 1))
        meter.prefilled(tokens, num_left=0, now_seconds=now)
    return meter


def compared(*meters):
    count = len(meters)
    for meter in meters:
        meter.compare(
            prompt_seconds=sum(m.own_prompt_seconds for m in meters) / count,
            token_seconds=sum(m.own_token_seconds for m in meters) / count,
            typical_tokens=sum(m.typical_tokens for m in meters) / count,
        )


def test_equal_replicas_are_equally_fast_whatever_noise_says_of_their_two_prices():
    rng = random.Random(3)
    meters = [meter_of(prompt=0.02, token=2e-5, rng=rng, noise=0.3) for _ in range(4)]
    assert len({round(meter.own_token_seconds, 9) for meter in meters}) == 4
    compared(*meters)
    assert len({(meter.prompt_seconds, meter.token_seconds) for meter in meters}) == 1
    assert meters[0].prefill_seconds(1, 1000) == pytest.approx(0.04, rel=0.1)


def test_a_replica_that_is_half_as_fast_is_known_to_be():
    rng = random.Random(3)
    fast = meter_of(prompt=0.02, token=2e-5, rng=rng, noise=0.1)
    slow = meter_of(prompt=0.04, token=4e-5, rng=rng, noise=0.1)
    compared(fast, slow)
    ratio = slow.prefill_seconds(1, 1000) / fast.prefill_seconds(1, 1000)
    assert ratio == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("size", [1, 4, 8, 20])
@pytest.mark.parametrize("longest", [30, 400])
def test_tokens_per_event_are_learned_from_short_answers_too(size, longest):
    """The first event has one token, the last what is left: of 30 tokens in twenties, nine."""
    events, rng = TokensPerEvent(), random.Random(5)
    for _ in range(300):
        tokens = rng.randrange(2, longest)
        more = -(-(tokens - 1) // size)
        events.observe(num_tokens=tokens, num_events=1 + more, num_sequences=1)
    assert events.ratio == pytest.approx(size, rel=0.15)


@pytest.mark.parametrize(("size", "num_tokens", "num_events"), [(8, 5, 2), (20, 11, 2)])
def test_one_answer_says_most_of_what_an_event_carries(size, num_tokens, num_events):
    """A router that starts under load needs it at once. Answers of a token and half an event.

    (8 + 1) / 2 = 4.5 tokens in the last event on average: k is (tokens - 1/2) / (events - 1/2) =
    3.5 / 0.5 = 7 of eight, 9.5 / 0.5 = 19 of twenty; four such answers outweigh the prior of one
    event twice.
    """
    events = TokensPerEvent()
    for _ in range(4):
        events.observe(num_tokens=num_tokens, num_events=num_events, num_sequences=1)
    exact = (num_tokens - 1.5) / 0.5
    # Four halves of an event beside the prior's one, nearly: (1 + 2 k) / 3.
    assert events.ratio == pytest.approx((1 + 2 * exact) / 3, rel=0.02)
    assert events.ratio > size / 2


def test_what_counters_said_is_in_tokens_and_is_not_rescaled_by_events():
    """The leader is paused and the counters say 20 ms a token; then an event turns out to be 20."""
    clock = StepClock()
    clock.restart(now_seconds=0.0)
    clock.advance(1, window_ticks=20.0, now_seconds=0.4)
    clock.lose_leader(now_seconds=0.5)
    clock.report(0.02)
    clock.rescale(1 / 20)
    assert clock.mean_seconds == pytest.approx(0.02)


def test_a_whole_answer_behind_a_long_prompt_does_not_hide_what_a_stream_has_shown():
    """16 tokens, 3.3 s after they were sent: no more than a bound, and 20 ms is known already."""
    clock = StepClock()
    clock.restart(now_seconds=0.0)
    clock.advance(1, window_ticks=20.0, now_seconds=0.02)
    clock.lose_leader(now_seconds=0.03)
    clock.report_alone(3.3, 16.0, now_seconds=4.0)
    assert clock.alone_seconds == pytest.approx(0.02)


def test_a_tenant_that_makes_many_groups_pushes_out_its_own():
    """Sizes and limits are the client's to choose: what is learned of others' answers stays."""
    lengths = OutputLengths()
    for _ in range(30):
        lengths.observe(100, tenant="honest", num_prompt_tokens=500, max_output_tokens=None)
    for number in range(20_000):
        lengths.observe(
            4000,
            tenant="odd",
            num_prompt_tokens=1 << (number % 40),
            max_output_tokens=1 << (number // 40 % 60),
        )
    assert lengths.num_groups == MAX_GROUPS
    told = lengths.quantile(0.5, tenant="honest", num_prompt_tokens=500, max_output_tokens=None)
    assert 90 < told < 110
