"""Whether the revision that is rolled out has failed."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from memroute_operator.ahead.facts import Ahead
from memroute_operator.failures.lasting import is_lasting
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment
from memroute_operator.spec.revisions import FailedRevision
from memroute_operator.spec.rollout_spec import DEADLINE_SECONDS
from memroute_operator.status.failing import LOAD_BYTES_PER_SECOND

# The reason of a revision that did not become ready in time.
DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"


def judged(
    deployment: Deployment, replicas: Sequence[Replica], aheads: Iterable[Ahead] = ()
) -> Deployment:
    """The deployment with what is seen of its new revision now: that it fails, or fails no more."""
    if deployment.returned_from is not None or deployment.paused or deployment.footprint is None:
        return deployment
    updated = [
        one for one in replicas
        if one.revision == deployment.revision and not one.is_terminating and not one.is_terminal
    ]  # fmt: skip
    if deployment.failed is not None:
        # Halted, not taken back: it may have been mended outside (a Secret, a gate of a hub).
        is_mended = bool(updated) and all(one.is_ready for one in updated)
        return replace(deployment, failed=None) if is_mended else deployment
    is_rolled_out = deployment.previous is not None or any(
        one.revision != deployment.revision for one in replicas
    )
    failed = None
    if is_rolled_out:
        failed = _failed(deployment, updated) or _failed_ahead(deployment, aheads)
    return deployment if failed is None else replace(deployment, failed=failed)


def deadline_seconds(deployment: Deployment) -> float:
    """How long a replica may take from its node to readiness before its revision has failed."""
    said = deployment.rollout.deadline_seconds
    if said is not None:
        return said
    footprint = deployment.footprint
    weights = 0 if footprint is None else footprint.weights.expected * footprint.num_devices
    return DEADLINE_SECONDS + 2.0 * weights / LOAD_BYTES_PER_SECOND


def start_failure(deployment: Deployment, replica: Replica) -> tuple[str, str] | None:
    """That a replica is not ready and will not be, or not in time: the reason and a sentence.

    None while it may, or is.
    """
    if replica.is_ready:
        return None
    diagnosis = replica.diagnosis
    if diagnosis is not None and is_lasting(diagnosis.name):
        return diagnosis.name, f"{replica.pod_name}: {diagnosis.message}"
    deadline = deadline_seconds(deployment)
    if (replica.seen.starting_seconds or 0.0) <= deadline:
        return None
    last = replica.failure or (replica.last_end and replica.last_end.message)
    told = f"{replica.pod_name} did not become ready within {deadline:.0f} s"
    return DEADLINE_EXCEEDED, f"{told}: {last}" if last else told


def _failed(deployment: Deployment, updated: Iterable[Replica]) -> FailedRevision | None:
    for replica in updated:
        failure = start_failure(deployment, replica)
        if failure is not None:
            reason, told = failure
            return FailedRevision(
                revision=deployment.revision,
                reason=reason,
                message=told,
                retry=deployment.rollout.retry,
            )
    return None


def _failed_ahead(deployment: Deployment, aheads: Iterable[Ahead]) -> FailedRevision | None:
    """That what it needs cannot be brought to a node: nobody leaves for it."""
    for one in aheads:
        if one.revision != deployment.revision or one.owner_uid != deployment.uid:
            continue
        if one.failed is not None:
            reason, told = one.failed
            return FailedRevision(
                revision=deployment.revision,
                reason=reason,
                message=f"fetching ahead on {one.node} ({one.pod_name}): {told}",
                retry=deployment.rollout.retry,
            )
    return None
