"""A ModelDeployment as the operator reads it: typed, with its footprint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from memroute.catalog import architecture_for_model
from memroute.errors import MemrouteError, UnknownModelError, UnsupportedShapeError
from memroute.footprint import (
    Calibration,
    KVCacheDtype,
    ModelArchitecture,
    Quantization,
    ReplicaFootprint,
    ReplicaShape,
    architecture_from_json,
    replica_footprint,
)
from memroute.placement import PlacementMode, PlacementStrategy
from memroute_kube import KubeObject
from memroute_operator.revision import legacy_revision_of, revision_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveFailure:
    """Why the footprint of a ModelDeployment is not known."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One ModelDeployment. Exactly one of ``footprint`` and ``failure`` is set."""

    namespace: str
    name: str
    uid: str
    generation: int
    created_at: str
    model: str
    served_name: str
    engine_image: str | None
    engine_args: tuple[str, ...]
    engine_env: tuple[dict[str, Any], ...]
    replicas: int
    mode: PlacementMode
    strategy: PlacementStrategy
    node_selector: dict[str, str]
    max_context_tokens: int
    shape: ReplicaShape | None
    footprint: ReplicaFootprint | None
    failure: ResolveFailure | None
    revision: str
    """Changes when a running replica no longer is what the spec asks for."""
    legacy_revision: str | None
    """What 0.1 stamps on replicas of this spec; None when it could not start them."""
    obj: KubeObject = field(repr=False)
    calibrations: Mapping[str, Calibration] = field(default_factory=lambda: MappingProxyType({}))
    """What engines of this very spec have measured, by product."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    def footprint_on(self, product: str | None) -> ReplicaFootprint:
        """What a replica needs on that kind of accelerator: as measured, else as estimated.

        Only what is resolved may be asked.
        """
        assert self.footprint is not None  # noqa: S101 - callers have seen the footprint
        assert self.shape is not None  # noqa: S101
        calibration = self.calibrations.get(product or "")
        return self.footprint if calibration is None else replica_footprint(self.shape, calibration)


def read_deployment(obj: KubeObject) -> Deployment:
    """A ModelDeployment from the API server's object, which has all its defaults.

    Without calibrations: those are known once every deployment has been read.
    """
    metadata, spec = obj["metadata"], obj["spec"]
    memory, placement = spec["memory"], spec["placement"]
    shape, footprint, failure = _resolve(spec)
    return Deployment(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        created_at=metadata["creationTimestamp"],
        model=spec["model"]["name"],
        served_name=spec["model"].get("servedName") or spec["model"]["name"],
        engine_image=spec["engine"].get("image"),
        engine_args=tuple(spec["engine"].get("args") or ()),
        engine_env=tuple(spec["engine"].get("env") or ()),
        replicas=spec["replicas"],
        mode=PlacementMode(placement["mode"]),
        strategy=PlacementStrategy(placement["strategy"]),
        node_selector=dict(placement.get("nodeSelector") or {}),
        max_context_tokens=memory["maxContextTokens"],
        shape=shape,
        footprint=footprint,
        failure=failure,
        revision=revision_of(spec),
        legacy_revision=legacy_revision_of(spec),
        obj=obj,
    )


def _resolve(
    spec: dict[str, Any],
) -> tuple[ReplicaShape | None, ReplicaFootprint | None, ResolveFailure | None]:
    memory = spec["memory"]
    try:
        architecture = _architecture(spec["model"])
        wanted = memory["maxContextTokens"]
        longest = architecture.max_context_tokens
        if longest is not None and wanted > longest:
            message = (
                f"maxContextTokens is {wanted}, {spec['model']['name']} was made for {longest}"
            )
            return None, None, ResolveFailure(reason="ContextTooLong", message=message)
        shape = ReplicaShape(
            architecture=architecture,
            max_context_tokens=wanted,
            concurrency=memory["concurrency"],
            quantization=Quantization(memory["quantization"]),
            kv_cache_dtype=KVCacheDtype(memory["kvCacheDtype"]),
            tensor_parallel_size=spec["parallelism"]["tensorParallelSize"],
        )
        return shape, replica_footprint(shape), None
    except UnknownModelError as error:
        return None, None, ResolveFailure(reason="ModelUnknown", message=str(error))
    except UnsupportedShapeError as error:
        return None, None, ResolveFailure(reason="UnsupportedShape", message=str(error))
    except MemrouteError as error:
        return None, None, ResolveFailure(reason="FootprintUnknown", message=str(error))


def _architecture(model: dict[str, Any]) -> ModelArchitecture:
    """From the configuration in the spec, else from the catalogue."""
    config = model.get("config")
    if config is None:
        return architecture_for_model(model["name"])
    # The same object for the same text: footprints are remembered by it.
    return architecture_from_json(json.dumps(config, sort_keys=True), model.get("checkpointBytes"))
