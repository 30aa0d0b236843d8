"""Who waits for one thing delays nobody who waits for another; what leaves the queue is told."""

import random

import pytest

from dispatch_rig import Asking, answer, end, fill, pool, read, waits
from memroute.traffic.admission import FairQueue, QueueLimits, Reject, RejectReason
from memroute.traffic.dispatch import Assignment


def p95(values):
    return sorted(values)[int(0.95 * len(values))]


def poisson(rng, rate, seconds, make):
    now, arrivals = 0.0, []
    while now < seconds:
        now += rng.expovariate(rate)
        arrivals.append((now, make()))
    return arrivals


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "share"), [(40, 0.05), (40, 0.2), (40, 0.5), (100, 0.2)])
def test_a_full_canary_does_not_delay_what_is_meant_for_the_stable_replicas(rate, share):
    """They were idle, and its requests waited for 0.5 to 0.7 s behind those of the canary."""
    made = pool(
        replicas=3, capacity=100_000, limits=QueueLimits(),
        shares={"canary": share, "stable": 1 - share},
    )  # fmt: skip
    made.backends["a"].version = "canary"
    made.backends["b"].version = made.backends["c"].version = "stable"
    fill(made, "a", 96_000)
    rng = random.Random(7)
    arrivals = poisson(rng, rate, 5.0, lambda: Asking(prompt=100, output=20, draw=rng.random()))
    waited = waits(made, arrivals, seconds=5.0)
    stable = [seconds for ticket, seconds in waited.items() if ticket.profile.draw >= share]
    assert len(stable) > 50
    assert p95(stable) < 0.025


@pytest.mark.slow
@pytest.mark.parametrize("rate", [5, 20, 100])
def test_an_adapter_without_a_slot_does_not_delay_the_others(rate):
    """Both replicas use their only slot for another adapter: base requests waited for 0.5 s."""
    made = pool(replicas=2, capacity=1_000_000, limits=QueueLimits())
    for name in "ab":
        fill(made, name, 100)
    rng = random.Random(7)
    arrivals = poisson(rng, rate, 5.0, lambda: Asking(prompt=100, output=20, adapter="sql"))
    arrivals += poisson(rng, 60, 5.0, lambda: Asking(prompt=100, output=20))
    arrivals.sort(key=lambda arrival: arrival[0])

    def scrape(now):
        for name in "ab":
            read(made, name, 0.01, at=now, adapters=frozenset({"chat"}), max_adapters=1)

    waited = waits(made, arrivals, seconds=5.0, each_step=scrape)
    base = [seconds for ticket, seconds in waited.items() if not ticket.profile.adapter]
    assert len(base) > 200
    assert p95(base) < 0.025


def test_many_that_wait_for_one_replica_do_not_hide_one_that_waits_for_another():
    """Twenty want a, where their prefix is and memory is not; the last wants b, which opens."""
    twenty = [Asking(prompt=900, output=50, deadline_seconds=50.0) for _ in range(20)]
    made = pool(hits=lambda ticket: {"a": 890} if ticket in twenty else {"b": 890})
    made.backends["a"].ledger.speed.token_seconds = 1e-2
    made.backends["b"].ledger.speed.token_seconds = 1e-2
    fill(made, "a", 800)
    on_b = made.submit(Asking(prompt=850, output=50), now_seconds=0.0)
    assert on_b.choice.replica == "b"
    answer(on_b, 0.0)
    last = Asking(prompt=900, output=50, deadline_seconds=60.0)
    for ticket in (*twenty, last):
        assert made.submit(ticket, now_seconds=0.1) is None
    end(made, on_b, 0.2)
    assert [ticket for ticket, _ in made.turns(now_seconds=0.2)] == [last]


def test_an_idle_replica_is_found_by_whoever_would_take_it_however_many_would_not():
    """Ten wait for a, where their prefix is; the eleventh wanted a too, until b was idle."""
    ten = [Asking(prompt=900, output=50, deadline_seconds=50.0) for _ in range(10)]
    made = pool(hits=lambda ticket: {"a": 899} if ticket in ten else {})
    for name in "ab":
        made.backends[name].ledger.speed.token_seconds = 1e-2
    fill(made, "a", 800)
    on_b = made.backends["b"].ledger.reserve(Asking(prompt=850).profile, now_seconds=0.0)
    last = Asking(prompt=200, output=50, deadline_seconds=60.0)
    for ticket in (*ten, last):
        assert made.submit(ticket, now_seconds=0.0) is None
    made.backends["b"].ledger.release(on_b, now_seconds=0.1)
    placed = made.turns(now_seconds=0.1)
    assert [(ticket, verdict.choice.replica) for ticket, verdict in placed] == [(last, "b")]


