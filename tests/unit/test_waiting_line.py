"""Who waits for what, how fast it moves, for whom it is no use, who has had more than its share."""

import pytest

from memroute.traffic.admission import ClosedReason, QueueLimits, QueueRefusal
from memroute.traffic.dispatch.ask import ROOM, Ask, adapter_slot
from memroute.traffic.dispatch.drain import DrainMeter
from memroute.traffic.dispatch.fair_share import FairShares
from memroute.traffic.dispatch.overload import OverloadDetector
from memroute.traffic.dispatch.waiting_line import WaitingLine
from memroute.traffic.replica import ReplicaLedger
from memroute.traffic.replica.backend import Backend
from memroute.traffic.request import RequestProfile

SQL = adapter_slot("sql")


class Asking:
    def __init__(self, tenant="", tokens=150, priority=0):
        self.tried = []
        self.profile = RequestProfile(
            num_prompt_tokens=tokens - 50, min_prompt_tokens=tokens - 50, max_output_tokens=None,
            assumed_output_tokens=50, tenant=tenant, priority=priority,
        )  # fmt: skip


def asks(waits_for=ROOM, wanted=None, deadline=1.0, **facts):
    ask = Ask(Asking(**facts), output_tokens=50, deadline_seconds=deadline)
    ask.waits_for, ask.wanted = waits_for, wanted
    return ask


@pytest.fixture
def line():
    return WaitingLine(QueueLimits(max_requests=100, max_tokens=10**6, max_seconds=10.0))


def hold(line, now=0.0, is_late=False, **facts):
    ask = asks(**facts)
    line.hold(ask, work_tokens=100, now_seconds=now)
    held = next(held for held in line.waiting() if held.item is ask)
    held.is_late = is_late
    if is_late:
        line.overload.late_wait(is_any=True, max_seconds=10.0, now_seconds=now)
    return held


# How fast it moves.


def test_the_wait_is_known_once_others_have_waited_for_a_second(line):
    hold(line)
    line.placed(1000, now_seconds=0.5)
    assert line.drain.seconds_to_place(100, now_seconds=0.9) is None
    line.placed(1000, now_seconds=1.0)
    assert line.drain.seconds_to_place(4000, now_seconds=2.0) == pytest.approx(4.0, rel=0.1)


def test_what_is_given_room_when_nobody_waits_says_nothing(line):
    line.placed(10**6, now_seconds=0.0)
    hold(line, now=1.0)
    assert line.drain.seconds_to_place(100, now_seconds=3.0) is None


def test_what_fills_empty_replicas_is_no_rate_to_promise_by(line):
    """Room is given at 1,000 tokens/s and freed at 250, which counts where memory is short."""
    hold(line)
    for second in range(1, 11):
        line.placed(1000, now_seconds=float(second))
        line.drain.freed(250, now_seconds=float(second))
    assert line.drain.seconds_to_place(1000, now_seconds=10.0) == pytest.approx(1.0, rel=0.2)
    line.drain.memory_binds(now_seconds=10.0)
    assert line.drain.seconds_to_place(1000, now_seconds=10.0) == pytest.approx(4.0, rel=0.2)


def test_a_moment_without_anybody_does_not_begin_a_new_backlog(line):
    held = hold(line)
    line.placed(1000, now_seconds=1.0)
    line.turn_taken(held, is_placed=True, now_seconds=1.0)
    hold(line, now=1.5)
    assert line.drain.seconds_to_place(1000, now_seconds=1.9) is not None


def test_after_a_second_without_anybody_the_rate_is_a_new_one(line):
    held = hold(line)
    line.placed(1000, now_seconds=1.0)
    line.turn_taken(held, is_placed=True, now_seconds=1.0)
    hold(line, now=3.0)
    assert line.drain.seconds_to_place(1000, now_seconds=3.5) is None


def test_without_a_backlog_there_is_no_rate():
    drain = DrainMeter()
    assert not drain.placed(100, now_seconds=1.0)
    drain.freed(100, now_seconds=1.0)
    assert drain.seconds_to_place(1, now_seconds=5.0) is None


