"""``status.rollout`` and ``status.lastGood``: how far a revision has come, and what served before.

| phase | what | who acts |
| --- | --- | --- |
| ``Complete`` | every replica has the revision, and all of them have served | nobody |
| ``FetchingAhead`` | what a successor needs comes to its node; nobody has left yet | the operator |
| ``Progressing`` | replicas of the spec are made, or start | the operator |
| ``Partitioned`` | as many as ``rollout.partition`` keep the revision before | whoever lowers it |
| ``Paused`` | ``spec.paused``, and replicas of another revision are there | whoever set it |
| ``Blocked`` | the new revision fits nowhere, or cannot be known | whoever makes room, or edits |
| ``Halted`` | the new revision has failed; what served goes on | a person |
| ``Returning``, ``Returned`` | it has failed; the last good revision takes its place | a person |
"""

from collections.abc import Sequence
from typing import Any

from memroute_kube.shapes import mapping
from memroute_operator.plan import Outcome
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment
from memroute_operator.spec.revisions import last_good_document, revision_of_last_good
from memroute_operator.spec.rollout_spec import OnFailure
from memroute_operator.status.serving_on import needs_no_start

# Phases in which a person has to change something.
FAILED_PHASES = frozenset({"Halted", "Returning", "Returned"})
FETCHING_AHEAD = "FetchingAhead"


def rollout_fields(
    deployment: Deployment, wanted: Sequence[Replica], outcome: Outcome
) -> dict[str, Any]:
    """The fields of a status; None is a field that is to go. ``wanted``: replicas that stay."""
    updated = [one for one in wanted if one.revision == deployment.spec_revision]
    phase, message = rollout_phase(deployment, wanted, outcome)
    failed = outcome.failed
    rollout: dict[str, Any] = {
        "revision": deployment.spec_revision,
        "updatedReplicas": len(updated),
        "readyReplicas": sum(one.is_ready for one in updated),
        "phase": phase,
        "message": message,
        "halted": phase in FAILED_PHASES,
    }
    if phase in ("Progressing", FETCHING_AHEAD) and outcome.rollout is not None:
        rollout["method"] = "DrainFirst" if outcome.is_draining_first else "Surge"
    if failed is not None:
        rollout["failed"] = failed.document()
    # A status is patched: what it has and should not must be taken out by name.
    before = mapping(mapping(deployment.obj.get("status")).get("rollout"))
    rollout |= {name: None for name in ("method", "failed") if before.keys() - rollout >= {name}}
    fields: dict[str, Any] = {"rollout": rollout}
    num_ready = sum(one.is_ready for one in wanted)
    if phase == "Complete" and deployment.footprint and num_ready >= max(1, deployment.replicas):
        fields["lastGood"] = last_good_document(deployment.obj, deployment.revision)
    return fields


def rollout_phase(
    deployment: Deployment, wanted: Sequence[Replica], outcome: Outcome
) -> tuple[str, str]:
    """One word, and the sentence to it."""
    if outcome.failed is not None:
        return _failed_phase(deployment, wanted, outcome)
    if deployment.footprint is None and not needs_no_start(deployment, wanted, outcome):
        failure = deployment.failure
        return "Blocked", "the footprint is not known" if failure is None else failure.message
    hindered = _hindered_phase(deployment, wanted, outcome)
    if hindered is not None:
        return hindered
    if outcome.rollout is not None:
        is_ahead = outcome.fetching_ahead is not None
        return (FETCHING_AHEAD if is_ahead else "Progressing"), outcome.rollout
    total, others = deployment.replicas, _others(deployment, wanted)
    if others and others <= outcome.num_old and len(wanted) >= total:
        told = f"{others} of {total} replica(s) keep the revision before, by rollout.partition"
        return "Partitioned", told
    num_ready = sum(one.is_ready for one in wanted if one.revision == deployment.revision)
    so_far = f"{min(num_ready, total)} of {total} replica(s) serve the revision"
    # What has served in full is no rollout any more, whatever becomes of its replicas.
    is_proven = revision_of_last_good(deployment.obj.get("status")) == deployment.revision
    is_complete = not others and (num_ready >= total or is_proven)
    return ("Complete" if is_complete else "Progressing"), so_far


def _others(deployment: Deployment, wanted: Sequence[Replica]) -> int:
    """How many replicas have another revision than is planned for."""
    return sum(one.revision != deployment.revision for one in wanted)


def _hindered_phase(
    deployment: Deployment, wanted: Sequence[Replica], outcome: Outcome
) -> tuple[str, str] | None:
    """Why nothing goes on, although nothing has failed; None when it does."""
    others = _others(deployment, wanted)
    if deployment.paused and others:
        return "Paused", f"{others} replica(s) run an older spec while spec.paused is true"
    if outcome.rollout_blocked is not None:
        told = f"the new spec {outcome.rollout_blocked.message}; the old replicas go on serving"
        return "Blocked", told
    return None


def _failed_phase(
    deployment: Deployment, wanted: Sequence[Replica], outcome: Outcome
) -> tuple[str, str]:
    failed = outcome.failed
    assert failed is not None  # noqa: S101 - the caller has seen it
    told = f"revision {failed.revision} has failed ({failed.reason}: {failed.message})"
    if deployment.returned_from is None:
        why = "rollout.onFailure is Halt"
        if deployment.rollout.on_failure is OnFailure.RETURN:
            kept = revision_of_last_good(deployment.obj.get("status"))
            is_known = kept is not None and kept != failed.revision
            why = "the last good one comes back" if is_known else "no good one is known before it"
        serving = sum(one.is_ready for one in wanted if one.revision != failed.revision)
        return "Halted", f"{told}; {serving} replica(s) of another revision serve, and {why}"
    back = sum(one.is_ready for one in wanted if one.revision == deployment.revision)
    is_back = back >= deployment.replicas
    number = f"{back} of {deployment.replicas} replica(s)"
    message = (
        f"{told}; {number} serve the last good revision {deployment.revision} "
        "again; edit the spec, or raise rollout.retry to try the same one again"
    )
    return "Returned" if is_back else "Returning", message


def rollout_of(status: object) -> tuple[str | None, str | None, str]:
    """Phase, method and message of a status, for who tells what has changed."""
    rollout = mapping(mapping(status).get("rollout"))
    phase, method = rollout.get("phase"), rollout.get("method")
    return (
        phase if isinstance(phase, str) else None,
        method if isinstance(method, str) else None,
        str(rollout.get("message") or ""),
    )