def test_who_comes_passes_those_that_wait_for_something_else():
    """One of 900 tokens waits for memory on the only replica that is large enough."""
    made = pool(replicas=2)
    made.backends["b"].ledger.promise(capacity_tokens=600, max_context_tokens=None)
    fill(made, "a", 500)
    assert made.submit(Asking(prompt=700), now_seconds=0.0) is None
    placed = made.submit(Asking(prompt=100), now_seconds=0.1)
    assert placed.choice.replica == "b"


def test_one_request_of_a_billion_choices_is_refused_and_keeps_nobody_else_out():
    """98 bytes of JSON: it was held, and everybody else got 429 for ten seconds."""
    made = pool(replicas=2, capacity=100_000, limits=QueueLimits())
    for name in "ab":
        fill(made, name, 500)
    huge = Asking(prompt=5, output=16 * 10**9, num_choices=10**9)
    verdict = made.submit(huge, now_seconds=0.1)
    assert verdict.reason is RejectReason.SATURATED
    assert verdict.retry_after_seconds >= 1
    assert "larger than all that may wait" in verdict.message
    assert isinstance(made.submit(Asking(), now_seconds=0.2), Assignment)


def test_a_queue_that_is_full_of_a_canarys_requests_refuses_no_stable_one():
    limits = QueueLimits(max_requests=5, max_tokens=10**6, max_seconds=10)
    made = pool(replicas=2, limits=limits, shares={"canary": 0.5, "stable": 0.5})
    made.backends["a"].version, made.backends["b"].version = "canary", "stable"
    fill(made, "a", 900)
    for _ in range(5):
        assert made.submit(Asking(prompt=500, draw=0.1), now_seconds=0.0) is None
    assert made.submit(Asking(prompt=500, draw=0.1), now_seconds=0.0).reason is (
        RejectReason.SATURATED
    )
    placed = made.submit(Asking(prompt=500, draw=0.9), now_seconds=0.0)
    assert placed.choice.replica == "b"
    assert made.submit(Asking(prompt=500, draw=0.9), now_seconds=0.0) is None, "it waits for b"


def test_those_that_wait_for_a_version_that_has_gone_go_to_the_others():
    made = pool(replicas=2, shares={"canary": 0.5, "stable": 0.5})
    made.backends["a"].version, made.backends["b"].version = "canary", "stable"
    fill(made, "a", 900)
    waiting = Asking(prompt=500, draw=0.1)
    assert made.submit(waiting, now_seconds=0.0) is None
    made.backends["a"].is_routable = False
    ((ticket, verdict),) = made.turns(now_seconds=0.1)
    assert (ticket, verdict.choice.replica) == (waiting, "b")
    assert made.num_held == 0


def test_a_slot_that_is_free_again_is_given_to_those_that_waited_for_it():
    """In the order of their deadlines, though they waited apart."""
    made = pool(replicas=1, capacity=100_000)
    fill(made, "a", 100)
    read(made, "a", adapters=frozenset({"chat"}), max_adapters=1)
    late, soon = (
        Asking(adapter="sql", deadline_seconds=9.0), Asking(adapter="sql", deadline_seconds=1.0)
    )  # fmt: skip
    for ticket in (late, soon):
        assert made.submit(ticket, now_seconds=0.0) is None
    assert made.turns(now_seconds=0.1) == []
    read(made, "a", at=0.2, adapters=frozenset(), max_adapters=1)
    assert [ticket for ticket, _ in made.turns(now_seconds=0.2)] == [soon, late]


# Defects of the queue.


def held(queue, name, tokens=100, priority=0, tenant=""):
    return queue.hold(
        name, num_tokens=tokens, work_tokens=tokens, deadline_seconds=1.0, now_seconds=0.0,
        tenant=tenant, priority=priority,
    )  # fmt: skip


def test_a_priority_that_nobody_waits_at_any_more_is_no_error():
    """A batch request of more than a quantum was served: every further request was a 500."""
    queue = FairQueue(QueueLimits(max_requests=3, max_tokens=10**6, max_seconds=10))
    batch = held(queue, "batch", tokens=9000, priority=-1)
    held(queue, "x")
    queue.served(batch)
    held(queue, "y")
    assert queue.victim(100, tenant="", priority=0) is None
    assert queue.victim(100, tenant="other", priority=1).item == "y"


def test_tenants_that_have_left_are_forgotten():
    """The key is the client's: 200,000 of them were kept for one request that waits."""
    queue = FairQueue(QueueLimits(max_requests=10, max_tokens=10**9, max_seconds=10))
    held(queue, "stays", tenant="x")
    for number in range(1000):
        one = held(queue, number, tokens=10 if number % 3 else 9000, tenant=f"key{number}")
        if number % 2:
            queue.remove(number)
        else:
            queue.served(one)
    assert sum(len(band) for band in queue._bands.values()) <= 65
    assert [one.item for one in queue.in_order()] == ["stays"]


