"""May this node take this replica, whatever its memory?"""

from memroute.placement.inventory import Node
from memroute.placement.problem import WantedReplica

# Labels and resources of AMD's node labeller and device plugin.
AMD_PREFIX = "amd.com/"


def ineligible_reason(node: Node, replica: WantedReplica) -> str | None:
    """Why the node may not take the replica, in a word or two; None if it may."""
    if not node.devices and not node.num_allocatable and node.devices_unknown is None:
        return "NoAccelerator"
    if node.unusable_reason is not None:
        return node.unusable_reason
    if node.mode is not replica.mode:
        return f"Not{replica.mode.value.capitalize()}"
    if any(node.labels.get(key) != value for key, value in replica.node_selector.items()):
        return "SelectorMismatch"
    if node.resource.startswith(AMD_PREFIX) and not _names_amd(replica):
        return "VendorNotSelected"
    return _scheduler_reason(node, replica)


def _scheduler_reason(node: Node, replica: WantedReplica) -> str | None:
    """Why kube-scheduler would refuse the node, or has just done so."""
    refusal = replica.scheduling.refusal(node.name, node.labels, node.taints)
    if refusal is not None:
        return refusal
    return "RefusedByScheduler" if node.name in replica.avoided_nodes else None


def _names_amd(replica: WantedReplica) -> bool:
    """Whether the replica asks for AMD: the default engine image is CUDA's and ends there."""
    return any(key.startswith(AMD_PREFIX) for key in replica.node_selector)
