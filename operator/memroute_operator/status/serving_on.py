"""Whether a ModelDeployment has what it wants, although a new replica could not start now."""

from collections.abc import Sequence

from memroute_operator.plan import Outcome
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment

# What is added to why nobody knows how a new replica would start.
SERVES_ON = "its replicas stay as they are; one that has to start waits for this"


def needs_no_start(deployment: Deployment, wanted: Sequence[Replica], outcome: Outcome) -> bool:
    """Whether only what a hub has not said is missing, and no replica has to start for the spec.

    Every replica that is wanted is there, with the revision of the spec or, where
    ``rollout.partition`` keeps it, the one before. Of what is wrong in the spec itself never.
    """
    if deployment.failure is None or deployment.hub_name is None or not deployment.replicas:
        return False
    others = sum(one.revision != deployment.revision for one in wanted)
    return len(wanted) >= deployment.replicas and others <= outcome.num_old
