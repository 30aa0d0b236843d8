"""What the probes are told: a hung loop gets a restart, a slow one and a standby do not."""

import httpx
import pytest

from memroute_operator.health import (
    STALLED_SECONDS,
    START_SECONDS,
    Marks,
    liveness,
    readiness,
    serve_health,
)
from ports import free_port


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_loop_that_hangs_is_not_alive(clock):
    marks = Marks(clock=clock)
    marks.on_step()
    clock.now += STALLED_SECONDS
    assert liveness(marks).is_good
    clock.now += 1
    verdict = liveness(marks)
    assert not verdict.is_good
    assert "121 s ago" in verdict.why


def test_a_long_step_that_makes_progress_is_alive(clock):
    """4,000 pods are created one by one: killed in the middle, the next start begins anew."""
    marks = Marks(clock=clock)
    marks.on_step()
    for _ in range(100):
        clock.now += 30
        marks.on_write()
    assert liveness(marks).is_good


def test_a_standby_is_alive_for_as_long_as_it_asks_for_the_lease(clock):
    marks = Marks(clock=clock)
    marks.on_standby()
    marks.on_election()
    clock.now += STALLED_SECONDS
    assert liveness(marks).is_good
    clock.now += 1
    assert not liveness(marks).is_good


def test_a_leader_whose_reconcile_loop_waits_to_lead_is_not_alive(clock):
    """The election and the loop do not agree who leads: only a restart helps."""
    marks = Marks(clock=clock)
    marks.on_leading(True)
    marks.on_step()
    clock.now += 1000
    marks.on_standby()
    assert not liveness(marks).is_good
    marks.on_step()
    marks.on_standby()
    for _ in range(int(STALLED_SECONDS)):
        assert liveness(marks).is_good
        clock.now += 1
        marks.on_election()
    clock.now += 1
    assert not liveness(marks).is_good
    marks.on_leading(False)
    assert liveness(marks).is_good


def test_a_leader_whose_election_hangs_is_not_alive(clock):
    """It would never lead again, and nobody would know."""
    marks = Marks(clock=clock)
    marks.on_election()
    clock.now += STALLED_SECONDS + 1
    marks.on_step()
    assert not liveness(marks).is_good


def test_a_start_waits_for_an_api_server_and_does_not_hang_for_ever(clock):
    marks = Marks(clock=clock)
    clock.now += START_SECONDS
    assert liveness(marks).is_good
    clock.now += 1
    assert not liveness(marks).is_good


def test_ready_is_who_has_listed_everything_and_not_too_long_ago(clock):
    """By 300 s between lists, one of which may be missed; what fails is tried after 30 s."""
    marks = Marks(clock=clock)
    assert not readiness(marks, resync_seconds=300).is_good
    marks.on_listed()
    clock.now += 600
    assert readiness(marks, resync_seconds=300).is_good
    clock.now += 1
    assert not readiness(marks, resync_seconds=300).is_good


@pytest.mark.slow
def test_probes_are_answered_with_the_reason(clock):
    """``kubectl describe`` shows the body of a failed probe: it must say what is wrong."""
    port = free_port()
    marks = Marks(clock=clock)
    serve_health("127.0.0.1", port, marks, resync_seconds=60)
    url = f"http://127.0.0.1:{port}"
    ready = httpx.get(f"{url}/readyz", trust_env=False)
    assert ready.status_code == 503
    assert ready.json()["why"] == "the first list is not complete"
    marks.on_listed()
    assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    assert httpx.get(f"{url}/healthz?verbose", trust_env=False).status_code == 200
    assert httpx.get(f"{url}/", trust_env=False).status_code == 404