def full_queue():
    """One runs, two of a flood wait, the queue is full, and a quiet tenant has displaced one."""
    made = pool(replicas=1, limits=QueueLimits(max_requests=2, max_tokens=10**6, max_seconds=10))
    first = made.submit(Asking(prompt=800), now_seconds=0.0)
    flood = [Asking(prompt=300, tenant="flood"), Asking(prompt=301, tenant="flood")]
    for ticket in flood:
        assert made.submit(ticket, now_seconds=0.0) is None
    quiet = Asking(prompt=20, output=20, tenant="quiet")
    assert made.submit(quiet, now_seconds=0.1) is None
    return made, first, flood, quiet


def test_a_displaced_request_whose_client_leaves_is_not_told_of_again():
    """Its second end was an exception that dropped everybody else's verdict with it."""
    made, _, flood, quiet = full_queue()
    assert made.withdraw(flood[1])
    assert not made.withdraw(flood[1])
    assert flood[1] not in dict(made.turns(now_seconds=0.2))
    assert made.withdraw(quiet) or quiet not in dict(made.turns(now_seconds=0.2))


def test_a_displaced_request_is_told_even_if_nobody_waits_any_more():
    made, _, flood, quiet = full_queue()
    made.withdraw(flood[0])
    made.withdraw(quiet)
    assert made.has_turns
    ((ticket, verdict),) = made.turns(now_seconds=0.2)
    assert ticket is flood[1]
    assert "need its place" in verdict.message
    assert not made.has_turns


def test_a_retry_is_not_asked_for_or_given_twice():
    """A tenant whose requests fail had twice its use, and less of its share."""
    made = pool(replicas=2, capacity=100_000)
    once, twice = Asking(tenant="once"), Asking(tenant="twice")
    made.submit(once, now_seconds=0.0)
    failed = made.submit(twice, now_seconds=0.0)
    end(made, failed, 0.1, is_complete=False)
    twice.tried = [failed.choice.replica]
    assert isinstance(made.submit(twice, now_seconds=0.2), Assignment)
    uses = made.shares._uses
    for meter in ("asked", "given"):
        amounts = [
            getattr(uses[tenant], meter).amount(now_seconds=0.2) for tenant in ("once", "twice")
        ]
        assert amounts[0] == pytest.approx(amounts[1])


def test_a_prompt_that_was_never_computed_is_not_taken_to_be_cached():
    """Its replica died first; what both prompts share was there before, and still is."""
    made = pool(replicas=1, capacity=100_000)

    def asks(*blocks):
        return Asking(prompt=1000, prefix=blocks, tokens_per_block=250)

    first = made.submit(asks(1, 2), now_seconds=0.0)
    answer(first, 0.1)
    end(made, first, 0.2)
    failed = made.submit(asks(1, 2, 3, 4), now_seconds=0.3)
    assert failed.choice.hit_tokens == 500
    end(made, failed, 0.4, is_complete=False)
    assert made.submit(asks(1, 2, 3, 4), now_seconds=0.5).choice.hit_tokens == 500


# Never, or not now: judged by all replicas that are known.


def unequal(**settings):
    """Replica a holds 8,000 tokens per request, b 32,000."""
    made = pool(replicas=2, capacity=100_000, **settings)
    made.backends["a"].ledger.promise(capacity_tokens=100_000, max_context_tokens=8_000)
    made.backends["b"].ledger.promise(capacity_tokens=100_000, max_context_tokens=32_000)
    return made


def out(made):
    made.backends["b"].health.fault(now_seconds=0.0)


def drains(made):
    made.backends["b"].is_routable = False


@pytest.mark.parametrize("goes", [out, drains])
def test_what_only_a_replica_that_is_out_could_hold_is_told_to_come_back(goes):
    """It was a 400 without Retry-After: the client was told that its request is wrong."""
    made = unequal()
    goes(made)
    verdict = made.submit(Asking(prompt=20_000), now_seconds=0.1)
    assert verdict.reason is RejectReason.NO_READY_REPLICA
    assert verdict.retry_after_seconds >= 1
    assert "could hold" in verdict.message
    never = made.submit(Asking(prompt=40_000), now_seconds=0.1)
    assert never.reason is RejectReason.NEVER_FITS
    assert "32000" in never.message


@pytest.mark.parametrize("goes", [out, drains])
def test_where_replicas_are_waited_for_it_waits_for_the_one_that_could_hold_it(goes):
    """Others pass it meanwhile, however many they are."""
    made = unequal(waits_for_replicas=True)
    goes(made)
    large = [Asking(prompt=20_000) for _ in range(20)]
    for ticket in large:
        assert made.submit(ticket, now_seconds=0.1) is None
    assert isinstance(made.submit(Asking(), now_seconds=0.2), Assignment)
    assert made.turns(now_seconds=0.3) == []
    made.backends["b"].is_routable = True
    made.backends["b"].health.answered()
    ((ticket, verdict),) = made.turns(now_seconds=0.4)
    assert (ticket, verdict.choice.replica) == (large[0], "b")


