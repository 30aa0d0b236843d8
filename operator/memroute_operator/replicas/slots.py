"""Slots that are held by pods which are no readable replicas: nothing is created in their place."""

from collections.abc import Iterable

from memroute_operator.pod.pod_names import replica_key
from memroute_operator.replicas.pods import PodsRead, UnreadablePod, describe_owner
from memroute_operator.spec.deployment import MAX_REPLICAS, Deployment
from memroute_operator.store.store import Known


def taken_slots(store: Known, deployments: Iterable[Deployment], pods: PodsRead) -> dict[str, str]:
    """Slots (``namespace/name#index``) of missing replicas that others have → whose, as a sentence.

    A pod of the deployment whose reservation cannot be read may well serve: it has the slot of its
    label, else the first free one. Any other pod may have the very name that a replica would get.
    """
    unreadable: dict[str, list[UnreadablePod]] = {}
    for pod in pods.unreadable:
        unreadable.setdefault(pod.deployment, []).append(pod)
    held: dict[str, set[int]] = {}
    for replica in pods.replicas:
        held.setdefault(replica.deployment, set()).add(replica.index)
    taken: dict[str, str] = {}
    for deployment in deployments:
        have = held.get(deployment.key, set())
        for pod in unreadable.get(deployment.key, ()):
            slot = pod.slot
            if slot is None or slot in have:
                slot = next(number for number in range(len(have) + 1) if number not in have)
            have.add(slot)
            taken[f"{deployment.key}#{slot}"] = (
                f'pods "{pod.key.partition("/")[2]}" is a replica whose reservation cannot be '
                f"read: {pod.why}"
            )
        for slot in range(min(deployment.replicas, MAX_REPLICAS)):
            if slot in have:
                continue
            key = replica_key(deployment, slot)
            other = store.pods.get(key.pod)
            if other is not None:
                taken[key.slot] = f'pods "{key.pod_name}" {describe_owner(other)}'
    return taken
