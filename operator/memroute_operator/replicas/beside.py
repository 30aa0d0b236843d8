"""The pods that placement judges pod affinity and topology spread by: all of them, of anybody."""

from collections.abc import Iterable, Iterator, Mapping

from memroute.placement import Neighbour
from memroute_kube.resources import object_key
from memroute_kube.shapes import is_terminal, mapping
from memroute_operator.pod_template.neighbours import apart_of
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment
from memroute_operator.store.store import Objects


def neighbours(
    pods: Objects, replicas: Iterable[Replica], deployments: Iterable[Deployment]
) -> tuple[Neighbour, ...] | None:
    """All pods that are on nodes, or are promised to them; None while nobody asks.

    Replicas count on the node that they were promised. Of other people's pods the labels are
    known, and not which pods those must be apart from: that stays kube-scheduler's to judge.
    """
    ours = {one.key: one for one in replicas}
    if all(one.neighbours.is_empty for one in deployments) and not any(
        _wants_apart(one) for one in ours.values()
    ):
        return None
    return (*map(_of_replica, ours.values()), *_of_others(pods, ours))


def _wants_apart(replica: Replica) -> bool:
    return bool(mapping(mapping(replica.obj.get("spec")).get("affinity")).get("podAntiAffinity"))


def _of_replica(replica: Replica) -> Neighbour:
    return Neighbour(
        owner=replica.key,
        namespace=replica.namespace,
        node=replica.node,
        labels=mapping(replica.obj["metadata"].get("labels")),
        apart=apart_of(replica.namespace, mapping(replica.obj.get("spec")).get("affinity") or {}),
        device_uuids=tuple(sorted(replica.device_bytes)),
        is_ending=replica.is_terminating,
    )


def _of_others(pods: Objects, ours: Mapping[str, Replica]) -> Iterator[Neighbour]:
    for pod in pods.values():
        key, metadata = object_key(pod), mapping(pod.get("metadata"))
        node = mapping(pod.get("spec")).get("nodeName")
        if key in ours or not isinstance(node, str) or is_terminal(pod):
            continue
        yield Neighbour(
            owner=key,
            namespace=str(metadata.get("namespace")),
            node=node,
            labels=mapping(metadata.get("labels")),
            is_ending="deletionTimestamp" in metadata,
        )
