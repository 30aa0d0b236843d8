import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch_rig import Asking, answer, end, pool, read
from memroute.traffic.admission import (
    AdmissionSettings,
    QueueLimits,
    QueueRefusal,
    Reject,
    RejectReason,
)
from memroute.traffic.dispatch import AdmissionMode, Assignment, Backend, DispatchSettings
from sizes import tries


def test_nobody_ready_is_not_the_same_as_nobody_free():
    verdict = pool(replicas=0).submit(Asking(), now_seconds=0.0)
    assert verdict.reason is RejectReason.NO_READY_REPLICA


def test_what_no_replica_could_ever_hold_is_refused_at_once():
    verdict = pool().submit(Asking(prompt=2000), now_seconds=0.0)
    assert verdict.reason is RejectReason.NEVER_FITS


def test_requests_can_wait_for_a_replica_that_is_being_started():
    """Scaling from zero: the first request is what makes it start."""
    made = pool(replicas=0, waits_for_replicas=True)
    first, second = Asking(), Asking()
    assert made.submit(first, now_seconds=0.0) is None
    assert made.submit(second, now_seconds=0.5) is None
    assert made.turns(now_seconds=5.0) == []
    made.add(Backend(made.ledger("new", promised_capacity_tokens=1000)))
    placed = made.turns(now_seconds=6.0)
    assert [ticket for ticket, _ in placed] == [first, second]
    assert {verdict.choice.replica for _, verdict in placed} == {"new"}


def test_requests_do_not_wait_for_ever_for_a_replica():
    made = pool(replicas=0, waits_for_replicas=True)
    made.submit(Asking(), now_seconds=0.0)
    ((_, verdict),) = made.turns(now_seconds=10.1)
    assert verdict.reason is RejectReason.NO_READY_REPLICA


def test_two_requests_are_never_given_the_same_room():
    """Each replica has room for one of 600 tokens: the third waits, whatever scrapes say."""
    made = pool(admission=AdmissionMode.ENFORCE)
    placed = [made.submit(Asking(prompt=500, output=100), now_seconds=0.0) for _ in range(3)]
    assert sorted(p.choice.replica for p in placed[:2]) == ["a", "b"]
    assert placed[2] is None
    assert made.num_held == 1


def test_what_waits_is_told_when_room_is_freed():
    made = pool(replicas=1)
    first = made.submit(Asking(prompt=500, output=100), now_seconds=0.0)
    second = Asking(prompt=500, output=100)
    assert made.submit(second, now_seconds=0.1) is None
    assert made.turns(now_seconds=0.2) == []
    end(made, first, 0.3)
    ((ticket, verdict),) = made.turns(now_seconds=0.4)
    assert ticket is second
    assert isinstance(verdict, Assignment)
    assert made.num_held == 0


def test_what_has_waited_for_its_time_is_told_so():
    made = pool(replicas=1)
    made.submit(Asking(prompt=500, output=100), now_seconds=0.0)
    late = Asking(prompt=500, output=100)
    made.submit(late, now_seconds=0.1)
    assert made.turns(now_seconds=10.0) == []
    ((ticket, verdict),) = made.turns(now_seconds=10.2)
    assert ticket is late
    assert isinstance(verdict, Reject)
    assert verdict.reason is RejectReason.QUEUE_TIMEOUT
    assert "no room in their KV cache" in verdict.message


def test_a_full_queue_says_when_to_come_back():
    made = pool(replicas=1, limits=QueueLimits(max_requests=1, max_tokens=10**6, max_seconds=10))
    made.submit(Asking(prompt=500, output=100), now_seconds=0.0)
    made.submit(Asking(prompt=500, output=100), now_seconds=0.0)
    verdict = made.submit(Asking(prompt=500, output=100), now_seconds=0.0)
    assert verdict.reason is RejectReason.SATURATED
    assert verdict.retry_after_seconds >= 1
    assert "too many requests wait" in verdict.message


