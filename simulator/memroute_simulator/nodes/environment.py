"""A container's environment and command line, resolved as kubelet resolves them."""

import base64
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from memroute_kube import CONFIG_MAPS, SECRETS, ApiError, KubeObject, KubernetesClient
from memroute_simulator.nodes.images import program_for

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


class ConfigurationError(Exception):
    """A reference cannot be resolved: the container waits in CreateContainerConfigError."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``$(VAR)`` replaced by its value; unknown ones stay as written; ``$$`` is a dollar."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return _REFERENCE.sub(replace, text)


# All addresses of a pod. Pods share this machine's network here, so that it is the pod's own one.
ANY_ADDRESS = ("0.0.0.0", "::", "*")  # noqa: S104 - what it stands for is replaced


def command_line(
    entrypoint: Sequence[str], container: KubeObject, variables: Mapping[str, str], pod_ip: str
) -> list[str]:
    """What to run: ``command`` replaces the image's entrypoint, ``args`` follow.

    Whoever would listen on every address of the pod listens on ``pod_ip``.
    """
    command = program_for(container.get("command") or entrypoint)
    expanded = (expand(part, variables) for part in (*command, *container.get("args", ())))
    return [_on_own_address(part, pod_ip) for part in expanded]


def _on_own_address(word: str, pod_ip: str) -> str:
    flag, equals, value = word.rpartition("=")
    return f"{flag}{equals}{pod_ip}" if value in ANY_ADDRESS else word


async def resolve_environment(
    client: KubernetesClient, pod: KubeObject, container: KubeObject
) -> dict[str, str]:
    """The container's own variables, in order, so that later ones may refer to earlier ones.

    Raises ``ConfigurationError`` when a Secret or ConfigMap (or a key of it) is missing.
    """
    variables: dict[str, str] = {}
    namespace = pod["metadata"]["namespace"]
    for source in container.get("envFrom", ()):
        prefix = source.get("prefix", "")
        for kind, fetch in (("secretRef", _secret_data), ("configMapRef", _config_map_data)):
            if reference := source.get(kind):
                data = await _fetch(fetch, client, namespace, reference)
                variables |= {prefix + key: value for key, value in data.items()}
    for entry in container.get("env", ()):
        name = entry["name"]
        if "valueFrom" in entry:
            value = await _value_from(client, pod, container, entry["valueFrom"])
            if value is not None:
                variables[name] = value
        else:
            variables[name] = expand(entry.get("value", ""), variables)
    return variables


async def _value_from(
    client: KubernetesClient, pod: KubeObject, container: KubeObject, source: dict[str, Any]
) -> str | None:
    namespace = pod["metadata"]["namespace"]
    if reference := source.get("fieldRef"):
        return downward_field(pod, reference["fieldPath"])
    if reference := source.get("resourceFieldRef"):
        resources = container.get("resources", {})
        kind, _, name = reference["resource"].partition(".")
        return str(resources.get(kind, {}).get(name, "0"))
    for kind, fetch in (("secretKeyRef", _secret_data), ("configMapKeyRef", _config_map_data)):
        if reference := source.get(kind):
            data = await _fetch(fetch, client, namespace, reference)
            if reference["key"] in data:
                return data[reference["key"]]
            if reference.get("optional"):
                return None
            msg = f"couldn't find key {reference['key']} in {namespace}/{reference['name']}"
            raise ConfigurationError(msg)
    msg = f"unknown source of a variable: {sorted(source)}"
    raise ConfigurationError(msg)


def downward_field(pod: KubeObject, path: str) -> str:
    """A field of the pod by its downward-API path. Raises ``ConfigurationError``."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    simple = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": status.get("podIP", ""),
        "status.hostIP": status.get("hostIP", ""),
    }
    if path in simple:
        return str(simple[path])
    match = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if match:
        return str(metadata.get(match[1], {}).get(match[2], ""))
    msg = f"fieldPath {path!r} is not supported"
    raise ConfigurationError(msg)


_Fetch = Callable[[KubernetesClient, str, str], Awaitable[dict[str, str]]]


async def _fetch(
    fetch: _Fetch, client: KubernetesClient, namespace: str, reference: dict[str, Any]
) -> dict[str, str]:
    try:
        return await fetch(client, namespace, reference["name"])
    except ApiError as error:
        if error.status == 404 and reference.get("optional"):  # noqa: PLR2004 - HTTP Not Found
            return {}
        raise ConfigurationError(error.message) from error


async def _secret_data(client: KubernetesClient, namespace: str, name: str) -> dict[str, str]:
    secret = await client.get(SECRETS, namespace, name)
    return {k: base64.b64decode(v).decode() for k, v in (secret.get("data") or {}).items()}


async def _config_map_data(client: KubernetesClient, namespace: str, name: str) -> dict[str, str]:
    config_map = await client.get(CONFIG_MAPS, namespace, name)
    return dict(config_map.get("data") or {})
