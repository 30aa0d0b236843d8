"""What requests, answers and clients are like in simulations beside their lengths."""

from dataclasses import replace

import pytest

from bench.routing.cases import CASES
from bench.routing.mixes import MIXES
from memroute_simulator.virtual.cluster import Cluster, Fleet, FleetChange, FleetEvent
from memroute_simulator.virtual.mix import PLAIN, REAL_MIX
from memroute_simulator.virtual.outcome import (
    LatencyTarget,
    Outcome,
    OutcomeStatus,
    summarize,
)
from sizes import size

CASE = CASES["sharegpt"]


def outcomes_of(mix, *, rate=20.0, count=300, case=CASE):
    cluster = Cluster(Fleet(engines=case.engines, mix=mix), seed=1, sample_seconds=None)
    return cluster, cluster.run(case.generate(rate, 1, count))


@pytest.mark.parametrize(
    ("tokens", "events"), [(0, 0), (1, 1), (2, 1), (5, 2), (6, 2), (9, 3), (41, 11)]
)
def test_the_first_token_comes_alone_and_the_others_in_fours(tokens, events):
    """41 tokens: one, and ten times four. What is left at the end has an event of its own."""
    mix = MIXES["events-4"]
    assert mix.num_events(tokens) == events
    left = tokens > 1 and (tokens - 1) % 4 > 0
    assert mix.num_events(tokens, is_whole=True) == events + left


def test_every_policy_meets_the_same_traffic():
    """What a request is like is drawn from its own number, not from how many draws came before."""
    for number in range(50):
        first, second = (REAL_MIX.draw(f"1/{number}", 1000) for _ in range(2))
        assert first == second
    drawn = [REAL_MIX.draw(f"1/{number}", 1000) for number in range(2000)]
    assert sum(not asked.is_stream for asked in drawn) / 2000 == pytest.approx(0.7, abs=0.04)
    assert sum(asked.num_choices > 1 for asked in drawn) / 2000 == pytest.approx(0.1, abs=0.03)


def test_in_the_real_mix_an_idle_fleet_serves_all_that_stay():
    """A fifth of its capacity: whoever did not leave is served, and in time."""
    _, outcomes = outcomes_of(REAL_MIX)
    kinds = {outcome.status for outcome in outcomes}
    assert kinds == {OutcomeStatus.SERVED, OutcomeStatus.LEFT}
    assert summarize(outcomes, LatencyTarget()).attainment_ratio >= 0.99


@pytest.mark.parametrize("mix", ["events-20", "events-20-untold", "speculation-3"][: size(2, 3)])
def test_the_router_learns_what_an_event_carries_from_what_it_can_see(mix):
    """From usage where clients ask for it, from the engine's counters where none does."""
    cluster, _ = outcomes_of(MIXES[mix], count=size(300, 600))
    sizes = MIXES[mix].event_tokens
    learned = cluster.routers[0].dispatcher.events.ratio
    assert learned == pytest.approx(sum(sizes) / len(sizes), rel=0.2)


@pytest.mark.parametrize("share", [80, 30, 95][: size(1, 3)])
def test_a_mix_of_whole_and_streamed_answers_refuses_nothing_at_a_third_of_the_capacity(share):
    """Before, the law of prompts was overestimated by all prompts over streamed ones."""
    cluster, outcomes = outcomes_of(MIXES[f"whole-{share}"], rate=40.0, count=600)
    assert {outcome.status for outcome in outcomes} == {OutcomeStatus.SERVED}
    assert not any(cluster.routers[0].dispatcher.closed_counts.values())


def test_a_client_that_is_refused_comes_back_after_what_it_was_told():
    """Ten times what the caches hold for a while: many are refused, some of those served later."""
    mix = replace(PLAIN, max_client_attempts=4)
    _, outcomes = outcomes_of(mix, rate=50.0, count=size(200, 400), case=CASES["kv-cliff"])
    again = [outcome for outcome in outcomes if outcome.num_attempts > 1]
    assert again
    assert any(outcome.status is OutcomeStatus.SERVED for outcome in again)
    assert all(outcome.ended_seconds is not None for outcome in outcomes)


def test_a_prompt_that_no_replica_computes_in_time_is_judged_by_what_can_be_met():
    """2 s of prefill on an idle replica: 2.9 s are in time, 3.1 s are not (1.5 times)."""
    asked = CASE.generate(1.0, 1, 1).sessions[0].requests[0]

    def served(after_seconds):
        outcome = Outcome(number=0, asked=asked, sent_seconds=0.0, idle_prefill_seconds=2.0)
        outcome.first_token_seconds = after_seconds
        outcome.end(OutcomeStatus.SERVED, after_seconds + 0.01)
        return outcome

    target = LatencyTarget()
    assert target.is_met(served(2.9))
    assert not target.is_met(served(3.1))


def test_goodput_is_told_in_tokens_and_by_size():
    """Nobody is late: all of the tokens, and all of each fifth."""
    _, outcomes = outcomes_of(PLAIN)
    summary = summarize(outcomes, LatencyTarget())
    assert summary.token_attainment_ratio == 1.0
    assert summary.size_attainment_ratios == (1.0,) * 5
    assert summary.goodput_tokens_per_second > summary.output_tokens_per_second


@pytest.mark.parametrize("share", [100, 50][: size(1, 2)])
def test_a_replica_that_hangs_is_left_without_streams(share):
    """Whole answers show nothing: the engine's counters stand still, and what waits there moves.

    Before, half of them waited until their clients gave up, and nothing was logged.
    """
    events = (FleetEvent(at_seconds=5.0, change=FleetChange.FREEZE, replica="1"),)
    fleet = Fleet(engines=CASE.engines, mix=MIXES[f"whole-{share}"], timeout_seconds=120.0)
    cluster = Cluster(fleet, seed=1, sample_seconds=None)
    outcomes = cluster.run(CASE.generate(20.0, 1, 600), events)
    lost = [outcome for outcome in outcomes if outcome.status is not OutcomeStatus.SERVED]
    streams = [outcome for outcome in lost if outcome.asked_how.is_stream]
    assert len(lost) == len(streams), "of whole answers none is lost"
    late = [o for o in outcomes if o.sent_seconds > 20.0 and "1" in o.tried]
    assert len(late) <= 8, "it is out: one at a time finds out whether it is back"
