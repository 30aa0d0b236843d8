"""What is written on a pod that is to leave: since when it drains, and for whom.

For whom, because why it was let go may be known to nobody after a restart of the operator: that
the API server had refused the pod that was to fetch ahead of it, or that this one did not begin in
time. Who has begun to leave for a successor leaves for it.
"""

from memroute_kube.resources import ANNOTATION_DRAINING, GROUP
from memroute_operator.replicas.promises import Claim

ANNOTATION_DRAINING_FOR = f"{GROUP}/draining-for"
"""Revision and node of the successor that a pod drains for; absent where it has none."""


def leaving_for(revision: str, node: str) -> str:
    """The successor that a replica leaves for, as its pod names it."""
    return f"{revision} {node}"


def draining_marks(claim: Claim | None, since: str | None) -> dict[str, str | None]:
    """The annotations of a pod that drains; of one that serves again, where ``since`` is None.

    ``claim``: the room of its successor, as it stands on the pod already.
    """
    goal = None
    if since is not None and claim is not None:
        goal = leaving_for(claim.revision, claim.promise.node)
    return {ANNOTATION_DRAINING: since, ANNOTATION_DRAINING_FOR: goal}
