"""An engine that may sleep: what ``spec.sleep`` comes to in flags, memory and seconds.

```text
flag        vLLM's --enable-sleep-mode: weights and KV cache lie in memory that can be unmapped
variable    VLLM_SERVER_DEV_MODE=1 opens /sleep and /wake_up; routers pass none of them on
memory      so much more is requested of the node, at the most that pinning the weights takes
annotations how deep it sleeps, and how long it takes to wake: the operator and routers go by them
```
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from memroute.footprint import EngineType, ReplicaFootprint
from memroute.hierarchy.links import PCIE_3
from memroute.hierarchy.sleep import DEVICE_REST_BYTES, Sleep, SleepLevel, sleep_of
from memroute.placement import Placed, PlacementMode
from memroute_kube.memory_words import PLACEMENT_MODES
from memroute_kube.shapes import mapping
from memroute_kube.words import Words
from memroute_operator.engines import host_weights
from memroute_operator.engines.host_fields import host_link_on
from memroute_operator.sleeping.mark import (
    ANNOTATION_SLEEPS,
    ANNOTATION_WAKE_SECONDS,
    SLEEP_LEVELS,
)
from memroute_operator.spec.deployment import Deployment

FLAG = "--enable-sleep-mode"
VARIABLE = "VLLM_SERVER_DEV_MODE"
LEVELS: Final = Words(meanings=SLEEP_LEVELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepMode:
    """``spec.sleep``."""

    after_seconds: float
    level: SleepLevel

    @property
    def word(self) -> str:
        """The level as a spec spells it."""
        return LEVELS.word(self.level) or LEVELS.default


def sleep_mode_of(deployment: Deployment) -> SleepMode | None:
    """Whether its replicas sleep, and when; None where they never do."""
    return read_sleep_mode(deployment.obj.get("spec"))


def read_sleep_mode(spec: object) -> SleepMode | None:
    """Of a spec; None where it has none, or none that can be read."""
    said = mapping(mapping(spec).get("sleep"))
    after = said.get("afterSeconds")
    level = LEVELS.meaning(said.get("level"))
    if isinstance(after, bool) or not isinstance(after, int) or level is None:
        return None
    return SleepMode(after_seconds=float(after), level=level)


def rest_bytes(footprint: ReplicaFootprint) -> int:
    """Of each device, what a replica keeps while it sleeps."""
    return min(DEVICE_REST_BYTES, footprint.total_bytes)


def sleep_on(deployment: Deployment, placed: Placed) -> Sleep | None:
    """What sleeping does to a replica that is placed so; None where it never sleeps.

    Where nobody knows the device's link, the slowest: a wake is then sooner than is told.
    """
    mode = sleep_mode_of(deployment)
    if mode is None or placed.mode is not PlacementMode.SHARED:
        return None
    link = host_link_on(placed) or PCIE_3
    return sleep_of(deployment.footprint_on(placed.product), mode.level, link)


def annotations(deployment: Deployment, placed: Placed) -> dict[str, str]:
    """What is written on its pod; nothing where it never sleeps."""
    mode, sleep = sleep_mode_of(deployment), sleep_on(deployment, placed)
    if mode is None or sleep is None:
        return {}
    return {
        ANNOTATION_SLEEPS: mode.word,
        ANNOTATION_WAKE_SECONDS: str(max(1, math.ceil(sleep.wake_seconds))),
    }


def refusal(spec: Mapping[str, Any], engine: EngineType) -> str | None:
    """Why a spec cannot have ``spec.sleep``; None where it can, or wants none."""
    if spec.get("sleep") is None:
        return None
    if engine is not EngineType.VLLM:
        return f"spec.sleep is for vLLM: {engine.spelled} has no such call; leave it out"
    if PLACEMENT_MODES.read(mapping(spec.get("placement")).get("mode")) is PlacementMode.EXCLUSIVE:
        return (
            "spec.sleep is for placement.mode Shared: a whole device stays with the pod that the "
            "device plugin gave it to, so that sleeping frees it for nobody; share it, or leave "
            "spec.sleep out"
        )
    if host_weights.size_gib(spec):
        return (
            f"spec.sleep and spec.{host_weights.FIELD} are not known to go together in one "
            f"engine: leave one of them out"
        )
    return None
