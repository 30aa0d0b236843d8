"""What is kept of the API server's objects: the fields that are read, in the objects' own shape.

A pod of 10 KB of JSON takes 55 KiB as Python objects, and a cluster has ten thousand pods of
others. What is kept of them is who they are, where they run, which accelerators they hold and
how they are reached: about 1 KiB. Strings that repeat are kept once, and so are whole parts that
are the same in many objects (``sharing``).

```text
                 ours            of others                       nodes, ModelDeployments
metadata         names, labels, our annotations, owners          without managedFields
spec             node, gates     node, accelerators, ports       taints ...
status           all that tells how far it has come   phase, IP  allocatable, conditions
```

A change that reaches no field that *planning* reads is recorded and wakes nobody up
(``matters``): a foreign pod that becomes ready, a node's heartbeat, a status that we wrote.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from memroute_kube import KubeObject
from memroute_kube.resources import GROUP, LABEL_DEPLOYMENT
from memroute_kube.shapes import is_terminal, listed, mapping
from memroute_operator.adapters.container import ADAPTERS_VOLUME
from memroute_operator.store.sharing import interned, shared
from memroute_operator.weights.container import LABEL_AHEAD, WEIGHTS_VOLUME

_OWNER_FIELDS = ("apiVersion", "kind", "name", "uid", "controller")
# Of a foreign pod: whose it is, in words.
_FOREIGN_OWNER_FIELDS = ("kind", "name", "controller")
_FOREIGN_METADATA_FIELDS = (
    "namespace", "name", "uid", "resourceVersion", "deletionTimestamp", "labels",
)  # fmt: skip
_CONDITION_FIELDS = ("type", "status", "reason", "message", "lastTransitionTime")
_METADATA_FIELDS = (
    "namespace", "name", "uid", "resourceVersion", "generation", "creationTimestamp",
    "deletionTimestamp", "deletionGracePeriodSeconds", "labels",
)  # fmt: skip
_POD_SPEC_FIELDS = (
    "nodeName", "schedulingGates", "affinity", "terminationGracePeriodSeconds", "tolerations",
    "priority",
)  # fmt: skip
_POD_STATUS_FIELDS = (
    "phase", "reason", "message", "podIP", "podIPs", "startTime", "containerStatuses",
    "initContainerStatuses",
)  # fmt: skip
_NODE_STATUS_FIELDS = ("capacity", "allocatable")
# Annotations of ModelDeployments that are copies of what is there already.
_COPIES = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """How objects of one kind are kept, and which of their changes matter to a plan."""

    project: Callable[[KubeObject], KubeObject]
    matters: Callable[[KubeObject, KubeObject], bool]
    """Whether a step from one kept version to the next changes anything that is planned on.

    An object that appears comes from ``{}``, one that goes becomes ``{}``.
    """


def project_pod(obj: KubeObject) -> KubeObject:
    """A pod, as far as it is read. Whatever has another shape than a pod is kept as it is."""
    metadata, spec, status = _parts(obj)
    ours = _is_labelled(obj)
    kept_spec: KubeObject = {}
    if ours:
        kept_spec = _only(spec, _POD_SPEC_FIELDS)
        if volumes := [v for v in listed(spec.get("volumes")) if _is_of_weights(v)]:
            kept_spec["volumes"] = volumes
    elif spec.get("nodeName"):
        kept_spec["nodeName"] = spec["nodeName"]
    if spec.get("resourceClaims"):
        kept_spec["resourceClaims"] = spec["resourceClaims"]
    for field in ("containers", "initContainers"):
        kept = [_container(c, keep_image=ours) for c in listed(spec.get(field))]
        if field == "containers" or any(c.get("resources") for c in kept):
            kept_spec[field] = kept if ours else [c for c in kept if c]
    kept_status = _only(status, _POD_STATUS_FIELDS if ours else ("phase", "podIP"))
    if ours:
        kept_status["conditions"] = _conditions(status)
        kept_metadata = _metadata(metadata, _is_our_annotation)
    else:
        kept_metadata = _only(metadata, _FOREIGN_METADATA_FIELDS)
        owners = _owners(metadata, _FOREIGN_OWNER_FIELDS)
        if owners:
            kept_metadata["ownerReferences"] = owners
    projected: KubeObject = interned(
        {"metadata": kept_metadata, "spec": kept_spec, "status": kept_status}
    )
    if not ours:
        projected["spec"] = _one_of_a_node(projected["spec"])
        # The same two lists for all of them: nobody changes what the store has.
        projected["status"]["conditions"] = _READY if _is_ready(status) else _NOT_READY
    return projected


def _one_of_a_node(spec: KubeObject) -> KubeObject:
    """What says nothing but the node is the same for all such pods there."""
    is_bare = not spec["containers"] and spec.keys() <= {"nodeName", "containers"}
    return cast("KubeObject", shared(spec)) if is_bare else spec


def _is_of_weights(volume: object) -> bool:
    """Of weights or adapters: who has one may load from that cache."""
    return mapping(volume).get("name") in (WEIGHTS_VOLUME, ADAPTERS_VOLUME)


def _is_our_annotation(name: str) -> bool:
    return name.startswith(f"{GROUP}/")


def project_node(obj: KubeObject) -> KubeObject:
    """A node without its images, its heartbeats and what others write on it for themselves.

    CNI plugins and autoscalers do so all the time: no reason to plan anew.
    """
    metadata, spec, status = _parts(obj)
    kept_status = _only(status, _NODE_STATUS_FIELDS)
    kept_status["conditions"] = _conditions(status)
    boot_id = mapping(status.get("nodeInfo")).get("bootID")
    if boot_id is not None:
        kept_status["nodeInfo"] = {"bootID": boot_id}
    kept: KubeObject = interned(
        {
            "metadata": _metadata(metadata, _is_our_annotation),
            "spec": _only(spec, ("unschedulable", "taints")),
            "status": kept_status,
        }
    )
    return kept


def project_model_deployment(obj: KubeObject) -> KubeObject:
    """A ModelDeployment without copies of itself."""
    metadata, _, _ = _parts(obj)
    kept = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
    kept["metadata"] = _metadata(metadata, lambda name: name not in _COPIES)
    kept["metadata"] |= _only(metadata, ("finalizers",))
    return cast("KubeObject", interned(kept))


def _pod_matters(before: KubeObject, after: KubeObject) -> bool:
    if _is_labelled(before) or _is_labelled(after):
        return _without_version(before) != _without_version(after)
    return _holds(before) != _holds(after)


def _is_labelled(pod: KubeObject) -> bool:
    labels = mapping(mapping(pod.get("metadata")).get("labels"))
    return LABEL_DEPLOYMENT in labels or LABEL_AHEAD in labels


def _holds(pod: KubeObject) -> tuple[object, ...]:
    """What planning reads of a foreign pod: the accelerators that it holds, and where."""
    metadata, spec, _ = _parts(pod)
    resources = [
        [mapping(c).get("resources") for c in listed(spec.get(field))]
        for field in ("containers", "initContainers")
    ]
    held = any(resource for field in resources for resource in field)
    if not held and not spec.get("resourceClaims"):
        return (False,)
    return True, metadata.get("uid"), spec.get("nodeName"), resources, is_terminal(pod)


def _deployment_matters(before: KubeObject, after: KubeObject) -> bool:
    def planned(obj: KubeObject) -> tuple[object, ...]:
        metadata, spec, status = _parts(obj)
        names = ("uid", "generation", "deletionTimestamp", "finalizers", "labels", "annotations")
        failed = mapping(status.get("rollout")).get("failed")
        return _only(metadata, names), spec, status.get("model"), status.get("lastGood"), failed

    return planned(before) != planned(after)


def _any_field_matters(before: KubeObject, after: KubeObject) -> bool:
    return _without_version(before) != _without_version(after)


_READY: list[KubeObject] = [{"type": "Ready", "status": "True"}]
_NOT_READY: list[KubeObject] = [{"type": "Ready", "status": "False"}]
POD_PROJECTION = Projection(project=project_pod, matters=_pod_matters)
NODE_PROJECTION = Projection(project=project_node, matters=_any_field_matters)
MODEL_DEPLOYMENT_PROJECTION = Projection(
    project=project_model_deployment, matters=_deployment_matters
)


def _parts(obj: KubeObject) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
    return mapping(obj.get("metadata")), mapping(obj.get("spec")), mapping(obj.get("status"))


def _only(source: Mapping[str, Any], fields: Iterable[str]) -> KubeObject:
    return {field: source[field] for field in fields if source.get(field) is not None}


def _metadata(metadata: Mapping[str, Any], wants: Callable[[str], bool]) -> KubeObject:
    kept = _only(metadata, _METADATA_FIELDS)
    annotations = mapping(metadata.get("annotations"))
    wanted = {name: text for name, text in annotations.items() if wants(str(name))}
    if wanted:
        kept["annotations"] = wanted
    owners = _owners(metadata, _OWNER_FIELDS)
    if owners:
        kept["ownerReferences"] = owners
    return kept


def _owners(metadata: Mapping[str, Any], fields: Iterable[str]) -> list[KubeObject]:
    return [_only(mapping(owner), fields) for owner in listed(metadata.get("ownerReferences"))]


def _is_ready(status: Mapping[str, Any]) -> bool:
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in map(mapping, listed(status.get("conditions")))
    )


def _container(container: object, *, keep_image: bool) -> KubeObject:
    """Ports, and what comes from device plugins: names with a slash; of ours the memory too."""
    source = mapping(container)
    kept = _only(source, ("name", "image") if keep_image else ())
    if keep_image and source.get("startupProbe"):
        # How long a start may take: what ends one that is stuck is told by it.
        probe = mapping(source["startupProbe"])
        kept["startupProbe"] = _only(probe, ("failureThreshold", "periodSeconds"))
    if source.get("ports") and (keep_image or _has_named_port(source)):
        kept["ports"] = source["ports"]
    if source.get("restartPolicy"):
        kept["restartPolicy"] = source["restartPolicy"]
    resources = {
        kind: extended
        for kind in ("limits", "requests")
        if (
            extended := {
                name: amount
                for name, amount in mapping(mapping(source.get("resources")).get(kind)).items()
                if "/" in str(name) or (keep_image and name == "memory")
            }
        )
    }
    if resources:
        kept["resources"] = resources
    return kept


def _has_named_port(container: Mapping[str, Any]) -> bool:
    return any(mapping(port).get("name") for port in listed(container.get("ports")))


def _conditions(status: Mapping[str, Any]) -> list[KubeObject]:
    return [
        _only(mapping(condition), _CONDITION_FIELDS)
        for condition in listed(status.get("conditions"))
    ]


def _without_version(obj: KubeObject) -> KubeObject:
    metadata = dict(mapping(obj.get("metadata")))
    metadata.pop("resourceVersion", None)
    return {**obj, "metadata": metadata}
