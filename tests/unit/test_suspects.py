"""When a request is to blame for the death of a replica, and when it only was there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.traffic.dispatch import Suspects, request_name
from memroute.traffic.dispatch.suspects import (
    FOUND_DEAD_SECONDS,
    MAX_REMEMBERED,
    REMEMBERED_SECONDS,
    SAME_DEATH_SECONDS,
    SLOT_SECONDS,
)


def died(suspects, name, replica, at, lived=0.1):
    return suspects.died(
        name.encode(), replica, num_bytes=len(name), lived_seconds=lived, now_seconds=at
    )


def sent(suspects, name, replica, at, ticket=None):
    suspects.entered(ticket or name, name.encode(), replica, now_seconds=at)


def test_the_second_death_of_a_lone_suspect_is_its_own():
    suspects = Suspects()
    assert not died(suspects, "p", "a", 0.0)
    sent(suspects, "p", "b", 1.0)
    assert died(suspects, "p", "b", 1.1)
    assert suspects.replicas(b"p") == ["a", "b"]
    assert suspects.blamed_for_seconds(b"p", now_seconds=1.1) == REMEMBERED_SECONDS
    assert suspects.blamed_for_seconds(b"p", now_seconds=601.2) == 0.0


def test_of_several_suspects_nobody_is_blamed():
    """They waited for too long to be kept apart: it was the load, or one of them."""
    suspects = Suspects()
    for name in "pq":
        died(suspects, name, "a", 0.0)
        sent(suspects, name, "b", 1.0)
    assert [died(suspects, name, "b", 1.1) for name in "pq"] == [False, False]
    assert suspects.blamed_for_seconds(b"p", now_seconds=1.1) == 0.0


def test_others_that_were_there_for_the_first_time_take_no_blame_off():
    suspects = Suspects()
    died(suspects, "p", "a", 0.0)
    sent(suspects, "p", "b", 1.0)
    assert not died(suspects, "innocent", "b", 1.1)  # its connection was lost first
    assert died(suspects, "p", "b", 1.1)


def test_one_death_counts_once_however_many_connections_are_lost():
    """The same body was sent three times, and the replica died of one of them."""
    suspects = Suspects()
    assert [died(suspects, "p", "a", 0.01 * n) for n in range(3)] == [False] * 3
    assert suspects.replicas(b"p") == ["a"]
    died(suspects, "p", "a", SAME_DEATH_SECONDS + 1.0)
    assert suspects.replicas(b"p") == ["a", "a"]


def test_a_request_that_has_outlived_its_first_death_has_not_caused_the_second():
    suspects = Suspects()
    died(suspects, "long", "a", 0.0, lived=1.0)
    sent(suspects, "long", "b", 10.0)
    assert not died(suspects, "long", "b", 10.0 + SLOT_SECONDS + 3.1)
    assert suspects.blamed_for_seconds(b"long", now_seconds=20.0) == 0.0


def test_what_is_answered_is_forgotten():
    suspects = Suspects()
    died(suspects, "x", "a", 0.0)
    assert 1 in suspects.lengths
    suspects.answered(b"x")
    assert 1 not in suspects.lengths
    assert len(suspects) == 0
    sent(suspects, "x", "b", 1.0)
    assert not died(suspects, "x", "b", 1.1)


def test_what_has_left_is_not_there():
    """Its answer had begun: another's death at that replica is not its own."""
    suspects = Suspects()
    for name in "pq":
        died(suspects, name, "a", 0.0)
        sent(suspects, name, "b", 1.0)
    suspects.left("q")
    assert died(suspects, "p", "b", 1.1)


def test_a_replica_is_busy_while_a_suspect_waits_there_and_not_for_ever():
    suspects = Suspects()
    sent(suspects, "p", "b", 1.0)
    assert suspects.busy(now_seconds=1.0 + SLOT_SECONDS / 2) == {"b"}
    assert suspects.is_out(b"p", now_seconds=1.5)
    assert suspects.busy(now_seconds=1.0 + SLOT_SECONDS) == set()


def test_an_error_is_a_death_only_where_the_replica_is_found_dead_soon():
    suspects = Suspects()
    for replica, found_after in (("a", 1.0), ("b", FOUND_DEAD_SECONDS + 1.0)):
        suspects.errored(b"p", replica, num_bytes=1, now_seconds=0.0)
        suspects.unreachable("other", now_seconds=found_after)
        assert suspects.replicas(b"p") == (["a"] if replica == "b" else [])
        suspects.unreachable(replica, now_seconds=found_after)
    assert suspects.replicas(b"p") == ["a"]
    suspects.errored(b"p", "c", num_bytes=1, now_seconds=20.0)
    suspects.unreachable("c", now_seconds=21.0)
    assert suspects.blamed_for_seconds(b"p", now_seconds=21.0) > 0


def test_what_is_remembered_is_bounded_and_those_to_blame_go_last():
    """A fleet that dies again and again is no reason to run out of memory, or to forget."""
    suspects = Suspects()
    died(suspects, "p", "a", 0.0)
    sent(suspects, "p", "b", 1.0)
    assert died(suspects, "p", "b", 1.1)
    for number in range(MAX_REMEMBERED + 100):
        died(suspects, f"q{number}", "c", 2.0)
    assert len(suspects) == MAX_REMEMBERED
    assert suspects.blamed_for_seconds(b"p", now_seconds=2.0) > 0
    suspects.tick(now_seconds=1.0 + REMEMBERED_SECONDS + 1.5)
    assert len(suspects) == 0
    assert 1 not in suspects.lengths
    assert 5 not in suspects.lengths


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((b"/a", b"x"), (b"/a", b"y")),
        ((b"/a", b"x"), (b"/b", b"x")),
        ((b"/a", b"bc"), (b"/ab", b"c")),
    ],
)
def test_another_body_or_path_is_another_request(one, other):
    assert request_name(*one) != request_name(*other)
    assert request_name(*one) == request_name(*one)


@given(
    st.lists(
        st.tuples(st.sampled_from("pqrs"), st.sampled_from("abc"), st.sampled_from("sdlat")),
        max_size=60,
    )
)
def test_whatever_happens_only_a_lone_suspect_is_blamed_and_what_is_kept_agrees(steps):
    """Against the definition: it was a suspect before, and no other suspect was there."""
    suspects = Suspects()
    there, known, now, last_death = {}, set(), 0.0, {}
    for name, replica, what in steps:
        now += SAME_DEATH_SECONDS + 0.1 if what == "t" else 0.01
        if what == "s":
            sent(suspects, name, replica, now)
            there[name] = replica, now
        elif what == "l":
            suspects.left(name)
            there.pop(name, None)
        elif what == "a":
            suspects.answered(name.encode())
            known.discard(name)
        elif what == "d":
            is_new = now - last_death.get(replica, -9.0) > SAME_DEATH_SECONDS
            alone = {n for n, (r, _) in there.items() if r == replica and n in known} == {name}
            was_known = name in known
            before = suspects.blamed_for_seconds(name.encode(), now_seconds=now)
            blamed = died(suspects, name, replica, now, lived=60.0)
            if is_new:
                last_death[replica] = now
                assert blamed == (before > 0 or (was_known and alone))
            known.add(name)
    assert len(suspects) == len(known)
    assert (1 in suspects.lengths) == bool(known)
