"""What the operator asks of an engine, whichever it is.

```text
reservation + model  ──►  command, arguments, environment, probes, drain      (manifests)
its /metrics page    ──►  what it measured of itself                          (engine_reports)
its last log lines   ──►  how far its start had come, and what went wrong     (failures)
```

An engine is a file of this package. It decides nothing about room: what it gets was reserved
before (``core/memroute/footprint`` has each engine's own rules of memory), and its flags say so to
the byte, or on the safe side where its flags are coarser.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from memroute.footprint import EngineType
from memroute.placement import Placed
from memroute_kube.resources import ENGINE_PORT
from memroute_operator.adapters.slots import slots_of
from memroute_operator.engines.reports import EngineReport
from memroute_operator.pod.pod_defaults import BIND_VARIABLE
from memroute_operator.spec.deployment import Deployment
from memroute_operator.spec.resolving import text

# What an engine listens on: every address of its pod (``pod_defaults``); kubelet puts it here.
HOST = f"$({BIND_VARIABLE})"
# The engine's ranks speak to each other through it.
SHARED_MEMORY = "/dev/shm"  # noqa: S108

Variables = list[dict[str, Any]]
"""Environment variables as a container has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One probe of a container: a path that answers 200 while all is well."""

    path: str
    period_seconds: int
    failures: int
    """How many in a row count."""
    timeout_seconds: int | None = None
    """None: Kubernetes' default of 1 s."""

    def to_spec(self) -> dict[str, Any]:
        """As a container has it."""
        spec: dict[str, Any] = {
            "httpGet": {"path": self.path, "port": "http"},
            "periodSeconds": self.period_seconds,
            "failureThreshold": self.failures,
        }
        if self.timeout_seconds is not None:
            spec["timeoutSeconds"] = self.timeout_seconds
        return spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """How kubelet sees that an engine has started, takes requests, and is alive."""

    startup: Probe
    readiness: Probe
    liveness: Probe


def http_probes(
    path: str = "/health", *, readiness_path: str | None = None, startup_path: str | None = None
) -> Probes:
    """The probes of an engine behind such paths.

    Half an hour to download and load the weights of a large model; unready within 2 s; killed
    when it has not answered for a minute.
    """
    return Probes(
        startup=Probe(path=startup_path or path, period_seconds=2, failures=900),
        readiness=Probe(
            path=readiness_path or path, period_seconds=1, timeout_seconds=2, failures=2
        ),
        liveness=Probe(path=path, period_seconds=10, timeout_seconds=5, failures=6),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How an engine ends what it has begun once its pod is deleted.

    ```text
    deletion ──pre_stop──► SIGTERM ──finish──► SIGKILL (grace_seconds after the deletion)
    ```
    """

    grace_seconds: int
    """``terminationGracePeriodSeconds``."""
    finish_seconds: int
    """How long the engine itself finishes requests after SIGTERM; 0: not at all."""
    pre_stop_seconds: int = 0
    """How long SIGTERM is kept from an engine that does not drain: it goes on serving meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One step of an engine's start, as its log tells of it."""

    words: str
    """How a person is told: ``loading weights``."""
    pattern: re.Pattern[str] = field(repr=False)
    """A line that says that it has been reached."""


class Engine(Protocol):
    """One inference engine. Every method is pure: facts in, what the pod carries out."""

    type: EngineType
    phases: Sequence[Phase]
    """Of its start, in order."""

    def kv_cache_bytes(self, deployment: Deployment, placed: Placed) -> int:
        """Bytes of the KV pool that a replica in that place is expected to have, per rank."""
        ...

    def capacity_tokens(self, deployment: Deployment, placed: Placed) -> int:
        """Tokens that this pool holds when sequences are as long as they may be."""
        ...

    def command(self, deployment: Deployment) -> list[str]:
        """What replaces the image's entrypoint; empty: nothing does."""
        ...

    def arguments(self, deployment: Deployment, placed: Placed) -> list[str]:
        """Its flags: the model, and what was reserved, so that it takes just that."""
        ...

    def environment(self, deployment: Deployment, placed: Placed) -> Variables:
        """Its variables, beside those that choose the devices."""
        ...

    def probes(self, deployment: Deployment) -> Probes:
        """How kubelet asks after it."""
        ...

    def drain(self, deployment: Deployment) -> Drain:
        """How it ends."""
        ...

    def refusal(self, spec: Mapping[str, Any]) -> str | None:
        """Why this engine cannot do what a spec asks for, as a sentence; None when it can."""
        ...

    def read_report(self, page: str) -> EngineReport | None:
        """What its ``/metrics`` says of its own memory; None where it says nothing."""
        ...


def owned_args(
    spec: Mapping[str, Any], refusal: Callable[[Sequence[str]], str | None]
) -> str | None:
    """Why ``engine.args`` cannot be taken, by an engine's own table; None when they can."""
    return refusal([text(word) for word in spec["engine"].get("args") or ()])


def needs_image(spec: Mapping[str, Any], type_: EngineType, such_as: str) -> str | None:
    """Why an engine without an image cannot be started; None where the spec names one.

    ``--engine-image`` of the operator is vLLM's.
    """
    if spec["engine"].get("image"):
        return None
    return (
        f"spec.engine.image is needed for {type_.spelled}, because the operator's own image is "
        f"vLLM's: set it to {such_as}"
    )


def no_adapters(spec: Mapping[str, Any], type_: EngineType, instead: str) -> str | None:
    """Why an engine that loads no adapters while it runs cannot be given any; None without any."""
    if slots_of(spec) is None:
        return None
    return (
        f"spec.adapters with a source, and engine.maxAdapters, are for engines that load adapters "
        f"while they run (VLLM, SGLang), and {type_.spelled} is told to load none: {instead}"
    )


def phase_reached(phases: Sequence[Phase], log: str) -> str | None:
    """The last phase of a start that the log tells of, in words; None when it tells of none."""
    reached = None
    for phase in phases:
        if phase.pattern.search(log):
            reached = phase.words
    return reached


def ports() -> list[dict[str, Any]]:
    """The ports of every engine's container: memroute chooses the number."""
    return [{"name": "http", "containerPort": ENGINE_PORT}]
