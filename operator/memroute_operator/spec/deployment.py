"""A ModelDeployment as the operator reads it: typed, with its footprint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from memroute.footprint import (
    Calibration,
    EngineType,
    ReplicaFootprint,
    ReplicaShape,
    replica_footprint,
)
from memroute.placement import NeighbourNeeds, PlacementMode, PlacementStrategy
from memroute_hub import ModelName
from memroute_kube import KubeObject
from memroute_kube.memory_words import PLACEMENT_MODES, PLACEMENT_STRATEGIES, PREEMPTIONS
from memroute_operator.adapters.reading import NO_ADAPTERS, Adapters, read_adapters
from memroute_operator.adapters.slots import AdapterSlots, slots_of
from memroute_operator.pod_template import NO_TEMPLATE, PodTemplate, read_template
from memroute_operator.spec.hub_source import HubSource, read_hub_source
from memroute_operator.spec.model_pins import ModelPin, read_pin
from memroute_operator.spec.namespace_tokens import owned
from memroute_operator.spec.resolving import (
    COMMIT_UNKNOWN,
    FOOTPRINT_UNKNOWN,
    INTERNAL_ERROR,
    MAX_FOOTPRINT_BYTES,
    MODEL_UNKNOWN,
    SOURCE_REFUSED,
    ResolveFailure,
    engine_of_spec,
    hub_name,
    internal_error,
    resolve,
    text,
    weights_of,
    whole,
)
from memroute_operator.spec.revision import legacy_revision_of, revision_of
from memroute_operator.spec.revisions import FailedRevision
from memroute_operator.spec.rollout_spec import NO_ROLLOUT, RolloutSpec, read_rollout
from memroute_operator.weights.caches import NO_SETTINGS, Cache, WeightsSettings, read_cache
from memroute_operator.weights.choosing import MODEL_PATH, Fetched, Weights
from memroute_operator.weights.sources import SourceError

__all__ = [
    "COMMIT_UNKNOWN",
    "FOOTPRINT_UNKNOWN",
    "INTERNAL_ERROR",
    "MAX_FOOTPRINT_BYTES",
    "MAX_REPLICAS",
    "MODEL_UNKNOWN",
    "Deployment",
    "ResolveFailure",
    "internal_error",
    "read_deployment",
]

# As many as the schema of spec.replicas allows.
MAX_REPLICAS = 1000


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
    engine: EngineType = EngineType.VLLM
    """Which engine serves it."""
    model_file: str | None = None
    """Which file of the model is loaded, where there are several; a path begins with ``/``."""
    legacy_revision: str | None = None
    """What 0.1 stamps on replicas of this spec; None when it could not start them."""
    template: PodTemplate = NO_TEMPLATE
    """What its owner adds to the pods of its replicas."""
    paused: bool = False
    """Whether nothing of its replicas is to be changed."""
    rollout: RolloutSpec = NO_ROLLOUT
    """How an edit is rolled out."""
    previous: "Deployment | None" = field(default=None, repr=False)
    """The last good revision, where it is known and another one."""
    failed: FailedRevision | None = None
    """That the revision of the spec has failed; None while it has not."""
    returned_from: FailedRevision | None = None
    """The revision of the spec, where this is the last good one in its place."""
    preempts: bool = False
    """Whether replicas of lower priority may be asked to give way to its own."""
    obj: KubeObject = field(repr=False)
    calibrations: Mapping[str, Calibration] = field(default_factory=lambda: MappingProxyType({}))
    """What engines of this very spec have measured, by product."""
    source: HubSource = field(default_factory=HubSource)
    pin: ModelPin | None = None
    """What a hub has said of its model; None for one that is known without a hub."""
    hub_name: ModelName | None = None
    """What a hub has to be asked before the model is known; None when it is, or never will be."""
    weights: Weights | None = None
    """How its replicas come to their weights; None: their engines fetch them by themselves."""
    adapters: Adapters = NO_ADAPTERS
    """The LoRA adapters that are served beside the model."""
    slots: AdapterSlots | None = None
    """What an engine has room for of those; None: nothing, and memroute loads none."""
    known_footprint: ReplicaFootprint | None = None
    """What a replica needs, also where only its commit is missing; None where nobody knows."""
    cache: Cache | None = None
    """Where what is fetched is kept; None where nobody says."""
    host_kv_cache_gib: int | None = None
    """KV cache of a replica on its node, beside its devices'; None: none."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def spec_revision(self) -> str:
        """The revision that the spec asks for, whichever one this is."""
        return self.revision if self.returned_from is None else self.returned_from.revision

    @property
    def engine_revision(self) -> str | None:
        """What the engine is told to load: the commit, else what the spec says, if it does."""
        return self.source.revision if self.pin is None else self.pin.commit

    @property
    def neighbours(self) -> NeighbourNeeds:
        """Which pods its replicas must, must not or should not be beside."""
        return self.template.neighbours

    @property
    def is_of_hub(self) -> bool:
        """Whether its weights come from the hub, so that its facts should be there too."""
        return not (set(self.obj["spec"]["model"].get("source") or {}) - {"hub"})

    @property
    def model_argument(self) -> str:
        """What the engine is told to load: the folder of the weights, else the model's name."""
        return self.model if self.weights is None else MODEL_PATH

    @property
    def model_revision(self) -> str | None:
        """The revision that the engine is told; None where it is told none, as of a folder."""
        return self.engine_revision if self.weights is None else None

    @property
    def weights_key(self) -> str | None:
        """Equal for what lies in the same folder of a node's disk; None where no node keeps it."""
        return self.weights.key if isinstance(self.weights, Fetched) else None

    def footprint_on(self, product: str | None) -> ReplicaFootprint:
        """What a replica needs on that kind of accelerator: as measured, else as estimated.

        Only what is resolved may be asked.
        """
        assert self.footprint is not None  # noqa: S101 - callers have seen the footprint
        assert self.shape is not None  # noqa: S101
        calibration = self.calibrations.get(product or "")
        return self.footprint if calibration is None else replica_footprint(self.shape, calibration)


