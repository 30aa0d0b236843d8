"""Routers that share nothing agree on where a prompt goes."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from memroute.traffic.dispatch import Backend
from memroute.traffic.prefixes import CachedPrompts, OtherRouters, Rendezvous
from memroute.traffic.replica import ReplicaLedger
from memroute.traffic.request import RequestProfile

REPLICAS = [f"models/chat-{number}" for number in range(10)]
BACKENDS = [Backend(ReplicaLedger(replica)) for replica in REPLICAS]
KEYS = range(1, 20_000)


def rendezvous(replicas=REPLICAS, sizes=None):
    found = Rendezvous()
    for replica in replicas:
        found.add(replica, (sizes or {}).get(replica, 1))
    return found


def favourites(found, among=REPLICAS):
    return [found.favourite(key, among) for key in KEYS]


@pytest.mark.slow
def test_two_processes_agree_whatever_their_hash_seed_and_the_order_of_their_replicas():
    """Python salts ``hash`` anew in every process: two routers that used it would never agree."""
    script = (
        "import sys; from memroute.traffic.prefixes import Rendezvous, text_key\n"
        "found = Rendezvous(); names = sys.argv[1].split()\n"
        "for name in names: found.add(name)\n"
        "print([found.favourite(key * 7919, names) for key in range(500)], text_key('x'))"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", script, " ".join(names)],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, names in (("1", REPLICAS), ("2", REPLICAS[::-1]))
    ]
    assert told[0] == told[1]
    assert len(set(told[0].split())) > len(REPLICAS)


@pytest.mark.slow
def test_a_replica_that_goes_takes_only_its_own_prompts_along():
    """With modulo hashing nine in ten prompts would move, and lose what is cached of them."""
    found = rendezvous()
    before = favourites(found)
    found.remove(REPLICAS[3])
    left = [replica for replica in REPLICAS if replica != REPLICAS[3]]
    after = favourites(found, left)
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {REPLICAS[3]}
    assert {new for _, new in moved} == set(left), "everybody takes over some"
    found.add(REPLICAS[3])
    assert favourites(found) == before


@pytest.mark.slow
def test_one_that_cannot_take_a_request_is_followed_by_the_same_replica_everywhere():
    """It is out, or too small: routers have to agree on who stands in."""
    found = rendezvous()
    left = REPLICAS[1:]
    assert [found.favourite(key, left) for key in KEYS][:2000] == favourites(
        rendezvous(left), left
    )[:2000]
    assert rendezvous().favourite(5, ()) is None
    assert Rendezvous().favourite(5, REPLICAS) is None


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{}, dict.fromkeys(REPLICAS[:5], 3)])
def test_shares_are_as_unequal_as_the_caches(sizes):
    """Of 20 parts, five replicas of three have three each, five have one: 0.15 and 0.05."""
    counts = Counter(favourites(rendezvous(sizes=sizes)))
    total = sum(sizes.get(replica, 1) for replica in REPLICAS)
    for replica in REPLICAS:
        share = counts[replica] / len(KEYS)
        assert share == pytest.approx(sizes.get(replica, 1) / total, rel=0.15)


def profile(**facts):
    defaults = {
        "num_prompt_tokens": 2560,
        "min_prompt_tokens": 1,
        "max_output_tokens": None,
        "assumed_output_tokens": 256,
        "prefix": tuple(range(1, 11)),
        "tokens_per_block": 256,
    }
    return RequestProfile(**(defaults | facts))


def cached(num_others, num_heard=0):
    others = OtherRouters()
    others.num, others.num_heard = num_others, num_heard
    found = CachedPrompts(others)
    for replica in REPLICAS:
        found.added(replica)
    return found


def test_alone_nothing_is_assumed():
    assert cached(0).hits(profile(), BACKENDS) == {}


def test_what_no_router_is_heard_of_is_taken_to_be_at_its_favourite():
    """One router of four is this one: three quarters of what is unknown is what others know."""
    ((replica, tokens),) = cached(3).hits(profile(), BACKENDS).items()
    assert tokens == 3 * 2560 // 4
    assert {replica} == set(cached(7).hits(profile(), BACKENDS)), "another router says the same"
    assert cached(3, num_heard=3).hits(profile(), BACKENDS) == {}, "what is heard is known"


def test_a_short_prompt_is_not_worth_it_and_a_session_is_known_by_its_name():
    short = {"prefix": (1, 2), "num_prompt_tokens": 600}
    assert cached(3).hits(profile(**short), BACKENDS) == {}
    named = [cached(3).hits(profile(session=f"s{n}", **short), BACKENDS) for n in range(40)]
    assert len({next(iter(hits)) for hits in named}) > 5
    assert named[7] == cached(3).hits(profile(session="s7", **short), BACKENDS)
