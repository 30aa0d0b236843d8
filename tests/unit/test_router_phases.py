"""The life of a request as a table: what can happen in which phase, and why the rest cannot."""

from itertools import product

import pytest

from memroute_router.lifecycle.phases import (
    HAPPENINGS,
    IMPOSSIBLE,
    PHASES,
    TRANSITIONS,
    Happening,
    Phase,
    after,
)

EVERYTHING = list(product(range(len(PHASES)), range(len(HAPPENINGS))))


def why_not(phase, happening):
    return [reason for reason, those in IMPOSSIBLE[phase] if happening in those]


def test_the_names_are_those_of_the_numbers():
    for names, numbers in ((PHASES, Phase), (HAPPENINGS, Happening)):
        assert [getattr(numbers, name) for name in names] == list(range(len(names)))


@pytest.mark.parametrize(
    ("phase", "happening"),
    EVERYTHING,
    ids=[f"{HAPPENINGS[happening]} in {PHASES[phase]}" for phase, happening in EVERYTHING],
)
def test_every_happening_leads_somewhere_or_is_impossible_for_a_reason(phase, happening):
    """Nobody has to infer the state of a request from which of its fields are None."""
    assert ((phase, happening) in TRANSITIONS) != bool(why_not(phase, happening))
    assert len(why_not(phase, happening)) <= 1
    if (phase, happening) in TRANSITIONS:
        assert after(phase, happening) == TRANSITIONS[phase, happening]
    else:
        with pytest.raises(RuntimeError, match=f"{HAPPENINGS[happening]} in phase {PHASES[phase]}"):
            after(phase, happening)


def test_every_phase_is_reached_and_left_and_what_is_over_stays_over():
    reached, todo = set(), [Phase.INTAKE]
    while todo:
        phase = todo.pop()
        reached.add(phase)
        todo += [to for (at, _), to in TRANSITIONS.items() if at == phase and to not in reached]
    assert reached == set(range(len(PHASES)))
    assert {to for (at, _), to in TRANSITIONS.items() if at == Phase.OVER} == {Phase.OVER}


def test_a_client_can_leave_and_the_router_can_stop_whenever_something_is_awaited():
    """A lease that nobody waits for must not outlive its client."""
    waits = {at for (at, happening) in TRANSITIONS if happening == Happening.CLIENT_SLOW}
    assert waits == {Phase.TOKENIZING, Phase.QUEUED, Phase.ATTEMPTING, Phase.ANSWERING}
    for phase, happening in product(waits, (Happening.CLIENT_GONE, Happening.SHUT_DOWN)):
        assert after(phase, happening) == Phase.OVER
