"""An InferencePool and its pods as the picker reads them: typed, bounded, each for itself."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from memroute_kube import KubeObject
from memroute_kube.resources import ANNOTATION_DRAINING
from memroute_kube.shapes import OddObjectError, is_object_name, listed, mapping, shown
from memroute_picker.pools.book import labelled_as
from memroute_router.discovery.kube_objects import MAX_PORT, is_serving, pod_address
from memroute_router.http.client import Endpoint
from memroute_router.replicas.replica import ReplicaInfo

ACTIVE_PORTS: Final = "inference.networking.k8s.io/active-ports"
"""On pods: which of the pool's ports serve, separated by commas."""
# Of a pool. Source: its schema.
MAX_PORTS: Final = 8
# Of a selector. Source: its schema.
MAX_LABELS: Final = 64
# A label's prefix; its name behind that, or its value. Source: Kubernetes (``apimachinery``).
_LABEL_PREFIX: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """What an InferencePool says."""

    selector: str
    """Its pods', as the API server takes it."""
    ports: tuple[int, ...]
    """On which each of its pods serves."""


def read_pool(obj: KubeObject) -> PoolFacts:
    """A pool. Raises ``OddObjectError``."""
    spec = mapping(obj.get("spec"))
    labels = mapping(mapping(spec.get("selector")).get("matchLabels"))
    if not 1 <= len(labels) <= MAX_LABELS:
        message = f"its selector has {len(labels)} labels"
        raise OddObjectError(message)
    for name, value in labels.items():
        if not isinstance(value, str) or not _is_label(name, value):
            message = f"no label: {shown(name)}={shown(value)}"
            raise OddObjectError(message)
    given = [mapping(port).get("number") for port in listed(spec.get("targetPorts"))]
    ports = tuple(dict.fromkeys(int(port) for port in given if port is not None and _is_port(port)))
    if not 1 <= len(ports) <= MAX_PORTS:
        message = f"its ports are {shown(given)}"
        raise OddObjectError(message)
    return PoolFacts(
        selector=",".join(f"{name}={value}" for name, value in sorted(labels.items())), ports=ports
    )


def endpoints_of_pod(
    pod: KubeObject,
    pool: PoolFacts,
    name_of_pool: str,
    *,
    model: str | None = None,
    is_alone: bool = True,
) -> list[ReplicaInfo]:
    """A replica for each of the pool's ports; none while the pod has no address.

    ``model``: by which the pool is kept; None: by its name. ``is_alone``: whether no other pool is
    followed, so that a pod's name is enough of a name. Raises ``OddObjectError``.
    """
    metadata = mapping(pod.get("metadata"))
    namespace, name, uid = (metadata.get(each) for each in ("namespace", "name", "uid"))
    for value in (namespace, name, uid):
        if not is_object_name(value):
            message = f"no name: {shown(value)}"
            raise OddObjectError(message)
    address = pod_address(mapping(pod.get("status")).get("podIP"))
    if address is None:
        return []
    annotations = mapping(metadata.get("annotations"))
    is_going = "deletionTimestamp" in metadata or ANNOTATION_DRAINING in annotations
    is_routable = is_serving(pod) and not is_going
    called = str(name) if is_alone else f"{name_of_pool}/{name}"
    return [
        ReplicaInfo(
            namespace=str(namespace),
            pod=called if len(pool.ports) == 1 else f"{called}:{port}",
            deployment=labelled_as(name_of_pool),
            served_model=model or name_of_pool,
            endpoint=Endpoint(address, port),
            promised_capacity_tokens=None,
            max_context_tokens=None,
            is_routable=is_routable,
            uid=str(uid),
        )
        for port in _active(annotations, pool.ports)
    ]


def _active(annotations: Mapping[str, Any], ports: tuple[int, ...]) -> list[int]:
    given = annotations.get(ACTIVE_PORTS)
    if not isinstance(given, str):
        return list(ports)
    active = {word.strip() for word in given.split(",")}
    return [port for port in ports if str(port) in active]


def _is_label(name: object, value: str) -> bool:
    """Whether the API server takes it in a selector: it answers 400 to any other."""
    if not isinstance(name, str):
        return False
    prefix, slash, last = name.rpartition("/")
    if slash and _LABEL_PREFIX.fullmatch(prefix) is None:
        return False
    return _LABEL.fullmatch(last) is not None and (not value or _LABEL.fullmatch(value) is not None)


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_PORT
