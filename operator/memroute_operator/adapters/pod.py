"""What a pod has for its adapters: volumes, the engine's mounts, the container that fetches.

A container beside the engine, ``memroute-adapters``, and not an init container: adapters come
later too, and one that cannot be fetched must keep no replica from starting. It is told over HTTP
what to fetch (``fetch/memroute_fetch/serving``), and has the same cache, notes and Secrets as the
init container that fetches weights.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from memroute.footprint.weights import adapter_bytes_per_rank
from memroute.units import MIB
from memroute_operator.adapters.container import (
    ADAPTERS_CONTAINER,
    ADAPTERS_PORT,
    ADAPTERS_VOLUME,
)
from memroute_operator.adapters.reading import FETCHED_PATH, Adapters
from memroute_operator.pod.pod_defaults import BIND_VARIABLE, security_context
from memroute_operator.spec.deployment import Deployment
from memroute_operator.spec.hub_source import HubSource
from memroute_operator.weights.caches import Cache
from memroute_operator.weights.pod import CACHE_PATH, PROXIES, STORE_KEYS

TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - the name of a variable
# What it may take of the node: it waits most of the time, in 45 MiB. Chosen by hand.
CPU_MILLIS = 50
REQUEST_BYTES = 96 * MIB
LIMIT_BYTES = 512 * MIB
# Entries of ``spec.adapters`` at the most, by the CRD.
MAX_LISTED = 256
# Of a value in a file: trainers store adapters in 32 bits, and engines load them in 16.
STORED_DTYPE_BYTES = 4


def scope_of(namespace: str) -> str:
    """The folder of a cache in which a namespace's adapters are: of no other's."""
    return f"namespace-{namespace}"


def store_of(deployment: Deployment) -> Cache:
    """Where fetched adapters are kept: where weights are, else in a folder of the pod.

    A folder of the pod is one of its own beside that of the weights, of the same size where one is
    said. Else it has room for the longest list, because lists grow while the pod runs. The
    container keeps to its size: kubelet would end the pod, and the engine with it.
    """
    cache = deployment.cache
    if cache is not None and (cache.host_path is not None or cache.claim is not None):
        return cache
    size = None if cache is None else cache.max_bytes
    return Cache(max_bytes=longest_list_bytes(deployment) if size is None else size)


def longest_list_bytes(deployment: Deployment) -> int | None:
    """Bytes of as many adapters as a list may have, each as large as the slots take.

    Of a model that is not known, None.
    """
    if deployment.slots is None or deployment.shape is None:
        return None
    return adapter_bytes_per_rank(
        deployment.shape.architecture,
        max_adapters=MAX_LISTED,
        max_rank=deployment.slots.max_rank,
        dtype_bytes=STORED_DTYPE_BYTES,
    )


def adapter_volumes(adapters: Adapters, store: Cache) -> list[dict[str, Any]]:
    """The volumes of a pod for its adapters."""
    return [
        {"name": ADAPTERS_VOLUME, **store.volume()},
        *({"name": one.name, **one.source} for one in adapters.volumes),
    ]


def adapter_mounts(adapters: Adapters, namespace: str) -> list[dict[str, Any]]:
    """What the engine sees of them, read only: the namespace's adapters and no weights."""
    fetched = {
        "name": ADAPTERS_VOLUME,
        "mountPath": FETCHED_PATH,
        "subPath": f"{scope_of(namespace)}/adapters",
        "readOnly": True,
    }
    return [
        fetched,
        *(
            {"name": one.name, "mountPath": one.mount_path, "readOnly": True}
            for one in adapters.volumes
        ),
    ]


def adapters_container(
    adapters: Adapters,
    store: Cache,
    *,
    namespace: str,
    image: str,
    hub_endpoint: str | None,
    bind_address: str,
    engine_env: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """The container. ``engine_env``: proxies, and a token that is there, are its too."""
    words = ["adapters", "--cache", f"{CACHE_PATH}/{scope_of(namespace)}"]
    if store.max_bytes is not None:
        words += ["--max-cache-bytes", str(store.max_bytes)]
    words += ["--port", str(ADAPTERS_PORT)]
    is_root = store.host_path is not None
    user = {"runAsUser": 0, "runAsNonRoot": False} if is_root else {"runAsNonRoot": True}
    return {
        "name": ADAPTERS_CONTAINER,
        "image": image,
        "command": ["memroute-fetch"],
        "args": words,
        "env": _variables(adapters, hub_endpoint, bind_address, engine_env),
        "ports": [{"name": "adapters", "containerPort": ADAPTERS_PORT}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": ADAPTERS_VOLUME, "mountPath": CACHE_PATH}],
        "resources": {
            "requests": {"cpu": f"{CPU_MILLIS}m", "memory": f"{REQUEST_BYTES // MIB}Mi"},
            "limits": {"memory": f"{LIMIT_BYTES // MIB}Mi"},
        },
        "securityContext": security_context() | {"readOnlyRootFilesystem": True} | user,
    }


def _optional(variable: dict[str, Any]) -> dict[str, Any]:
    """The variable, left out where its Secret is not there."""
    reference = variable.get("valueFrom", {}).get("secretKeyRef")
    if reference is None:
        return variable
    return {**variable, "valueFrom": {"secretKeyRef": {**reference, "optional": True}}}


def _variables(
    adapters: Adapters,
    hub_endpoint: str | None,
    bind_address: str,
    engine_env: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    said = adapters.credentials
    hub = HubSource(token_secret=said.token_secret, token_key=said.token_key)
    found: list[dict[str, Any]] = [
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": BIND_VARIABLE, "value": bind_address},
        *hub.environment(hub_endpoint),
    ]
    for name, value in (("AWS_REGION", said.region), ("AWS_ENDPOINT_URL", said.endpoint)):
        if value is not None:
            found.append({"name": name, "value": value})
    if said.store_secret is not None:
        # By name, not all of the Secret: a variable can make a program do anything.
        for key in STORE_KEYS:
            reference = {"name": said.store_secret, "key": key}
            found.append({"name": key, "valueFrom": {"secretKeyRef": reference}})
    own = {one["name"] for one in found}
    # A Secret that is missing is told of the adapters that need it, and keeps no replica back.
    found = [_optional(one) for one in found]
    return found + [
        dict(one)
        for one in engine_env
        if str(one.get("name")) not in own
        and (str(one.get("name")).upper() in PROXIES or one.get("name") == TOKEN_VARIABLE)
    ]
