"""Tenants that are told apart by words that nobody has checked."""

import pytest

from memroute_router.access.newcomers import (
    BURST,
    MAX_CANDIDATES,
    MAX_ESTABLISHED,
    NEWCOMERS,
    KnownWords,
)


def test_a_word_that_comes_back_is_a_tenant():
    words = KnownWords()
    told = [words.tenant("alice", now_seconds=float(n)) for n in range(4)]
    assert told == [NEWCOMERS, NEWCOMERS, "alice", "alice"]
    assert words.tenant("", now_seconds=5.0) == ""


@pytest.mark.slow
def test_a_flood_of_fresh_words_is_one_tenant_and_pushes_nobody_out():
    """However many there are: what is kept is bounded, and who was there stays."""
    words = KnownWords()
    for n in range(30):
        words.tenant(f"honest-{n % 9}", now_seconds=n / 10)
    for n in range(200_000):
        assert words.tenant(f"fresh-{n}", now_seconds=3.0 + n / 1000) == NEWCOMERS
    for n in range(9):
        assert words.tenant(f"honest-{n}", now_seconds=300.0) == f"honest-{n}"
    assert len(words) <= MAX_CANDIDATES + MAX_ESTABLISHED


def test_a_flood_that_repeats_its_words_gains_few_tenants():
    """Burst, then one in ten seconds: of a thousand words in a minute it gets 38 or fewer."""
    words = KnownWords()
    told = {words.tenant(f"w{n // 4}", now_seconds=n * 60 / 4000) for n in range(4000)}
    assert len(told - {NEWCOMERS}) <= BURST + 6


def test_the_table_makes_room_for_others_only_once_somebody_is_silent_for_long():
    words = KnownWords()
    for n in range(3 * 700):
        words.tenant(f"w{n // 3}", now_seconds=n * 4.0)
    assert words.tenant("w0", now_seconds=8400.0) == NEWCOMERS, "silent for more than an hour"
    assert words.tenant("w600", now_seconds=8400.0) == "w600"
