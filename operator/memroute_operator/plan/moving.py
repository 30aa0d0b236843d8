"""Replicas that an edit of ``spec.placement`` moves, one at a time.

As in Kubernetes, nothing moves by itself: not when a node's labels change, nor when a node comes
on which replicas would be spread better. Only where the owner has asked for something else since
the replica was placed, which its pod says. What says nothing (pods of earlier releases) stays.
"""

from memroute.placement import Ledger, PlacementStrategy
from memroute_operator.replicas.placed_by import placed_by
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment


def why_moved(deployment: Deployment, replica: Replica, ledger: Ledger) -> str | None:
    """Why a replica of the current revision is not where it should be; None when it is."""
    if replica.placed_by is None or replica.placed_by == placed_by(deployment):
        return None
    nodes = ledger.by_name.get(replica.node, ())
    selector = deployment.node_selector.items()
    if nodes and not all(selector <= node.labels.items() for node in nodes):
        return f"node {replica.node} does not match placement.nodeSelector any more"
    if is_crowded(deployment, replica, ledger):
        return "placement.strategy is Spread, and another replica is on its node"
    return None


def is_crowded(deployment: Deployment, replica: Replica, ledger: Ledger) -> bool:
    """Whether replicas are to be spread, and another one is on the node."""
    is_spread = deployment.strategy is PlacementStrategy.SPREAD
    return is_spread and ledger.replicas_on_node(deployment.key, replica.node) > 1