# For whom it is no use.


def test_the_late_are_told_once_others_alone_have_had_turns_for_half_of_the_time(line):
    late, other = hold(line, is_late=True), hold(line, deadline=100.0)
    line.placed(150, now_seconds=4.0)
    assert line.hopeless(now_seconds=5.0) == []
    line.placed(150, now_seconds=5.0)
    assert line.hopeless(now_seconds=5.0) == [late.item]
    assert other.item not in line.hopeless(now_seconds=5.0)


def test_a_backlog_in_which_nobody_was_late_says_nothing_of_the_first_who_is(line):
    """Others alone had turns for nine seconds: nobody else was there. It is late for half a one."""
    first = hold(line, deadline=100.0)
    for second in range(1, 10):
        line.drain.still_waits(now_seconds=float(second))
        line.placed(150, now_seconds=float(second))
    late = hold(line, now=9.0, is_late=True)
    line.placed(150, now_seconds=9.5)
    assert line.hopeless(now_seconds=9.5) == []
    line.turn_taken(first, is_placed=True, now_seconds=14.0)
    line.placed(150, now_seconds=14.0)
    assert line.hopeless(now_seconds=14.0) == [late.item]


@pytest.mark.parametrize("refused", [False, True])
def test_late_requests_that_are_refused_at_once_are_late_requests_all_the_same(refused):
    """For a while: else the next would have to find out for itself, waiting half of its time."""
    overload = OverloadDetector()
    overload.late_wait(is_any=True, max_seconds=10.0, now_seconds=0.0)
    if refused:
        overload.in_vain(now_seconds=5.0)
    for second in range(100):
        overload.placed(now_seconds=second / 20)
    overload.late_wait(is_any=False, max_seconds=10.0, now_seconds=9.9)
    overload.late_wait(is_any=True, max_seconds=10.0, now_seconds=9.9)
    overload.turn_taken(now_seconds=9.9)
    facts = {"since_seconds": 0.0, "max_seconds": 10.0}
    assert overload.is_hopeless(**facts, now_seconds=9.9) is refused
    overload.late_wait(is_any=False, max_seconds=10.0, now_seconds=10.0)
    overload.turn_taken(now_seconds=10.0)
    assert not overload.is_hopeless(**facts, now_seconds=10.0)


def test_a_turn_for_somebody_late_gives_the_others_hope(line):
    late = [hold(line, is_late=True), hold(line, is_late=True)]
    line.placed(150, now_seconds=3.0)
    line.turn_taken(late[0], is_placed=True, now_seconds=3.0)
    line.placed(150, now_seconds=5.0)
    assert line.hopeless(now_seconds=5.0) == []


def test_nobody_is_told_while_nobody_has_a_turn(line):
    """Long answers everywhere: the late ones are next."""
    hold(line, is_late=True)
    assert line.hopeless(now_seconds=5.0) == []


def test_where_most_wait_in_vain_the_late_are_told_at_once(line):
    line.placed(150, now_seconds=0.0)
    for _ in range(3):
        line.overload.in_vain(now_seconds=0.0)
    late = hold(line, now=1.0)
    assert line.hopeless(now_seconds=1.0) == []
    late.is_late = True
    assert line.hopeless(now_seconds=1.0) == [late.item]


def test_where_most_of_the_late_are_served_they_wait(line):
    late = [hold(line, is_late=True) for _ in range(4)]
    for held in late[:3]:
        line.turn_taken(held, is_placed=True, now_seconds=0.0)
    for _ in range(3):
        line.overload.in_vain(now_seconds=0.0)
    assert line.hopeless(now_seconds=1.0) == []


def test_a_few_refusals_among_many_requests_are_no_overload():
    overload = OverloadDetector()
    for _ in range(40):
        overload.placed(now_seconds=0.0)
    for _ in range(3):
        overload.in_vain(now_seconds=0.0)
    assert not overload.is_hopeless(since_seconds=0.0, max_seconds=10.0, now_seconds=1.0)
    for _ in range(2):
        overload.in_vain(now_seconds=0.0)
    assert overload.is_hopeless(since_seconds=0.0, max_seconds=10.0, now_seconds=1.0)


