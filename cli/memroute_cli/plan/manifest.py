"""A ModelDeployment that asks for what a plan has found: ready for ``kubectl apply``."""

import re
from typing import Any

from memroute.footprint import EngineType
from memroute.sizing import Option
from memroute_cli.plan.models import NamedModel
from memroute_cli.plan.targets import reachable_targets
from memroute_kube.memory_words import KV_CACHE_DTYPES, QUANTIZATIONS


def model_deployment(model: NamedModel, option: Option) -> dict[str, Any] | None:
    """The manifest; whole devices, because that is what the plan's numbers are for.

    Its latency targets are the defaults where the hardware can meet them, else what it can meet.

    None where a ModelDeployment cannot ask for that precision.
    """
    shape = option.shape
    quantization = QUANTIZATIONS.word(shape.quantization)
    kv_cache_dtype = KV_CACHE_DTYPES.word(shape.kv_cache_dtype)
    if quantization is None or kv_cache_dtype is None:
        return None
    name = re.sub(r"[^a-z0-9]+", "-", model.name.rsplit("/", 1)[-1].lower()).strip("-")[:50]
    memory: dict[str, Any] = {
        "maxContextTokens": shape.max_context_tokens,
        "concurrency": shape.concurrency,
    }
    if kv_cache_dtype != KV_CACHE_DTYPES.default:
        memory["kvCacheDtype"] = kv_cache_dtype
    if quantization != QUANTIZATIONS.default:
        memory["quantization"] = quantization
    spec: dict[str, Any] = {
        "model": _described(model),
        "memory": memory,
        "replicas": 1,
        "placement": {"mode": "Exclusive"},
    }
    if shape.engine is not EngineType.VLLM:
        spec["engine"] = {"type": shape.engine.spelled}
    if shape.tensor_parallel_size > 1:
        spec["parallelism"] = {"tensorParallelSize": shape.tensor_parallel_size}
    if option.accelerator.products and option.accelerator.vendor == "nvidia":
        spec["placement"]["nodeSelector"] = {
            "nvidia.com/gpu.product": option.accelerator.products[0]
        }
    targets = reachable_targets(option)
    if targets is not None and targets.routing:
        spec["routing"] = targets.routing
    return {
        "apiVersion": "memroute.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": spec,
    }


def _described(model: NamedModel) -> dict[str, Any]:
    """``spec.model``: where the operator finds what this plan was made of."""
    described: dict[str, Any] = {"name": model.name}
    if model.facts.commit is not None:
        # The operator reads it at this very commit, and engines load it.
        described["source"] = {"hub": {"revision": model.facts.commit}}
    elif model.config is not None:
        described["config"] = model.config
        if model.architecture.checkpoint_bytes is not None:
            described["checkpointBytes"] = model.architecture.checkpoint_bytes
    if model.file is not None:
        described["file"] = model.file
    return described
