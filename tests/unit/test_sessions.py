"""Named sessions: where each was served last."""

import pytest

from memroute.traffic.prefixes.sessions import MAX_SESSIONS, SessionIndex


@pytest.mark.slow
def test_a_flood_of_new_sessions_pushes_out_no_conversation_that_goes_on():
    """Names are the clients' to choose: one of them may name a new one with each request."""
    index = SessionIndex()
    for turn in (1, 2):
        index.sent(7, "a", 100 * turn)
        index.served(7, "a", 100 * turn + 50)
    index.sent(8, "b", 10)
    for number in range(1000, 2 * MAX_SESSIONS):
        index.sent(number, "c", 1)
        index.served(number, "c", 2)
    assert index.last(7) == ("a", 250)
    assert index.last(8) is None, "it was named once, and long ago"
    assert len(index) <= MAX_SESSIONS


def test_what_is_told_to_a_new_router_ends_with_the_conversations_that_go_on():
    index = SessionIndex()
    for session in (1, 2, 1, 3):
        index.sent(session, "a", 10)
    assert [session for session, _, _ in index.recent(10)] == [2, 3, 1]
    assert [session for session, _, _ in index.recent(1)] == [1]
    for session in range(100, 100 + MAX_SESSIONS):
        index.sent(session, "b", 1)
        index.sent(session, "b", 2)
    assert index.last(1) is None
    assert len(index) <= MAX_SESSIONS
