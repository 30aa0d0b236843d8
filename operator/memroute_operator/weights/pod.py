"""What a pod needs for its weights: volumes, the engine's mount, the container that fetches."""

import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from memroute.units import MIB
from memroute_kube import KubeObject
from memroute_kube.shapes import mapping
from memroute_operator.adapters.container import ADAPTERS_CONTAINER, ADAPTERS_VOLUME
from memroute_operator.pod.pod_defaults import BIND_VARIABLE, security_context
from memroute_operator.pod_template.owned_neighbours import REQUIRED
from memroute_operator.spec.hub_source import HubSource
from memroute_operator.weights.choosing import MODEL_PATH, Fetched, Weights
from memroute_operator.weights.container import FETCH_CONTAINER, WEIGHTS_VOLUME

# Pods that a fetcher is told of at the most, chosen by hand: ten times as many as a node has. Of 37
# characters each, a third of what a variable may have. Of more it is told nothing, and takes every
# pod that it has noted for alive.
MAX_LIVE_PODS = 1100
# The containers that fetch, each with the volume that it fetches into.
FETCHERS = (
    ("initContainers", FETCH_CONTAINER, WEIGHTS_VOLUME),
    ("containers", ADAPTERS_CONTAINER, ADAPTERS_VOLUME),
)
# Where the fetcher finds the cache, and where it tells how far it is.
CACHE_PATH = "/cache"
PROGRESS_PORT = 8081
# What it may take of the node: it reads and writes through buffers of some MiB, so this is room for
# checksums of several files at once. Page cache is counted too, and given back. Chosen by hand.
FETCH_CPU_MILLIS = 250
FETCH_REQUEST_BYTES = 256 * MIB
FETCH_LIMIT_BYTES = 1024 * MIB
# The user of memroute's images, which owns what it has fetched into a volume claim.
FETCH_GROUP = 65532
# Keys of a Secret for S3, as the variables are called.
STORE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# Of an engine's own variables: how its namespace gets out to the network.
PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"})
OFFLINE_VARIABLE = "HF_HUB_OFFLINE"


def volumes(weights: Weights | None) -> list[dict[str, Any]]:
    """The volume that has the weights, if there is one."""
    if weights is None:
        return []
    source = weights.cache.volume() if isinstance(weights, Fetched) else weights.volume
    return [{"name": WEIGHTS_VOLUME, **source}]


def engine_mounts(weights: Weights | None) -> list[dict[str, Any]]:
    """The engine sees its own model, and nothing else of the volume."""
    if weights is None:
        return []
    if isinstance(weights, Fetched):
        path, is_read_only = weights.directory, True
    else:
        path, is_read_only = weights.path or "", weights.is_read_only
    mount: dict[str, Any] = {"name": WEIGHTS_VOLUME, "mountPath": MODEL_PATH}
    if path:
        mount["subPath"] = path
    if is_read_only:
        mount["readOnly"] = True
    return [mount]


def engine_variables(
    weights: Weights | None, hub: HubSource, endpoint: str | None
) -> list[dict[str, Any]]:
    """What tells the engine of the hub: where it is, or not to ask it. No token where it has all.

    ``endpoint``: of another hub than the usual one.
    """
    if weights is None:
        return hub.environment(endpoint)
    return [{"name": OFFLINE_VARIABLE, "value": "1"}]


def pod_security(weights: Weights | None) -> dict[str, Any]:
    """Of the pod: a volume claim belongs to the fetcher's group, so that it can write there."""
    if not isinstance(weights, Fetched) or weights.cache.claim is None:
        return {}
    return {"fsGroup": FETCH_GROUP, "fsGroupChangePolicy": "OnRootMismatch"}


