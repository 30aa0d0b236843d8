"""Every policy under every admission mode: anybody can compare them on his own fleet."""

import pytest

from dispatch_rig import Asking, end, fill, pool
from memroute.traffic.dispatch import AdmissionMode, Assignment, DispatchSettings
from memroute.traffic.routing import POLICY_NAMES, PUBLISHED

MODES = list(AdmissionMode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_policy_says_that_it_was_the_one_that_chose(policy, mode):
    """`round-robin` with admission at its default was memroute's choice under that name."""
    made = pool(replicas=3, capacity=100_000, policy=policy, admission=mode)
    placed = made.submit(Asking(), now_seconds=0.0)
    assert placed.choice.policy == policy
    assert placed.choice.why.startswith(f"{policy}: ")


@pytest.mark.parametrize("mode", MODES)
def test_round_robin_takes_turns_whatever_admission_does(mode):
    """One of the two is slow, which memroute's own cost would mind: it chose b six times."""
    made = pool(replicas=2, capacity=10**6, policy="round-robin", admission=mode)
    made.backends["a"].ledger.speed.assume(prompt_seconds=0.5, token_seconds=1e-3)
    chosen = []
    for number in range(6):
        placed = made.submit(Asking(), now_seconds=float(number))
        chosen.append(placed.choice.replica)
        end(made, placed, number + 0.5)
    assert chosen == ["b", "a"] * 3


@pytest.mark.parametrize("policy", PUBLISHED)
def test_a_published_policy_chooses_among_the_replicas_that_are_open(policy):
    """Two of three have no room for it; none has, and it waits; one has again, and it goes."""
    made = pool(replicas=3, capacity=1000, policy=policy)
    for name in "ab":
        fill(made, name, 800)
    placed = made.submit(Asking(prompt=300), now_seconds=0.1)
    assert placed.choice.replica == "c"
    assert "its pick of 1 open of 3 backend(s)" in placed.choice.why
    assert "2 memory" in placed.choice.why
    waiting = Asking(prompt=700)
    assert made.submit(waiting, now_seconds=0.2) is None
    assert made.turns(now_seconds=0.3) == []
    end(made, placed, 0.4)
    ((ticket, verdict),) = made.turns(now_seconds=0.4)
    assert (ticket, verdict.choice.replica) == (waiting, "c")


@pytest.mark.parametrize("policy", PUBLISHED)
@pytest.mark.parametrize("mode", [AdmissionMode.OBSERVE, AdmissionMode.OFF])
def test_where_nothing_is_held_a_published_policy_chooses_among_all(policy, mode):
    made = pool(replicas=2, capacity=1000, policy=policy, admission=mode)
    placed = [made.submit(Asking(prompt=500), now_seconds=0.0) for _ in range(6)]
    assert all(isinstance(verdict, Assignment) for verdict in placed)
    assert "its pick of 2 backend(s)" in placed[0].choice.why
    assert made.num_would_hold == (0 if mode is AdmissionMode.OFF else pytest.approx(4, abs=1))


def test_observing_counts_what_would_have_waited_for_the_cheapest_too():
    """Its prefix is on b, which is busy for a moment: it would be held, though a is open."""
    made = pool(hits=lambda _: {"b": 11_900}, capacity=10**6, admission=AdmissionMode.OBSERVE)
    for name in "ab":
        made.backends[name].ledger.speed.token_seconds = 6e-5
    for _ in range(2):
        made.backends["b"].ledger.reserve(Asking(prompt=2000).profile, now_seconds=0.0)
    assert made.submit(Asking(prompt=12_000), now_seconds=0.0).choice.replica == "a"
    assert made.num_would_hold == 1


def test_looking_in_vain_is_no_turn_of_round_robins():
    """A held request is looked at often; whose turn it is does not change by that."""
    made = pool(replicas=2, capacity=1000, policy="round-robin")
    full = [fill(made, name, 800) for name in "ab"]
    waiting = Asking(prompt=300)
    assert made.submit(waiting, now_seconds=0.0) is None
    for number in range(5):
        assert made.turns(now_seconds=0.1 * number) == []
    for name, lease in zip("ab", full, strict=True):
        made.backends[name].ledger.release(lease, now_seconds=0.6)
    ((_, first),) = made.turns(now_seconds=0.6)
    second = made.submit(Asking(prompt=300), now_seconds=0.7)
    assert {first.choice.replica, second.choice.replica} == {"a", "b"}


def test_a_policy_that_there_is_not_is_refused_and_changes_nothing():
    made = pool(replicas=2, policy="round-robin")
    with pytest.raises(KeyError):
        made.configure(DispatchSettings(policy="best"))
    assert made.submit(Asking(), now_seconds=0.0).choice.policy == "round-robin"


def test_a_tenants_smaller_request_passes_its_larger_one_under_a_published_policy():
    """One of less priority does not: the room to come is for those who wait before it."""
    made = pool(replicas=1, capacity=1000, policy="least-request")
    fill(made, "a", 800)
    large, small = Asking(prompt=300), Asking(prompt=20, output=20)
    batch = Asking(prompt=10, output=10, priority=-1)
    for ticket in (large, batch, small):
        assert made.submit(ticket, now_seconds=0.1) is None
    assert [ticket for ticket, _ in made.turns(now_seconds=0.2)] == [small]
