"""What the pods of upstream's manifests run here, where there are no images. Pure.

| image (its last name) | here |
| --- | --- |
| ``echo-basic`` | upstream's own echo server, built from its Go module |
| ``epp``, ``lwepp`` | ``memroute-picker --conformance-test``: upstream's two pickers, by one |

A picker's flags: ``FLAGS`` says what becomes of each. What no table names raises ``UnmappedError``:
a manifest of another version must not run with half of what it asks for.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PICKERS = frozenset({"epp", "lwepp"})
PICKER_PORT, OPS_PORT = 9002, 8002
READY_PATH = "/ready"
"""Of the picker's port of operations: as the installed picker is probed."""

POOL_NAME, POOL_NAMESPACE, PORT = "--pool-name", "--pool-namespace", "--grpc-port"
FLAGS = {
    POOL_NAME: "--inference-pool NAMESPACE/NAME, with the next one",
    POOL_NAMESPACE: "as above",
    PORT: "--port",
    "--grpc-health-port": "left out: the picker's health is on the port that it serves on",
    "--config-file": "--conformance-test: the file names upstream's two plugins for tests",
    "--zap-encoder": "left out: how its log is written",
    "--v": "left out: how much it logs",
}
"""Flags of upstream's pickers, and what is made of them."""


class UnmappedError(ValueError):
    """A manifest asks for something that nothing here stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What one container runs, and how it is seen to be ready."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int
    path: str
    """It is ready once a GET of this path at the pod's address is a 200."""
    is_picker: bool = False
    """It calls the API server, which the networks of other pods do not reach."""


def image_name(image: str) -> str:
    """Its last part, without a tag or a digest."""
    return image.rpartition("/")[2].partition("@")[0].partition(":")[0]


def programs_of(pod: Mapping, address: str, *, echo: Path) -> list[Program]:
    """A pod's programs, one for each container. Raises ``UnmappedError``."""
    return [_program(pod, each, address, echo) for each in pod["spec"]["containers"]]


def _program(pod: Mapping, container: Mapping, address: str, echo: Path) -> Program:
    name = image_name(container["image"])
    if name == "echo-basic":
        probe = container["readinessProbe"]["httpGet"]
        environment = environment_of(container.get("env", ()), pod, address)
        return Program(
            command=(str(echo),), environment=environment, port=probe["port"], path=probe["path"]
        )
    if name in PICKERS:
        command = (
            sys.executable, "-m", "memroute_picker", "--host", address,
            "--ops-port", str(OPS_PORT), *picker_flags(container.get("args", ())),
        )  # fmt: skip
        return Program(command=command, port=OPS_PORT, path=READY_PATH, is_picker=True)
    message = f"nothing here stands for the image {container['image']}"
    raise UnmappedError(message)


def environment_of(entries: Iterable[Mapping], pod: Mapping, address: str) -> dict[str, str]:
    """A container's environment. Raises ``UnmappedError``."""
    fields = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "status.podIP": address,
    }
    found = {}
    for entry in entries:
        if "value" in entry:
            found[entry["name"]] = entry["value"]
            continue
        path = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        if path not in fields:
            message = f"the environment variable {entry['name']} is from {entry.get('valueFrom')}"
            raise UnmappedError(message)
        found[entry["name"]] = fields[path]
    return found


def picker_flags(arguments: Sequence[str]) -> list[str]:
    """``memroute-picker``'s flags for upstream's, ``FLAGS``. Raises ``UnmappedError``."""
    given: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        flag, equals, value = waiting.pop(0).partition("=")
        if flag not in FLAGS:
            message = f"nothing here stands for the picker's flag {flag}"
            raise UnmappedError(message)
        if not equals:
            if not waiting:
                message = f"the picker's flag {flag} has no value"
                raise UnmappedError(message)
            value = waiting.pop(0)
        given[flag] = value
    missing = {POOL_NAME, POOL_NAMESPACE} - given.keys()
    if missing:
        message = f"a picker without {', '.join(sorted(missing))}"
        raise UnmappedError(message)
    pool = f"{given[POOL_NAMESPACE]}/{given[POOL_NAME]}"
    port = given.get(PORT, str(PICKER_PORT))
    return ["--inference-pool", pool, "--port", port, "--conformance-test"]
