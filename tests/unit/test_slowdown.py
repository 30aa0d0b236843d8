"""A replica that is slower for another reason than its work, told from one that has too much."""

import pytest

from memroute.traffic.replica.slowdown import RECOVERED_RATIO, SLOWED_RATIO, Slowdown

# What one step takes: weights, an answer's share of compute, and its part of the KV cache.
WEIGHTS, ANSWER, TOKEN = 0.030, 0.0005, 0.0000005


def step_seconds(num_streams, num_tokens):
    return WEIGHTS + ANSWER * num_streams + TOKEN * num_tokens


def show(slowdown, num_streams, *, slower=1.0, tokens_each=500, now=0.0, noise=1.0):
    """A window with so many answers there; the ratio that is believed then."""
    work = num_streams, num_streams * tokens_each
    slowdown.show(slower * noise * step_seconds(*work), most=work, least=work, now_seconds=now)
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
    assert show(slowdown, 16, slower=3.0) == pytest.approx(3.0, rel=0.02)
    assert show(slowdown, 16, slower=2.0) == pytest.approx(2.0, rel=0.02)
    # Between the two it is kept, and what is less than the lower one is none.
    between = (RECOVERED_RATIO + SLOWED_RATIO) / 2
    assert show(slowdown, 16, slower=between) == pytest.approx(between, rel=0.02)
    assert show(slowdown, 16, slower=1.1) == 1.0
    assert show(slowdown, 16, slower=between) == 1.0


def test_ticks_with_prompts_take_it_back_and_prove_none():
    slowdown = known(1, 16)
    slowdown.bound(1.0, num_streams=16, num_tokens=8_000, now_seconds=0.0)
    assert slowdown.ratio == 1.0
    show(slowdown, 16, slower=3.0)
    usual = step_seconds(16, 8_000)
    slowdown.bound(5 * usual, num_streams=16, num_tokens=8_000, now_seconds=0.0)
    assert slowdown.ratio == pytest.approx(3.0, rel=0.02)
    slowdown.bound(2 * usual, num_streams=16, num_tokens=8_000, now_seconds=0.0)
    assert slowdown.ratio == pytest.approx(2.0, rel=0.02)
    # Of more than was shown it only says what is certain.
    slowdown.bound(2 * usual, num_streams=64, num_tokens=32_000, now_seconds=0.0)
    assert slowdown.ratio == pytest.approx(2.0, rel=0.02)
    slowdown.bound(1.1 * usual, num_streams=16, num_tokens=8_000, now_seconds=0.0)
    assert slowdown.ratio == 1.0


def test_an_engine_that_is_slower_for_good_is_believed_in_the_end():
    slowdown = known(8)
    ratios = [show(slowdown, 8, slower=2.0, now=60.0 * minute) for minute in range(1, 600)]
    assert ratios[0] == pytest.approx(2.0, rel=0.03)
    assert ratios[-1] == 1.0


def test_events_that_carry_more_tokens_change_what_was_shown():
    slowdown = known(4)
    slowdown.rescale(0.25)
    work = 4, 2_000
    slowdown.show(0.25 * step_seconds(*work), most=work, least=work, now_seconds=1.0)
    assert slowdown.ratio == 1.0
    slowdown.show(step_seconds(*work), most=work, least=work, now_seconds=2.0)
    assert slowdown.ratio == pytest.approx(4.0, rel=0.01)