def test_who_is_kept_apart_counts_in_what_may_wait():
    """Suspects wait elsewhere, and hold as much of the router as others do."""
    made = pool(replicas=1, limits=QueueLimits(max_requests=3, max_tokens=10**6, max_seconds=10))
    made.submit(Asking(prompt=500, output=100), now_seconds=0.0)
    made.num_apart = 2
    assert made.submit(Asking(prompt=500, output=100), now_seconds=0.0) is None
    assert made.submit(Asking(prompt=500, output=100), now_seconds=0.0).because == (
        QueueRefusal.REQUESTS.value
    )
    made.num_apart = 1
    assert made.submit(Asking(prompt=500, output=100), now_seconds=0.0) is None


def test_nobody_waits_who_has_left():
    made = pool(replicas=1)
    first = made.submit(Asking(prompt=500, output=100), now_seconds=0.0)
    gone = Asking(prompt=500, output=100)
    made.submit(gone, now_seconds=0.0)
    assert made.withdraw(gone)
    assert not made.withdraw(gone)
    end(made, first, 1.0)
    assert made.turns(now_seconds=1.0) == []


def test_a_replica_that_was_tried_is_not_tried_again():
    made = pool()
    asking = Asking()
    asking.tried = ["a"]
    assert made.submit(asking, now_seconds=0.0).choice.replica == "b"


def test_a_replica_that_stopped_reporting_is_the_last_resort():
    """A hung engine's last reading may well say idle."""
    made = pool()
    read(made, "b", 0.5, at=60.0)
    assert made.submit(Asking(), now_seconds=60.0).choice.replica == "b"


def test_a_prefix_that_is_cached_attracts_its_requests():
    made = pool(hits=lambda _: {"b": 900}, capacity=100_000)
    chosen = [made.submit(Asking(prompt=1000), now_seconds=0.0).choice for _ in range(3)]
    assert {choice.replica for choice in chosen} == {"b"}
    assert {choice.hit_tokens for choice in chosen} == {900}


def test_a_named_session_goes_where_it_was_served_last():
    """Its text does not show it: an image, a template that writes the past anew."""
    made = pool(replicas=4, capacity=100_000)
    first = made.submit(Asking(prompt=3000, session="s"), now_seconds=0.0)
    answer(first, 0.1)
    first.backend.ledger.completed(first.reservation, generated_tokens=500, now_seconds=0.9)
    end(made, first, 1.0)
    for at in (2.0, 3.0, 4.0):
        placed = made.submit(Asking(prompt=4000, session="s"), now_seconds=at)
        assert placed.choice.replica == first.choice.replica
        assert placed.choice.hit_tokens >= 3500
    other = made.submit(Asking(prompt=4000, session="s", tenant="t"), now_seconds=5.0)
    assert other.choice.hit_tokens == 0


def test_a_session_does_not_hold_on_to_a_replica_that_is_full():
    made = pool(capacity=10_000)
    first = made.submit(Asking(prompt=3000, session="s"), now_seconds=0.0)
    answer(first, 0.1)
    for name in "ab":
        read(made, name, 1.0 if name == first.choice.replica else 0.0, at=5.0)
    placed = made.submit(Asking(prompt=3000, session="s", deadline_seconds=5.2), now_seconds=5.1)
    assert placed.choice.replica != first.choice.replica


def versions(made, **by_replica):
    for name, version in by_replica.items():
        made.backends[name].version = version


@pytest.mark.parametrize(
    ("draw", "replicas"), [(0.0, "b"), (0.09, "b"), (0.11, "ac"), (0.999, "ac")]
)
def test_a_version_gets_its_share_of_the_traffic(draw, replicas):
    made = pool(replicas=3, shares={"canary": 10.0, "stable": 90.0})
    versions(made, a="stable", b="canary", c="stable")
    assert made.submit(Asking(draw=draw), now_seconds=0.0).choice.replica in replicas


