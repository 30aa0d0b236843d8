"""What is learned of prompts that begin alike: by application, and by conversation."""

import pytest

from memroute.traffic.lengths.beginnings import MAX_BEGINNINGS, MAX_NEW_BLOCKS, Beginnings

KEYS = (1, 2)
"""Of a prompt of two blocks: an application's instructions, and a first question."""


def note(beginnings, keys, actual, *, text=1000.0, attachments=0.0, before=0.0):
    beginnings.observe(
        keys, text_tokens=text, attachment_tokens=attachments, actual_tokens=actual,
        share_before=before,
    )  # fmt: skip


def test_a_prompt_that_begins_as_none_did_is_taken_as_estimated():
    beginnings = Beginnings()
    assert beginnings.find(KEYS) == (1.0, 0, 0.0)
    note(beginnings, KEYS, 1300)
    assert beginnings.find((7, 8)) == (1.0, 0, 0.0)
    assert beginnings.find(()) == (1.0, 0, 0.0)


def test_prompts_of_one_application_are_off_alike():
    """1,300 tokens that were 1,000 by estimate, a prior of 200 at 1: 1,500 / 1,200."""
    beginnings = Beginnings()
    note(beginnings, KEYS, 1300)
    assert beginnings.find((1, 9)) == (pytest.approx(1.25), 0, 0.0)


def test_an_applications_earlier_prompts_fade():
    """0.9 x 1,300 + 700 = 1,870 of 0.9 x 1,000 + 1,000 = 1,900, a prior of 200: 2,070 / 2,100."""
    beginnings = Beginnings()
    note(beginnings, KEYS, 1300)
    note(beginnings, (1, 5), 700)
    assert beginnings.find((1, 9))[0] == pytest.approx(2070 / 2100)


def test_the_next_turn_of_a_conversation_knows_what_this_one_had():
    """Its own 1,300 / 1,000, and 50 tokens at its application's 1.25; two blocks of 1,300."""
    beginnings = Beginnings()
    note(beginnings, KEYS, 1300)
    ratio, num_blocks, tokens = beginnings.find((*KEYS, 3, 4))
    assert ratio == pytest.approx((1300 + 50 * 1.25) / 1050)
    assert (num_blocks, tokens) == (2, 1300.0)
    # Another conversation of the application does not move it.
    note(beginnings, (1, 5), 700)
    assert beginnings.find((*KEYS, 3))[0] == pytest.approx((1300 + 50 * 1.25) / 1050)


def test_a_short_question_is_no_block_of_its_own_in_the_next_turn():
    """Of three blocks the third is in no other prompt; nine tenths of it are before that.

    As the prompts that begin so have, that is 0.9 x 1,000 x (1,300 + 50 x 1.25) / 1,050.
    """
    beginnings = Beginnings()
    note(beginnings, (1, 2, 3), 1300, before=0.9)
    _, num_blocks, tokens = beginnings.find((1, 2, 4, 5))
    assert (num_blocks, tokens) == (2, pytest.approx(900 * 1362.5 / 1050))
    assert beginnings.find((1, 2, 3, 5))[1:] == (3, 1300.0)


def test_the_deepest_known_beginning_counts():
    """A third turn goes by the second, not by the first."""
    beginnings = Beginnings()
    note(beginnings, KEYS, 1300)
    note(beginnings, (*KEYS, 3), 1900, text=2000.0)
    assert beginnings.find((*KEYS, 3, 4))[1:] == (3, 1900.0)


def test_a_turn_is_looked_for_in_a_bounded_number_of_blocks():
    """Behind it the application is: a long prompt costs no more than a short one."""
    beginnings = Beginnings()
    note(beginnings, KEYS, 1300)
    new = tuple(range(100, 100 + MAX_NEW_BLOCKS))
    assert beginnings.find(KEYS + new[:-1])[1] == 2
    assert beginnings.find(KEYS + new) == (pytest.approx(1.25), 0, 0.0)


def test_a_prompt_that_is_mostly_pictures_says_little_of_its_text():
    """600 of 2,100 tokens are text, by estimate 500 of 2,000: each counts a quarter."""
    beginnings = Beginnings()
    note(beginnings, KEYS, 2100, text=500.0, attachments=1500.0)
    assert beginnings.find((1, 9))[0] == pytest.approx((150 + 200) / (125 + 200))


def test_nothing_that_is_observed_makes_a_ratio_absurd():
    beginnings = Beginnings()
    note(beginnings, (1,), 10**6)
    note(beginnings, (2,), 1, text=10.0**6)
    note(beginnings, (3,), 100, text=0.0, attachments=100.0)
    assert [beginnings.find((key,))[0] for key in (1, 2, 3)] == [2.0, 0.5, 1.0]


def test_what_was_noted_longest_ago_is_forgotten_first():
    beginnings = Beginnings()
    for key in range(MAX_BEGINNINGS):
        note(beginnings, (key,), 1300)
    note(beginnings, (0,), 1300)
    note(beginnings, (-1,), 1300)
    assert len(beginnings) == MAX_BEGINNINGS
    assert beginnings.find((0,))[0] > 1.0
    assert beginnings.find((1,))[0] == 1.0
