"""Deletes a pod as it was seen, and no other one of its name. The answer goes into the store."""

from collections.abc import Callable

from memroute_kube import PODS, KubeObject, KubernetesClient
from memroute_operator.ahead.facts import Ahead
from memroute_operator.replicas.replica import Replica
from memroute_operator.store.store import Store


async def delete_pod(
    client: KubernetesClient,
    store: Store,
    pod: Replica | Ahead,
    *,
    force: bool,
    only_as_seen: bool,
    take: Callable[[KubeObject], None],
) -> None:
    """Raises ``ApiError``.

    ``force``: without a grace period. ``only_as_seen``: not when it has changed meanwhile.
    ``take``: counts an answer before its event comes.
    """
    answer = await client.delete(
        PODS,
        pod.namespace,
        pod.pod_name,
        grace_period_seconds=0 if force else None,
        uid=pod.uid,
        resource_version=pod.obj["metadata"]["resourceVersion"] if only_as_seen else None,
    )
    if answer is None:
        store.pods.forget(pod.key, pod.uid)
    elif answer.get("kind") == PODS.kind:
        take(answer)
