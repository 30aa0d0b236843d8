"""Whether replicas were started as this operator would start them now.

A release of the operator, another ``--engine-image`` or runtime class restarts
nothing. So a fleet can run several of each side by side, and this says so: each pod carries a
hash of what the operator itself puts into it (``memroute.dev/template``), and a condition tells
which pods carry another one.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace

from memroute.placement import Placed
from memroute_kube import KubeObject
from memroute_operator.ahead.goal import Goal
from memroute_operator.ahead.pod import ahead_pod, nominal
from memroute_operator.pod.manifests import ANNOTATION_TEMPLATE, replica_pod
from memroute_operator.pod.pod_defaults import ANY_IPV4
from memroute_operator.pod_template import NO_TEMPLATE
from memroute_operator.replicas.replica import Replica
from memroute_operator.settings import OperatorSettings
from memroute_operator.spec.deployment import Deployment

Condition = tuple[str, str, str]
# Replicas that a message names one by one before it only counts.
MAX_LISTED = 3
# Hashes that are remembered: one for each ModelDeployment.
MAX_REMEMBERED = 10_000


@dataclass(slots=True, kw_only=True)
class Templates:
    """Replicas' pods, and the operator's own part of each as a hash. Owns what it has computed."""

    default_image: str
    shared_runtime_class: str | None
    hub_endpoint: str | None = None
    exclusive_runtime_class: str | None = None
    bind_address: str = ANY_IPV4
    fetch_image: str = ""
    _known: dict[tuple[str, str, str | None], str] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, settings: OperatorSettings) -> "Templates":
        """Those of an operator that is started with these."""
        return cls(
            default_image=settings.engine_image,
            shared_runtime_class=settings.shared_runtime_class,
            hub_endpoint=settings.engines_hub_endpoint,
            exclusive_runtime_class=settings.exclusive_runtime_class,
            bind_address=settings.engine_bind_address,
            fetch_image=settings.fetch_image,
        )

    def pod(self, deployment: Deployment, placed: Placed, *, is_gated: bool) -> KubeObject:
        """The manifest of a replica's pod, with its hash to be found again by."""
        return self._pod(deployment, placed, is_gated=is_gated, template=self.of(deployment))

    def ahead(self, deployment: Deployment, goal: Goal, placed: Placed) -> KubeObject:
        """The manifest of a pod that fetches ahead of a replica there (``nominal``)."""
        pod = self._pod(deployment, placed, is_gated=False, template=None)
        return ahead_pod(deployment, goal, pod, placed.node)

    def of(self, deployment: Deployment) -> str | None:
        """What a new replica would carry; None before its footprint is known."""
        if deployment.footprint is None:
            return None
        key = (deployment.uid, deployment.revision, deployment.engine_revision)
        if key not in self._known:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = self._render(deployment)
        return self._known[key]

    def _render(self, deployment: Deployment) -> str:
        # Anywhere, and without what its owner adds: that is in the revision.
        bare = replace(
            deployment, engine_args=(), engine_env=(), calibrations={}, template=NO_TEMPLATE
        )
        pod = self._pod(bare, nominal(deployment, ""), is_gated=False, template=None)
        for container in pod["spec"].get("initContainers", ()):
            # What has fetched is done by the time that a replica serves.
            container["image"] = ""
        text = json.dumps(pod["spec"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def _pod(
        self, deployment: Deployment, placed: Placed, *, is_gated: bool, template: str | None
    ) -> KubeObject:
        return replica_pod(
            deployment,
            placed,
            is_gated=is_gated,
            default_image=self.default_image,
            shared_runtime_class=self.shared_runtime_class,
            exclusive_runtime_class=self.exclusive_runtime_class,
            bind_address=self.bind_address,
            template=template,
            hub_endpoint=self.hub_endpoint,
            fetch_image=self.fetch_image,
        )

    def condition(self, deployment: Deployment, replicas: list[Replica]) -> Condition | None:
        """That replicas of the current spec are not what new ones would be; None while they are."""
        current = self.of(deployment)
        if current is None:
            return None
        others = [
            replica.pod_name
            for replica in replicas
            if replica.revision == deployment.revision and _template(replica) != current
        ]
        if not others:
            return None
        listed = ", ".join(sorted(others)[:MAX_LISTED]) + (", …" if others[MAX_LISTED:] else "")
        message = (
            f"{len(others)} of {len(replicas)} replica(s) were started by another release of the "
            f"operator, or with another --engine-image, runtime class or model cache: {listed}. "
            "Nothing is restarted for that. "
        )
        if deployment.engine_image is None:
            message += (
                f"New replicas run {self.default_image}; spec.engine.image with a version of "
                "your choice replaces all of them, one at a time"
            )
        else:
            message += "kubectl delete pod renews one"
        return "True", "StartedByAnotherRelease", message


def _template(replica: Replica) -> str | None:
    annotations: dict[str, str] = replica.obj["metadata"].get("annotations") or {}
    return annotations.get(ANNOTATION_TEMPLATE)