def init_containers(
    weights: Weights | None,
    *,
    image: str,
    hub: HubSource,
    hub_endpoint: str | None,
    bind_address: str,
    engine_env: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The container that fetches, where something is fetched. ``engine_env``: proxies are its too.

    A node's folder is root's, so there it is root, without a capability: such a pod is beyond
    Pod Security ``baseline`` anyway, for its volume. Elsewhere it is within ``restricted``.
    """
    if not isinstance(weights, Fetched):
        return []
    words = [weights.address, "--cache", f"{CACHE_PATH}/{weights.scope}"]
    if weights.cache.max_bytes is not None:
        words += ["--max-cache-bytes", str(weights.cache.max_bytes)]
    words += ["--port", str(PROGRESS_PORT)]
    if weights.file is not None:
        words += ["--file", weights.file]
    is_root = weights.cache.host_path is not None
    user = {"runAsUser": 0, "runAsNonRoot": False} if is_root else {"runAsNonRoot": True}
    return [
        {
            "name": FETCH_CONTAINER,
            "image": image,
            "command": [FETCH_CONTAINER],
            "args": words,
            "env": _variables(weights, hub, hub_endpoint, bind_address, engine_env),
            "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}],
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{"name": WEIGHTS_VOLUME, "mountPath": CACHE_PATH}],
            "resources": {
                "requests": {
                    "cpu": f"{FETCH_CPU_MILLIS}m",
                    "memory": f"{FETCH_REQUEST_BYTES // MIB}Mi",
                },
                "limits": {"memory": f"{FETCH_LIMIT_BYTES // MIB}Mi"},
            },
            "securityContext": security_context() | {"readOnlyRootFilesystem": True} | user,
        }
    ]


def live_users(
    pods: Iterable[KubeObject], volume: Mapping[str, Any], *, namespace: str, node: str
) -> list[str]:
    """UIDs of the pods that may load from that cache: nothing of theirs is to be evicted.

    ``volume``: of the pod that is to be made on ``node``. A node's folder is used by the pods of
    the node, a claim by those of its namespace.
    """
    found = []
    for pod in pods:
        spec = mapping(pod.get("spec"))
        listed = spec.get("volumes")
        # Of the pods that are kept, those of others have none: ten thousand are soon seen.
        if not isinstance(listed, list) or not any(_is_same(one, volume) for one in listed):
            continue
        metadata = mapping(pod.get("metadata"))
        if metadata.get("namespace") == namespace or (
            "hostPath" in volume and spec.get("nodeName") == node
        ):
            found.append(str(metadata.get("uid")))
    return sorted(found)


def _is_same(one: object, volume: Mapping[str, Any]) -> bool:
    """Whether a pod's volume is the folder or the claim of another, however each puts it."""
    place = _place_of(volume)
    return place is not None and _place_of(mapping(one)) == place


def _place_of(volume: Mapping[str, Any]) -> tuple[str, str] | None:
    path = mapping(volume.get("hostPath")).get("path")
    if isinstance(path, str):
        return "hostPath", posixpath.normpath(path)
    claim = mapping(volume.get("persistentVolumeClaim")).get("claimName")
    return ("claim", claim) if isinstance(claim, str) else None


def with_live_pods(pod: KubeObject, pods: Iterable[KubeObject], now_seconds: float) -> KubeObject:
    """The pod, its fetchers told who uses the cache. ``now_seconds``: since 1970."""
    spec = pod["spec"]
    found = dict(spec)
    for field, name, volume_name in FETCHERS:
        containers = spec.get(field, ())
        if not any(one["name"] == name for one in containers):
            continue
        volume = next(one for one in spec["volumes"] if one["name"] == volume_name)
        (term,) = spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"][:1]
        users = live_users(
            pods, volume, namespace=pod["metadata"]["namespace"],
            node=term["matchFields"][0]["values"][0],
        )  # fmt: skip
        if len(users) > MAX_LIVE_PODS:
            continue  # a part of them would make the others look gone: none is told
        told = [
            {"name": "MEMROUTE_LIVE_PODS", "value": " ".join(users)},
            {"name": "MEMROUTE_LIVE_PODS_AT", "value": f"{now_seconds:.0f}"},
        ]
        found[field] = [
            {**one, "env": [*one["env"], *told]} if one["name"] == name else one
            for one in containers
        ]
    return {**pod, "spec": found}


def _variables(
    weights: Fetched,
    hub: HubSource,
    hub_endpoint: str | None,
    bind_address: str,
    engine_env: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": BIND_VARIABLE, "value": bind_address},
    ]
    if weights.address.startswith("hf://"):
        found += hub.environment(hub_endpoint)
    found += [{"name": name, "value": value} for name, value in weights.variables]
    if weights.secret is not None:
        # By name, not all of the Secret: a variable can make a program do anything.
        for key in STORE_KEYS:
            reference = {"name": weights.secret, "key": key, "optional": key == STORE_KEYS[-1]}
            found.append({"name": key, "valueFrom": {"secretKeyRef": reference}})
    found += [dict(one) for one in engine_env if str(one.get("name")).upper() in PROXIES]
    return found
