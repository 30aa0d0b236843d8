"""Pods that say they are ours, and that nobody knows of.

Whoever may create pods can give one our label and a ModelDeployment as its owner. One that also has
a reservation that nobody can read would keep its whole node from everybody, for as long as it
lives. So such a pod counts only where its own ModelDeployment vouches for it:

| its ModelDeployment, by label and namespace | the pod is |
| --- | --- |
| is not there, or is another object than its owner | a stranger |
| has a ``status.routing`` that does not name the pod's uid, and no placement of it | a stranger |
| names it, or has no ``status.routing`` (new, or of an operator or a CRD of 0.1) | ours |
| has a placement of that name on that node (a newer ``routing`` may be written otherwise) | ours |

Nobody but an operator writes a status, and it names a pod while its reservation can be read, also
where a newer release has written it. A stranger holds what it requests, as other people's pods do;
what it uses besides is seen by the exporters.
"""

from collections.abc import Collection

from memroute_kube import KubeObject
from memroute_kube.routing import read_routing_status
from memroute_kube.shapes import listed, mapping
from memroute_operator.replicas.pods import PodsRead, UnreadablePod, controller_of, disown
from memroute_operator.store.store import Objects


def disown_strangers(pods: PodsRead, deployments: Objects) -> None:
    """Count strangers among the unreadable pods as other people's. Raises nothing."""
    ours: list[UnreadablePod] = []
    for pod in pods.unreadable:
        why = _why_stranger(pod, deployments.get(pod.deployment))
        if why is None:
            ours.append(pod)
        else:
            disown(pod, why, pods)
    pods.unreadable = ours


def leave_to_others(pods: PodsRead, watched: Collection[str]) -> None:
    """Count replicas of namespaces that this operator does not look after, and touch none.

    They belong to another operator: what was promised to them is not free, and they are nobody's
    orphans here, though their ModelDeployments are not known. ``watched``: none for all.
    """
    if not watched:
        return
    mine = []
    for replica in pods.replicas:
        if replica.namespace in watched:
            mine.append(replica)
        else:
            pods.strays += replica.reservations()
    pods.replicas = mine


def _why_stranger(pod: UnreadablePod, deployment: KubeObject | None) -> str | None:
    if deployment is None:
        return f"there is no ModelDeployment {pod.deployment}"
    try:
        owner = controller_of(pod.obj) or {}
        if owner.get("uid") != deployment["metadata"].get("uid"):
            return f"its owner is another object than ModelDeployment {pod.deployment}"
        routing = read_routing_status(deployment)
        metadata = pod.obj["metadata"]
        is_named = routing is None or metadata.get("uid") in routing.replicas
        if not is_named and not _is_placed(metadata.get("name"), pod.node, deployment):
            return f"the status of ModelDeployment {pod.deployment} does not name it"
    except (AttributeError, KeyError, TypeError):
        return "its owner cannot be read"
    return None


def _is_placed(name: object, node: str | None, deployment: KubeObject) -> bool:
    placements = map(mapping, listed(mapping(deployment.get("status")).get("placements")))
    return node is not None and any(
        (one.get("pod"), one.get("node")) == (name, node) for one in placements
    )