def test_a_request_draws_among_the_versions_that_could_hold_it():
    """The canary is small: the request that drew it got 400."""
    made = unequal(shares={"small": 90, "large": 10})
    made.backends["a"].version, made.backends["b"].version = "small", "large"
    placed = made.submit(Asking(prompt=20_000, draw=0.95), now_seconds=0.1)
    assert placed.choice.replica == "b"
    assert made.submit(Asking(prompt=200, draw=0.95), now_seconds=0.1).choice.replica == "a"


def test_after_its_time_a_request_is_not_sent_where_it_cannot_fit():
    """It had waited 10 s for the large replica, and was sent to the small one."""
    made = unequal()
    fill(made, "b", 96_000)
    large = Asking(prompt=20_000)
    assert made.submit(large, now_seconds=0.1) is None
    ((ticket, verdict),) = made.turns(now_seconds=10.2)
    assert ticket is large
    assert isinstance(verdict, Reject)
    assert verdict.reason is RejectReason.QUEUE_TIMEOUT
    assert "of 1 replica(s)" in verdict.message


def test_a_claim_on_any_replica_is_of_those_where_the_claimant_fits():
    """A large request of a higher priority that waited for one replica kept all others idle."""
    made = pool(replicas=3, capacity=30_000, policy="random")
    made.backends["a"].ledger.promise(capacity_tokens=30_000, max_context_tokens=8_000)
    read(made, "b", ratio=1.0)
    read(made, "c", ratio=1.0)
    assert made.submit(Asking(prompt=8_000, priority=1), now_seconds=0.01) is None
    small = Asking(prompt=1)
    assert made.submit(small, now_seconds=0.01) is None
    ((ticket, assignment),) = made.turns(now_seconds=0.02)
    assert ticket is small
    assert assignment.choice.replica == "a"


def test_the_first_that_is_late_after_a_long_backlog_waits_for_its_turn():
    """One place, four clients who come again at once, for 25 s of the 30 that anybody may wait.

    All are in time. Then one comes that is due now: it was refused because nobody who was late had
    had a turn for so long; nobody had been late.
    """
    made = pool(replicas=1, capacity=1_000, limits=QueueLimits(max_seconds=30.0))
    placed = [made.submit(Asking(prompt=900, deadline_seconds=60.0), now_seconds=0.0)]
    step = 0
    for step in range(1, 2_501):
        now = step / 100
        while made.num_held < 3:
            ticket = Asking(prompt=900, deadline_seconds=60.0)
            assert made.submit(ticket, now_seconds=now) is None
        if step % 10 == 0:
            end(made, placed.pop(), now)
        for _, verdict in made.turns(now_seconds=now):
            assert isinstance(verdict, Assignment)
            placed.append(verdict)
    late = Asking(prompt=900, deadline_seconds=25.0)
    assert made.submit(late, now_seconds=25.02) is None
    told = {}
    for step in range(2_503, 2_600):
        if placed and step % 10 == 0:
            end(made, placed.pop(), step / 100)
        for ticket, verdict in made.turns(now_seconds=step / 100):
            told[ticket] = verdict
            if isinstance(verdict, Assignment):
                placed.append(verdict)
    assert isinstance(told[late], Assignment), told[late].message
    assert len(told) == 3


@pytest.mark.parametrize("why", ["its prompt is not there", "it is read no more"])
def test_who_is_late_does_not_wait_beside_an_idle_replica(why):
    """Replica b was idle too late for a second choice: the request waited its whole time for a."""
    is_old = why == "it is read no more"
    made = pool(hits=lambda _: {} if is_old else {"a": 890})
    for name in "ab":
        made.backends[name].ledger.speed.token_seconds = 1e-2
    fill(made, "a", 800)
    busy = fill(made, "b", 800)
    late = Asking(prompt=900, output=50, deadline_seconds=1.0)
    assert made.submit(late, now_seconds=0.0) is None
    for step in range(1, 80):
        read(made, "a", ratio=0.8, at=step / 10)
        if not is_old:
            read(made, "b", ratio=0.8, at=step / 10)
        assert made.turns(now_seconds=step / 10) == []
    made.backends["b"].ledger.release(busy, now_seconds=8.0)
    read(made, "a", ratio=0.8, at=8.0)
    if not is_old:
        read(made, "b", at=8.0)
    ((ticket, verdict),) = made.turns(now_seconds=8.0)
    assert (ticket, verdict.choice.replica) == (late, "b")
