"""Beliefs compared with what happens: when they are far off for long, the pool falls back."""

import pytest

from dispatch_rig import Asking, pool
from memroute.traffic.replica import Prediction, Predictions


def feed(predictions, ratio, *, start, seconds, what="first_token"):
    """Ten samples a second, of a second each, so far off."""
    for tenth in range(int(10 * seconds)):
        now = start + 0.1 * tenth
        getattr(predictions, what)(expected=1.0, actual=ratio, now_seconds=now)
        predictions.judge(now_seconds=now)


@pytest.mark.parametrize(
    ("ratio", "is_safe"), [(1.0, False), (2.5, False), (4.0, True), (0.2, True)]
)
def test_a_prediction_that_is_threefold_off_for_ten_seconds_is_trusted_no_more(ratio, is_safe):
    predictions = Predictions()
    feed(predictions, ratio, start=0.0, seconds=9)
    assert predictions.distrusted is None
    feed(predictions, ratio, start=9.0, seconds=3)
    assert (predictions.distrusted is Prediction.TTFT) is is_safe


def test_it_is_trusted_again_after_ten_seconds_within_twofold():
    predictions = Predictions()
    feed(predictions, 5.0, start=0.0, seconds=15)
    assert "ttft is 4." in predictions.message, "(5 + 0.1) / (1 + 0.1)"
    feed(predictions, 1.0, start=15.0, seconds=8)
    assert predictions.distrusted is not None
    feed(predictions, 1.0, start=23.0, seconds=6)
    assert predictions.distrusted is None
    assert predictions.message == ""


def test_a_moment_of_trouble_is_no_reason():
    """Five seconds off, then right: bursts and pauses happen."""
    predictions = Predictions()
    for start in range(0, 60, 10):
        feed(predictions, 8.0, start=float(start), seconds=5)
        feed(predictions, 1.0, start=start + 5.0, seconds=5)
    assert predictions.distrusted is None


def test_what_nobody_can_tell_any_more_ends_safe_mode():
    """No traffic for a minute: what was wrong then says nothing of now."""
    predictions = Predictions()
    feed(predictions, 5.0, start=0.0, seconds=15)
    predictions.judge(now_seconds=75.0)
    assert predictions.distrusted is None


def test_in_safe_mode_the_one_with_the_fewest_requests_is_taken_and_nothing_is_held_for_time():
    """Prompts of half a minute wait at both by belief: no reason to hold one more."""
    made = pool(replicas=2, capacity=10**7)
    first = [made.submit(Asking(prompt=400_000), now_seconds=0.0) for _ in range(2)]
    assert all(first)
    assert made.submit(Asking(prompt=400_000), now_seconds=0.1) is None, "held: prefill"
    feed(made.predictions, 0.1, start=0.0, seconds=15)
    ((_, held),) = made.turns(now_seconds=15.0)
    taken = [held, *(made.submit(Asking(prompt=400_000), now_seconds=15.0) for _ in range(3))]
    assert [assignment.choice.policy for assignment in taken] == ["safe-mode"] * 4
    assert sorted(assignment.choice.replica for assignment in taken) == ["a", "a", "b", "b"]


def test_in_safe_mode_memory_still_counts():
    """900 of 1,000 tokens are held on each: 150 more wait."""
    made = pool(replicas=1, capacity=1000)
    made.submit(Asking(prompt=800, output=100), now_seconds=0.0)
    feed(made.predictions, 0.1, start=0.0, seconds=15)
    assert made.submit(Asking(prompt=100, output=50), now_seconds=15.0) is None


def test_counts_are_kept_for_the_histogram():
    predictions = Predictions()
    predictions.prompt(expected=1000, actual=1000, now_seconds=0.0)
    predictions.prompt(expected=1000, actual=4000, now_seconds=0.0)
    counts, total = predictions.histogram(Prediction.PROMPT)
    assert sum(counts) == 2
    assert total == pytest.approx(1.0 + 4064 / 1064)
