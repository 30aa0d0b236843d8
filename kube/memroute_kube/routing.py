"""What the operator tells routers in the status of a ModelDeployment: names and replicas.

Whoever may create ModelDeployments and pods in a namespace cannot write a status: only the
operator can. So routers go by this document, and by nothing that a pod says of itself, wherever
it is there:

```yaml
status:
  observedGeneration: 7
  routing:
    observedGeneration: 7
    names: [{name: chat, since: "2026-11-28T20:00:00Z"}]
    replicas:
      - {servedName: chat, kvCapacityTokens: 86016, maxContextTokens: 8192, pods: {chat-0: UID}}
```

Replicas that were started alike are together: 1,000 of them are 55 KB.

The document counts while its ``observedGeneration`` is the status's: an operator that does not
know of it (an older release) moves only the status's, and what it left behind is out of date.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from memroute_kube.resources import KubeObject
from memroute_kube.shapes import (
    OddObjectError,
    is_object_name,
    is_time,
    listed,
    mapping,
    name_of,
    shown,
    tokens,
)
from memroute_kube.sleeping import SleepState, sleep_state_of, wake_seconds_of

# As the schema has it: of spec.adapters.
MAX_ADAPTERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedNames:
    """The names that a ModelDeployment's spec asks to be reached by."""

    served: str
    adapters: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Each of them once, the model's own first."""
        return tuple(dict.fromkeys((self.served, *self.adapters)))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldName:
    """A name that a ModelDeployment may serve, and since when (RFC 3339)."""

    name: str
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedReplica:
    """One replica as the operator names it."""

    pod: str
    uid: str
    served_name: str
    kv_capacity_tokens: int | None = None
    """Expected, until its engine reports; None: unknown."""
    max_context_tokens: int | None = None
    """The longest request that its engine takes; None: unknown."""
    adapters: tuple[str, ...] | None = None
    """The LoRA adapters that it has loaded, sorted; None: nobody knows."""
    sleep: SleepState | None = None
    """None while it is awake."""
    wake_seconds: int | None = None
    """How long it takes from being told to wake until it serves, as predicted; None: unknown, or
    it does not sleep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingStatus:
    """What the operator has decided for routers."""

    names: tuple[HeldName, ...] | None
    """What it may serve; None while the operator has not decided on names."""
    replicas: Mapping[str, NamedReplica] = field(default_factory=dict)
    """Its replicas, by the uid of their pod."""

    @property
    def since(self) -> dict[str, str]:
        """Since when it holds each name."""
        return {held.name: held.since for held in self.names or ()}

    def document(self, generation: int) -> dict[str, Any]:
        """As it is written. Names that are undecided are not in it."""
        groups: dict[str, dict[str, Any]] = {}
        for one in sorted(self.replicas.values(), key=lambda one: (one.pod, one.uid)):
            started = _without_none(
                {
                    "servedName": one.served_name,
                    "kvCapacityTokens": one.kv_capacity_tokens,
                    "maxContextTokens": one.max_context_tokens,
                    "adapters": None if one.adapters is None else list(one.adapters),
                    "sleep": None if one.sleep is None else one.sleep.value,
                    "wakeSeconds": one.wake_seconds,
                }
            )
            groups.setdefault(str(started), started | {"pods": {}})["pods"][one.pod] = one.uid
        document: dict[str, Any] = {
            "observedGeneration": generation,
            "replicas": [groups[started] for started in sorted(groups)],
        }
        if self.names is not None:
            document["names"] = [{"name": one.name, "since": one.since} for one in self.names]
        return document


def read_claimed_names(obj: KubeObject) -> ClaimedNames:
    """The names in the spec. Raises ``OddObjectError`` when its model has none.

    Adapters that are no names are left out: they can be nobody's.
    """
    spec = mapping(obj.get("spec"))
    model = mapping(spec.get("model"))
    served = name_of(model.get("servedName") or model.get("name"))
    if served is None:
        message = f"its model has no name: {shown(model.get('servedName'))}"
        raise OddObjectError(message)
    entries = map(mapping, listed(spec.get("adapters"))[:MAX_ADAPTERS])
    adapters = (name_of(one.get("name")) for one in entries)
    return ClaimedNames(served=served, adapters=tuple(one for one in adapters if one is not None))


def read_routing_status(obj: KubeObject) -> RoutingStatus | None:
    """The document, without the entries that cannot be read; None when there is none that counts.

    Raises nothing.
    """
    status = mapping(obj.get("status"))
    document = status.get("routing")
    if not isinstance(document, Mapping):
        return None
    generation = document.get("observedGeneration")
    if not isinstance(generation, int) or generation != status.get("observedGeneration"):
        return None
    groups = map(mapping, listed(document.get("replicas")))
    return RoutingStatus(
        names=_held(document.get("names")),
        replicas={one.uid: one for group in groups for one in _replicas(group)},
    )


def _held(names: object) -> tuple[HeldName, ...] | None:
    if not isinstance(names, list):
        return None
    entries = ((name_of(one.get("name")), one.get("since")) for one in map(mapping, names))
    return tuple(
        HeldName(name=name, since=since)
        for name, since in entries
        if name is not None and is_time(since) and isinstance(since, str)
    )


def _replicas(group: Mapping[str, Any]) -> Iterator[NamedReplica]:
    """Those that were started alike."""
    served = name_of(group.get("servedName"))
    if served is None:
        return
    capacity, longest = tokens(group.get("kvCapacityTokens")), tokens(group.get("maxContextTokens"))
    adapters = _adapters(group.get("adapters"))
    sleep, wake = sleep_state_of(group.get("sleep")), wake_seconds_of(group.get("wakeSeconds"))
    for pod, uid in mapping(group.get("pods")).items():
        if is_object_name(pod) and is_object_name(uid):
            yield NamedReplica(
                pod=pod,
                uid=uid,
                served_name=served,
                kv_capacity_tokens=capacity,
                max_context_tokens=longest,
                adapters=adapters,
                sleep=sleep,
                wake_seconds=wake,
            )


def _adapters(names: object) -> tuple[str, ...] | None:
    """None where nobody says; what is no name is left out."""
    if not isinstance(names, list):
        return None
    return tuple(name for one in names[:MAX_ADAPTERS] if (name := name_of(one)) is not None)


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
