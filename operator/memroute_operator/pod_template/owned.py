"""What a template may not say, each with one sentence and what to do instead.

Two kinds of things:

* **what memroute owns**: the node and the devices, the engine's image and flags, ports and probes
  that drains depend on, labels and gates by which it knows its pods;
* **what Pod Security calls more than baseline**: the operator creates pods with its own rights,
  so whoever may write a ModelDeployment must not get the node by that. Pod Security of the
  namespace judges the pod besides; policies that judge the *user* who creates it see the operator.

The CRD's own rules say the same at admission, as far as they can. This is what counts.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from memroute.errors import MemrouteError
from memroute_kube.resources import GROUP
from memroute_operator.adapters.container import ADAPTERS_CONTAINER, ADAPTERS_VOLUME
from memroute_operator.pod.pod_defaults import ENGINE_CONTAINER as ENGINE
from memroute_operator.pod.pod_resources import is_device_resource
from memroute_operator.pod_template.owned_neighbours import (
    PREFERRED,
    neighbour_refusals,
)
from memroute_operator.weights.container import FETCH_CONTAINER, WEIGHTS_VOLUME

WHERE = "spec.template"

_NODE = (
    "because memroute chooses the node: use spec.placement.nodeSelector, or affinity in the "
    "template"
)
_BASELINE = (
    "because memroute would create the pod with its own rights, and a template goes as far as the "
    "Pod Security level baseline"
)
_DEVICES = "because memroute chooses the devices and counts their memory"
_WEIGHTS = (
    "because others may load what is in it: give a container a volume of its own for what it keeps"
)
# In the pod's spec: what must not be there at all.
OWNED: Mapping[str, str] = {
    "nodeName": _NODE,
    "schedulingGates": "because memroute orders starts by a gate of its own: use spec.paused",
    "activeDeadlineSeconds": "because an engine serves until it is deleted",
    "resourceClaims": f"{_DEVICES}: those of DRA are not among them yet",
    "resources": "because requests are counted by container: use containers[].resources",
    "ephemeralContainers": "because those are for running pods: use kubectl debug",
    "priority": "because the API server computes it: use priorityClassName",
    "hostname": "because every replica has its pod's name",
    "subdomain": "because replicas are found by memroute's router",
}
# In the pod's spec: what must not be true.
HOST: tuple[str, ...] = ("hostNetwork", "hostPID", "hostIPC")
# In the engine's container: what must not be there.
OWNED_OF_ENGINE: Mapping[str, str] = {
    "image": "use spec.engine.image",
    "command": "memroute starts the engine: use spec.engine.args for its flags",
    "args": "use spec.engine.args",
    "ports": "the port is what routers and probes ask; a sidecar may have ports of its own",
    "readinessProbe": "routers and drains go by it",
    "lifecycle": "memroute drains the engine before its pod is deleted",
    "restartPolicy": "an engine is always started again",
}
# Of the probes that may be tuned: all that may be said.
THRESHOLDS = frozenset(
    {"failureThreshold", "periodSeconds", "timeoutSeconds", "initialDelaySeconds"}
)
TUNED_PROBES = ("startupProbe", "livenessProbe")
# Variables by which the devices are chosen, in any container.
DEVICE_VARIABLES = frozenset(
    {"NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES",
     "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"}
)  # fmt: skip
# The engine's own: its address. Variables of memroute's own begin with MEMROUTE_.
ADDRESS_VARIABLE = "POD_IP"
OWN_PREFIX = "MEMROUTE_"
# Annotations by which container runtimes inject devices.
CDI_DOMAIN = "cdi.k8s.io"
# The old way to say what securityContext.appArmorProfile says.
APPARMOR_PREFIX = "container.apparmor.security.beta.kubernetes.io/"
MANAGED_BY = "app.kubernetes.io/managed-by"
# Pod Security "baseline" of Kubernetes 1.37: capabilities that may be added.
BASELINE_CAPABILITIES = frozenset(
    {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
     "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
)  # fmt: skip


class TemplateError(MemrouteError):
    """``spec.template`` says what it may not."""


def refusal(template: Mapping[str, Any]) -> str | None:
    """Why the template is not taken, as a sentence that names the path; None when it is."""
    try:
        return next(_refusals(template), None)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        return f"{WHERE} is no part of a PodTemplateSpec ({error!s:.200})"


def _refusals(template: Mapping[str, Any]) -> Iterator[str]:
    yield from _directives(template, WHERE)
    yield from _metadata(template.get("metadata") or {})
    spec, where = template.get("spec") or {}, f"{WHERE}.spec"
    for name, why in OWNED.items():
        if name in spec:
            yield f"{where}.{name} must not be set, {why}"
    for name in HOST:
        if spec.get(name):
            yield f"{where}.{name} must not be true, {_BASELINE}"
    if spec.get("restartPolicy", "Always") != "Always":
        yield f"{where}.restartPolicy must be Always, because an engine is always started again"
    yield from _affinity(spec.get("affinity") or {}, f"{where}.affinity")
    yield from neighbour_refusals(spec, where)
    yield from _security(spec.get("securityContext") or {}, f"{where}.securityContext")
    for index, volume in enumerate(spec.get("volumes") or ()):
        yield from _volume(volume, f"{where}.volumes[{index}]")
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or ()):
            yield from _container(container, f"{where}.{field}[{index}]", field)


def _directives(part: Any, where: str) -> Iterator[str]:
    """``$patch`` and the like, anywhere: they could take away what memroute owns."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key.startswith("$"):
                yield (
                    f"{where}.{key} must not be set, because a template has no directives: "
                    "set the field itself to what it should be"
                )
            yield from _directives(value, f"{where}.{key}")
    elif isinstance(part, list):
        for index, one in enumerate(part):
            yield from _directives(one, f"{where}[{index}]")