# Who waits for what.


def test_what_waits_for_an_adapters_slot_is_in_nobodys_way(line):
    """Not in the order, not in how long one more would wait; but the limits count it."""
    hold(line, tokens=150)
    for number in range(20):
        hold(line, now=0.1, waits_for=SQL, tokens=50_000 - number, tenant="sql")
    line.placed(1000, now_seconds=1.0)
    line.placed(1000, now_seconds=2.0)
    assert len(line) == 21
    assert len(line.in_order()) == 1
    assert line.expected_wait_seconds(asks(tokens=150), now_seconds=2.0) < 1.0
    assert line.expected_wait_seconds(asks(waits_for=SQL), now_seconds=2.0) is None
    assert line.refusal(asks(tokens=900), expected_wait_seconds=None) is QueueRefusal.TOKENS


def test_a_line_full_of_what_waits_for_something_else_lets_others_in(line):
    """The last that waits for the slot leaves, unless its priority is greater."""
    sql = [hold(line, waits_for=SQL, tokens=50_000, tenant="sql") for _ in range(20)]
    assert line.victim(asks(tokens=900)) is sql[-1].item
    assert line.victim(asks(tokens=900, priority=-1)) is None
    assert line.victim(asks(waits_for=SQL, tokens=900, tenant="sql")) is None


def test_it_is_known_which_replicas_somebody_waits_for(line):
    one, two = Backend(ReplicaLedger("one")), Backend(ReplicaLedger("two"))
    held = hold(line, wanted=one)
    hold(line, waits_for=SQL, wanted=two)
    assert line.is_wanted("one")
    assert not line.is_wanted("two"), "a slot is waited for there, not room"
    line.wants(held.item, two, ClosedReason.PREFILL)
    assert (line.is_wanted("one"), line.is_wanted("two")) == (False, True)
    line.wants(held.item, None, None)
    assert line.is_wanted("one"), "it goes to any that opens"
    line.remove(held.item)
    assert not line.is_wanted("one")


def test_what_waits_for_something_else_keeps_its_time(line):
    """Moved to where it waits for room at 5 s, it expires at 10 s as it would have."""
    hold(line, now=2.0)
    moved = line.remove(hold(line, now=0.0, waits_for=SQL).item)
    moved.item.waits_for = ROOM
    line.move_in(moved)
    assert line.apart() == []
    assert line.take_expired(now_seconds=10.0) == [moved.item]
    assert len(line) == 1


# Who has had more than its share.


def use(shares, tenant, tokens, given=None):
    """Ten seconds of asking, and of being given all of it or less."""
    for second in range(10):
        shares.asked(tenant, tokens, now_seconds=float(second))
        shares.given(tenant, tokens if given is None else given, now_seconds=float(second))
    shares.update(now_seconds=10.0)


def test_a_tenant_that_asks_for_far_more_and_has_had_its_share_is_over_it():
    shares = FairShares()
    use(shares, "flood", 9000)
    use(shares, "quiet", 1000)
    assert shares.is_over("flood", now_seconds=10.0)
    assert not shares.is_over("quiet", now_seconds=10.0)
    assert not shares.is_over("new", now_seconds=10.0)


def test_who_asks_for_more_and_is_given_an_equal_share_is_not_over_it():
    shares = FairShares()
    use(shares, "flood", 9000, given=1000)
    use(shares, "quiet", 1100)
    assert not shares.is_over("flood", now_seconds=10.0)


def test_who_has_a_little_more_than_others_is_not_over_its_share():
    shares = FairShares()
    use(shares, "one", 1300)
    use(shares, "other", 1000)
    assert not shares.is_over("one", now_seconds=10.0)


def test_a_tenant_alone_has_all_of_it():
    shares = FairShares()
    use(shares, "only", 9000)
    assert not shares.is_over("only", now_seconds=10.0)
