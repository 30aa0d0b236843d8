"""Which revision replicas are to have: the spec's, or the last good one again."""

from collections.abc import Callable
from dataclasses import replace

from memroute_kube import KubeObject
from memroute_operator.spec.deployment import INTERNAL_ERROR, Deployment
from memroute_operator.spec.revisions import last_good_object, read_failed, revision_of_last_good
from memroute_operator.spec.rollout_spec import OnFailure


def with_history(deployment: Deployment, read: Callable[[KubeObject], Deployment]) -> Deployment:
    """The deployment with its last good revision, where that is another one, and its failure."""
    status = deployment.obj.get("status")
    failed = read_failed(status)
    is_current = failed is not None and (
        (failed.revision, failed.retry) == (deployment.revision, deployment.rollout.retry)
    )
    kept = revision_of_last_good(status)
    previous = None
    failure = deployment.failure
    is_readable = failure is None or failure.reason != INTERNAL_ERROR
    if is_readable and kept is not None and kept != deployment.revision:
        obj = last_good_object(deployment.obj)
        previous = None if obj is None else read(obj)
        if previous is not None and previous.footprint is None:
            previous = None  # an older operator knew how to serve it, and this one does not
    return replace(deployment, previous=previous, failed=failed if is_current else None)


def as_targeted(deployment: Deployment) -> Deployment:
    """What is planned for: the last good revision, where the spec's has failed and it returns."""
    previous, failed = deployment.previous, deployment.failed
    if failed is None or previous is None or deployment.rollout.on_failure is OnFailure.HALT:
        return deployment
    status = deployment.obj.get("status")
    return replace(
        previous,
        obj={**previous.obj, "status": status},
        failed=failed,
        returned_from=failed,
        previous=None,
    )
