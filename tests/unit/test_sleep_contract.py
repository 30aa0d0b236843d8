"""What the operator tells routers of a replica that sleeps."""

import pytest

from memroute_kube.routing import NamedReplica, RoutingStatus, read_routing_status
from memroute_kube.sleeping import SleepState, sleep_state_of, wake_seconds_of

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("state", [None, *SleepState])
def test_a_replica_is_read_as_it_was_told(state: SleepState | None) -> None:
    told = NamedReplica(
        pod="chat-0",
        uid="u0",
        served_name="chat",
        sleep=state,
        wake_seconds=None if state is None else 4,
    )
    document = RoutingStatus(names=(), replicas={"u0": told}).document(3)
    read = read_routing_status({"status": {"observedGeneration": 3, "routing": document}})
    assert read is not None
    assert read.replicas == {"u0": told}


def test_a_word_of_a_newer_operator_is_not_awake() -> None:
    assert sleep_state_of("Dreaming") is SleepState.ASLEEP
    assert sleep_state_of(7) is SleepState.ASLEEP


@pytest.mark.parametrize("number", [None, -1, True, "4", 4.5, 1e9, 3_601])
def test_a_wake_that_nobody_believes_is_unknown(number: object) -> None:
    assert wake_seconds_of(number) is None
