"""How fast the queue moves, for whom it is no use, and who has had more than its share."""

import pytest

from memroute.admission import QueueLimits
from memroute.dispatch.waiting import WaitingLine
from memroute.footprint import RequestProfile


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
    assert line.hopeless() == []
    line.placed("", 150, now_seconds=5.0)
    assert line.hopeless() == [late.item]
    assert other.item not in line.hopeless()


def test_a_turn_for_somebody_late_gives_the_others_hope(line):
    late = [hold(line), hold(line)]
    for held in late:
        held.is_late = True
    line.placed("", 150, now_seconds=3.0)
    line.turn_taken(late[0], is_placed=True, now_seconds=3.0)
    line.placed("", 150, now_seconds=5.0)
    assert line.hopeless() == []


def test_nobody_is_told_while_nobody_has_a_turn(line):
    """Long answers everywhere: the late ones are next."""
    hold(line).is_late = True
    assert line.hopeless() == []


def test_a_tenant_is_over_its_share_only_while_others_wait(line):
    for second in range(10):
        line.placed("flood", 9000, now_seconds=float(second))
        line.placed("quiet", 1000, now_seconds=float(second))
    line.plan([], now_seconds=10.0)
    assert not line.is_over_share("flood", now_seconds=10.0)
    hold(line, now=10.0, tenant="quiet")
    line.plan([], now_seconds=11.0)
    assert line.is_over_share("flood", now_seconds=11.0)
    assert not line.is_over_share("quiet", now_seconds=11.0)


def test_a_tenant_alone_has_all_of_it(line):
    hold(line, tenant="only")
    line.placed("only", 9000, now_seconds=0.5)
    line.plan([], now_seconds=1.0)
    assert not line.is_over_share("only", now_seconds=1.0)
