"""From a container image to what runs in its place.

Real images are not pulled: each known repository stands for a command of this machine. An
unknown one ends as it would anywhere, in ``ImagePullBackOff``.
"""

import sys
from collections.abc import Sequence
from enum import StrEnum


class BuiltIn(StrEnum):
    """Images that the node agent serves itself, without a process."""

    DCGM_EXPORTER = "dcgm-exporter"


_PYTHON = [sys.executable, "-m"]
_COMMANDS: dict[str, list[str]] = {
    "vllm/vllm-openai": [*_PYTHON, "memroute_simulator", "engine"],
    "lmsysorg/sglang": [],
    "ggml-org/llama.cpp": [*_PYTHON, "memroute_simulator", "llama-server"],
    "memroute/fetch": [*_PYTHON, "memroute_fetch"],
    "memroute/operator": [*_PYTHON, "memroute_operator"],
    "memroute/router": [*_PYTHON, "memroute_router"],
    "memroute/simulator": [*_PYTHON, "memroute_simulator"],
    "busybox": [],
    "pause": ["sleep", "infinity"],
}
# Programs that images bring and pods name, and what stands for them here.
_PROGRAMS: dict[tuple[str, ...], list[str]] = {
    ("memroute-fetch",): [*_PYTHON, "memroute_fetch"],
    ("memroute-picker",): [*_PYTHON, "memroute_picker"],
    ("python3", "-m", "sglang.launch_server"): [*_PYTHON, "memroute_simulator", "sglang"],
}
_BUILT_IN: dict[str, BuiltIn] = {
    "nvidia/dcgm-exporter": BuiltIn.DCGM_EXPORTER,
    "rocm/device-metrics-exporter": BuiltIn.DCGM_EXPORTER,
}


def repository_of(image: str) -> str:
    """The repository of an image reference, without registry, tag and digest."""
    name = image.split("@", 1)[0]
    head, _, tail = name.rpartition("/")
    tail = tail.split(":", 1)[0]
    parts = [*head.split("/"), tail] if head else [tail]
    if len(parts) > 1 and ("." in parts[0] or ":" in parts[0]):
        parts = parts[1:]  # a registry's host
    return "/".join(parts)


def entrypoint_for(image: str) -> list[str] | BuiltIn | None:
    """The entrypoint that the image stands for; None when nobody knows it."""
    repository = repository_of(image)
    if repository in _BUILT_IN:
        return _BUILT_IN[repository]
    return _COMMANDS.get(repository)


def program_for(command: Sequence[str]) -> list[str]:
    """A container's command, with what stands for its program on this machine."""
    for program, stand_in in _PROGRAMS.items():
        if tuple(command[: len(program)]) == program:
            return [*stand_in, *command[len(program) :]]
    return list(command)