def _metadata(metadata: Mapping[str, Any]) -> Iterator[str]:
    for field, entries in metadata.items():
        if field not in ("labels", "annotations"):
            yield (
                f"{WHERE}.metadata.{field} must not be set, because memroute names its pods: "
                "labels and annotations may be"
            )
            continue
        for key, value in (entries or {}).items():
            if key == MANAGED_BY or is_ours(key):
                yield (
                    f"{WHERE}.metadata.{field} must not set {key}, because memroute knows its "
                    f"pods by it: use a key of your own"
                )
            if field == "annotations":
                yield from _annotation(key, value)
            if not isinstance(value, str):
                yield f"{WHERE}.metadata.{field}.{key} must be a text"


def _annotation(key: str, value: object) -> Iterator[str]:
    """Annotations that do what a field would be refused for."""
    if _is_of(key, CDI_DOMAIN):
        yield f"{WHERE}.metadata.annotations must not set {key}, {_DEVICES}"
    if key.startswith(APPARMOR_PREFIX) and value == "unconfined":
        yield f"{WHERE}.metadata.annotations must not set {key} to unconfined, {_BASELINE}"


def is_ours(key: str) -> bool:
    """Whether a label or annotation of that key is memroute's."""
    return _is_of(key, GROUP)


def _is_of(key: str, domain: str) -> bool:
    prefix = key.partition("/")[0]
    return prefix == domain or prefix.endswith(f".{domain}")


def _affinity(affinity: Mapping[str, Any], where: str) -> Iterator[str]:
    node = affinity.get("nodeAffinity") or {}
    if node.get(PREFERRED):
        yield (
            f"{where}.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution must not be "
            "set, because memroute chooses the node: use requiredDuringSchedulingIgnoredDuring"
            "Execution, or spec.placement.strategy"
        )


def _volume(volume: Mapping[str, Any], where: str) -> Iterator[str]:
    if _is_own(volume.get("name")):
        yield f"{where} must not be {volume['name']}, {_WEIGHTS}"
    if "hostPath" in volume:
        yield (
            f"{where}.hostPath must not be set, {_BASELINE}: use a persistentVolumeClaim, whose "
            f"volume may be on the node's disk"
        )


