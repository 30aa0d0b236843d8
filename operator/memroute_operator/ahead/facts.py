"""A pod that goes ahead, as its status shows it: pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memroute_kube import KubeObject
from memroute_kube.resources import GROUP
from memroute_kube.shapes import listed, mapping
from memroute_operator.failures import Diagnosis, failure_of
from memroute_operator.failures.lasting import is_lasting
from memroute_operator.pod.pod_defaults import ENGINE_CONTAINER
from memroute_operator.replicas.replica import ANNOTATION_WEIGHTS
from memroute_operator.weights.container import (
    LABEL_AHEAD,
    WEIGHTS_VOLUME,
    has_fetched,
    is_fetching,
    is_out_of_disk,
    last_end,
    status_of,
)

ANNOTATION_AHEAD = f"{GROUP}/ahead"
"""What the pod is for: ``{"node": …, "goal": …, "revision": …}``."""
# How often a fetcher may fail before its revision has: each try of its own has tried for minutes
# (``memroute_fetch``), and kubelet waits 10 s to 5 min between them. Chosen by hand.
MAX_TRIES = 5
# How long a pod may take to begin, in seconds: kube-scheduler, a volume, the fetcher's image. After
# that the replica leaves as it would without it. Chosen by hand.
BEGIN_SECONDS = 600.0
# What says that an image is there and that its container could not be run: it has no program
# ``true``, and needs none.
_RAN = frozenset({"RunContainerError", "CreateContainerError", "CrashLoopBackOff"})
FETCH_FAILED = "FetchAheadFailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """One pod that fetches ahead."""

    namespace: str
    pod_name: str
    uid: str
    deployment_name: str
    owner_uid: str | None
    node: str
    goal: str
    """``Goal.key``."""
    revision: str
    created_at: str
    is_terminating: bool
    has_fetched: bool
    """Whether the weights are there; True where none are fetched."""
    has_image: bool
    has_begun: bool
    """Whether its node does anything of it."""
    is_over: bool
    """Whether its node has ended it: an eviction, a deadline, a shutdown."""
    is_late: bool = False
    """Whether its deadline has ended it."""
    is_out_of_disk: bool = False
    """Whether its node's disk had no space for the weights."""
    num_tries: int = 0
    """Tries of the fetcher that have failed, when it does not try just now; else 0."""
    diagnosis: Diagnosis | None = None
    weights_key: str | None = None
    """What its node keeps of weights then; None where it keeps none."""
    scheduler_message: str | None = None
    fetch: str | None = None
    """How far the weights are, in words; None when nobody knows."""
    seen_seconds: float = 0.0
    """For how long this operator has seen it; once it is deleted, since then."""
    obj: KubeObject = field(repr=False)

    @property
    def key(self) -> str:
        """``namespace/name`` of the pod."""
        return f"{self.namespace}/{self.pod_name}"

    @property
    def deployment(self) -> str:
        """``namespace/name`` of its ModelDeployment."""
        return f"{self.namespace}/{self.deployment_name}"

    @property
    def is_done(self) -> bool:
        """Whether its node has all that the successor needs."""
        return self.has_fetched and self.has_image

    @property
    def failed(self) -> tuple[str, str] | None:
        """Reason and sentence, when trying on is of no use; None while it is."""
        if self.is_done or self.is_terminating or self.is_out_of_disk:
            return None
        if self.is_late:
            return FETCH_FAILED, "it did not end within its deadline; what has come is kept"
        found = self.diagnosis
        if self.is_over or found is None:
            return None
        tries = f" ({self.num_tries} tries)" if self.num_tries >= MAX_TRIES else ""
        is_stuck = not self.has_begun and self.seen_seconds > BEGIN_SECONDS
        if is_lasting(found.name) or tries or is_stuck:
            return found.name, found.message + tries
        return None

    @property
    def why_skipped(self) -> str | None:
        """Why nobody waits for it any more; None while it may still begin."""
        if self.seen_seconds <= BEGIN_SECONDS:
            return None
        if self.is_terminating:
            return f"{self.pod_name} hangs in Terminating on {self.node}"
        if self.has_begun:
            return None
        said = f": {self.scheduler_message}" if self.scheduler_message else ""
        return f"{self.pod_name} did not begin on {self.node} within {BEGIN_SECONDS:.0f} s{said}"

    @property
    def told(self) -> str:
        """How far it is, for a person: ``Fetching ahead 41 of 142 GiB on node-3``."""
        if self.has_fetched:
            return f"Fetching ahead: {self.node} pulls the engine's image"
        if self.diagnosis is not None:
            return f"Fetching ahead on {self.node} fails, and is tried again: " + (
                self.diagnosis.message
            )
        return f"Fetching ahead {self.fetch or 'begins'} on {self.node}"


