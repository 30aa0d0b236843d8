"""What a replica of a spec needs, and how it comes to its weights; or why nobody knows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from memroute.catalog import architecture_for_model
from memroute.errors import MemrouteError, UnknownModelError, UnsupportedShapeError
from memroute.footprint import (
    EngineType,
    ModelArchitecture,
    ReplicaFootprint,
    ReplicaShape,
    architecture_from_json,
    replica_footprint,
)
from memroute.footprint.gguf_facts import architecture_of
from memroute.footprint.replica import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS
from memroute.units import GIB
from memroute_hub import HubError, ModelName, checked_name, is_commit
from memroute_kube import KubeObject
from memroute_kube.memory_words import ENGINE_TYPES, EXECUTIONS, KV_CACHE_DTYPES, QUANTIZATIONS
from memroute_operator.adapters.slots import slots_of
from memroute_operator.engines.owned_flags import NO_ADAPTERS, Adapters, adapters_of, refusal
from memroute_operator.pod_template import TemplateError, read_template
from memroute_operator.spec.catalogue_names import GGUF_SUFFIX, unknown_model
from memroute_operator.spec.hub_source import HubSource
from memroute_operator.spec.model_pins import ModelPin
from memroute_operator.weights.caches import WeightsSettings
from memroute_operator.weights.choosing import CommitUnknownError, Weights, choose, needs_commit
from memroute_operator.weights.sources import SourceError, read_source

# The reason of what nobody expected: an object whose reading raises is told so in its status.
INTERNAL_ERROR = "InternalError"
# The reason of a model whose size cannot be worked out.
FOOTPRINT_UNKNOWN = "FootprintUnknown"
# The reason of a model that is neither in the catalogue nor described, nor read from a hub yet.
MODEL_UNKNOWN = "ModelUnknown"
# The reason of a model of which no hub has said yet which commit it is.
COMMIT_UNKNOWN = "CommitUnknown"
# The reason of a source or cache that cannot be as it is written.
SOURCE_REFUSED = "SourceRefused"
# A pebibyte per device: past it a configuration is nonsense, and sums leave a float's range.
MAX_FOOTPRINT_BYTES = 2**50


class RevisionUnknownError(MemrouteError):
    """A ModelDeployment asks for a revision that no hub was asked about yet."""


class ContextTooLongError(MemrouteError):
    """A ModelDeployment asks for longer requests than the model was made for."""


class OwnedFlagError(MemrouteError):
    """``engine.args`` set what memroute owns."""


# Why a spec cannot be resolved, as the reason of a condition.
REASONS: Mapping[type[MemrouteError], str] = MappingProxyType(
    {
        OwnedFlagError: "FlagOwned",
        TemplateError: "TemplateRefused",
        ContextTooLongError: "ContextTooLong",
        UnknownModelError: MODEL_UNKNOWN,
        RevisionUnknownError: MODEL_UNKNOWN,
        UnsupportedShapeError: "UnsupportedShape",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveFailure:
    """Why the footprint of a ModelDeployment is not known."""

    reason: str
    message: str
    is_lasting: bool = True
    """Whether a person must change something first."""


def internal_error(error: Exception) -> str:
    """What a person is told of an exception that nobody expected."""
    return (
        f"memroute could not read this object ({type(error).__name__}: {error!s:.500}); nothing of "
        f"it is changed until it can. If the object is right, please report this as a bug"
    )


def hub_name(
    model: dict[str, Any], source: HubSource, settings: WeightsSettings
) -> ModelName | None:
    """What a hub would be asked; None for a model that is described, or cannot be on a hub.

    One that is described has to be asked for its commit where it is cached.
    """
    if model.get("config") is not None and not _is_commit_asked(model, source, settings):
        return None
    try:
        name = checked_name(text(model["name"]), source.revision)
    except HubError:
        return None
    return replace(name, file=gguf_file(model))


def _is_commit_asked(model: dict[str, Any], source: HubSource, settings: WeightsSettings) -> bool:
    try:
        return needs_commit(model, settings) and not is_commit(source.revision or "")
    except SourceError:
        return False


def weights_of(
    obj: KubeObject, source: HubSource, pin: ModelPin | None, settings: WeightsSettings
) -> tuple[Weights | None, ResolveFailure | None]:
    """How its replicas come to their weights, or why they cannot."""
    try:
        found = choose(
            obj["spec"],
            namespace=text(obj["metadata"]["namespace"]),
            hub=source,
            commit=None if pin is None else pin.commit,
            settings=settings,
        )
    except CommitUnknownError as error:
        return None, ResolveFailure(reason=COMMIT_UNKNOWN, message=str(error))
    except SourceError as error:
        return None, ResolveFailure(reason=SOURCE_REFUSED, message=str(error))
    return found, None


def resolve(
    spec: dict[str, Any], source: HubSource, pin: ModelPin | None
) -> tuple[ReplicaShape | None, ReplicaFootprint | None, ResolveFailure | None]:
    """Shape and footprint of a replica, or why they are not known."""
    try:
        read_template(spec)
        shape = _shape(spec, source, pin)
        footprint = replica_footprint(shape)
        # Sums are made when they are asked for: a number past all bounds has to show here.
        total = footprint.total_bytes
    except MemrouteError as error:
        reason = next((r for kind, r in REASONS.items() if isinstance(error, kind)), None)
        reason = reason or FOOTPRINT_UNKNOWN
        message = unknown_model(error) if isinstance(error, UnknownModelError) else str(error)
    except Exception as error:  # noqa: BLE001 - a named boundary: a config is its author's
        reason, message = INTERNAL_ERROR, internal_error(error)
    else:
        if 0 < total < MAX_FOOTPRINT_BYTES:
            return shape, footprint, None
        reason, message = FOOTPRINT_UNKNOWN, f"a replica would need {total:.3g} bytes per device"
    return None, None, ResolveFailure(reason=reason, message=message)


def _shape(spec: dict[str, Any], source: HubSource, pin: ModelPin | None) -> ReplicaShape:
    memory, engine = spec["memory"], spec["engine"]
    arguments = [text(argument) for argument in engine.get("args") or ()]
    adapters, slots = NO_ADAPTERS, slots_of(spec)
    if engine_of_spec(spec) is EngineType.VLLM:
        # Others' flags are told by their own file (``engines``).
        if (told := refusal(arguments, has_slots=slots is not None)) is not None:
            raise OwnedFlagError(told)
        adapters = adapters_of(arguments)
    if slots is not None:
        # SGLang counts requests for the model itself as one adapter more of a step.
        own = engine_of_spec(spec) is EngineType.SGLANG
        adapters = Adapters(max_adapters=slots.max_adapters + own, max_rank=slots.max_rank)
    architecture = _architecture(spec["model"], source, pin)
    if engine_of_spec(spec) is EngineType.LLAMA_CPP:
        said = spec["model"].get("checkpointBytes")
        _check_read(spec["model"], pin)
        if said is not None or pin is None or pin.file is None:
            architecture = _of_file(architecture, said)
    wanted = memory["maxContextTokens"]
    longest = architecture.max_context_tokens
    if longest is not None and wanted > longest:
        how = f" ({architecture.context_note})" if architecture.context_note else ""
        message = (
            f"maxContextTokens is {wanted}, {spec['model']['name']} was made for {longest}{how}: "
            f"set spec.memory.maxContextTokens to {longest} at the most"
        )
        raise ContextTooLongError(message)
    return ReplicaShape(
        architecture=architecture,
        max_context_tokens=wanted,
        concurrency=memory["concurrency"],
        quantization=QUANTIZATIONS.read(memory["quantization"]),
        kv_cache_dtype=KV_CACHE_DTYPES.read(memory["kvCacheDtype"]),
        tensor_parallel_size=spec["parallelism"]["tensorParallelSize"],
        engine=engine_of_spec(spec),
        max_num_seqs=engine.get("maxSequences") or MAX_NUM_SEQS,
        max_num_batched_tokens=engine.get("maxBatchedTokens") or MAX_NUM_BATCHED_TOKENS,
        block_size_tokens=engine.get("blockSizeTokens"),
        is_eager=EXECUTIONS.read(engine.get("execution") or EXECUTIONS.default),
        max_adapters=adapters.max_adapters,
        max_adapter_rank=adapters.max_rank,
        # Other engines are refused by ``engines.host_weights``, in its words.
        weights_on_host_bytes=(
            int(memory.get("weightsOnHostGiB") or 0) * GIB
            if engine_of_spec(spec) is EngineType.VLLM
            else 0
        ),
    )


def engine_of_spec(spec: Mapping[str, Any]) -> EngineType:
    """Which engine serves it."""
    return ENGINE_TYPES.read(spec["engine"].get("type") or ENGINE_TYPES.default)


def _check_read(model: dict[str, Any], pin: ModelPin | None) -> None:
    """Raises ``RevisionUnknownError`` where only a hub can say what a file weighs.

    The catalogue knows what the model is made of, and each file of it weighs something else.
    """
    is_told = model.get("checkpointBytes") is not None or model.get("config") is not None
    is_elsewhere = read_source(model) is not None
    file = gguf_file(model)
    if is_told or is_elsewhere or pin is not None or file is None:
        return
    message = (
        f"{file} of {model['name']} has not been read from a hub; without a hub, give its bytes as "
        f"spec.model.checkpointBytes, and the config.json of the model as spec.model.config"
    )
    raise RevisionUnknownError(message)


def gguf_file(model: Mapping[str, Any]) -> str | None:
    """The GGUF file of a repository that is to be loaded; None where it is none of those."""
    file = model.get("file")
    is_gguf = isinstance(file, str) and file.lower().endswith(".gguf")
    # A path of the image's own is no file of a repository.
    return str(file) if is_gguf and not str(file).startswith("/") else None


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
        said = json.dumps(config, sort_keys=True)
        return architecture_from_json(said, model.get("checkpointBytes"))
    if pin is not None:
        size = model.get("checkpointBytes")
        return architecture_of(pin.config, pin.checkpoint_bytes if size is None else size)
    if source.revision is not None:
        message = (
            f"revision {source.revision} of {model['name']} has not been read from a hub; without "
            f"a hub, give its config.json as spec.model.config"
        )
        raise RevisionUnknownError(message)
    # A repository of GGUF files is named after the one that they were converted from.
    return architecture_for_model(model["name"].removesuffix(GGUF_SUFFIX))


def text(value: object) -> str:
    """A text. Raises ``TypeError`` for anything else."""
    if not isinstance(value, str):
        message = f"a text was expected, not {value!r:.80}"
        raise TypeError(message)
    return value


def whole(value: object) -> int:
    """A number from 0. Raises ``TypeError`` for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        message = f"a number from 0 was expected, not {value!r:.80}"
        raise TypeError(message)
    return value
