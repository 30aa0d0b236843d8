"""A ModelDeployment as the operator reads it: typed, with its footprint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from memroute.catalog import architecture_for_model
from memroute.errors import MemrouteError, UnknownModelError, UnsupportedShapeError
from memroute.footprint import (
    Calibration,
    EngineType,
    ModelArchitecture,
    ReplicaFootprint,
    ReplicaShape,
    architecture_from_json,
    replica_footprint,
)
from memroute.footprint.replica import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS
from memroute.placement import PlacementMode, PlacementStrategy
from memroute_hub import HubError, ModelName, checked_name, is_commit
from memroute_kube import KubeObject
from memroute_kube.memory_words import (
    ENGINE_TYPES,
    EXECUTIONS,
    KV_CACHE_DTYPES,
    PLACEMENT_MODES,
    PLACEMENT_STRATEGIES,
    QUANTIZATIONS,
)
from memroute_operator.engines.owned_flags import NO_ADAPTERS, adapters_of, refusal
from memroute_operator.hub_source import HubSource, read_hub_source
from memroute_operator.model_pins import ModelPin, read_pin
from memroute_operator.pod_template import NO_TEMPLATE, PodTemplate, TemplateError, read_template
from memroute_operator.revision import legacy_revision_of, revision_of
from memroute_operator.weights.caches import NO_SETTINGS, WeightsSettings
from memroute_operator.weights.choosing import (
    MODEL_PATH,
    CommitUnknownError,
    Fetched,
    Weights,
    choose,
    needs_commit,
)
from memroute_operator.weights.sources import SourceError

# The reason of what nobody expected: an object whose reading raises is told so in its status.
INTERNAL_ERROR = "InternalError"
# The reason of a model that is neither in the catalogue nor described, nor read from a hub yet.
MODEL_UNKNOWN = "ModelUnknown"
# The reason of a model of which no hub has said yet which commit it is.
COMMIT_UNKNOWN = "CommitUnknown"
# What hubs add to the name of a repository whose files were converted for llama.cpp.
GGUF_SUFFIX = "-GGUF"
# As many as the schema of spec.replicas allows.
MAX_REPLICAS = 1000
# A pebibyte per device: past it a configuration is nonsense, and sums leave a float's range.
MAX_FOOTPRINT_BYTES = 2**50


class RevisionUnknownError(MemrouteError):
    """A ModelDeployment asks for a revision that no hub was asked about yet."""


class ContextTooLongError(MemrouteError):
    """A ModelDeployment asks for longer requests than the model was made for."""


class OwnedFlagError(MemrouteError):
    """``engine.args`` set what memroute owns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveFailure:
    """Why the footprint of a ModelDeployment is not known."""

    reason: str
    message: str
    is_lasting: bool = True
    """Whether a person must change something first."""


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

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def engine_revision(self) -> str | None:
        """What the engine is told to load: the commit, else what the spec says, if it does."""
        return self.source.revision if self.pin is None else self.pin.commit

    @property
    def is_of_hub(self) -> bool:
        """Whether its weights come from the hub, so that its facts should be there too."""
        return not (set(self.obj["spec"]["model"].get("source") or {}) - {"hub"})

    @property
    def model_argument(self) -> str:
        """What the engine is told to load: a folder where the weights are, else the model's name."""
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
    name = _hub_name(spec["model"], source, settings)
    pin = None if name is None else read_pin(obj.get("status"), name)
    shape, footprint, failure = _resolve(spec, source, pin)
    if failure is None:
        weights, failure = _weights(obj, source, pin, settings)
        shape, footprint = (shape, footprint) if failure is None else (None, None)
    is_unknown = failure is not None and failure.reason in (MODEL_UNKNOWN, COMMIT_UNKNOWN)
    return Deployment(
        namespace=_text(metadata["namespace"]),
        name=_text(metadata["name"]),
        uid=_text(metadata["uid"]),
        generation=_whole(metadata["generation"]),
        created_at=_text(metadata["creationTimestamp"]),
        model=_text(spec["model"]["name"]),
        served_name=_text(spec["model"].get("servedName") or spec["model"]["name"]),
        engine=_engine(spec),
        model_file=spec["model"].get("file"),
        engine_image=spec["engine"].get("image"),
        engine_args=tuple(_text(argument) for argument in spec["engine"].get("args") or ()),
        engine_env=tuple(dict(variable) for variable in spec["engine"].get("env") or ()),
        replicas=_whole(spec["replicas"]),
        paused=bool(spec.get("paused")),
        mode=PLACEMENT_MODES.read(placement["mode"]),
        strategy=PLACEMENT_STRATEGIES.read(placement["strategy"]),
        node_selector=dict(placement.get("nodeSelector") or {}),
        max_context_tokens=_whole(memory["maxContextTokens"]),
        shape=shape,
        footprint=footprint,
        failure=failure,
        template=NO_TEMPLATE if failure is not None else read_template(spec),
        revision=revision_of(spec),
        legacy_revision=legacy_revision_of(spec),
        obj=obj,
        source=source,
        pin=pin,
        hub_name=name if is_unknown else None,
        weights=weights,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        message = f"a text was expected, not {value!r:.80}"
        raise TypeError(message)
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        message = f"a number from 0 was expected, not {value!r:.80}"
        raise TypeError(message)
    return value


def _unreadable(obj: KubeObject, error: Exception) -> Deployment:
    """What can still be told of an object that cannot be read. Nothing of it is touched.

    Raises when it has no name or uid: then its status could not be written either.
    """
    metadata = obj["metadata"]
    spec = obj.get("spec")
    replicas = spec.get("replicas") if isinstance(spec, dict) else None
    generation = metadata.get("generation")
    return Deployment(
        namespace=_text(metadata["namespace"]),
        name=_text(metadata["name"]),
        uid=_text(metadata["uid"]),
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


def internal_error(error: Exception) -> str:
    """What a person is told of an exception that nobody expected."""
    return (
        f"memroute could not read this object ({type(error).__name__}: {error!s:.500}); nothing of "
        f"it is changed until it can. If the object is right, please report this as a bug"
    )


def _hub_name(
    model: dict[str, Any], source: HubSource, settings: WeightsSettings
) -> ModelName | None:
    """What a hub would be asked; None for a model that is described, or cannot be on a hub.

    One that is described has to be asked for its commit where it is cached.
    """
    if model.get("config") is not None and not _is_commit_asked(model, source, settings):
        return None
    try:
        return checked_name(_text(model["name"]), source.revision)
    except HubError:
        return None


def _is_commit_asked(model: dict[str, Any], source: HubSource, settings: WeightsSettings) -> bool:
    try:
        return needs_commit(model, settings) and not is_commit(source.revision or "")
    except SourceError:
        return False


def _weights(
    obj: KubeObject, source: HubSource, pin: ModelPin | None, settings: WeightsSettings
) -> tuple[Weights | None, ResolveFailure | None]:
    """How its replicas come to their weights, or why they cannot."""
    try:
        found = choose(
            obj["spec"],
            namespace=_text(obj["metadata"]["namespace"]),
            hub=source,
            commit=None if pin is None else pin.commit,
            settings=settings,
        )
    except CommitUnknownError as error:
        return None, ResolveFailure(reason=COMMIT_UNKNOWN, message=str(error))
    except SourceError as error:
        return None, ResolveFailure(reason="SourceRefused", message=str(error))
    return found, None


def _resolve(
    spec: dict[str, Any], source: HubSource, pin: ModelPin | None
) -> tuple[ReplicaShape | None, ReplicaFootprint | None, ResolveFailure | None]:
    try:
        read_template(spec)
        shape = _shape(spec, source, pin)
        footprint = replica_footprint(shape)
        # Sums are made when they are asked for: a number past all bounds has to show here.
        total = footprint.total_bytes
    except OwnedFlagError as error:
        reason, message = "FlagOwned", str(error)
    except TemplateError as error:
        reason, message = "TemplateRefused", str(error)
    except ContextTooLongError as error:
        reason, message = "ContextTooLong", str(error)
    except (UnknownModelError, RevisionUnknownError) as error:
        reason, message = MODEL_UNKNOWN, str(error)
    except UnsupportedShapeError as error:
        reason, message = "UnsupportedShape", str(error)
    except MemrouteError as error:
        reason, message = "FootprintUnknown", str(error)
    except Exception as error:  # noqa: BLE001 - a named boundary: a config is its author's
        reason, message = INTERNAL_ERROR, internal_error(error)
    else:
        if 0 < total < MAX_FOOTPRINT_BYTES:
            return shape, footprint, None
        reason, message = "FootprintUnknown", f"a replica would need {total:.3g} bytes per device"
    return None, None, ResolveFailure(reason=reason, message=message)


def _shape(spec: dict[str, Any], source: HubSource, pin: ModelPin | None) -> ReplicaShape:
    memory, engine = spec["memory"], spec["engine"]
    arguments = [_text(argument) for argument in engine.get("args") or ()]
    adapters = NO_ADAPTERS
    if _engine(spec) is EngineType.VLLM:
        # Others' flags are told by their own file (``engines``).
        if (told := refusal(arguments)) is not None:
            raise OwnedFlagError(told)
        adapters = adapters_of(arguments)
    architecture = _architecture(spec["model"], source, pin)
    if _engine(spec) is EngineType.LLAMA_CPP:
        architecture = _of_file(architecture, spec["model"].get("checkpointBytes"))
    wanted = memory["maxContextTokens"]
    longest = architecture.max_context_tokens
    if longest is not None and wanted > longest:
        message = f"maxContextTokens is {wanted}, {spec['model']['name']} was made for {longest}"
        raise ContextTooLongError(message)
    return ReplicaShape(
        architecture=architecture,
        max_context_tokens=wanted,
        concurrency=memory["concurrency"],
        quantization=QUANTIZATIONS.read(memory["quantization"]),
        kv_cache_dtype=KV_CACHE_DTYPES.read(memory["kvCacheDtype"]),
        tensor_parallel_size=spec["parallelism"]["tensorParallelSize"],
        engine=_engine(spec),
        max_num_seqs=engine.get("maxSequences") or MAX_NUM_SEQS,
        max_num_batched_tokens=engine.get("maxBatchedTokens") or MAX_NUM_BATCHED_TOKENS,
        block_size_tokens=engine.get("blockSizeTokens"),
        is_eager=EXECUTIONS.read(engine.get("execution") or EXECUTIONS.default),
        max_adapters=adapters.max_adapters,
        max_adapter_rank=adapters.max_rank,
    )


def _engine(spec: dict[str, Any]) -> EngineType:
    return ENGINE_TYPES.read(spec["engine"].get("type") or ENGINE_TYPES.default)


@lru_cache(maxsize=1024)
def _of_file(architecture: ModelArchitecture, num_bytes: int | None) -> ModelArchitecture:
    """The model as one file holds it: what it weighs is what the file does.

    Remembered, because footprints are remembered by the architecture's identity.
    """
    return replace(architecture, checkpoint_bytes=num_bytes)


def _architecture(
    model: dict[str, Any], source: HubSource, pin: ModelPin | None
) -> ModelArchitecture:
    """From the configuration in the spec, else as pinned, else from the catalogue.

    The catalogue knows one version of a model: it does not stand in for a revision.
    """
    config = model.get("config")
    # The same object for the same text: footprints are remembered by it.
    if config is not None:
        text = json.dumps(config, sort_keys=True)
        return architecture_from_json(text, model.get("checkpointBytes"))
    if pin is not None:
        size = model.get("checkpointBytes")
        return architecture_from_json(pin.config, pin.checkpoint_bytes if size is None else size)
    if source.revision is not None:
        message = (
            f"revision {source.revision} of {model['name']} has not been read from a hub; without "
            f"a hub, give its config.json as spec.model.config"
        )
        raise RevisionUnknownError(message)
    # A repository of GGUF files is named after the one that they were converted from.
    return architecture_for_model(model["name"].removesuffix(GGUF_SUFFIX))