def test_a_version_whose_replicas_are_out_leaves_its_requests_to_the_others():
    made = pool(replicas=2, shares={"canary": 10.0, "stable": 90.0})
    versions(made, a="stable", b="canary")
    made.backends["b"].health.fault(now_seconds=0.0)
    assert made.submit(Asking(draw=0.01), now_seconds=0.1).choice.replica == "a"


def test_a_version_without_a_share_gets_nothing():
    made = pool(replicas=2, shares={"old": 0.0, "new": 1.0})
    versions(made, a="old", b="new")
    assert made.submit(Asking(draw=0.0), now_seconds=0.0).choice.replica == "b"
    made.backends["b"].is_routable = False
    verdict = made.submit(Asking(draw=0.0), now_seconds=0.0)
    assert verdict.reason is RejectReason.NO_READY_REPLICA


def test_a_weight_gives_more_than_the_speed_alone():
    """Three times the weight: a third of the cost, so it is busier before the other is chosen."""
    made = pool(replicas=2, capacity=10**6)
    made.backends["a"].ledger.weight_ratio = 3.0
    placed = [made.submit(Asking(prompt=200), now_seconds=0.0) for _ in range(5)]
    chosen = [p.choice.replica for p in placed if isinstance(p, Assignment)]
    assert chosen.count("a") > chosen.count("b") > 0


def test_an_adapter_attracts_its_requests():
    made = pool(replicas=3, capacity=100_000)
    read(made, "b", adapters=frozenset({"sql"}), max_adapters=2)
    placed = made.submit(Asking(adapter="sql"), now_seconds=0.0)
    assert placed.choice.replica == "b"
    read(made, "b", adapters=frozenset(), max_adapters=2)
    assert made.submit(Asking(adapter="sql"), now_seconds=0.0).choice.replica == "b", (
        "ours is there"
    )
    end(made, placed, 1.0)


def test_a_replica_without_a_slot_for_the_adapter_is_closed_to_it():
    made = pool(replicas=1, capacity=100_000)
    read(made, "a", adapters=frozenset({"chat"}), max_adapters=1)
    asking = Asking(adapter="sql")
    assert made.submit(asking, now_seconds=0.0) is None
    read(made, "a", adapters=frozenset(), max_adapters=1)
    turns = made.turns(now_seconds=0.1)
    assert (asking, "a") in [(ticket, verdict.choice.replica) for ticket, verdict in turns]


def test_a_request_waits_a_moment_for_the_replica_that_has_its_prefix():
    """12,000 tokens are 0.73 s of work on the other; 0.27 s of waiting and 0.3 s are cheaper."""
    made = pool(hits=lambda _: {"b": 11_900}, capacity=10**6)
    for name in "ab":
        made.backends[name].ledger.speed.token_seconds = 6e-5
    for _ in range(2):
        made.backends["b"].ledger.reserve(Asking(prompt=2000).profile, now_seconds=0.0)
    asking = Asking(prompt=12_000)
    assert made.submit(asking, now_seconds=0.0) is None
    ((ticket, verdict),) = made.turns(now_seconds=0.2)
    assert (ticket, verdict.choice.replica) == (asking, "b")


def test_observing_admits_everything_and_counts_what_it_would_have_held():
    made = pool(replicas=1, admission=AdmissionMode.OBSERVE)
    verdicts = [made.submit(Asking(prompt=500, output=100), now_seconds=0.0) for _ in range(3)]
    assert all(isinstance(verdict, Assignment) for verdict in verdicts)
    assert made.num_would_hold == 2


def test_answers_that_have_ended_teach_how_long_the_next_will_be():
    """Assumed to be of 50 tokens; thirty of 200 later, 200."""
    made = pool(replicas=1, capacity=10**6)
    for number in range(30):
        assignment = made.submit(Asking(), now_seconds=float(number))
        ledger = assignment.backend.ledger
        ledger.completed(assignment.reservation, generated_tokens=200, now_seconds=number + 0.5)
        end(made, assignment, number + 0.6)
    assignment = made.submit(Asking(), now_seconds=40.0)
    assert assignment.reservation.expected_output_tokens == pytest.approx(200, rel=0.1)


