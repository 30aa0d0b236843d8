"""Replicas of 0.1, marked with what they were started with.

0.1 knows a replica by a hash that also changes with edits which no engine is told. While the
spec is as it was, that hash tells what the engine was started with; it is written down then, so
that a later edit of that kind replaces nothing. One patch for each replica, once.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from memroute_kube import PODS, ApiError, KubernetesClient
from memroute_operator.actions.lanes import Lanes
from memroute_operator.gather import Facts
from memroute_operator.replicas.replica import ANNOTATION_STARTED_WITH, Replica
from memroute_operator.store.store import Store

LOGGER = logging.getLogger(__name__)
# Before a replica is marked that could not be, in seconds: chosen by hand, nothing hurries.
AGAIN_SECONDS = 60.0


def unmarked(facts: Facts) -> dict[str, list[Replica]]:
    """Replicas of the current spec that do not say so, by their deployment."""
    revisions = {deployment.key: deployment.revision for deployment in facts.deployments}
    found: dict[str, list[Replica]] = {}
    for replica in facts.replicas:
        annotations = replica.obj["metadata"].get("annotations") or {}
        if (
            ANNOTATION_STARTED_WITH not in annotations
            and replica.revision == revisions.get(replica.deployment)
            and not replica.is_terminating
        ):
            found.setdefault(replica.deployment, []).append(replica)
    return found


@dataclass(slots=True, kw_only=True)
class Adoption:
    """Marks replicas. Owns when each was last tried."""

    client: KubernetesClient
    store: Store
    lanes: Lanes
    clock: Callable[[], float]
    _tried: dict[str, float] = field(default_factory=dict)

    def start(self, facts: Facts) -> None:
        """Start marking in the lanes that are free; the others come with a later step."""
        waiting = unmarked(facts)
        alive = {replica.uid for replicas in waiting.values() for replica in replicas}
        self._tried = {uid: at for uid, at in self._tried.items() if uid in alive}
        for key, replicas in waiting.items():
            due = [one for one in replicas if self._is_due(one)]
            if due:
                self.lanes.start(key, lambda due=due: self._mark(due))  # type: ignore[misc]

    def _is_due(self, replica: Replica) -> bool:
        tried = self._tried.get(replica.uid)
        return tried is None or self.clock() - tried > AGAIN_SECONDS

    async def _mark(self, replicas: list[Replica]) -> None:
        for replica in replicas:
            self._tried[replica.uid] = self.clock()
            mark = {ANNOTATION_STARTED_WITH: replica.revision}
            try:
                patched = await self.client.patch(
                    PODS,
                    replica.namespace,
                    replica.pod_name,
                    {"metadata": {"uid": replica.uid, "annotations": mark}},
                )
            except ApiError as error:
                LOGGER.info("replica not marked pod=%s error=%s", replica.key, error)
            else:
                self.store.pods.upsert(patched)
                LOGGER.info("replica of release 0.1 marked pod=%s", replica.key)
