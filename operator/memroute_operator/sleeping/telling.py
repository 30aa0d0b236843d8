"""What sleeps where, as a status, its conditions and Events tell it. Pure.

| condition | when |
| --- | --- |
| ``Asleep`` | a replica is not awake; its reason is how far that is, or that it waits for room |
| ``SleepFailing`` | an engine does not do what it is told; the model goes on as it is |
"""

from collections.abc import Iterable, Sequence
from typing import Any

from memroute.units import format_gib
from memroute_kube.sleeping import SleepState
from memroute_operator.plan import MarkSleep, Outcome
from memroute_operator.replicas.replica import Replica
from memroute_operator.sleeping.mark import MarkedState

Condition = tuple[str, str, str]
# Replicas that a status tells one by one.
MAX_TOLD = 100
# Replicas that a sentence names one by one.
MAX_LISTED = 3
# Of what it waits for, in characters: as the schema has it.
MAX_WAITS = 4_096
WAITS_FOR_ROOM, SLEEP_FAILED = "WaitsForRoom", "SleepFailed"
# Reasons of Events.
FELL_ASLEEP, WOKEN = "FellAsleep", "Woken"


def not_awake(replicas: Iterable[Replica]) -> list[Replica]:
    """Those whose engine sleeps, or is on the way to or from it."""
    return [one for one in replicas if one.sleep_state is not None and not one.is_terminating]


def lent_bytes(replica: Replica) -> int:
    """Bytes of all its devices that it lends now."""
    return sum(size - replica.present_bytes(uuid) for uuid, size in replica.device_bytes.items())


def sleep_fields(replicas: Sequence[Replica], outcome: Outcome) -> dict[str, Any] | None:
    """``status.sleep``; None where all are awake."""
    found = not_awake(replicas)
    if not found:
        return None
    told: dict[str, Any] = {
        "asleep": sum(one.sleep_state is SleepState.ASLEEP for one in found),
        "lentBytes": sum(map(lent_bytes, found)),
        "replicas": [_told(one) for one in sorted(found, key=lambda one: one.key)[:MAX_TOLD]],
    }
    if outcome.sleep_waits is not None:
        told["waitsFor"] = outcome.sleep_waits[:MAX_WAITS]
    return told


def _told(replica: Replica) -> dict[str, Any]:
    state, mark = replica.sleep_state, replica.sleep_mark
    said: dict[str, Any] = {
        "pod": replica.pod_name,
        "state": "" if state is None else state.value,
        "node": replica.node,
        "devices": sorted(replica.device_bytes),
    }
    if mark is not None:
        said["since"] = mark.since
        if mark.makes_room_for is not None:
            said["for"] = mark.makes_room_for
    return said


def asleep_condition(replicas: Sequence[Replica], outcome: Outcome) -> Condition | None:
    """``Asleep``: which replicas, where, since when, and what one that is to wake waits for."""
    found = not_awake(replicas)
    if not found:
        return None
    told = "; ".join(_sentence(one) for one in found[:MAX_LISTED])
    more = len(found) - MAX_LISTED
    told += f"; and {more} more" if more > 0 else ""
    if outcome.sleep_waits is not None:
        return "True", WAITS_FOR_ROOM, f"{told}; it {outcome.sleep_waits}"
    return "True", _reason(found), told


def failing_condition(outcome: Outcome) -> Condition | None:
    """``SleepFailing``; None while engines do what they are told."""
    if outcome.sleep_trouble is None:
        return None
    return "True", SLEEP_FAILED, outcome.sleep_trouble


def ready_of(wanted: Sequence[Replica], outcome: Outcome) -> Condition | None:
    """``Ready`` of a model that nobody has to do anything about, and that is not awake.

    None where one of its replicas is. It is ready all the same: a request is what wakes it.
    """
    found = not_awake(wanted)
    if not found or len(found) < len(wanted):
        return None
    told = asleep_condition(found, outcome)
    if told is None:
        return None
    _, reason, message = told
    return "True", reason, f"all {len(wanted)} replica(s) wake when a request comes: {message}"


def _reason(found: Sequence[Replica]) -> str:
    """That of the replica which is closest to being awake."""
    states = {one.sleep_state for one in found}
    order = (SleepState.WAKING, SleepState.FALLING_ASLEEP, SleepState.ASLEEP)
    return next(state.value for state in order if state in states)


def _sentence(replica: Replica) -> str:
    mark = replica.sleep_mark
    since = "" if mark is None else f" since {mark.since[:19]}Z"
    where = ", ".join(f"{replica.node}/{uuid[:12]}" for uuid in sorted(replica.device_bytes))
    match replica.sleep_state:
        case SleepState.ASLEEP:
            room = (
                ""
                if mark is None or mark.makes_room_for is None
                else (f", for {mark.makes_room_for}")
            )
            lent = format_gib(lent_bytes(replica))
            return f"{replica.pod_name} sleeps on {where}{since}{room}, and lends {lent}"
        case SleepState.WAKING:
            return f"{replica.pod_name} wakes on {where}{since}"
        case _:
            return f"{replica.pod_name} falls asleep on {where}{since}"


def event_of(action: MarkSleep) -> tuple[str, str] | None:
    """The Event of a mark that was written: reason and sentence; None for one on the way."""
    replica = action.replica
    where = ", ".join(f"{replica.node}/{uuid[:12]}" for uuid in sorted(replica.device_bytes))
    if action.state is MarkedState.ASLEEP:
        room = "" if action.makes_room_for is None else f": {action.makes_room_for} needs its room"
        return FELL_ASLEEP, f"{replica.pod_name} sleeps on {where}{room}"
    if action.state is MarkedState.AWAKE:
        return WOKEN, f"{replica.pod_name} is awake on {where}: {action.why}"
    return None
