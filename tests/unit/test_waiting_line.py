"""How fast the queue moves, for whom it is no use, and who has had more than its share."""

import pytest

from memroute.traffic.admission import QueueLimits
from memroute.traffic.dispatch.waiting_line import WaitingLine
from memroute.traffic.request import RequestProfile


class Asking:
    def __init__(self, tenant=""):
        self.tried = []
        self.profile = RequestProfile(
            num_prompt_tokens=100,
            min_prompt_tokens=100,
            max_output_tokens=None,
            assumed_output_tokens=50,
            tenant=tenant,
        )


@pytest.fixture
def line():
    return WaitingLine(QueueLimits(max_requests=100, max_tokens=10**6, max_seconds=10.0))


def hold(line, now=0.0, deadline=1.0, tenant="", tokens=150):
    asking = Asking(tenant)
    line.hold(
        asking, num_tokens=tokens, work_tokens=100, deadline_seconds=deadline, now_seconds=now
    )
    return next(held for held in line.queue.waiting() if held.item is asking)


def test_the_wait_is_known_once_others_have_waited_for_a_second(line):
    hold(line)
    line.placed("", 1000, now_seconds=0.5)
    assert line.seconds_to_place(100, 0.9) is None
    line.placed("", 1000, now_seconds=1.0)
    assert line.seconds_to_place(4000, 2.0) == pytest.approx(4.0, rel=0.1)


def test_what_is_given_room_when_nobody_waits_says_nothing(line):
    line.placed("", 10**6, now_seconds=0.0)
    hold(line, now=1.0)
    assert line.seconds_to_place(100, 3.0) is None


def test_the_late_are_told_once_others_alone_have_had_turns_for_half_of_the_time(line):
    late, other = hold(line), hold(line, deadline=100.0)
    late.is_late = True
    line.placed("", 150, now_seconds=4.0)
    assert line.hopeless(now_seconds=5.0) == []
    line.placed("", 150, now_seconds=5.0)
    assert line.hopeless(now_seconds=5.0) == [late.item]
    assert other.item not in line.hopeless(now_seconds=5.0)


def test_a_turn_for_somebody_late_gives_the_others_hope(line):
    late = [hold(line), hold(line)]
    for held in late:
        held.is_late = True
    line.placed("", 150, now_seconds=3.0)
    line.turn_taken(late[0], is_placed=True, now_seconds=3.0)
    line.placed("", 150, now_seconds=5.0)
    assert line.hopeless(now_seconds=5.0) == []


def test_nobody_is_told_while_nobody_has_a_turn(line):
    """Long answers everywhere: the late ones are next."""
    hold(line).is_late = True
    assert line.hopeless(now_seconds=5.0) == []


def test_where_most_wait_in_vain_the_late_are_told_at_once(line):
    line.placed("", 150, now_seconds=0.0)
    for _ in range(3):
        line.in_vain(now_seconds=0.0)
    late = hold(line, now=1.0)
    assert line.hopeless(now_seconds=1.0) == []
    late.is_late = True
    assert line.hopeless(now_seconds=1.0) == [late.item]


def test_where_most_of_the_late_are_served_they_wait(line):
    late = [hold(line) for _ in range(4)]
    for held in late:
        held.is_late = True
    for held in late[:3]:
        line.turn_taken(held, is_placed=True, now_seconds=0.0)
    for _ in range(3):
        line.in_vain(now_seconds=0.0)
    assert line.hopeless(now_seconds=1.0) == []


def test_a_few_refusals_among_many_requests_are_no_overload(line):
    for _ in range(40):
        line.placed("", 150, now_seconds=0.0)
    for _ in range(3):
        line.in_vain(now_seconds=0.0)
    hold(line, now=1.0).is_late = True
    assert line.hopeless(now_seconds=1.0) == []


def test_what_fills_empty_replicas_is_no_rate_to_promise_by(line):
    """Room is given at 1,000 tokens/s and freed at 250, which counts where memory is short."""
    hold(line)
    for second in range(1, 11):
        line.placed("", 1000, now_seconds=float(second))
        line.freed(250, now_seconds=float(second))
    assert line.seconds_to_place(1000, 10.0) == pytest.approx(1.0, rel=0.2)
    line.memory_binds(now_seconds=10.0)
    assert line.seconds_to_place(1000, 10.0) == pytest.approx(4.0, rel=0.2)


def test_a_moment_without_anybody_does_not_begin_a_new_queue(line):
    held = hold(line)
    line.placed("", 1000, now_seconds=1.0)
    line.turn_taken(held, is_placed=True, now_seconds=1.0)
    hold(line, now=1.5)
    assert line.seconds_to_place(1000, 1.9) is not None


def test_after_a_second_without_anybody_the_rate_is_a_new_one(line):
    held = hold(line)
    line.placed("", 1000, now_seconds=1.0)
    line.turn_taken(held, is_placed=True, now_seconds=1.0)
    hold(line, now=3.0)
    assert line.seconds_to_place(1000, 3.5) is None


def use(line, tenant, tokens, given=None):
    """Ten seconds of asking, and of being given all of it or less."""
    for second in range(10):
        line.asked(tenant, tokens, now_seconds=float(second))
        line.placed(tenant, tokens if given is None else given, now_seconds=float(second))


def test_a_tenant_is_over_its_share_only_while_others_wait(line):
    use(line, "flood", 9000)
    use(line, "quiet", 1000)
    line.plan([], now_seconds=10.0)
    assert not line.is_over_share("flood", now_seconds=10.0)
    hold(line, now=10.0, tenant="quiet")
    line.plan([], now_seconds=11.0)
    assert line.is_over_share("flood", now_seconds=11.0)
    assert not line.is_over_share("quiet", now_seconds=11.0)


def test_who_asks_for_more_and_is_given_an_equal_share_is_not_over_it(line):
    use(line, "flood", 9000, given=1000)
    use(line, "quiet", 1100)
    hold(line, now=10.0, tenant="flood")
    line.plan([], now_seconds=10.0)
    assert not line.is_over_share("flood", now_seconds=10.0)


def test_who_has_a_little_more_than_others_is_not_over_its_share(line):
    use(line, "one", 1300)
    use(line, "other", 1000)
    hold(line, now=10.0, tenant="one")
    line.plan([], now_seconds=10.0)
    assert not line.is_over_share("one", now_seconds=10.0)


def test_a_tenant_alone_has_all_of_it(line):
    hold(line, tenant="only")
    use(line, "only", 9000)
    line.plan([], now_seconds=10.0)
    assert not line.is_over_share("only", now_seconds=10.0)