def read_ahead(pod: KubeObject, owner_uid: str | None) -> Ahead | None:
    """What a pod shows; None when it does not say what it is for.

    Raises ``KeyError``, ``TypeError`` or ``AttributeError`` on a pod of another shape.
    """
    metadata = pod["metadata"]
    annotations = mapping(metadata.get("annotations"))
    said = _document(annotations.get(ANNOTATION_AHEAD))
    if said is None:
        return None
    status = mapping(pod.get("status"))
    volumes = listed(mapping(pod["spec"]).get("volumes"))
    fetches = any(mapping(one).get("name") == WEIGHTS_VOLUME for one in volumes)
    fetched = not fetches or has_fetched(pod)
    has_image = _has_image(status)
    is_over = status.get("phase") == "Failed"
    return Ahead(
        namespace=metadata["namespace"],
        pod_name=metadata["name"],
        uid=metadata["uid"],
        deployment_name=metadata["labels"][LABEL_AHEAD],
        owner_uid=owner_uid,
        node=said["node"],
        goal=said["goal"],
        revision=said["revision"],
        created_at=metadata["creationTimestamp"],
        is_terminating=metadata.get("deletionTimestamp") is not None,
        has_fetched=fetched,
        has_image=has_image,
        has_begun=(fetched and bool(mapping(pod["spec"]).get("nodeName"))) or _has_begun(pod),
        is_over=is_over,
        is_late=is_over and status.get("reason") == "DeadlineExceeded",
        is_out_of_disk=is_out_of_disk(pod) or (is_over and status.get("reason") == "Evicted"),
        num_tries=_num_tries(pod),
        diagnosis=None if fetched and has_image else failure_of(pod),
        weights_key=annotations.get(ANNOTATION_WEIGHTS),
        scheduler_message=_scheduler_message(status),
        obj=pod,
    )


def _document(text: object) -> dict[str, str] | None:
    try:
        said = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    names = ("node", "goal", "revision")
    if not isinstance(said, dict) or not all(isinstance(said.get(name), str) for name in names):
        return None
    return {name: said[name] for name in names}


def _has_image(status: Mapping[str, Any]) -> bool:
    """Whether the engine's image is on the node: its container was made, whatever it did then."""
    for container in map(mapping, listed(status.get("containerStatuses"))):
        if container.get("name") != ENGINE_CONTAINER:
            continue
        states = [mapping(container.get(name)) for name in ("state", "lastState")]
        if any("running" in state or "terminated" in state for state in states):
            return True
        return mapping(states[0].get("waiting")).get("reason") in _RAN
    return False


def _has_begun(pod: KubeObject) -> bool:
    return is_fetching(pod) or bool(last_end(pod))


def _num_tries(pod: KubeObject) -> int:
    if is_fetching(pod) or not last_end(pod).get("exitCode"):
        return 0
    restarts = status_of(pod).get("restartCount")
    return 1 + (restarts if isinstance(restarts, int) else 0)


def _scheduler_message(status: Mapping[str, Any]) -> str | None:
    for condition in map(mapping, listed(status.get("conditions"))):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            message = condition.get("message")
            return message if isinstance(message, str) else None
    return None
