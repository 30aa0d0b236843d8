"""A ModelDeployment that asks for what a plan has found: ready for ``kubectl apply``."""

import re
from typing import Any

from memroute.footprint import Quantization
from memroute.sizing import Option


def model_deployment(model: str, option: Option) -> dict[str, Any]:
    """The manifest; whole devices, because that is what the plan's numbers are for."""
    shape = option.shape
    name = re.sub(r"[^a-z0-9]+", "-", model.rsplit("/", 1)[-1].lower()).strip("-")[:50]
    memory: dict[str, Any] = {
        "maxContextTokens": shape.max_context_tokens,
        "concurrency": shape.concurrency,
    }
    if shape.kv_cache_dtype.value != "auto":
        memory["kvCacheDtype"] = shape.kv_cache_dtype.value
    if shape.quantization is not Quantization.NONE:
        memory["quantization"] = shape.quantization.value
    spec: dict[str, Any] = {
        "model": {"name": model},
        "memory": memory,
        "replicas": 1,
        "placement": {"mode": "exclusive"},
    }
    if shape.tensor_parallel_size > 1:
        spec["parallelism"] = {"tensorParallelSize": shape.tensor_parallel_size}
    if option.accelerator.products and option.accelerator.vendor == "nvidia":
        spec["placement"]["nodeSelector"] = {
            "nvidia.com/gpu.product": option.accelerator.products[0]
        }
    return {
        "apiVersion": "memroute.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": spec,
    }
