"""The last good revision and the one that failed, as the status of a ModelDeployment keeps them.

| field | what | written |
| --- | --- | --- |
| ``lastGood`` | the spec (and the hub's pin) that every replica last served | when all serve it |
| ``rollout.failed`` | the revision that failed, and why | when it fails; an edit clears it |

Only the operator writes a status, and it outlives the operator: one that starts returns to the
revision that the one before it knew. That a revision has failed is acted on when it is in the
store: an operator that is killed in between finds the failed replicas, or the note.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memroute_kube import KubeObject
from memroute_kube.shapes import mapping

# The parts of a spec that belong to a revision. Not: replicas, paused, rollout, routing. Adapters
# decide the slots that an engine is started with, where spec.engine does not.
REVISED = ("model", "engine", "memory", "parallelism", "placement", "template", "adapters")
# Of ``lastGood``, in bytes of JSON: a sixth of what etcd takes of an object (a configuration in
# the spec or in the pin may have 256 KB). A larger one is not kept: a failure halts, no more.
MAX_BYTES = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRevision:
    """A revision that did not become ready."""

    revision: str
    reason: str
    message: str
    retry: int = 0
    """``spec.rollout.retry`` at that time."""

    def document(self) -> dict[str, Any]:
        """As the status has it."""
        return {
            "revision": self.revision,
            "reason": self.reason,
            "message": self.message,
            "retry": self.retry,
        }


def read_failed(status: object) -> FailedRevision | None:
    """The revision that failed, by a status; None when it names none."""
    failed = mapping(mapping(mapping(status).get("rollout")).get("failed"))
    texts = [failed.get(name) for name in ("revision", "reason", "message")]
    retry = failed.get("retry", 0)
    if not all(isinstance(text, str) and text for text in texts) or not isinstance(retry, int):
        return None
    revision, reason, message = (str(text) for text in texts)
    return FailedRevision(revision=revision, reason=reason, message=message, retry=retry)


def last_good_document(obj: KubeObject, revision: str) -> dict[str, Any] | None:
    """What is kept of an object that serves in full; None when it is too large to be kept."""
    spec = mapping(obj.get("spec"))
    content: dict[str, Any] = {
        "spec": {name: spec[name] for name in REVISED if spec.get(name) is not None},
        "model": mapping(obj.get("status")).get("model"),
    }
    # A text, because a status is patched: of an object, what the one before it had would stay.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {"revision": revision, "content": text} if len(text) <= MAX_BYTES else None


def last_good_object(obj: KubeObject) -> KubeObject | None:
    """The object as it was when it last served in full, with the replicas of now; None without.

    Its status is that of now, but for what a hub has said: that belongs to the revision.
    """
    text = mapping(mapping(obj.get("status")).get("lastGood")).get("content")
    try:
        kept = mapping(json.loads(text)) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return None
    spec = kept.get("spec")
    if not isinstance(spec, Mapping):
        return None
    now = mapping(obj.get("spec"))
    others = {name: value for name, value in now.items() if name not in REVISED}
    status = {k: v for k, v in mapping(obj.get("status")).items() if k != "model"}
    if kept.get("model") is not None:
        status["model"] = kept["model"]
    return {**obj, "spec": {**others, **spec}, "status": status}


def revision_of_last_good(status: object) -> str | None:
    """Which revision a status keeps; None when it keeps none."""
    revision = mapping(mapping(status).get("lastGood")).get("revision")
    return revision if isinstance(revision, str) else None
