"""What an engine is started with, as a short hash: replicas of another one are replaced.

Only a person changes a revision: the owner of a ModelDeployment, by an edit that changes how the
engine is started; or whoever raises ``TEMPLATE_VERSION``. A release of the operator or of the CRD
changes none by itself (``docs/adr/0018-what-an-engine-is-started-with.md``). Therefore

* fields are named here one by one: one that a newer CRD adds is not part of it until it is
  named, and then it must be left out (``None``) where it is not set;
* words are hashed as what they mean, so that the API may spell them anew;
* the spec is hashed as its owner wrote it, not what the operator makes of it: a better law of
  footprints sizes the next replica, and restarts none.

0.1 hashed the whole of four objects of the spec. Its replicas are recognized by that hash, and
ours carry it too, so that neither an upgrade nor a rollback replaces anything.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from memroute.footprint import EngineType
from memroute_kube.memory_words import (
    ENGINE_TYPES,
    EXECUTIONS,
    KV_CACHE_DTYPES,
    PLACEMENT_MODES,
    QUANTIZATIONS,
)
from memroute_operator.adapters.reading import pod_part
from memroute_operator.adapters.slots import slots_of
from memroute_operator.pod_template.merging import MERGE_KEYS

# Raise it only when running replicas must be restarted for what ``manifests`` has come to write:
# it replaces every replica of every ModelDeployment, one at a time.
TEMPLATE_VERSION = 1
# The one that 0.1 wrote, before it had a number.
LEGACY_TEMPLATE_VERSION = 1
# What 0.1's CRD knew of each object that it hashed.
LEGACY_FIELDS: Mapping[str, frozenset[str]] = {
    "model": frozenset({"name", "servedName", "config", "checkpointBytes"}),
    "engine": frozenset({"type", "image", "args", "env"}),
    "memory": frozenset({"maxContextTokens", "concurrency", "kvCacheDtype", "quantization"}),
    "parallelism": frozenset({"tensorParallelSize"}),
}


def revision_of(spec: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits of what an engine of this spec is started with."""
    return _hash(started_with(spec) | {"template": TEMPLATE_VERSION})


def started_with(spec: Mapping[str, Any]) -> dict[str, Any]:
    """All of the spec that reaches the engine's command line, environment, image or devices.

    The concurrency, and the configuration that the footprint is computed from, reach it on
    shared devices only: as the size of its KV cache. On a whole device it takes what there is.
    """
    model, engine, memory = spec["model"], spec["engine"], spec["memory"]
    mode = PLACEMENT_MODES.read(spec["placement"]["mode"]).value
    is_shared = mode == "shared"
    hub = (model.get("source") or {}).get("hub") or {}
    told = (EngineType.LLAMA_CPP.spelled, EngineType.CUSTOM.spelled)
    is_told = engine.get("type") in told
    return {
        "model": model["name"],
        "servedName": model.get("servedName") or model["name"],
        "config": model.get("config") if is_shared else None,
        # As it is written: the commit that it was pinned to moves no more.
        "modelRevision": hub.get("revision"),
        "tokenSecret": hub.get("tokenSecretRef"),
        "source": _source(model),
        "cache": _cache(model),
        "engine": None if engine.get("type") is None else ENGINE_TYPES.read(engine["type"]),
        # None for the operator's --engine-image: another one of those replaces nothing.
        "image": engine.get("image"),
        "args": list(engine.get("args") or ()),
        "env": _environment(engine.get("env") or ()),
        "file": model.get("file"),
        "command": engine.get("command"),
        "healthPath": engine.get("healthPath"),
        "drainSeconds": engine.get("drainSeconds"),
        "maxSequences": engine.get("maxSequences"),
        "maxBatchedTokens": engine.get("maxBatchedTokens"),
        "blockSizeTokens": engine.get("blockSizeTokens"),
        "isEager": EXECUTIONS.meaning(engine.get("execution")) or None,
        "maxContextTokens": memory["maxContextTokens"],
        # llama.cpp has a slot for each, and any other engine is told it, on a whole device too.
        "concurrency": memory["concurrency"] if is_shared or is_told else None,
        "kvCacheDtype": KV_CACHE_DTYPES.read(memory["kvCacheDtype"]).value,
        "quantization": QUANTIZATIONS.read(memory["quantization"]).value,
        "hostKVCacheGiB": memory.get("hostKVCacheGiB"),
        # When it falls asleep reaches no engine; that it can, and how deep, does.
        "sleep": (spec.get("sleep") or {}).get("level"),
        "weightsOnHostGiB": memory.get("weightsOnHostGiB"),
        "tensorParallelSize": spec["parallelism"]["tensorParallelSize"],
        "mode": mode,
        "podTemplate": _template(spec.get("template")),
        "adapters": _adapters(spec),
    }


def _adapters(spec: Mapping[str, Any]) -> Any:
    """Slots, volumes and credentials. Which adapters are loaded reaches engines that run."""
    slots = slots_of(spec)
    if slots is None:
        return None
    return {"slots": [slots.max_adapters, slots.max_rank], "pod": pod_part(spec)}


def _source(model: Mapping[str, Any]) -> Any:
    """Where the weights are, when that is no hub."""
    said = {name: value for name, value in (model.get("source") or {}).items() if name != "hub"}
    return said or None


def _cache(model: Mapping[str, Any]) -> Any:
    """Where weights are kept. How much is kept there reaches no engine."""
    said = model.get("cache")
    if said is None:
        return None
    return {name: value for name, value in said.items() if name != "sizeGiB"}


def _template(template: Any) -> Any:
    """``spec.template``, without the order of what has a name; None when it says nothing."""
    said = _ordered(template) if isinstance(template, Mapping) else {}
    return {part: value for part, value in said.items() if value} or None


def _ordered(part: Any, field: str = "") -> Any:
    if isinstance(part, Mapping):
        return {key: _ordered(value, key) for key, value in part.items() if value is not None}
    if not isinstance(part, list) or not all(isinstance(one, Mapping) for one in part):
        return part
    entries = [_ordered(one) for one in part]
    # One init container runs after the other; all else that is merged by a name has no order.
    if field == "env":
        return _environment(entries)
    key = None if field == "initContainers" else MERGE_KEYS.get(field)
    return entries if key is None else sorted(entries, key=lambda one: str(one.get(key)))


def _environment(entries: Any) -> list[Any]:
    """The variables by name; in their own order where one may refer to those before it."""
    env = list(entries)
    if any("$(" in str(entry.get("value", "")) for entry in env):
        return env
    return sorted(env, key=lambda entry: str(entry.get("name")))


def legacy_revision_of(spec: Mapping[str, Any]) -> str | None:
    """The hash by which 0.1 knows a replica that is started like this.

    None when 0.1 could not start such a one: the spec sets what it did not know, or the template
    has been raised since.
    """
    known = {name: value for name, value in spec.items() if name not in ("template", "adapters")}
    for name, fields in LEGACY_FIELDS.items():
        known[name] = {key: value for key, value in spec[name].items() if key in fields}
    started = started_with(spec)
    if TEMPLATE_VERSION != LEGACY_TEMPLATE_VERSION or started_with(known) != started:
        return None
    parts = {name: known[name] for name in LEGACY_FIELDS}
    parts["engine"] |= {"type": started["engine"]}
    parts["memory"] |= {name: started[name] for name in ("kvCacheDtype", "quantization")}
    return _hash(parts | {"mode": started["mode"]})


def _hash(parts: Mapping[str, Any]) -> str:
    said = {key: value for key, value in parts.items() if value is not None}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:10]