def _mounts(container: Mapping[str, Any], where: str) -> Iterator[str]:
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if _is_own(mount.get("name")):
            yield f"{where}.volumeMounts[{index}] must not be of {mount['name']}, {_WEIGHTS}"


def _is_own(volume: object) -> bool:
    """Whether a volume of that name has weights or adapters."""
    return volume == WEIGHTS_VOLUME or str(volume).startswith(ADAPTERS_VOLUME)


def _container(container: Mapping[str, Any], where: str, field: str) -> Iterator[str]:
    name = container.get("name")
    yield from _mounts(container, where)
    if name in (FETCH_CONTAINER, ADAPTERS_CONTAINER):
        yield from _fetcher(container, where)
    elif name == ENGINE and field == "initContainers":
        yield f"{where}.name must not be {ENGINE}, because the engine's container has that name"
    elif name == ENGINE:
        yield from _engine(container, where)
    elif not container.get("image"):
        yield (
            f"{where}.image must be set, because only the container {ENGINE} has one already; "
            f"is {name!r} meant to be {ENGINE}?"
        )
    for index, variable in enumerate(container.get("env") or ()):
        if variable["name"] in DEVICE_VARIABLES:
            yield f"{where}.env[{index}] must not set {variable['name']}, {_DEVICES}"
    for index, port in enumerate(container.get("ports") or ()):
        if port.get("hostPort"):
            yield f"{where}.ports[{index}].hostPort must not be set, {_BASELINE}"
    yield from _resources(container.get("resources") or {}, f"{where}.resources")
    yield from _security(container.get("securityContext") or {}, f"{where}.securityContext")


def _resources(resources: Mapping[str, Any], where: str) -> Iterator[str]:
    for kind in ("limits", "requests"):
        for name in resources.get(kind) or {}:
            if is_device_resource(name):
                yield (
                    f"{where}.{kind} must not name {name}, {_DEVICES}: use spec.parallelism and "
                    f"spec.placement"
                )
    if resources.get("claims"):
        yield f"{where}.claims must not be set, {OWNED['resourceClaims']}"


def _fetcher(container: Mapping[str, Any], where: str) -> Iterator[str]:
    for name in container:
        if name not in ("name", "resources"):
            yield (
                f"{where}.{name} must not be set for the container {container['name']}, because "
                f"what it writes others load: resources may be, and proxies in spec.engine.env "
                f"are its too"
            )


def _engine(container: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, instead in OWNED_OF_ENGINE.items():
        if name in container:
            yield f"{where}.{name} must not be set for the container {ENGINE}: {instead}"
    for name in TUNED_PROBES:
        said = container.get(name) or {}
        for field in said:
            if field not in THRESHOLDS:
                yield (
                    f"{where}.{name}.{field} must not be set for the container {ENGINE}, because "
                    f"memroute knows how to ask it: {', '.join(sorted(THRESHOLDS))} may be"
                )
    for index, variable in enumerate(container.get("env") or ()):
        variable_name = variable["name"]
        if variable_name == ADDRESS_VARIABLE or variable_name.startswith(OWN_PREFIX):
            yield (
                f"{where}.env[{index}] must not set {variable_name}, because memroute tells the "
                "engine its address by it"
            )


def _security(context: Mapping[str, Any], where: str) -> Iterator[str]:
    """What Pod Security's baseline forbids in a securityContext of a pod or a container."""
    if context.get("privileged"):
        yield f"{where}.privileged must not be true, {_BASELINE}"
    for capability in (context.get("capabilities") or {}).get("add") or ():
        if capability not in BASELINE_CAPABILITIES:
            yield f"{where}.capabilities.add must not name {capability}, {_BASELINE}"
    for name in ("seccompProfile", "appArmorProfile"):
        if (context.get(name) or {}).get("type") == "Unconfined":
            yield f"{where}.{name}.type must not be Unconfined, {_BASELINE}"
    if context.get("procMount", "Default") != "Default":
        yield f"{where}.procMount must be Default, {_BASELINE}"
    for name in ("seLinuxOptions", "windowsOptions", "sysctls"):
        if context.get(name):
            yield f"{where}.{name} must not be set, {_BASELINE}"
