"""A pod's Events, read: what hinders its start, and what has ended its engine.

A pod's status is silent while a volume cannot be mounted or a sandbox not be made: its container
is ``ContainerCreating``, as it is while an image of 10 GB comes. And of a container that was
killed it says 137 and not by whom. Events say both.

Their times are of other clocks, so they are compared with one another only: what hindered the
start counts until an Event of progress is younger. Whoever may create Events in the namespace may
forge them; they change what is told of a replica that does not run, and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from memroute_kube import KubeObject
from memroute_kube.shapes import mapping
from memroute_operator.failures.pod_events import ENDS, HINDRANCES, PROBES, PULLS
from memroute_operator.failures.quoting import without_secrets
from memroute_operator.failures.signature import Diagnosis, Signature, diagnosis, shown

# The start has gone on: what hindered it before is over.
PROGRESS = frozenset({"Pulling", "Pulled", "Created", "Started"})
PULLING = "Pulling"
# Of an Event's message, in characters: as long as the API server takes.
MAX_MESSAGE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One Event, as far as anything is told by it."""

    reason: str
    message: str
    at: str
    """When it happened last, by the clock of whoever wrote it; such texts sort by time."""
    count: int = 1
    """How often it has happened."""
    is_warning: bool = False

    @property
    def words(self) -> str:
        """Its own words, without secrets, as they may stand in a sentence."""
        return shown(f"{self.reason}: {without_secrets(self.message)}")


def read_events(objects: Iterable[KubeObject], uid: str) -> tuple[Happening, ...]:
    """The Events of that pod, the oldest first. What has another shape is left out."""
    found = [
        (one.at, _version(obj), one)
        for obj in objects
        if mapping(obj.get("involvedObject")).get("uid") == uid and (one := _read(obj)) is not None
    ]
    return tuple(one for *_, one in sorted(found, key=lambda entry: entry[:2]))


def _read(obj: KubeObject) -> Happening | None:
    """Of kubelet (``lastTimestamp``), or of kube-scheduler (``eventTime`` and ``series``)."""
    series = mapping(obj.get("series"))
    metadata = mapping(obj.get("metadata"))
    times = (
        series.get("lastObservedTime"), obj.get("lastTimestamp"), obj.get("eventTime"),
        metadata.get("creationTimestamp"),
    )  # fmt: skip
    at = next((time for time in times if isinstance(time, str) and time), None)
    reason, message = obj.get("reason"), obj.get("message")
    if at is None or not isinstance(reason, str) or not isinstance(message, str | None):
        return None
    count = series.get("count") or obj.get("count")
    return Happening(
        reason=reason,
        message=(message or "")[:MAX_MESSAGE],
        at=at,
        count=count if type(count) is int and count > 0 else 1,
        is_warning=obj.get("type") == "Warning",
    )


def _version(obj: Mapping[str, object]) -> int:
    """What tells apart two Events of one second."""
    version = mapping(obj.get("metadata")).get("resourceVersion")
    return int(version) if isinstance(version, str) and version.isdecimal() else 0


def hindrance(happenings: Sequence[Happening]) -> Diagnosis | None:
    """What keeps the container from being made, by the youngest Event; None where nothing does.

    For a pod whose container does not run.
    """
    for one in reversed(happenings):
        if one.reason in PROGRESS:
            return None
        found = _first(HINDRANCES, one)
        if found is not None:
            return found
    return None


def is_pulling(happenings: Sequence[Happening]) -> bool:
    """Whether the last thing that kubelet began is the pull of an image."""
    steps = [one.reason for one in happenings if one.reason in PROGRESS]
    return bool(steps) and steps[-1] == PULLING


def end(happenings: Sequence[Happening]) -> Diagnosis | None:
    """Who ended the container the last time; None where no Event says it."""
    return _last(ENDS, happenings)


def missing_pull_secret(happenings: Sequence[Happening]) -> Diagnosis | None:
    """The pull Secret that does not exist; None where no Event says so."""
    return _last(PULLS, happenings)


def not_answering(happenings: Sequence[Happening]) -> Diagnosis | None:
    """What the probe of an engine that runs has met; None where no Event says it."""
    return _last(PROBES, happenings)


def _last(signatures: Iterable[Signature], happenings: Sequence[Happening]) -> Diagnosis | None:
    known = tuple(signatures)
    return next((f for one in reversed(happenings) if (f := _first(known, one))), None)


def _first(signatures: Iterable[Signature], one: Happening) -> Diagnosis | None:
    for signature in signatures:
        words = signature.match(reason=one.reason, text=one.message)
        if words is not None:
            return diagnosis(signature, words, evidence=one.words)
    return None
