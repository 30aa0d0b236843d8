"""What would open a node to a replica that none may take: each answer was tried.

A change is suggested where a node that it opens has room for the replica now. Where no single
change leads to a place, what is missing is said, and nothing is promised.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from memroute.placement.eligibility import ineligible_reason
from memroute.placement.inventory import Inventory, Node, PlacementMode
from memroute.placement.ledger import Ledger
from memroute.placement.pools import Pools
from memroute.placement.problem import WantedReplica
from memroute.placement.scheduling import Taint, Toleration

# What keeps everything off a node, and that a person can take away.
CORDONED = "Cordoned"
# Nodes whose cordon is tried.
MAX_CORDONED = 20


class Openings:
    """What opens nodes to the replicas of one step. Owns what is the same for many of them."""

    def __init__(self, ledger: Ledger, pools: Pools) -> None:
        self._ledger = ledger
        self._pools = pools
        self._known: dict[tuple[object, ...], _Near] = {}

    def opened_by(self, replica: WantedReplica) -> str:
        """What would help, as the end of a sentence; else what is missing."""
        near = self._known.get(replica.eligibility_key)
        if near is None:
            near = self._known[replica.eligibility_key] = _near(self._ledger, replica)
        tried = chain(
            _of_tolerations(near.nodes, self._pools, replica),
            _of_cordons(near.nodes, self._ledger, replica),
            _of_labels(self._pools, replica),
            _of_mode(self._pools, replica),
        )
        return next(tried, None) or _missing(near, replica)


class _Near(NamedTuple):
    """The nodes that are right but for a taint, a cordon or their room."""

    nodes: list[Node]
    is_anywhere: bool
    """Whether any node has the labels that are asked."""


def _near(ledger: Ledger, replica: WantedReplica) -> _Near:
    labelled = [one for one in ledger.nodes if _has_labels(one, replica)]
    right = [one for one in labelled if one.mode is replica.mode]
    return _Near(right, bool(labelled))


def _fits(pools: Pools, replica: WantedReplica) -> str | None:
    """A node that has room for it now; None without one."""
    best = pools.best(replica, replica.footprint_on)
    return None if best is None else best.node.name


def _of_tolerations(near: list[Node], pools: Pools, replica: WantedReplica) -> Iterator[str]:
    known = replica.scheduling
    for taints in sorted({node.taints for node in near if node.taints}, key=str):
        tolerated = replace(
            known, tolerations=(*known.tolerations, *(_tolerating(one) for one in taints))
        )
        node = _fits(pools, replace(replica, scheduling=tolerated))
        if node is not None:
            listed = ", ".join(map(str, taints))
            yield (
                f"it fits {node} now: tolerate the taint in spec.template.spec.tolerations, or "
                f"take it off the node ({listed})"
            )


def _tolerating(taint: Taint) -> Toleration:
    return Toleration(key=taint.key, value=taint.value, effect=taint.effect.value)


def _of_cordons(near: list[Node], ledger: Ledger, replica: WantedReplica) -> Iterator[str]:
    """Empty nodes alone: what runs on one that is cordoned is about to leave it."""
    cordoned = [node for node in near if node.unusable_reason == CORDONED]
    for node in cordoned[:MAX_CORDONED]:
        opened = replace(node, unusable_reason=None)
        if ineligible_reason(opened, replica) is not None or not _is_unused(ledger, node):
            continue
        alone = Ledger(Inventory(nodes=(opened,)))
        if _fits(Pools(alone), replica) is not None:
            yield f"it fits {node.name} now: kubectl uncordon {node.name}"


def _is_unused(ledger: Ledger, node: Node) -> bool:
    if node.num_foreign_devices or any(ledger.holders(device) for device in node.devices):
        return False
    return all(one.node != node.name for one in ledger.by_owner.values())


def _of_labels(pools: Pools, replica: WantedReplica) -> Iterator[str]:
    for key, value in sorted(replica.node_selector.items()):
        rest = {name: text for name, text in replica.node_selector.items() if name != key}
        node = _fits(pools, replace(replica, node_selector=rest))
        if node is not None:
            yield (
                f"it fits {node} now: take {key}={value} out of placement.nodeSelector, or label "
                f"the node so"
            )
    anywhere = replace(replica, scheduling=replace(replica.scheduling, terms=None))
    if replica.scheduling.terms is not None and (node := _fits(pools, anywhere)) is not None:
        yield (
            f"it fits {node} now: spec.template.spec asks for labels (affinity, nodeSelector) that "
            f"no such node has"
        )


def _of_mode(pools: Pools, replica: WantedReplica) -> Iterator[str]:
    is_shared = replica.mode is PlacementMode.SHARED
    other = PlacementMode.EXCLUSIVE if is_shared else PlacementMode.SHARED
    node = _fits(pools, replace(replica, mode=other))
    if node is not None:
        yield f"it fits {node} now with placement.mode={other.value.capitalize()}"


def _missing(near: _Near, replica: WantedReplica) -> str:
    """What no node of the cluster has, where no single change leads to a place."""
    if near.nodes:
        return "no single change of it or of a node makes room for it now"
    if replica.node_selector and not near.is_anywhere:
        asked = ", ".join(f"{key}={value}" for key, value in sorted(replica.node_selector.items()))
        return f"no node has the labels of placement.nodeSelector ({asked})"
    return {
        PlacementMode.SHARED: "shared placement wants nodes with memroute.dev/gpu-sharing=shared",
        PlacementMode.EXCLUSIVE: "exclusive placement wants nodes with nvidia.com/gpu allocatable",
    }[replica.mode]


def _has_labels(node: Node, replica: WantedReplica) -> bool:
    return all(node.labels.get(key) == value for key, value in replica.node_selector.items())