def read_deployment(obj: KubeObject, settings: WeightsSettings = NO_SETTINGS) -> Deployment:
    """A ModelDeployment from the API server's object, which has all its defaults.

    Whatever is wrong with it is its ``failure``. Raises only when it has no name or uid.
    Without calibrations: those are known once every deployment has been read. ``settings``: what
    the operator was told of caches.
    """
    try:
        return _read(obj, settings)
    except Exception as error:  # noqa: BLE001 - a named boundary: one object is its owner's problem alone
        return _unreadable(obj, error)


def _read(obj: KubeObject, settings: WeightsSettings) -> Deployment:
    metadata, spec = obj["metadata"], obj["spec"]
    memory, placement = spec["memory"], spec["placement"]
    source = read_hub_source(spec["model"])
    weights = None
    name = owned(hub_name(spec["model"], source, settings), source, text(metadata["namespace"]))
    pin = None if name is None else read_pin(obj.get("status"), name)
    shape, footprint, failure = resolve(spec, source, pin)
    if failure is None:
        weights, failure = weights_of(obj, source, pin, settings)
    adapters, cache = NO_ADAPTERS, None
    if failure is None:
        try:
            adapters = read_adapters(spec, settings)
            cache = read_cache(spec["model"], settings)
        except SourceError as error:
            failure = ResolveFailure(reason=SOURCE_REFUSED, message=str(error))
    known_footprint = footprint
    if failure is not None:
        shape = footprint = None
    is_unknown = failure is not None and failure.reason in (MODEL_UNKNOWN, COMMIT_UNKNOWN)
    return Deployment(
        namespace=text(metadata["namespace"]),
        name=text(metadata["name"]),
        uid=text(metadata["uid"]),
        generation=whole(metadata["generation"]),
        created_at=text(metadata["creationTimestamp"]),
        model=text(spec["model"]["name"]),
        served_name=text(spec["model"].get("servedName") or spec["model"]["name"]),
        engine=engine_of_spec(spec),
        model_file=spec["model"].get("file"),
        engine_image=spec["engine"].get("image"),
        engine_args=tuple(text(argument) for argument in spec["engine"].get("args") or ()),
        engine_env=tuple(dict(variable) for variable in spec["engine"].get("env") or ()),
        replicas=whole(spec["replicas"]),
        paused=bool(spec.get("paused")),
        rollout=read_rollout(spec),
        preempts=PREEMPTIONS.read(placement.get("preemption") or PREEMPTIONS.default),
        mode=PLACEMENT_MODES.read(placement["mode"]),
        strategy=PLACEMENT_STRATEGIES.read(placement["strategy"]),
        node_selector=dict(placement.get("nodeSelector") or {}),
        max_context_tokens=whole(memory["maxContextTokens"]),
        shape=shape,
        footprint=footprint,
        failure=failure,
        template=(
            NO_TEMPLATE
            if failure is not None
            else read_template(spec, metadata["namespace"], metadata["name"])
        ),
        revision=revision_of(spec),
        legacy_revision=legacy_revision_of(spec),
        obj=obj,
        source=source,
        pin=pin,
        hub_name=name if is_unknown else None,
        weights=weights,
        adapters=adapters,
        slots=slots_of(spec),
        known_footprint=known_footprint if is_unknown else None,
        cache=cache,
        host_kv_cache_gib=memory.get("hostKVCacheGiB"),
    )


def _unreadable(obj: KubeObject, error: Exception) -> Deployment:
    """What can still be told of an object that cannot be read. Nothing of it is touched.

    Raises when it has no name or uid: then its status could not be written either.
    """
    metadata = obj["metadata"]
    spec = obj.get("spec")
    replicas = spec.get("replicas") if isinstance(spec, dict) else None
    generation = metadata.get("generation")
    return Deployment(
        namespace=text(metadata["namespace"]),
        name=text(metadata["name"]),
        uid=text(metadata["uid"]),
        generation=generation if isinstance(generation, int) and generation >= 0 else 0,
        created_at=str(metadata.get("creationTimestamp") or ""),
        model="",
        served_name="",
        engine_image=None,
        engine_args=(),
        engine_env=(),
        # All that may exist, so that none is taken for one too many.
        replicas=replicas if isinstance(replicas, int) and replicas >= 0 else MAX_REPLICAS,
        mode=PlacementMode.EXCLUSIVE,
        strategy=PlacementStrategy.PACK,
        node_selector={},
        max_context_tokens=0,
        shape=None,
        footprint=None,
        failure=ResolveFailure(reason=INTERNAL_ERROR, message=internal_error(error)),
        revision="",
        legacy_revision="",
        obj=obj,
    )
