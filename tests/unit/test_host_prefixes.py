"""What a replica's host has of a prompt counts at its worth, and only there."""

import pytest

from memroute.traffic.prefixes import CachedPrompts
from memroute.traffic.prefixes.host_prefixes import UNKNOWN_WORTH_RATIO, worth_ratio
from memroute.traffic.replica import Backend, HostCache, ReplicaLedger
from memroute.traffic.request import RequestProfile


def backend(name, *, capacity=512, host=None, fetch=None):
    """A replica, with KV cache on its host where that is given."""
    ledger = ReplicaLedger(name, promised_capacity_tokens=capacity)
    ledger.host = None if host is None else HostCache(host, fetch)
    return Backend(ledger)


def profile(first, blocks=4):
    """A prompt of 256-token blocks that begins a chain of its own."""
    return RequestProfile(
        num_prompt_tokens=256 * blocks,
        min_prompt_tokens=256 * blocks,
        max_output_tokens=10,
        assumed_output_tokens=10,
        prefix=tuple(range(first, first + blocks)),
        tokens_per_block=256,
    )


def hits_after(one, *, later):
    """Hits of a prompt that was sent there, before ``later`` others."""
    cached = CachedPrompts()
    cached.added(one.ledger.replica)
    cached.sent(one.ledger, profile(1))
    for number in range(later):
        cached.sent(one.ledger, profile(1000 * (number + 2)))
    return cached.hits(profile(1), [one])


def test_what_left_the_device_counts_less_than_what_it_has():
    """A fetch is cheaper than computing and dearer than nothing."""
    plain, tiered = backend("a"), backend("a", host=100_000)
    assert hits_after(plain, later=0) == {"a": 512}
    assert hits_after(plain, later=3) == {}
    assert hits_after(tiered, later=3) == {"a": int(1024 * UNKNOWN_WORTH_RATIO)}


def test_the_host_forgets_what_its_room_does_not_hold():
    """Its credit ends where its memory does."""
    assert hits_after(backend("a", host=2048), later=3) == {}


def test_a_replica_that_is_gone_has_nothing():
    """The memory of a host goes with the process."""
    one = backend("a", host=100_000)
    cached = CachedPrompts()
    cached.added("a")
    cached.sent(one.ledger, profile(1))
    cached.removed("a")
    assert cached.hits(profile(1), [one]) == {}


@pytest.mark.parametrize(("fetch", "worth"), [(None, UNKNOWN_WORTH_RATIO), (1e9, 0.0)])
def test_worth_is_never_negative_and_a_half_while_nobody_knows(fetch, worth):
    """A link slower than computing is worth nothing, not less."""
    assert worth_ratio(backend("a", host=1000, fetch=fetch).ledger) == worth


def test_worth_is_what_fetching_saves():
    """A quarter of the time is three quarters of the worth."""
    ledger = backend("a", host=1000).ledger
    seconds = ledger.speed.token_seconds / 4
    one = backend("a", host=1000, fetch=seconds)
    assert worth_ratio(one.ledger) == pytest.approx(0.75)
