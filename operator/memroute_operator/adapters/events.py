"""Events for what becomes of adapters: each once, when its state changes. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from memroute_kube.shapes import listed, mapping
from memroute_operator.adapters.telling import FAILED, LOADED

ADAPTER_LOADED, ADAPTER_FAILED, ADAPTER_REMOVED = (
    "AdapterLoaded", "AdapterFailed", "AdapterRemoved",
)  # fmt: skip
# Events of one status at the most: a list of 256 that all come at once is one thing. By hand.
MAX_EVENTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEvent:
    """What is told."""

    reason: str
    message: str
    is_normal: bool


def adapter_events(before: object, after: object) -> Iterator[AdapterEvent]:
    """The Events between two lists of a status; at most ``MAX_EVENTS``, failures first."""
    was = {one.get("name"): one for one in map(mapping, listed(before))}
    now = {one.get("name"): one for one in map(mapping, listed(after))}
    found = []
    for name, one in now.items():
        state = one.get("state")
        if state == mapping(was.get(name)).get("state"):
            continue
        if state == FAILED:
            message = f"adapter {name}: {one.get('message')}"
            found.append(AdapterEvent(reason=ADAPTER_FAILED, message=message, is_normal=False))
        elif state == LOADED:
            message = f"adapter {name} is loaded by {one.get('loadedReplicas')} replica(s)"
            found.append(AdapterEvent(reason=ADAPTER_LOADED, message=message, is_normal=True))
    for name, one in was.items():
        if name not in now and one.get("state") == LOADED:
            message = f"adapter {name} is wanted no more: replicas unload it"
            found.append(AdapterEvent(reason=ADAPTER_REMOVED, message=message, is_normal=True))
    yield from sorted(found, key=lambda one: one.is_normal)[:MAX_EVENTS]
