"""The manifest of a pod that goes ahead: the replica's own, less all that serves.

It is made from the replica's pod, so that what its owner says of networks, registries, Secrets,
tolerations and security is said of it too. Its fetcher is the replica's, to the letter: what it
finds, the successor's will find. Then the engine's image, for a program that does nothing: kubelet
has pulled it by then, and an image that has no ``true`` is as much there.
"""

import json
from typing import Any

from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.units import GIB, MIB
from memroute_kube import KubeObject
from memroute_kube.resources import LABEL_DEPLOYMENT, LABEL_REPLICA
from memroute_operator.ahead.facts import ANNOTATION_AHEAD
from memroute_operator.ahead.goal import Goal, ahead_name
from memroute_operator.pod.pod_defaults import ENGINE_CONTAINER
from memroute_operator.pod_template.overlaying import NO_DEVICES
from memroute_operator.pod_template.owned_neighbours import REQUIRED
from memroute_operator.replicas.replica import ANNOTATION_WEIGHTS
from memroute_operator.spec.deployment import Deployment
from memroute_operator.weights.container import FETCH_CONTAINER, LABEL_AHEAD, WEIGHTS_VOLUME

# What a pod that goes ahead has of the replica's: how it is let onto its node and into registries.
# Not: priority (it must drive nobody out), neighbours, claims of devices, gates, sidecars.
KEPT = (
    "automountServiceAccountToken", "dnsConfig", "dnsPolicy", "enableServiceLinks", "hostAliases",
    "hostNetwork", "hostUsers", "imagePullSecrets", "os", "runtimeClassName", "schedulerName",
    "securityContext", "serviceAccountName", "tolerations",
)  # fmt: skip
# Of the engine's container: the image, and as whom it runs.
KEPT_OF_ENGINE = ("name", "image", "imagePullPolicy", "securityContext")
# How long it may run, in seconds: an hour at the least, and as long as the weights take at so many
# bytes per second. Chosen by hand: a slower link makes a rollout of a day.
DEADLINE_SECONDS = 3600
SLOW_BYTES_PER_SECOND = 20e6
# The fetcher ends within a second of SIGTERM, and goes on later where it was.
GRACE_SECONDS = 30
# What the program that does nothing may take.
IDLE_RESOURCES = {
    "requests": {"cpu": "10m", "memory": f"{32 * MIB // MIB}Mi"},
    "limits": {"memory": f"{64 * MIB // MIB}Mi"},
}


def nominal(deployment: Deployment, node: str) -> Placed:
    """A replica of it on that node, for what of its pod depends on no device."""
    devices = ("GPU",) if deployment.mode is PlacementMode.SHARED else ()
    return Placed(
        key=ReplicaKey(namespace=deployment.namespace, name=deployment.name, index=0),
        node=node, mode=deployment.mode, device_uuids=devices,
        num_devices=deployment.footprint_on(None).num_devices,
        bytes_per_device=80 * GIB, needed_bytes_per_device=80 * GIB,
        usable_bytes_per_device=80 * GIB, product=None, why="",
    )  # fmt: skip


def ahead_pod(deployment: Deployment, goal: Goal, replica: KubeObject, node: str) -> KubeObject:
    """The manifest. ``replica``: the pod of a replica of it on that node (``nominal``)."""
    metadata, spec = replica["metadata"], replica["spec"]
    fetcher = [
        one for one in spec.get("initContainers", ()) if one["name"] == FETCH_CONTAINER
    ] if goal.place is not None else []  # fmt: skip
    (engine,) = [one for one in spec["containers"] if one["name"] == ENGINE_CONTAINER]
    said = {"node": node, "goal": goal.key, "revision": goal.revision}
    annotations = {ANNOTATION_AHEAD: json.dumps(said, separators=(",", ":"))}
    if deployment.weights_key is not None:
        annotations[ANNOTATION_WEIGHTS] = deployment.weights_key
    made: dict[str, Any] = {key: spec[key] for key in KEPT if key in spec}
    made |= {
        "restartPolicy": "OnFailure",
        "activeDeadlineSeconds": deadline_seconds(deployment),
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "affinity": _pinned(spec["affinity"]),
        "containers": [
            {key: engine[key] for key in KEPT_OF_ENGINE if key in engine}
            | {
                "command": ["true"],
                "env": [dict(NO_DEVICES)],
                "resources": IDLE_RESOURCES,
                "terminationMessagePolicy": "FallbackToLogsOnError",
            }
        ],
    }
    if fetcher:
        made["initContainers"] = fetcher
        made["volumes"] = [one for one in spec["volumes"] if one["name"] == WEIGHTS_VOLUME]
    labels = {
        name: value
        for name, value in metadata["labels"].items()
        if name not in (LABEL_DEPLOYMENT, LABEL_REPLICA)
    }
    template = deployment.template.said.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": ahead_name(deployment, goal, node),
            "namespace": deployment.namespace,
            "labels": labels | {LABEL_AHEAD: deployment.name},
            "annotations": {**(template.get("annotations") or {}), **annotations},
            "ownerReferences": metadata["ownerReferences"],
        },
        "spec": made,
    }


def deadline_seconds(deployment: Deployment) -> int:
    """How long a pod of it may run."""
    footprint = deployment.footprint
    weights = 0 if footprint is None else footprint.weights.expected * footprint.num_devices
    return max(DEADLINE_SECONDS, int(weights / SLOW_BYTES_PER_SECOND))


def _pinned(affinity: dict[str, Any]) -> dict[str, Any]:
    """The node and what its owner requires of nodes; nothing of who is beside it."""
    return {"nodeAffinity": {REQUIRED: affinity["nodeAffinity"][REQUIRED]}}