class Traffic:
    """Requests, first tokens, ends and readings in any order; what is placed and what waits."""

    def __init__(self, made):
        self.made = made
        self.placed, self.held = [], []
        self.now = 0.0

    def step(self, kind, number, tenant):
        self.now += 2.0 if kind == "t" else 0.05
        if kind == "s":
            self.submit(Asking(prompt=number + 1, tenant=str(tenant), priority=tenant - 1))
        elif kind == "a" and self.placed:
            answer(self.placed[number % len(self.placed)], self.now)
        elif kind == "e" and self.placed:
            end(self.made, self.placed.pop(number % len(self.placed)), self.now)
        elif kind == "w" and self.held:
            assert self.made.withdraw(self.held.pop(number % len(self.held)))
        elif kind == "r":
            read(self.made, "ab"[number % 2], number / 900, at=self.now)
        self.advance()
        assert self.made.num_held == len(self.held)

    def submit(self, asking):
        verdict = self.made.submit(asking, now_seconds=self.now)
        if isinstance(verdict, Assignment):
            self.placed.append(verdict)
        elif verdict is None:
            self.held.append(asking)

    def advance(self):
        for ticket, verdict in self.made.turns(now_seconds=self.now):
            self.held.remove(ticket)
            if isinstance(verdict, Assignment):
                self.placed.append(verdict)

    def finish(self):
        for _ in range(100):
            while self.placed:
                end(self.made, self.placed.pop(), self.now)
            self.now += 0.2
            self.advance()


@pytest.mark.slow
@settings(max_examples=tries(60))
@given(
    st.lists(
        st.tuples(st.sampled_from("saewrt"), st.integers(0, 900), st.integers(0, 3)), max_size=80
    ),
    st.sampled_from(["memroute", "lmetric"]),
)
def test_every_request_is_placed_refused_or_held_and_nothing_stays_reserved(steps, policy):
    """Whatever comes in whatever order: every lease comes back, and the queue ends empty."""
    limits = QueueLimits(max_requests=10, max_tokens=5000, max_seconds=10)
    traffic = Traffic(pool(policy=policy, limits=limits))
    for step in steps:
        traffic.step(*step)
    traffic.finish()
    assert traffic.held == []
    for backend in traffic.made.backends.values():
        assert backend.ledger.reserved_tokens == 0


def test_a_tenant_with_ten_times_the_requests_does_not_starve_another():
    """One at a time goes through: the quiet tenant's next is never behind the whole flood."""
    made = pool(replicas=1, capacity=700)
    current = made.submit(Asking(prompt=500, output=100), now_seconds=0.0)
    flood = [Asking(prompt=500, output=100, tenant="flood") for _ in range(40)]
    for asking in flood:
        made.submit(asking, now_seconds=0.0)
    quiet = Asking(prompt=500, output=100, tenant="quiet")
    made.submit(quiet, now_seconds=0.01)
    waited = 0
    while current.reservation.profile is not quiet.profile:
        end(made, current, 0.1 + waited / 100)
        ((_, current),) = made.turns(now_seconds=0.1 + waited / 100)
        waited += 1
    assert waited == 1


def test_the_room_that_a_turn_waits_for_is_not_filled_by_others():
    """900 of 950 are held; 400 for the one tenant need an end, 40 of the other would fit."""
    made = pool(replicas=1)
    first = made.submit(Asking(prompt=800, output=100, tenant="x"), now_seconds=0.0)
    large = Asking(prompt=800, output=50, tenant="flood")
    waits = Asking(prompt=350, output=50, tenant="quiet")
    small = Asking(prompt=20, output=20, tenant="flood")
    for asking in (large, waits, small):
        assert made.submit(asking, now_seconds=0.1) is None
    assert made.turns(now_seconds=0.3) == []
    answer(first, 0.3)
    end(made, first, 0.4)
    assert [ticket for ticket, _ in made.turns(now_seconds=0.4)] == [waits, small]


def test_of_one_tenant_the_smaller_passes_the_one_that_has_no_room():
    made = pool(replicas=1)
    made.submit(Asking(prompt=800, output=100), now_seconds=0.0)
    assert made.submit(Asking(prompt=350, output=50), now_seconds=0.1) is None
    small = Asking(prompt=20, output=20)
    assert made.submit(small, now_seconds=0.2) is None
    assert [ticket for ticket, _ in made.turns(now_seconds=0.3)] == [small]


def test_who_has_had_more_than_its_share_is_held_to_less_while_others_wait():
    """Four fifths of 950: 880 at the fullest are too much for the flood, not for the others."""
    made = pool(replicas=1)
    for second in range(20):
        for tenant, tokens in (("flood", 9000), ("quiet", 100)):
            made.shares.asked(tenant, tokens, now_seconds=float(second))
            made.shares.given(tenant, tokens, now_seconds=float(second))
    first = made.submit(Asking(prompt=600, output=100, tenant="flood"), now_seconds=20.0)
    answer(first, 20.1)
    large = Asking(prompt=800, output=50, tenant="quiet")
    flood = Asking(prompt=80, output=100, tenant="flood")
    quiet = Asking(prompt=80, output=100, tenant="quiet")
    for asking in (large, flood, quiet):
        assert made.submit(asking, now_seconds=20.2) is None
    assert [ticket for ticket, _ in made.turns(now_seconds=20.3)] == [quiet]


def test_targets_make_a_replica_full_in_time_before_it_is_full_in_memory():
    limits = AdmissionSettings(max_prefill_seconds=0.1)
    made = pool(replicas=1, capacity=10**7)
    made.configure(DispatchSettings(limits=limits))
    verdicts = [made.submit(Asking(prompt=3000), now_seconds=0.0) for _ in range(4)]
    assert isinstance(verdicts[0], Assignment)
    assert isinstance(verdicts[1], Assignment)
    assert verdicts[2:] == [None, None], "0.2 s of prompts wait there by then"


def test_waiting_for_a_replica_and_waiting_for_room_have_limits_of_their_own():
    """Engines take minutes to start; a request that waits for room is late after seconds."""
    limits = QueueLimits(
        max_requests=100, max_tokens=10**6, max_seconds=10.0, max_replica_seconds=300.0
    )
    made = pool(replicas=0, limits=limits, waits_for_replicas=True)
    first, second = Asking(prompt=900), Asking(prompt=900)
    made.submit(first, now_seconds=0.0)
    made.submit(second, now_seconds=0.0)
    assert made.turns(now_seconds=200.0) == []
    made.add(Backend(made.ledger("new", promised_capacity_tokens=1000)))
    ((ticket, _),) = made.turns(now_seconds=201.0)
    (other,) = {first, second} - {ticket}
    assert made.turns(now_seconds=210.0) == []
    ((late, verdict),) = made.turns(now_seconds=211.5)
    assert late is other
    assert verdict.reason is RejectReason.QUEUE_TIMEOUT


def test_what_waits_for_a_replica_in_vain_is_refused_at_last():
    limits = QueueLimits(
        max_requests=100, max_tokens=10**6, max_seconds=10.0, max_replica_seconds=300.0
    )
    made = pool(replicas=0, limits=limits, waits_for_replicas=True)
    made.submit(Asking(), now_seconds=0.0)
    assert made.turns(now_seconds=299.0) == []
    ((_, verdict),) = made.turns(now_seconds=300.5)
    assert verdict.reason is RejectReason.NO_READY_REPLICA
